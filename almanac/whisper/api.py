"""Speech recognition by OpenAI's API: `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`, which any client of theirs
can use; and the WebSocket `/v1/audio/stream` for speech that is still being spoken, whose messages are in `realtime`. Accounts and
billing are left to who includes the router."""

import json
import math
import re
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, Response, UploadFile, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.datastructures import UploadFile as Upload

from almanac.runtime import serving
from almanac.runtime.errors import UserError
from almanac.runtime.serving import Job, Refused, Turns
from almanac.whisper import audio, languages, realtime, stream, subtitles, transcribe
from almanac.whisper.decoding import Options
from almanac.whisper.recogniser import Recogniser
from almanac.whisper.timing import Word
from almanac.whisper.tokenizer import Task
from almanac.whisper.transcript import Segment, Transcript

Event = dict[str, Any]
Tell = Callable[[Event], None]

HABITUAL = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe")
"""OpenAI's names, which clients send if nobody tells them another; our first model answers."""
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    upload: int = 25 * 2**20
    """Bytes of a request (OpenAI's limit)."""
    seconds: float = 7200.0
    """Length of a recording; an hour takes 230 MB of memory, and its spectrogram as much."""
    at_once: int = serving.AT_ONCE
    """Requests and streams; further ones are told to try again."""


def application(recognisers: Mapping[str, Recogniser], limits: Limits = Limits(), seed: int = 0) -> FastAPI:
    """A server of nothing but this API; see `router`."""
    app = FastAPI(title="Almanac Whisper", docs_url=None, redoc_url=None)
    serving.answer_errors(app)
    app.include_router(router(recognisers, limits, seed))
    return app


def router(recognisers: Mapping[str, Recogniser], limits: Limits = Limits(), seed: int = 0) -> APIRouter:
    """The API, to be included in an application. Its models share one queue.

    Args:
        recognisers: models by name, looked up in a thread when they are needed; the first is the default.
        limits: what it takes.
        seed: of what is drawn at temperatures above 0.
    """
    api = APIRouter(route_class=serving.openai_route(limits.upload))
    models = _Models(recognisers)
    server = _Server(models, Turns(limits.at_once), limits, seed)

    @api.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": models.default, "jobs": server.turns.jobs}

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [models.about(name) for name in recognisers]}

    @api.get("/v1/models/{name:path}")
    async def model_by_name(name: str) -> dict[str, Any]:
        return models.about(models.name(name))

    @api.post("/v1/audio/transcriptions", dependencies=[Depends(_needs_a_form)])
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        granularities: Annotated[list[str], Form(alias="timestamp_granularities[]", default_factory=list)],
        include: Annotated[list[str], Form(alias="include[]", default_factory=list)],
        model: Annotated[str, Form()] = "",
        language: Annotated[str, Form()] = "",
        prompt: Annotated[str, Form()] = "",
        response_format: Annotated[str, Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
        stream: Annotated[bool, Form()] = False,
        strategy: Annotated[str, Form(alias="chunking_strategy")] = "",
        own_strategy: Annotated[str, Form(alias="chunking_strategy[type]")] = "",
    ) -> Response:
        """Speech to text in its own language. With any `chunking_strategy`, only where somebody speaks."""
        wanted = _Wanted("transcribe", response_format, tuple(granularities), tuple(include), stream)
        settings = wanted.settings(language, prompt, temperature, seed)
        settings = replace(settings, vad=bool(strategy or own_strategy))
        return await server.transcribe(request, file, models.name(model), wanted, settings)

    @api.post("/v1/audio/translations", dependencies=[Depends(_needs_a_form)])
    async def translations(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()] = "",
        prompt: Annotated[str, Form()] = "",
        response_format: Annotated[str, Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
    ) -> Response:
        """Speech of any language to English text."""
        wanted = _Wanted("translate", response_format)
        settings = wanted.settings("", prompt, temperature, seed)
        return await server.transcribe(request, file, models.name(model), wanted, settings)

    @api.websocket("/v1/audio/stream")
    async def audio_stream(socket: WebSocket) -> None:
        await server.listen(socket)

    return api


def short_name(model: str) -> str:
    """What clients call a model that is loaded by this name: without its path, and without the ending of its file."""
    path = Path(model)
    return path.stem if path.suffix in (".safetensors", ".pt", ".pth") else path.name


