"""The chat server as clients use it: OpenAI's own client and raw sockets against a running server, on a model that nobody trained."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from almanac.chat import ChatClient, models
from almanac.chat.engine.engine import Ask, Engine, Options
from almanac.chat.engine.request import Sampling
from almanac.runtime.errors import UserError
from tests.chat import made

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello! <|im_end|>"}]
ORDER = {
    "type": "function",
    "function": {
        "name": "order",
        "parameters": {
            "type": "object",
            "properties": {
                "drink": {"enum": ["tea", "latte"]},
                "shots": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["drink", "shots"],
            "additionalProperties": False,
        },
    },
}


class Server:
    """A running server.

    Args:
        folder: the model's.
        log: a file for what it says.
        more: further arguments of `almanac chat serve`.
    """

    def __init__(self, folder: Path, log: Path, *more: str):
        command = [
            sys.executable,
            "-m",
            "almanac.cli",
            "chat",
            "serve",
            str(folder),
            "--port",
            "0",
            "--threads",
            "1",
            *more,
        ]
        self.log = log
        with log.open("w") as stream:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, stderr=stream, stdout=stream, env=environment)
        deadline = time.monotonic() + 120
        while "/v1" not in (text := log.read_text()):
            assert self.process.poll() is None and time.monotonic() < deadline, text
            time.sleep(0.1)
        self.address = "http://" + text.split("http://")[1].split("/v1")[0]
        self.client = OpenAI(base_url=f"{self.address}/v1", api_key="alice", max_retries=0)

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.address}/metrics").text
        return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"almanac_chat_{name} ")))

    def settle(self) -> None:
        """Wait until nothing runs; then every page is free."""
        deadline = time.monotonic() + 30
        while self.metric("running") or self.metric("waiting"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert self.metric("free_pages") == self.metric("pages")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return made.folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory) -> Iterator[Server]:
    running = Server(folder, tmp_path_factory.mktemp("log") / "log")
    yield running
    running.settle()
    running.stop()


@pytest.fixture(scope="module")
def engine(folder) -> Iterator[Engine]:
    """The same model in this process."""
    own = Engine(models.load(str(folder)), Options(threads=1))
    yield own
    own.close()


def chat(server: Server, **more) -> openai.types.chat.ChatCompletion:
    given = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0, **more}
    return server.client.chat.completions.create(**given)


def test_a_chat_is_answered_as_the_engine_answers_it(server, engine):
    prompt = engine.model.template.encode(HELLO)
    (expected,) = engine.answer(Ask(prompt, Sampling(12, temperature=0.0)))
    said = chat(server)
    assert said.choices[0].message.content == expected.text != ""
    assert said.choices[0].finish_reason == "length"
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (len(prompt), 12)
    again = chat(server)
    assert again.choices[0].message.content == expected.text
    assert again.usage.prompt_tokens_details.cached_tokens == 32 <= len(prompt)
    other = OpenAI(base_url=f"{server.address}/v1", api_key="bob")
    unknown = other.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2)
    assert unknown.usage.prompt_tokens_details.cached_tokens == 0  # others' pages are not found


def test_a_stream_has_the_same_words_in_pieces(server):
    whole = chat(server, n=3, seed=5, temperature=1, max_tokens=20)
    events = list(
        chat(server, n=3, seed=5, temperature=1, max_tokens=20, stream=True, stream_options={"include_usage": True})
    )
    assert [event.choices[0].delta.role for event in events[:3]] == ["assistant"] * 3
    for index, choice in enumerate(whole.choices):
        own = [event.choices[0] for event in events if event.choices and event.choices[0].index == index]
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
        assert own[-1].finish_reason == choice.finish_reason
        assert all(each.finish_reason is None for each in own[:-1])
    assert len({choice.message.content for choice in whole.choices}) == 3
    assert events[-1].choices == [] and events[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(event.usage is None for event in events[:-1])


def test_raw_events_are_server_sent_ones(server):
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 3, "stream": True}
    with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])


def test_every_field_of_sampling_has_its_effect(server):
    plain = chat(server, max_tokens=30).choices[0].message.content
    effects = {
        "temperature": {"temperature": 1.7, "seed": 1},
        "frequency_penalty": {"frequency_penalty": 2},
        "presence_penalty": {"presence_penalty": 2},
        "logit_bias": {"logit_bias": {"70": 100}},
        "repetition_penalty": {"extra_body": {"repetition_penalty": 5}},
        "max_completion_tokens": {"max_completion_tokens": 3, "max_tokens": None},
    }
    for name, given in effects.items():
        assert (
            chat(server, max_tokens=30, **{**given}).choices[0].message.content != plain
            if name != "max_completion_tokens"
            else True
        )
    short = chat(server, **{**effects["max_completion_tokens"]})
    assert short.usage.completion_tokens == 3
    for same in ({"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}):
        assert chat(server, max_tokens=30, temperature=1.5, **same).choices[0].message.content == plain
    seeded = [chat(server, temperature=1, seed=3, max_tokens=30).choices[0].message.content for _ in range(2)]
    assert seeded[0] == seeded[1]
    free = {chat(server, temperature=1.5, max_tokens=30).choices[0].message.content for _ in range(3)}
    assert len(free) == 3


def test_stop_strings_end_an_answer(server):
    plain = chat(server, max_tokens=40).choices[0].message.content
    stop = plain[9:12]
    for stream in (False, True):
        said = chat(server, max_tokens=40, stop=[stop, "never there"], stream=stream)
        if stream:
            events = list(said)
            text = "".join(event.choices[0].delta.content or "" for event in events)
            reason = events[-1].choices[0].finish_reason
        else:
            text, reason = said.choices[0].message.content, said.choices[0].finish_reason
        assert text == plain[: plain.index(stop)] and reason == "stop"


def test_logprobs_are_of_the_tokens(server, engine):
    said = chat(server, logprobs=True, top_logprobs=4)
    (expected,) = engine.answer(Ask(engine.model.template.encode(HELLO), Sampling(12, temperature=0.0, logprobs=4)))
    content = said.choices[0].logprobs.content
    assert [entry.logprob for entry in content] == pytest.approx([each.logprob for each in expected.logprobs])
    assert all(entry.logprob == entry.top_logprobs[0].logprob and len(entry.top_logprobs) == 4 for entry in content)
    spelt = b"".join(bytes(entry.bytes) for entry in content)
    assert spelt.decode(errors="replace") == said.choices[0].message.content
    pieces = [event.choices[0].logprobs for event in chat(server, logprobs=True, top_logprobs=4, stream=True)]
    streamed = [entry for piece in pieces if piece for entry in piece.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]


def test_completions_take_words_lists_and_tokens(server, engine):
    vocabulary = engine.model.vocabulary
    texts = ["The quick brown", "A coffee"]
    tokens = [vocabulary.encode(text) for text in texts]
    create = server.client.completions.create
    single = [create(model="tiny", prompt=text, max_tokens=5, temperature=0).choices[0].text for text in texts]
    for prompt in (texts, tokens):
        said = create(model="tiny", prompt=prompt, max_tokens=5, temperature=0, n=2)
        assert [choice.index for choice in said.choices] == [0, 1, 2, 3]
        assert [choice.text for choice in said.choices] == [single[0], single[0], single[1], single[1]]
    assert create(model="tiny", prompt=tokens[0], max_tokens=5, temperature=0).choices[0].text == single[0]
    streamed = ["", ""]
    for event in create(model="tiny", prompt=texts, max_tokens=5, temperature=0, stream=True):
        streamed[event.choices[0].index] += event.choices[0].text
    assert streamed == single
    with ChatClient(f"{server.address}/v1") as client:
        assert client.complete(texts[0], max_tokens=5, temperature=0) == single[0]
        assert client.chat(HELLO, max_tokens=12, temperature=0) == chat(server).choices[0].message.content
        assert "".join(client.stream(HELLO, max_tokens=12, temperature=0)) == chat(server).choices[0].message.content


def test_only_at_its_very_start_a_completions_prompt_has_the_token_that_begins_or_ends_texts(server, engine):
    """There clients mean it, as OpenAI's default prompt does and lm-eval's prefix; anywhere else it is text that someone typed."""
    vocabulary = engine.model.vocabulary
    ends = [vocabulary.specials["<|endoftext|>"]]
    prompts = {
        "<|endoftext|>": ends,
        "<|im_end|>The fox": [vocabulary.specials["<|im_end|>"], *vocabulary.encode("The fox")],
        "<|endoftext|><|endoftext|>": ends + vocabulary.encode("<|endoftext|>"),
        "The fox<|im_end|>": vocabulary.encode("The fox<|im_end|>"),
        "<|im_start|>system": vocabulary.encode("<|im_start|>system"),
    }
    for text, tokens in prompts.items():
        asked = {"model": "tiny", "max_tokens": 5, "temperature": 0, "logprobs": 1, "echo": True}
        said, expected = [server.client.completions.create(prompt=prompt, **asked) for prompt in (text, tokens)]
        assert said.choices[0].logprobs == expected.choices[0].logprobs and said.usage == expected.usage
    empty = httpx.post(f"{server.address}/v1/completions", json={"max_tokens": 1}).json()
    assert empty["usage"]["prompt_tokens"] == 1


@pytest.mark.parametrize("most", [0, 1, 4])
def test_an_echo_has_the_prompts_logprobs(server, engine, most):
    """Those that the engine has of the same tokens, with none for the first."""
    text = "The quick brown fox jumps over the lazy dog, and the dog sleeps on the mat near the door. Twice!"
    tokens = engine.model.vocabulary.encode(text)
    said = server.client.completions.create(
        model="tiny", prompt=text, max_tokens=most, temperature=0, echo=True, logprobs=1
    )
    found = said.choices[0].logprobs
    assert said.choices[0].text.startswith(text)
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(tokens) + most
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    ask = Ask(tokens, Sampling(1, temperature=0.0, logprobs=1, prompt_logprobs=True))
    ticket = engine.submit(ask, lambda ticket, part: done.set() if part.reason else None)
    done = threading.Event()
    while ticket.sequences[0].reason is None:
        time.sleep(0.01)
    assert found.token_logprobs[1 : len(tokens)] == pytest.approx([each.logprob for each in ticket.prompt_logprobs])
    for token, value, top in zip(found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True):
        assert top[token] == value
    starts = [
        text[offset:].encode().startswith(token.encode())
        for token, offset in zip(found.tokens, found.text_offset, strict=True)
    ]
    assert all(starts[: len(tokens)])


def test_answers_have_the_form_that_is_asked_for(server):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    for seed in range(5):
        said = chat(server, temperature=1, seed=seed, max_tokens=200, response_format=form).choices[0]
        assert said.finish_reason == "stop" and set(json.loads(said.message.content)) == {"name", "age"}
    said = (
        chat(server, temperature=1, max_tokens=200, extra_body={"guided_regex": "(yes|no)+!"})
        .choices[0]
        .message.content
    )
    assert said.endswith("!")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "order"}}])
def test_tools_are_called(server, choice, stream):
    said = chat(server, temperature=1, seed=2, max_tokens=300, tools=[ORDER], tool_choice=choice, stream=stream)
    if stream:
        events = [event.choices[0] for event in said]
        news = [call for event in events for call in event.delta.tool_calls or []]
        assert news[0].id and news[0].function.name == "order" and len(news) > 3
        arguments = [
            "".join(call.function.arguments or "" for call in news if call.index == index)
            for index in range(max(call.index for call in news) + 1)
        ]
        reason = events[-1].finish_reason
    else:
        calls = said.choices[0].message.tool_calls
        assert all(call.function.name == "order" and call.id.startswith("call_") for call in calls)
        arguments, reason = [call.function.arguments for call in calls], said.choices[0].finish_reason
        assert said.choices[0].message.content is None
    assert reason == "tool_calls"
    for each in map(json.loads, arguments):
        assert each["drink"] in ("tea", "latte") and 0 <= each["shots"] <= 9
    if choice != "required":
        assert len(arguments) == 1


def test_a_conversation_with_calls_goes_on(server):
    call = {"id": "call_1", "type": "function", "function": {"name": "order", "arguments": '{"drink": "tea"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "done"}]},
    ]
    assert chat(server, messages=messages, tools=[ORDER], tool_choice="none").choices[0].message.content


def test_embeddings_are_of_length_one(server):
    found = server.client.embeddings.create(model="tiny", input=["a cat", "a dog", "a cat"])
    vectors = np.array([each.embedding for each in found.data])
    assert vectors.shape == (3, 48) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[2]) and not np.allclose(vectors[0], vectors[1])
    floats = (
        server.client.embeddings.create(model="tiny", input="a cat", encoding_format="float", dimensions=7)
        .data[0]
        .embedding
    )
    assert len(floats) == 7 and np.linalg.norm(floats) == pytest.approx(1, abs=1e-5)


def test_tokens_go_there_and_back(server):
    post = lambda path, body: httpx.post(f"{server.address}/{path}", json=body).json()  # noqa: E731
    found = post("tokenize", {"prompt": "Naïve <|im_end|> 日本"})
    assert post("detokenize", {"tokens": found["tokens"]})["prompt"] == "Naïve <|im_end|> 日本" and found["count"] > 5
    assert post("tokenize", {"messages": HELLO})["count"] == chat(server).usage.prompt_tokens


BAD = {
    "temperature": ({"temperature": -1}, 400),
    "top_p": ({"top_p": 0}, 400),
    "n": ({"n": 1000}, 400),
    "n tokens": ({"n": 16, "max_tokens": 10**9, "messages": HELLO * 1}, None),
    "model": ({"model": "gpt-4"}, 404),
    "long": ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400),
    "schema": ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}}, 400),
    "form": ({"response_format": {"type": "xml"}}, 400),
    "regex": ({"guided_regex": "("}, 400),
    "tool": ({"tools": [{"type": "function"}]}, 400),
    "tool choice": ({"tool_choice": "required"}, 400),
    "stop": ({"stop": [str(number) for number in range(17)]}, 400),
    "bias": ({"logit_bias": {"99999": 1}}, 400),
    "role": ({"messages": [{"role": "wizard", "content": "x"}]}, 400),
    "no messages": ({"messages": []}, 400),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400),
    "types": ({"max_tokens": "many"}, 400),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 1000}, 400),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_answered_in_openais_envelope(server, name):
    wrong, status = BAD[name]
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 2, **wrong}
    response = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == (status or 200), response.text
    if status:
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"\xff\xfe", b'{"model": "tiny"}', b"[" * 100_000])
def test_malformed_bodies_are_refused(server, body):
    for path in ("chat/completions", "completions", "embeddings"):
        response = httpx.post(f"{server.address}/v1/{path}", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in (200, 400) and ("error" in response.json() or path == "completions")
    assert chat(server).choices[0].message.content


def test_wrong_pages_and_tokens_are_refused(server):
    assert httpx.get(f"{server.address}/v1/nothing").json()["error"]["message"]
    assert httpx.get(f"{server.address}/v1/models/other").status_code == 404
    assert httpx.post(f"{server.address}/v1/completions", json={"prompt": [999_999]}).status_code == 400
    assert httpx.post(f"{server.address}/v1/completions", json={"prompt": []}).status_code == 400
    assert httpx.post(f"{server.address}/v1/completions", json={"prompt": ""}).status_code == 400
    assert httpx.post(f"{server.address}/v1/completions", content=b" " * (17 * 2**20)).status_code == 413


def test_an_answer_that_takes_too_long_is_given_up(server):
    body = {"messages": HELLO, "max_tokens": 900, "ignore_eos": True, "timeout": 0.05}
    response = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
    server.settle()


def test_clients_that_leave_free_their_pages(server):
    body = json.dumps({"messages": HELLO, "max_tokens": 900, "ignore_eos": True, "n": 4, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = server.address.removeprefix("http://").split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            assert connection.recv(100)
    plain = body.replace(b', "stream": true', b"")
    head = head.replace(str(len(body)), str(len(plain)))
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + plain)
        time.sleep(0.2)
    server.settle()


def test_a_client_that_reads_a_byte_a_second_holds_nobody_up(server):
    body = json.dumps({"messages": HELLO, "max_tokens": 900, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.sendall(head.encode() + body)
        slow.recv(1)
        assert chat(server).choices[0].message.content
        server.settle()
        slow.recv(1)


def test_thousands_of_open_connections_keep_nobody_out(server):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, port = server.address.removeprefix("http://").split(":")
    opened = []
    try:
        for _ in range(min(10_000, hard - 500)):
            opened.append(socket.create_connection((host, int(port)), timeout=10))
        assert len(opened) > 3000
        assert chat(server).choices[0].message.content
    finally:
        for connection in opened:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert chat(server).choices[0].message.content


def test_a_full_queue_refuses_and_recovers(folder, tmp_path):
    """200 requests at a queue of 64."""
    server = Server(folder, tmp_path / "log", "--max-queue", "64", "--max-running", "8")
    try:
        start = server.metric("free_pages")
        statuses: list[int] = []
        headers: list[str | None] = []
        body = {"messages": HELLO, "max_tokens": 60, "ignore_eos": True}

        def ask() -> None:
            response = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=120)
            statuses.append(response.status_code)
            if response.status_code == 429:
                headers.append(response.headers.get("retry-after"))
                assert response.json()["error"]["type"] == "rate_limit_error"

        threads = [threading.Thread(target=ask) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 429} and len(statuses) == 200 and statuses.count(200) >= 64
        assert all(headers)
        server.settle()
        assert server.metric("free_pages") == start
    finally:
        server.stop()


def test_sigterm_lets_answers_end(folder, tmp_path):
    server = Server(folder, tmp_path / "log")
    said = server.client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=600, stream=True, extra_body={"ignore_eos": True}
    )
    events = iter(said)
    next(events)
    server.process.send_signal(signal.SIGTERM)
    rest = list(events)
    assert rest[-1].choices[0].finish_reason == "length"
    assert server.process.wait(60) in (0, -signal.SIGTERM)  # uvicorn passes the signal on when it is done


def test_the_client_says_what_is_wrong(server):
    with pytest.raises(UserError, match="can't be reached"):
        ChatClient("http://127.0.0.1:9/v1").chat("x")
    with pytest.raises(UserError, match="400"):
        ChatClient(f"{server.address}/v1").chat("x", temperature=-1)
    with pytest.raises(UserError, match="400"):
        list(ChatClient(f"{server.address}/v1").stream("x", temperature=-1))
