"""Whisper's API as people use it: OpenAI's own client, curl and WebSockets against a running server. The model is one that nobody trained;
what it says is what `transcribe` and `stream` make of the same sound."""

import asyncio
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import wave
import zipfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from almanac import systems
from almanac.runtime import serving
from almanac.whisper import api, audio, recogniser, stream, subtitles, transcribe
from almanac.whisper.decoding import Options
from almanac.whisper.transcript import Transcript
from tests.whisper import untrained

PAUSE = np.zeros(audio.SAMPLE_RATE, np.float32)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound that nobody made before, in 16 bits."""
    drawn = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * audio.SAMPLE_RATE))
    return np.round(drawn * 32768).clip(-32768, 32767).astype(np.int16).astype(np.float32) / 32768


def pcm(sound: np.ndarray) -> bytes:
    return (sound * 32768).astype("<i2").tobytes()


def wav(sound: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(audio.SAMPLE_RATE)
        written.writeframes(pcm(sound))
    return file.getvalue()


@dataclass
class Server:
    """A running server."""

    address: str
    model: recogniser.Recogniser

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0)

    @property
    def jobs(self) -> int:
        return httpx.get(f"{self.address}/health").json()["jobs"]

    def expected(self, sound: np.ndarray, settings: transcribe.Settings | None = None) -> Transcript:
        return transcribe.transcribe(self.model, sound, settings or transcribe.Settings())

    def post(self, where: str = "transcriptions", **fields) -> httpx.Response:
        return httpx.post(f"{self.address}/v1/audio/{where}", timeout=60, **fields)


def running(model: recogniser.Recogniser, limits: api.Limits) -> Iterator[Server]:
    listener = serving.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(api.application({"small": model}, limits), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", model)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running(untrained.small(), api.Limits())


@pytest.fixture(scope="module")
def narrow() -> Iterator[Server]:
    """A server that takes little."""
    yield from running(untrained.small(), api.Limits(upload=200_000, seconds=5.0, at_once=1))


@pytest.fixture(autouse=True)
def no_upload_is_kept(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


SOUND = noise(7)
FILE = ("speech.wav", wav(SOUND))


def test_json_is_what_transcribe_says(server):
    said = server.client.audio.transcriptions.create(file=FILE, model="whisper-1")
    assert said.text == server.expected(SOUND).text.strip() != ""
    assert said.usage and said.usage.type == "duration" and said.usage.seconds == 7


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_text_and_subtitles_are_the_files_that_we_write(server, form):
    said = server.client.audio.transcriptions.create(file=FILE, model="small", response_format=form)
    transcript = server.expected(SOUND)
    assert said == (transcript.text.strip() + "\n" if form == "text" else subtitles.render(transcript, form))


def test_verbose_json_has_segments_and_words(server):
    said = server.client.audio.transcriptions.create(
        file=FILE,
        model="small",
        language="Dutch",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    expected = server.expected(SOUND, transcribe.Settings(Options(language="nl"), words=True))
    assert (said.language, said.duration, said.text) == ("dutch", 7.0, expected.text.strip())
    assert said.segments is not None and said.words is not None
    told = [{name: value for name, value in vars(segment).items() if name != "words"} for segment in expected.segments]
    assert [segment.model_dump() for segment in said.segments] == told
    words = [word for segment in expected.segments for word in segment.words or []]
    assert [(word.word, word.start, word.end) for word in said.words] == [
        (w.text.strip(), w.start, w.end) for w in words
    ]
    assert len(words) > 3


def test_verbose_json_has_segments_by_default_and_only_words_if_only_they_are_asked_for(server):
    create = server.client.audio.transcriptions.create
    plain = create(file=FILE, model="small", response_format="verbose_json")
    assert plain.segments and plain.words is None
    words = create(file=FILE, model="small", response_format="verbose_json", timestamp_granularities=["word"])
    assert words.words and words.segments is None


def test_prompt_temperature_and_logprobs(server):
    said = server.client.audio.transcriptions.create(
        file=FILE, model="small", prompt="bosanova", temperature=0.7, include=["logprobs"]
    )
    settings = transcribe.Settings(temperatures=(0.7,), prompt="bosanova", words=True)
    expected = server.expected(SOUND, settings)
    assert said.text == expected.text.strip() != server.expected(SOUND).text.strip()
    assert said.logprobs
    words = [word for segment in expected.segments for word in segment.words or []]
    assert [part.token for part in said.logprobs] == [word.text for word in words]
    assert all(part.logprob is not None and part.logprob <= 0 for part in said.logprobs)


@pytest.mark.parametrize("strategy", ["auto", {"type": "server_vad", "threshold": 0.5}])
def test_a_chunking_strategy_leaves_out_where_nobody_speaks(server, strategy):
    said = server.client.audio.transcriptions.create(file=FILE, model="small", chunking_strategy=strategy)
    assert said.text == "" == server.expected(SOUND, transcribe.Settings(vad=True)).text, "it is noise"


def test_a_stream_of_events_tells_the_text_as_it_is_found(server):
    events = list(server.client.audio.transcriptions.create(file=FILE, model="small", stream=True))
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == server.expected(SOUND).text.strip()
    deltas = [event.delta for event in events[:-1] if event.type == "transcript.text.delta"]
    assert "".join(deltas) == events[-1].text
    assert len(deltas) > 1, "one for each window at least"


def test_translations_in_every_form(server):
    expected = server.expected(SOUND, transcribe.Settings(Options(task="translate")))
    create = server.client.audio.translations.create
    assert create(file=FILE, model="whisper-1").text == expected.text.strip()
    assert create(file=FILE, model="small", response_format="text") == expected.text.strip() + "\n"
    for form in ("srt", "vtt"):
        assert create(file=FILE, model="small", response_format=form) == subtitles.render(expected, form)
    verbose = create(file=FILE, model="small", response_format="verbose_json")
    assert (verbose.language, verbose.text) == ("english", expected.text.strip())
    assert len(verbose.segments or []) == len(expected.segments)


def test_models_are_listed_and_found(server):
    assert [model.id for model in server.client.models.list()] == ["small"]
    assert server.client.models.retrieve("small").object == "model"
    assert server.client.models.retrieve("whisper-1").id == "small", "what clients send by habit is the default"
    with pytest.raises(openai.NotFoundError) as error:
        server.client.models.retrieve("openai/whisper-tiny")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    "name, codec", [("a.mp3", "libmp3lame"), ("a.ogg", "libopus"), ("a.m4a", "aac"), ("a.flac", "flac")]
)
def test_files_of_every_kind_are_heard(server, name, codec, tmp_path):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=48_000 if codec == "libopus" else 16_000)
        track.layout = "mono"
        frame = av.AudioFrame.from_ndarray((noise(1)[None] * 32767).astype(np.int16), "s16", "mono")
        frame.rate = 16_000
        resampler = av.AudioResampler(track.format, track.layout, track.rate, frame_size=track.frame_size or None)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    with path.open("rb") as file:
        said = server.client.audio.transcriptions.create(file=file, model="small")
    assert said.text == server.expected(audio.read(path)).text.strip()


def test_eight_clients_at_once_hear_what_one_at_a_time_would(server):
    sounds = [noise(2 + seed / 2, seed) for seed in range(8)]
    expected = [server.expected(sound).text.strip() for sound in sounds]
    assert len(set(expected)) > 4

    def ask(number: int) -> str:
        file = (f"{number}.wav", wav(sounds[number]))
        if number % 2:
            return server.client.audio.transcriptions.create(file=file, model="small").text
        return list(server.client.audio.transcriptions.create(file=file, model="small", stream=True))[-1].text  # pyright: ignore[reportAttributeAccessIssue]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == expected


def wait_until_idle(server: Server) -> None:
    deadline = time.monotonic() + 60
    while server.jobs and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.jobs == 0


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_work_and_harms_no_other(server, streamed):
    long = {"file": ("long.wav", wav(noise(120)))}
    if streamed:
        with httpx.stream(
            "POST", f"{server.address}/v1/audio/transcriptions", files=long, data={"stream": "true"}, timeout=60
        ) as answer:
            lines = answer.iter_lines()
            assert "transcript.text.delta" in next(lines)
            assert server.jobs == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.address}/v1/audio/transcriptions", files=long, timeout=httpx.Timeout(60, read=0.5))
    said = server.client.audio.transcriptions.create(file=FILE, model="small")
    assert said.text == server.expected(SOUND).text.strip()
    wait_until_idle(server)


def silent_video(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width = track.height = 32
        for _ in range(5):
            container.mux(track.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(track.encode(None))
    return path.read_bytes()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("speech.txt", "words " * 2000)
    return file.getvalue()


def assert_error(answer: httpx.Response, status: int, message: str, param: str | None = "file") -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert re.search(message, error["message"]), error
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert "/tmp" not in error["message"] and "almanac-upload" not in error["message"]


@pytest.mark.parametrize(
    "name, make, message",
    [
        ("empty.wav", lambda path: b"", "empty.wav is empty"),
        ("none.wav", lambda path: wav(np.zeros(0, np.float32)), "none.wav"),
        ("silent.mp4", lambda path: silent_video(path / "v.mp4"), "silent.mp4 has no sound in it"),
        ("speech.mp3", lambda path: zipped(), "speech.mp3 is not a readable audio file"),
        ("words.txt", lambda path: b"These are words, not sounds.\n" * 50, "words.txt"),
        ("../../etc/pass wd", lambda path: b"\0" * 1000, "^pass wd is not a readable"),
        ("header.wav", lambda path: wav(noise(1))[:20], "header.wav"),
    ],
)
def test_what_is_no_sound_is_refused(server, name, make, message, tmp_path):
    assert_error(server.post(files={"file": (name, make(tmp_path))}), 400, message)


def test_a_recording_that_breaks_off_gives_what_there_is(server):
    whole = wav(SOUND)
    said = server.client.audio.transcriptions.create(file=("cut.wav", whole[: 44 + 4 * 32_000]), model="small")
    assert said.text == server.expected(SOUND[: 4 * 16_000]).text.strip()


@pytest.mark.parametrize(
    "fields, status, message, param",
    [
        ({"language": "klingon"}, 400, "does not know the language 'klingon'; .*en, nl", "language"),
        ({"language": "fr"}, 400, "does not know the language 'fr'", "language"),
        ({"response_format": "docx"}, 400, "response_format is 'docx'; one of: json", "response_format"),
        ({"temperature": "hot"}, 400, "temperature: ", "temperature"),
        ({"temperature": "1.5"}, 400, "temperature: ", "temperature"),
        ({"stream": "perhaps"}, 400, "stream: ", "stream"),
        ({"model": "gpt-9"}, 404, "no model 'gpt-9'; this server has small", "model"),
        ({"timestamp_granularities[]": "word"}, 400, "json has no times", "timestamp_granularities[]"),
        (
            {"timestamp_granularities[]": "letter", "response_format": "verbose_json"},
            400,
            "is 'letter'",
            "timestamp_granularities[]",
        ),
        ({"include[]": "everything"}, 400, "is 'everything'", "include[]"),
        ({"include[]": "logprobs", "response_format": "text"}, 400, "text has no logprobs", "include[]"),
        ({"stream": "true", "response_format": "srt"}, 400, "srt can't be streamed", "response_format"),
    ],
)
def test_wrong_fields_are_refused(server, fields, status, message, param):
    assert_error(server.post(files={"file": FILE}, data=fields), status, message, param)


def test_a_request_without_a_file_is_refused(server):
    assert_error(server.post(files={"other": FILE}), 400, "file: field required")
    assert_error(server.post(files={"x": (None, "y")}, data={"file": "speech.wav"}), 400, "file: ")
    assert_error(server.post(json={"file": "speech.wav"}), 415, "holds application/json; send multipart", None)
    broken = {"content-type": "multipart/form-data; boundary=here"}
    assert_error(server.post(content=b"nonsense", headers=broken), 400, "", None)


def test_an_address_that_is_not_there_has_the_same_kind_of_answer(server):
    assert_error(httpx.get(f"{server.address}/v1/nowhere"), 404, "not found", None)
    assert_error(httpx.get(f"{server.address}/v1/audio/transcriptions"), 405, "not allowed", None)


def test_what_is_too_large_or_too_long_is_refused(narrow):
    assert_error(narrow.post(files={"file": ("a.wav", wav(noise(10)))}), 413, "larger than 0.19")
    head = b'--here\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    chunks = (head + b"x" * 50_000 if part == 0 else b"x" * 50_000 for part in range(20))  # of unknown length
    form = {"content-type": "multipart/form-data; boundary=here"}
    assert_error(narrow.post(content=chunks, headers=form), 413, "larger than 0.19")
    assert_error(narrow.post(files={"file": ("a.wav", wav(noise(5.5)))}), 413, "longer than 0.0833333 minutes")
    with pytest.raises(openai.APIStatusError) as error:
        narrow.client.audio.transcriptions.create(file=("a.wav", wav(noise(10))), model="small")
    assert error.value.status_code == 413
    assert narrow.client.audio.transcriptions.create(file=("a.wav", wav(noise(2))), model="small").text


def test_a_busy_server_says_so_and_the_client_tries_again(narrow):
    async def talk() -> None:
        async with connect(f"{narrow.address.replace('http', 'ws')}/v1/audio/stream") as socket:
            await socket.recv()
            answer = await asyncio.to_thread(narrow.post, files={"file": ("a.wav", wav(noise(1)))})
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["type"] == "rate_limit_error"

    awaited(talk())
    wait_until_idle(narrow)
    patient = narrow.client.with_options(max_retries=5)
    assert patient.audio.transcriptions.create(file=("a.wav", wav(noise(1))), model="small").text


def test_a_defect_of_ours_shows_nothing_of_its_inside(server, monkeypatch, caplog):
    def broken(*_):
        raise KeyError("secret")

    monkeypatch.setattr(transcribe, "transcribe", broken)
    answer = server.post(files={"file": FILE})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    streamed = server.post(files={"file": FILE}, data={"stream": "true"})
    assert '"server_error"' in streamed.text
    assert "secret" not in answer.text + streamed.text
    with pytest.raises(openai.APIError, match="our defect"):
        list(server.client.audio.transcriptions.create(file=FILE, model="small", stream=True))
    assert "secret" in caplog.text


def awaited(conversation: Coroutine) -> Any:
    """What it returns; in a thread of its own, for Playwright's tests leave a running loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, conversation).result()