@dataclass(frozen=True)
class _Server:
    """What answers requests."""

    models: "_Models"
    turns: Turns
    limits: Limits
    seed: int

    async def transcribe(
        self, request: Request, file: Upload, model: str, wanted: "_Wanted", settings: transcribe.Settings
    ) -> Response:
        """Transcribe an upload. If its client leaves, the work on it ends at the next window."""

        def work(job: Job, tell: Tell) -> tuple[Transcript, float]:
            recogniser, options = self.models.find(model, settings.options)
            samples = _read(file, self.limits.seconds)
            deltas = realtime.Deltas()

            def on_progress(seconds: float, segments: Sequence[Segment]) -> None:
                if delta := deltas.add("".join(segment.text for segment in segments)):
                    tell({"type": "transcript.text.delta", "delta": delta})
                job.give_way()

            with job:
                chosen = replace(settings, options=options)
                return transcribe.transcribe(recogniser, samples, chosen, on_progress), len(samples) / audio.SAMPLE_RATE

        def work_aloud(job: Job, tell: Tell) -> None:
            tell({"type": "transcript.text.done", **wanted.json(work(job, tell)[0])})

        if not wanted.stream:
            silently = self.turns.run(lambda job: work(job, lambda event: None))
            return wanted.response(*await serving.attended(request, silently))
        events = self.turns.follow(work_aloud)
        first = await serving.attended(request, anext(events))  # what is wrong with the request, it says now
        return StreamingResponse(_server_sent(first, events), media_type="text/event-stream")

    async def listen(self, socket: WebSocket) -> None:
        """Answer a WebSocket until its client leaves, or sends what can't be answered."""
        await socket.accept()
        try:
            name = self.models.name(socket.query_params.get("model", ""))
            settings = _stream_settings(socket, self.seed)

            def begin() -> stream.Stream:
                recogniser, options = self.models.find(name, settings.options)
                return stream.begin(recogniser, replace(settings, options=options))

            await realtime.converse(socket, self.turns, name, settings.chunk_seconds, begin)
        except Exception as error:
            await realtime.end_with(socket, error)


async def _server_sent(first: Event, events: AsyncGenerator[Event, None]) -> AsyncIterator[str]:
    """Events as a response's stream has them; an error is the last one."""
    yield f"data: {json.dumps(first)}\n\n"
    try:
        async with aclosing(events):
            async for event in events:
                yield f"data: {json.dumps(event)}\n\n"
    except Exception as error:
        yield f"data: {json.dumps(serving.error_body(error))}\n\n"


class _Models:
    """Models by the names that clients call them.

    Args:
        recognisers: by their own names.
    """

    def __init__(self, recognisers: Mapping[str, Recogniser]):
        self.recognisers = recognisers
        self.default = next(iter(recognisers))
        self.since = int(time.time())

    def name(self, asked: str) -> str:
        """A model's own name.

        Raises:
            Refused: there is none of that name.
        """
        if asked in self.recognisers:
            return asked
        if asked in ("", *HABITUAL):
            return self.default
        known = ", ".join(self.recognisers)
        raise Refused(f"there is no model '{asked}'", f"this server has {known}", 404, "model", "model_not_found")

    def find(self, name: str, options: Options) -> tuple[Recogniser, Options]:
        """A model, and options for it.

        Raises:
            Refused: it does not know their language, or can't translate.
        """
        recogniser = self.recognisers[name]
        try:
            return recogniser, transcribe.checked(recogniser, transcribe.Settings(options)).options
        except UserError as error:
            param = "language" if options.task == "transcribe" else "model"
            raise Refused(error.what, error.hint, param=param) from None

    def about(self, name: str) -> dict[str, Any]:
        """What the list of models says of one."""
        return {"id": name, "object": "model", "created": self.since, "owned_by": "almanac"}


