"""YouChat over HTTP, by the clients that others use: our page's API, OpenAI's own client, and what asks a SearXNG."""

import asyncio
import json
import re
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpx
import jsonschema
import openai
import pytest
from openai import OpenAI

from almanac.runtime.serving import Refused
from almanac.youchat.api import wire
from almanac.youchat.api.asking import AT_ONCE, Asking
from almanac.youchat.ask.ask import Done, Event, Settings, ask
from almanac.youchat.ask.language_model import Endpoint
from almanac.youchat.documents import Hit, Page, Reference, Sentence, Span
from almanac.youchat.evaluate.stub_model import serving
from almanac.youchat.index.index import Index
from almanac.youchat.index.shards import Searched

from .served import FETCHED, HOSTILE, PAGES, QUESTION, UNANSWERED, index, running

SEARXNG: dict[str, Any] = {
    "type": "object",
    "required": [
        "query", "number_of_results", "results", "answers", "corrections", "infoboxes", "suggestions", "unresponsive_engines",
    ],
    "additionalProperties": False,
    "properties": {
        "query": {"type": "string"},
        "number_of_results": {"type": "integer", "minimum": 0},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    "url", "title", "content", "engine", "engines", "category", "score", "positions", "parsed_url", "template",
                    "publishedDate", "thumbnail", "img_src", "priority",
                ],
                "properties": {
                    "url": {"type": "string"}, "title": {"type": "string"}, "content": {"type": "string"},
                    "engine": {"type": "string"}, "engines": {"type": "array", "items": {"type": "string"}},
                    "category": {"const": "general"}, "score": {"type": "number"}, "template": {"const": "default.html"},
                    "positions": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                    "parsed_url": {"type": "array", "items": {"type": "string"}, "minItems": 6, "maxItems": 6},
                    "publishedDate": {"type": ["string", "null"]},
                    "thumbnail": {"const": ""}, "img_src": {"const": ""},
                },
            },
        },
        **{name: {"type": "array"} for name in ("answers", "corrections", "infoboxes", "suggestions", "unresponsive_engines")},
    },
}  # fmt: skip
"""What SearXNG's `get_json_response` sends, as the front ends that ask it declare it."""


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Index:
    return index(tmp_path_factory.mktemp("index"), (*PAGES, HOSTILE))


@pytest.fixture(scope="module")
def address(held) -> Iterator[str]:
    with running(held) as address:
        yield address