async def converse(server: Server, messages: list[bytes | str], commits: int, query: str = "") -> list[dict]:
    """What the server tells about messages, up to so many completed utterances."""
    events = []
    async with connect(f"{server.address.replace('http', 'ws')}/v1/audio/stream?{query}") as socket:
        for message in messages:
            await socket.send(message)
        while sum(event["type"].endswith(".completed") for event in events) < commits:
            events.append(json.loads(await socket.recv()))
    return events


COMMIT = json.dumps({"type": "input_audio_buffer.commit"})


def test_a_websocket_tells_what_a_stream_hears(server):
    sound = np.concatenate((noise(4), PAUSE, PAUSE, noise(3, 1)))
    data = pcm(sound)
    pieces = [data[:7], data[7:100_001], data[100_001:], COMMIT]
    events = awaited(converse(server, pieces, 2, "language=nl&prompt=bosa&chunk_seconds=0.5"))
    settings = stream.Settings(Options(language="nl"), 0.5, prompt="bosa")
    listening = stream.begin(server.model, settings)
    updates = [*listening.feed(sound), listening.finish()]
    kind = "conversation.item.input_audio_transcription"
    assert events[0]["type"] == "session.created"
    assert events[0]["session"] == {"model": "small", "language": "nl", "sample_rate": 16_000, "chunk_seconds": 0.5}
    words = [word for event in events if event["type"] == f"{kind}.delta" for word in event["words"]]
    assert [word["word"] for word in words] == [word.text for update in updates for word in update.committed] != []
    completed = [event for event in events if event["type"] == f"{kind}.completed"]
    assert [event["item_id"] for event in completed] == ["item_0", "item_1"]
    for event in completed:
        deltas = [e["delta"] for e in events if e["type"] == f"{kind}.delta" and e["item_id"] == event["item_id"]]
        assert "".join(deltas) == event["transcript"] != ""
    tentative = [event["text"] for event in events if event["type"] == f"{kind}.tentative"]
    assert set(filter(None, tentative)) == {update.tentative for update in updates if update.tentative}