@dataclass(frozen=True)
class _Wanted:
    """What a client wants to be told, and in which form."""

    task: Task
    form: str
    granularities: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    stream: bool = False

    def __post_init__(self):
        _one_of("response_format", [self.form], FORMATS)
        _one_of("timestamp_granularities[]", self.granularities, ("word", "segment"))
        _one_of("include[]", self.include, ("logprobs",))
        if self.granularities and self.form != "verbose_json":
            what, hint = f"{self.form} has no times", "use response_format verbose_json"
            raise Refused(what, hint, param="timestamp_granularities[]")
        if self.include and self.form != "json":
            raise Refused(f"{self.form} has no logprobs", "use response_format json", param="include[]")
        if self.stream and self.form not in ("json", "text"):
            what, hint = f"response_format {self.form} can't be streamed", "use json, or leave stream out"
            raise Refused(what, hint, param="response_format")

    def settings(self, language: str, prompt: str, temperature: float, seed: int) -> transcribe.Settings:
        """How to transcribe; as with OpenAI, temperature 0 is raised where a text is bad."""
        options = Options(task=self.task, language=language or None, seed=seed)
        ladder = transcribe.Settings().temperatures if temperature == 0 else (temperature,)
        words = "word" in self.granularities or bool(self.include)
        return transcribe.Settings(options, temperatures=ladder, prompt=prompt, words=words)

    def response(self, transcript: Transcript, seconds: float) -> Response:
        """The answer about a recording of so many seconds."""
        usage = {"usage": {"type": "duration", "seconds": math.ceil(seconds)}}
        match self.form:
            case "json":
                return JSONResponse({**self.json(transcript), **usage})
            case "verbose_json":
                return JSONResponse({**self._verbose(transcript), "duration": seconds, **usage})
            case "text":
                return PlainTextResponse(transcript.text.strip() + "\n")
        kind = "text/vtt" if self.form == "vtt" else "text/plain"
        return PlainTextResponse(subtitles.render(transcript, self.form), media_type=kind)

    def json(self, transcript: Transcript) -> dict[str, Any]:
        """The text, and if it was asked for, how likely each of its words is: OpenAI says that of tokens."""
        found: dict[str, Any] = {"text": transcript.text.strip()}
        if self.include:
            found["logprobs"] = [
                {
                    "token": word.text,
                    "bytes": list(word.text.encode()),
                    "logprob": math.log(max(word.probability, 1e-9)),
                }
                for word in _words(transcript)
            ]
        return found

    def _verbose(self, transcript: Transcript) -> dict[str, Any]:
        language = transcript.language if self.task == "transcribe" else "en"
        found: dict[str, Any] = {"task": self.task, "language": languages.title(language).lower()}
        found["text"] = transcript.text.strip()
        if "segment" in (self.granularities or ("segment",)):
            found["segments"] = [
                {name: value for name, value in vars(segment).items() if name != "words"}
                for segment in transcript.segments
            ]
        if "word" in self.granularities:
            words = _words(transcript)
            found["words"] = [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in words]
        return found


def _words(transcript: Transcript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words or []]


def _one_of(field: str, given: Sequence[str], known: tuple[str, ...]) -> None:
    for value in given:
        if value not in known:
            raise Refused(f"{field} is '{value}'", f"one of: {', '.join(known)}", param=field)


def _needs_a_form(request: Request) -> None:
    kind = request.headers.get("content-type", "nothing").split(";")[0]
    if kind != "multipart/form-data":
        raise Refused(f"the request holds {kind}", "send multipart/form-data with a field file", 415)


def _stream_settings(socket: WebSocket, seed: int) -> stream.Settings:
    """How a WebSocket's address says to listen."""
    query = socket.query_params
    _one_of("task", [query.get("task", "transcribe")], ("transcribe", "translate"))
    task: Task = "translate" if query.get("task") == "translate" else "transcribe"
    try:
        chunk_seconds = float(query.get("chunk_seconds", stream.Settings().chunk_seconds))
    except ValueError:
        what = f"chunk_seconds is '{query['chunk_seconds']}'"
        raise Refused(what, "give a number", param="chunk_seconds") from None
    options = Options(task=task, language=query.get("language") or None, seed=seed)
    return stream.Settings(options, chunk_seconds, prompt=query.get("prompt", ""))


def _read(file: Upload, longest: float) -> audio.Samples:
    """The sound of an upload. The copy that it is decoded from is gone afterwards, whatever happens.

    Raises:
        Refused: it is no sound, or too long.
    """
    name = Path(file.filename or "file").name
    suffix = re.sub(r"[^.\w]", "", Path(name).suffix)[:12]
    with TemporaryDirectory(prefix="almanac-upload-") as folder:
        path = Path(folder) / f"sound{suffix}"
        with path.open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
        try:
            blocks = list(_no_longer_than(longest, audio.read_blocks(path)))
        except Refused:
            raise
        except UserError as error:
            raise Refused(error.what.replace(str(path), name), error.hint, param="file") from None
    if not sum(map(len, blocks)):
        raise Refused(f"{name} holds no sound (0 seconds)", "check the recording", param="file")
    return np.concatenate(blocks)


def _no_longer_than(seconds: float, blocks: Iterator[audio.Samples]) -> Iterator[audio.Samples]:
    heard = 0
    for block in blocks:
        heard += len(block)
        if heard > seconds * audio.SAMPLE_RATE:
            what = f"the recording is longer than {seconds / 60:g} minutes"
            raise Refused(what, "send it in parts", 413, "file", "audio_too_long")
        yield block