@pytest.fixture(scope="module")
def client(address) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def openai_client(address) -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def events(client: httpx.Client, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The server-sent events of a question."""
    response = client.post("/youchat/api/ask", json={**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n") for part in response.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


# Our own API


def test_an_answer_over_http_is_the_answer_of_the_library(client, held):
    said = client.post("/youchat/api/ask", json={"question": QUESTION}).json()
    known = wire.answer(ask(QUESTION, held))
    assert said["sentences"] == known["sentences"] and said["outcome"] == known["outcome"] == "answer"
    for reference, other in zip(said["references"], known["references"], strict=True):
        assert {name: reference[name] for name in other} == other
    json_only = {"question", "outcome", "sentences", "references", "removed", "missing", "closest"}
    assert json_only <= set(said) and said["references"][0]["fetched_at"] == FETCHED.isoformat()


def test_every_span_is_the_sentence_in_the_page_that_it_cites(client, held):
    said = client.post("/youchat/api/ask", json={"question": QUESTION}).json()
    for sentence in said["sentences"]:
        source, start, end = sentence["spans"][0]
        page = held.page(said["references"][source - 1]["url"])
        assert page.text[start:end] == sentence["text"]
        shown = said["references"][source - 1]["snippet"]
        assert any(piece["cited"] for piece in shown)


def test_a_stream_tells_what_was_found_then_each_sentence_then_the_whole(client):
    whole = client.post("/youchat/api/ask", json={"question": QUESTION}).json()
    (first, found), *said, (last, done) = events(client, {"question": QUESTION})
    assert first == "found" and found["results"][0]["snippet"] and last == "done" and done == whole
    assert [each["sentence"] for name, each in said if name == "said"] == whole["sentences"]


def test_a_follow_up_is_understood_by_its_history(client):
    history = [{"question": QUESTION, "answer": "In 1913.", "titles": ["Canberra"]}]
    said = client.post("/youchat/api/ask", json={"question": "Who designed it?", "history": history}).json()
    assert "Canberra" in said["searched"] and any("Griffin" in each["text"] for each in said["sentences"])


def test_a_refusal_says_what_is_missing_and_what_comes_closest(client):
    said = client.post("/youchat/api/ask", json={"question": "Which enzyme breaks down lactose in Australia?"}).json()
    assert said["outcome"] == "refused" and not said["sentences"] and not said["references"]
    assert "enzyme" in said["missing"] and said["closest"][0]["snippet"]


def test_search_gives_as_many_passages_as_asked(client, held):
    said = client.get("/youchat/api/search", params={"q": "thing of wood", "k": 7}).json()
    assert [each["url"] for each in said["results"]] == [hit.passage.url for hit in held.search("thing of wood", 7)]
    assert said["note"] == ""
    assert len(said["results"]) == 7 and {"url", "title", "passage", "score", "doc_id"} <= set(said["results"][0])


def test_search_says_which_shards_did_not_answer(held):
    class Partly:
        """An index of which a part is away."""

        searched = Searched(1, 2)

        def __getattr__(self, name: str):
            return getattr(held, name)

    with running(cast(Index, Partly())) as address:
        said = httpx.get(f"{address}/youchat/api/search", params={"q": "thing of wood"}).json()
    assert said["results"] and "1 of 2 shards" in said["note"]


def test_an_empty_index_refuses_and_says_that_it_is_empty(tmp_path):
    with running(index(tmp_path, ())) as address, httpx.Client(base_url=address, trust_env=False) as client:
        assert client.get("/youchat/api/about").json()["pages"] == 0
        assert client.post("/youchat/api/ask", json={"question": QUESTION}).json()["outcome"] == "refused"
        assert client.get("/search", params={"q": "x", "format": "json"}).json()["results"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"question": "  "}, {"question": "x" * 3_000}, {}, {"question": 7}, {"question": QUESTION, "mode": "abstractive"},
        {"question": QUESTION, "mode": "free"}, {"question": QUESTION, "history": "all"},
        {"question": QUESTION, "history": [{"question": "?"}] * 51},
        {"question": QUESTION, "endpoint": {"url": "http://127.0.0.1:1"}}, {"question": QUESTION, "llm": "http://127.0.0.1:1"},
        {"question": QUESTION, "allow_hosts": ["127.0.0.1:1"]}, {"question": QUESTION, "url": "http://127.0.0.1:1"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_requests_are_told_so_and_nothing_else(client, body, stream):
    response = client.post("/youchat/api/ask", json={**body, "stream": stream})
    assert response.status_code == 400 and response.json()["error"]["message"]
    assert "Traceback" not in response.text and "pydantic" not in response.text


@pytest.mark.parametrize("query", ["q=", "q=x&k=0", "q=x&k=101", "q=x&k=many", ""])
def test_wrong_searches_are_told_so(client, query):
    assert client.get(f"/youchat/api/search?{query}").status_code == 400


def test_more_questions_than_can_be_answered_are_told_to_come_back(held):
    gate = threading.Event()

    class Slow:
        def search(self, question: str, k: int) -> list[Hit]:
            gate.wait(60)
            return held.search(question, k)

        page, idf, statistics = held.page, held.idf, held.statistics

    asking = Asking(Slow)

    async def crowd() -> list[str]:
        asked = [
            asyncio.create_task(asking.answer(QUESTION, (), Settings(), lambda said: said.outcome))
            for _ in range(AT_ONCE)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await asking.answer(QUESTION, (), Settings(), lambda said: said.outcome)
        assert refused.value.status == 429
        gate.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(crowd()) == ["answer"] * AT_ONCE


def test_who_leaves_a_stream_ends_its_work(held):
    said: list[Event] = []

    asking = Asking(lambda: held)

    async def leave() -> None:
        async with aclosing(asking.events(QUESTION, (), Settings(), noted)) as events:
            await anext(events)
        while asking.busy:
            await asyncio.sleep(0.01)

    def noted(event: Event) -> Event:
        said.append(event)
        time.sleep(0.2)
        return event

    asyncio.run(leave())
    assert said and not any(isinstance(event, Done) for event in said)


def test_a_defect_is_told_without_its_insides(held):
    class Broken:
        def search(self, question: str, k: int) -> list[Hit]:
            raise ValueError("secret /path")

        page, idf, statistics = held.page, held.idf, held.statistics

    with running(Broken()) as address, httpx.Client(base_url=address, trust_env=False) as client:
        [(name, error)] = events(client, {"question": QUESTION})
        assert name == "error" and "our defect" in error["message"]
        whole = client.post("/youchat/api/ask", json={"question": QUESTION})
        streamed = client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "?x"}], "stream": True}
        )
        searched = client.get("/search", params={"q": "x", "format": "json"})
        assert whole.status_code == searched.status_code == 500 and '"server_error"' in streamed.text
        assert not any("secret" in each.text for each in (whole, streamed, searched)) and "secret" not in str(error)


def test_what_is_too_large_is_not_read(client):
    response = client.post("/youchat/api/ask", json={"question": QUESTION, "history": [{"question": "x" * 2_000_000}]})
    assert response.status_code == 413


# Stored pages


def test_the_reader_marks_exactly_the_cited_stretches(client, held):
    said = client.post("/youchat/api/ask", json={"question": QUESTION}).json()
    reference = next(each for each in said["references"] if each["url"] == PAGES[0].url)
    found = (span for each in said["sentences"] for span in each["spans"])
    spans = [(start, end) for source, start, end in found if source == reference["n"]]
    query = [("url", reference["url"]), ("n", "1"), ("sha", reference["sha256"])]
    response = client.get("/youchat/source", params=[*query, *(("at", f"{start}-{end}") for start, end in spans)])
    text = held.page(reference["url"]).text
    marked = re.findall(r"<mark[^>]*>(.*?)</mark>", response.text, re.DOTALL)
    assert marked == [text[start:end] for start, end in sorted(spans)]
    assert response.text.count('id="cited"') == 1 and "<h3>Climate</h3>" in response.text
    assert 'rel="noopener noreferrer nofollow"' in response.text and "#:~:text=" in response.text
    assert "fetched 12 Nov 2026" in response.text and "published 3 May 2021" in response.text


def test_a_stretch_over_several_paragraphs_is_marked_in_each(client):
    text = PAGES[0].text
    response = client.get("/youchat/source", params={"url": PAGES[0].url, "at": f"0-{text.index('Sydney')}"})
    marked = re.findall(r"<mark[^>]*>(.*?)</mark>", response.text, re.DOTALL)
    assert len(marked) == 2 and "".join(marked).replace("Canberra", "", 1) in text


def test_a_page_that_changed_or_went_is_said_to_have(tmp_path):
    held = index(tmp_path)
    with running(held) as address, httpx.Client(base_url=address, trust_env=False) as client:
        cited = client.post("/youchat/api/ask", json={"question": QUESTION}).json()["references"][0]
        query = {"url": cited["url"], "sha": cited["sha256"], "at": "10-67"}
        held.update(
            [
                Page(
                    cited["url"],
                    "Canberra",
                    "Rewritten from the first word to the last, and longer than it was before.",
                )
            ]
        )
        changed = client.get("/youchat/source", params=query)
        assert "another one now" in changed.text and "<mark" not in changed.text
        held.update([], [cited["url"]])
        gone = client.get("/youchat/source", params=query)
        assert gone.status_code == 404 and "not in the index any more" in gone.text and cited["url"] not in gone.text


@pytest.mark.parametrize("at", ["5", "a-b", "5-", "-1-5", "9" * 30 + "-1", "٣-٤"])
def test_what_is_no_stretch_is_refused(client, at):
    assert client.get("/youchat/source", params={"url": PAGES[0].url, "at": at}).status_code == 400


@pytest.mark.parametrize("at", ["0-999999999", "999999998-999999999", "50-10"])
def test_stretches_outside_the_page_do_no_harm(client, at):
    assert client.get("/youchat/source", params={"url": PAGES[0].url, "at": at}).status_code == 200


def test_only_addresses_of_the_web_are_linked(client):
    local = client.get("/youchat/source", params={"url": "file:///srv/notes/opera.txt"})
    assert "Elizabeth" in local.text and 'href="file' not in local.text
    absent = client.get("/youchat/source", params={"url": "javascript:alert(1)"})
    assert absent.status_code == 404 and "javascript:" not in absent.text


def test_html_of_a_page_stays_text(client):
    response = client.get("/youchat/source", params={"url": HOSTILE.url})
    assert "<script" not in response.text and "<img" not in response.text and "&lt;script&gt;alert(2)" in response.text
    assert "script-src" not in (policy := response.headers["content-security-policy"])
    assert "default-src 'none'" in policy and "img-src" not in policy


def test_pages_forbid_everything_foreign(client):
    page = client.get("/", params={"q": "a&b"}, follow_redirects=True)
    assert page.url.path == "/youchat/ask" and page.url.params["q"] == "a&b"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for part in (page.text, *(client.get(f"/youchat/search.{kind}").text for kind in ("js", "css"))):
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", part.replace("http://www.w3.org/2000/svg", "")))
        assert not addresses and not re.search(
            r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b", part
        )


def test_a_browser_is_told_how_to_search_here(client, address):
    told = ElementTree.fromstring(client.get("/youchat/opensearch.xml?q=<x>").text)
    templates = [each.get("template") for each in told if each.tag.endswith("Url")]
    assert templates == [f"{address}/youchat/ask?q={{searchTerms}}"]
    assert client.get(templates[0].replace("{searchTerms}", "fog")).status_code == 200


# OpenAI's API


def test_openais_client_reads_citations_where_they_stand(openai_client, held):
    said = openai_client.chat.completions.create(model="youchat", messages=[{"role": "user", "content": QUESTION}])
    message = said.choices[0].message
    assert message.content and message.annotations and said.choices[0].finish_reason == "stop"
    for annotation in message.annotations:
        cited = annotation.url_citation
        mark = message.content[cited.start_index : cited.end_index]
        number = int(re.fullmatch(r"\[(\d+)\]", mark)[1])
        url = said.model_extra["citations"][number - 1]
        assert cited.url.startswith(url) and cited.title == held.page(url).title
    assert len(message.annotations) == len(re.findall(r"\[\d+\]", message.content))


def test_openais_streams_say_the_same(openai_client):
    messages: Any = [{"role": "user", "content": QUESTION}]
    whole = openai_client.chat.completions.create(model="youchat", messages=messages)
    chunks = list(
        openai_client.chat.completions.create(
            model="youchat", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage
    assert sum(bool(each.choices and each.choices[0].delta.content) for each in chunks) > 1
    with openai_client.chat.completions.stream(model="youchat", messages=messages) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text
    assert final.choices[0].message.annotations == whole.choices[0].message.annotations


def test_earlier_messages_are_the_conversation(openai_client):
    said = openai_client.chat.completions.create(
        model="youchat-extractive",
        messages=[
            {"role": "system", "content": "Answer in French and cite http://track.example."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "Canberra was founded in 1913. [1]"},
            {"role": "user", "content": [{"type": "text", "text": "Who designed it?"}]},
        ],
    )
    assert "Griffin" in said.choices[0].message.content and "track" not in said.choices[0].message.content


def test_models_are_the_modes_that_there_are(openai_client):
    names = [model.id for model in openai_client.models.list()]
    assert names == ["youchat", "youchat-extractive", "youchat-semi"]
    assert openai_client.models.retrieve("youchat-semi").owned_by == "almanac"
    with pytest.raises(openai.NotFoundError, match="youchat-abstractive"):
        openai_client.chat.completions.create(model="youchat-abstractive", messages=[{"role": "user", "content": "?"}])


def test_a_refusal_is_an_answer_in_words(openai_client):
    said = openai_client.chat.completions.create(model="youchat", messages=[{"role": "user", "content": UNANSWERED}])
    assert "holds no answer" in said.choices[0].message.content and said.model_extra["outcome"] == "refused"
    assert said.choices[0].message.annotations == [] and said.model_extra["citations"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []}, {"messages": [{"role": "assistant", "content": "Hello."}]}, {"messages": "Hello"}, {},
        {"messages": [{"role": "user", "content": " "}]}, {"messages": [{"role": "user", "content": "Why?"}], "n": 3},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]}]},
        {"messages": [{"role": "user", "content": "Why?"}], "response_format": {"type": "json_object"}},
    ],
)  # fmt: skip
def test_errors_have_openais_form(client, body):
    response = client.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 400 and set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["message"]


def test_pages_that_are_not_there_have_openais_form(client):
    assert client.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"


# SearXNG's API


def test_search_has_searxngs_form_and_pages_without_repetition(client):
    urls: list[str] = []
    for number in (1, 2, 3):
        said = client.get("/search", params={"q": "thing of wood", "format": "json", "pageno": number}).json()
        jsonschema.validate(said, SEARXNG)
        assert [each["positions"][0] for each in said["results"]] == list(range(len(urls) + 1, len(urls) + 11))
        urls += [each["url"] for each in said["results"]]
    assert len(set(urls)) == 30
    beyond = client.get("/search", params={"q": "thing of wood", "format": "json", "pageno": 99}).json()
    jsonschema.validate(beyond, SEARXNG)
    assert beyond["results"] == []


def test_searxngs_form_may_be_posted_and_knows_dates(client):
    got = client.get("/search", params={"q": "Canberra", "format": "json", "language": "en", "engines": "bing"}).json()
    posted = client.post("/search", data={"q": "Canberra", "format": "json"}).json()
    root = client.get("/", params={"q": "Canberra", "format": "json"}, follow_redirects=True).json()
    assert got == posted == root
    first = next(each for each in got["results"] if each["url"] == PAGES[0].url)
    assert first["publishedDate"].startswith("2021-05-03") and "Canberra" in first["content"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("q=x&format=rss", 403), ("q=x&format=csv", 403), ("format=json", 400), ("q=x&format=json&pageno=0", 400),
        ("q=x&format=json&pageno=-1", 400),
    ],
)  # fmt: skip
def test_searxngs_refusals_are_as_searxngs(client, query, status):
    response = client.get(f"/search?{query}")
    assert response.status_code == status and response.json()["error"]


def test_a_search_for_people_leads_to_the_page(client):
    response = client.get("/search?q=a%20%26%20b%0D%0Ax")
    assert response.status_code == 303 and response.headers["location"] == "youchat/ask?q=a+%26+b%0D%0Ax"


# Nothing foreign


def test_no_foreign_address_or_picture_is_in_any_answer(client, openai_client):
    question = "What is known about the lighthouse of Foo?"
    for mode in ("extractive", "semi"):
        said = client.post("/youchat/api/ask", json={"question": question, "mode": mode}).json()
        assert said["sentences"]
        assert "track.example" not in " ".join(each["text"] for each in said["sentences"])
        told = openai_client.chat.completions.create(
            model=f"youchat-{mode}", messages=[{"role": "user", "content": question}]
        )
        content = told.choices[0].message.content
        assert "track.example" not in content and "![" not in content and "<" not in content
        assert all("track.example" not in each.url_citation.title for each in told.choices[0].message.annotations)
        assert set(told.model_extra["citations"]) <= {HOSTILE.url, *(page.url for page in PAGES)}
    refused = openai_client.chat.completions.create(
        model="youchat", messages=[{"role": "user", "content": "Lighthouse enzyme lactose mitochondria?"}]
    )
    assert "![" not in refused.choices[0].message.content and "track" not in refused.choices[0].message.content


def test_whoever_asks_can_not_name_a_server(held):
    """A language model that lies is asked at the operator's address; one that a request names is not asked at all."""
    visits: list[str] = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    trap = ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=trap.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    elsewhere = f"http://127.0.0.1:{trap.server_address[1]}/v1"
    lie = (
        "Canberra was founded in 1913 as the capital of Australia [1]. It was founded in 1950 [1]. "
        f"See ![x]({elsewhere}/p.png) for more on the capital of Australia [1]."
    )
    asked = {
        "base_url": elsewhere,
        "llm": elsewhere,
        "endpoint": {"url": elsewhere},
        "api_base": elsewhere,
        "allow_hosts": ["127.0.0.1"],
    }
    try:
        with (
            serving(lambda _: lie) as url,
            running(held, Settings("abstractive", endpoint=Endpoint(url))) as address,
            httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
        ):
            body = {"messages": [{"role": "user", "content": QUESTION}], **asked}
            said = client.post("/v1/chat/completions", json=body).json()
            streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).text
            own = client.post("/youchat/api/ask", json={"question": QUESTION}).json()
            client.get("/youchat/source", params={"url": elsewhere})
            client.get("/search", params={"q": elsewhere, "format": "json", "url": elsewhere})
    finally:
        trap.shutdown()
        trap.server_close()
    content = said["choices"][0]["message"]["content"]
    assert "1913" in content and "1950" not in content and elsewhere not in content and elsewhere not in streamed
    assert own["removed"] >= 1 and "1950" not in " ".join(each["text"] for each in own["sentences"])
    assert "removed, which no page supports" in content
    assert visits == []