def test_every_commit_has_an_answer(server):
    events = awaited(converse(server, [COMMIT, pcm(noise(0.4)), COMMIT, COMMIT], 3))
    transcripts = [event["transcript"] for event in events if event["type"].endswith(".completed")]
    assert transcripts[0] == transcripts[2] == "" != transcripts[1]


@pytest.mark.parametrize(
    "query, message, expected",
    [
        ("model=gpt-9", COMMIT, "no model 'gpt-9'"),
        ("language=fr", COMMIT, "does not know the language 'fr'"),
        ("task=sing", COMMIT, "task is 'sing'"),
        ("chunk_seconds=many", COMMIT, "chunk_seconds is 'many'"),
        ("chunk_seconds=60", COMMIT, "hears 6 s at a time"),
        ("", "hello", "not understood"),
        ("", "[]", "not understood"),
    ],
)
def test_a_websocket_says_what_was_wrong_and_closes(server, query, message, expected):
    async def talk() -> list[dict]:
        events = []
        async with connect(f"{server.address.replace('http', 'ws')}/v1/audio/stream?{query}") as socket:
            with suppress(ConnectionClosed):
                await socket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    events.append(json.loads(await socket.recv()))
            assert closed.value.rcvd and closed.value.rcvd.code == 1008
        return events

    events = awaited(talk())
    assert events[-1]["type"] == "error"
    assert expected in events[-1]["error"]["message"]
    wait_until_idle(server)