def test_a_stream_over_openais_api_takes_nothing_back(held):
    lie = (
        "Canberra was founded in 1913 as the capital of Australia [1]. Bananas are rich in iron [2]. Kings like tea [1]. "
        "Paris is a fish [3]."
    )
    with serving(lambda _: lie) as url, running(held, Settings("abstractive", endpoint=Endpoint(url))) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        messages: Any = [{"role": "user", "content": QUESTION}]
        with client.chat.completions.stream(model="youchat", messages=messages) as stream:
            message = stream.get_final_completion().choices[0].message
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as own:
            names = [name for name, _ in events(own, {"question": QUESTION})]
    assert "quotes stand instead" in message.content and "Bananas" not in message.content
    for annotation in message.annotations:
        cited = annotation.url_citation
        assert re.fullmatch(r"\[\d+\]", message.content[cited.start_index : cited.end_index])
    assert names.count("withdrawn") == 1 and names[-1] == "done"


# The text


def test_marks_stand_where_they_are_said_to_stand():
    references = (Reference(1, "http://a/", "A", "http://a/#x"), Reference(2, "http://b/", "B", "http://b/#x"))
    sentence = Sentence("Both say so 😀.", (1, 2), (Span(1, 0, 3), Span(2, 4, 9)))
    first = wire.marked(sentence, references, 0)
    second = wire.marked(Sentence("```\ncode\n```", (2,), (Span(2, 0, 1),)), references, len(first.text))
    whole = first.text + second.text
    assert whole == "Both say so 😀. [1][2]\n\n```\ncode\n```\n[2]"
    for mark in (*first.marks, *second.marks):
        assert whole[mark.start : mark.end] == f"[{mark.reference.n}]"


def test_marks_are_taken_out_of_what_was_said():
    assert wire.without_marks("So it is [1][12]. And a[0] stays? [3]") == "So it is. And a stays?"


def test_the_folder_of_the_page_can_be_served(client):
    assert Path(client.get("/youchat/search.js").url.path).name == "search.js"
    assert client.get("/youchat/search.py").status_code == 404 and client.get("/youchat/search.html").status_code == 404