def test_a_listener_that_leaves_frees_its_place(server):
    async def talk() -> None:
        async with connect(f"{server.address.replace('http', 'ws')}/v1/audio/stream") as socket:
            await socket.recv()
            await socket.send(pcm(noise(30)))
            assert server.jobs == 1

    awaited(talk())
    wait_until_idle(server)


@pytest.mark.skipif(systems.find("whisper") is None, reason="whisper is not in the table of systems")
def test_serve_prints_a_curl_line_that_works(tmp_path):
    model = untrained.small()
    recogniser.save(model, tmp_path / "own.safetensors", {})
    (tmp_path / "speech.wav").write_bytes(wav(noise(2)))
    command = [sys.executable, "-m", "almanac.cli", "whisper", "serve", "--model", str(tmp_path / "own.safetensors")]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline(), process.stderr.readline()]
            curl = said[1].strip().replace("speech.wav", str(tmp_path / "speech.wav"))
            assert curl.startswith("curl http://127.0.0.1:")
            if shutil.which("curl"):
                done = subprocess.run([*curl.split(), "-sS"], capture_output=True, text=True, timeout=60)
                assert json.loads(done.stdout)["text"], done
            address = curl.split()[1].split("/v1/")[0]
            assert httpx.get(f"{address}/v1/models").json()["data"][0]["id"] == "own"
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130)
        assert "Traceback" not in process.stderr.read()
