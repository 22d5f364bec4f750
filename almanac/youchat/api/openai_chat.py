"""OpenAI's chat API over an index: the last message of the user is the question, what was said before it the conversation, and the answer
carries its citations as marks in the text ([1]), as annotations of type `url_citation` whose indices are the marks' places, and as a list
of addresses. Models are named after the modes. Sampling is not: answers are not drawn."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from almanac.runtime import serving
from almanac.runtime.serving import Refused
from almanac.youchat.api import wire
from almanac.youchat.api.asking import LONGEST, Asking
from almanac.youchat.ask.ask import Done, Said, Settings
from almanac.youchat.ask.compose import plain
from almanac.youchat.ask.rewrite import Turn
from almanac.youchat.documents import Answer

NAME = "youchat"
"""The model that answers in the server's own mode; `youchat-extractive` and so on name one."""
_KEPT_OPEN = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_MOST_TURNS = 20
"""Turns of the conversation that are looked back at."""


class Message(BaseModel):
    """Something that was said."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """What it says.

        Raises:
            Refused: it is more than text.
        """
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        kinds = {str(part.get("type")) for part in self.content} - {"text", "input_text", "output_text", "refusal"}
        if kinds:
            raise Refused(f"messages hold {', '.join(sorted(kinds))[:80]}", "this model reads text", param="messages")
        return "\n".join(str(part.get("text") or part.get("refusal") or "") for part in self.content)


class ChatBody(BaseModel):
    """A request for `/v1/chat/completions`; what else clients send has no bearing here."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    messages: Annotated[list[Message], Field(min_length=1, max_length=1_000)]
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: int | None = None
    response_format: dict[str, Any] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return bool((self.stream_options or {}).get("include_usage"))


def add(api: APIRouter, asking: Asking) -> None:
    """Add `/v1/models` and `/v1/chat/completions`."""
    since = int(time.time())

    def about(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": since, "owned_by": "almanac"}

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about(name) for name in _names(asking)]}

    @api.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        _settings(asking, name)
        return about(name)

    @api.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatBody) -> Response:
        if body.n not in (None, 1):
            raise Refused(f"n is {body.n}", "there is one answer to a question", param="n")
        if body.response_format and body.response_format.get("type") != "text":
            what = f"response_format is {str(body.response_format)[:80]}"
            raise Refused(what, "answers are text", param="response_format")
        settings = _settings(asking, body.model)
        question, history = conversation(body.messages)
        asked = sum(len(message.text().split()) for message in body.messages)
        reply = _Reply(body.model or NAME, asked, body.wants_usage)
        if body.stream:
            events = _events(asking, question, history, settings, reply)
            return StreamingResponse(events, media_type="text/event-stream", headers=_KEPT_OPEN)
        said = await serving.attended(request, asking.answer(question, history, settings, reply.whole))
        return JSONResponse(said)


def conversation(messages: Sequence[Message]) -> tuple[str, list[Turn]]:
    """The question, and the turns before it. What systems and tools say is left out: nothing here obeys.

    Raises:
        Refused: there is no question.
    """
    said = [(each.role, each.text()) for each in messages if each.role in ("user", "assistant")]
    if not said or said[-1][0] != "user":
        raise Refused("the last message is not the user's", "end with the question", param="messages")
    question = said[-1][1]
    if not question.strip():
        raise Refused("the question is empty", "ask something", param="messages")
    turns: list[Turn] = []
    for role, text in said[:-1]:
        if role == "user":
            turns.append(Turn(text[:LONGEST], ""))
        elif turns and not turns[-1].answer:
            turns[-1] = Turn(turns[-1].question, wire.without_marks(text)[:20_000])
    return question[:LONGEST], turns[-_MOST_TURNS:]


def _names(asking: Asking) -> list[str]:
    return [NAME, *(f"{NAME}-{mode}" for mode in asking.modes)]


def _settings(asking: Asking, model: str) -> Settings:
    """What a model's name asks for."""
    if model in ("", NAME):
        return asking.chosen(None)
    if model not in _names(asking):
        what, hint = f"there is no model '{model[:80]}'", f"this server has {', '.join(_names(asking))}"
        raise Refused(what, hint, 404, "model", "model_not_found")
    return asking.chosen(model.removeprefix(f"{NAME}-"))


@dataclass
class _Reply:
    """A reply in OpenAI's form. There are no tokens here: usage counts words.

    Args:
        model: as it was asked for.
        asked: words of the messages.
        wants_usage: whether a stream ends with what it took.
    """

    model: str
    asked: int
    wants_usage: bool

    def __post_init__(self) -> None:
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex[:24]}", int(time.time())
        self._said = 0

    def whole(self, answer: Answer) -> dict[str, Any]:
        """All of it."""
        found = wire.pieces(answer)
        content = "".join(piece.text for piece in found)
        self._said = len(content.split())
        message = {"role": "assistant", "content": content, "refusal": None, "annotations": annotations(found)}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(), **_more(answer)}

    def piece(self, text: str) -> dict[str, Any]:
        """A piece of a stream."""
        self._said += len(text.split())
        return self._chunk({"content": text})

    def first(self) -> dict[str, Any]:
        """Who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """What a stream ends with. All annotations come at once: clients that gather lists expect each list once."""
        ends = [self._chunk({"annotations": annotations(wire.pieces(answer))}), self._chunk({}, "stop") | _more(answer)]
        if self.wants_usage:
            ends.append({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        return ends

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self.wants_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.asked,
            "completion_tokens": self._said,
            "total_tokens": self.asked + self._said,
        }


def annotations(found: Sequence[wire.Piece]) -> list[dict[str, Any]]:
    """Citations as OpenAI's web search gives them; `text[start_index:end_index]` is the mark."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": mark.start,
                "end_index": mark.end,
                "title": plain(mark.reference.title),
                "url": mark.reference.link,
            },
        }
        for piece in found
        for mark in piece.marks
    ]


def _more(answer: Answer) -> dict[str, Any]:
    """What OpenAI's API has no word for."""
    return {"citations": [each.url for each in answer.references], "outcome": answer.outcome}


async def _events(
    asking: Asking, question: str, history: list[Turn], settings: Settings, reply: _Reply
) -> AsyncIterator[str]:
    """Server-sent events. What a language model writes is sent when all of it is checked: it may be withdrawn as a whole, and here
    nothing that was sent can be taken back."""
    at, streamed = 0, settings.mode != "abstractive"
    try:
        yield _event(reply.first())
        async with aclosing(asking.events(question, history, settings, lambda event: event)) as told:
            async for event in told:
                if event is None:
                    yield ": still here\n\n"
                elif isinstance(event, Said) and streamed:
                    piece = wire.marked(event.sentence, event.references, at)
                    at += len(piece.text)
                    yield _event(reply.piece(piece.text))
                elif isinstance(event, Done):
                    found = wire.pieces(event.answer)
                    for piece in found[len(event.answer.sentences) if streamed else 0 :]:
                        yield _event(reply.piece(piece.text))
                    for chunk in reply.last(event.answer):
                        yield _event(chunk)
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield _event(serving.error_body(error))


def _event(said: dict[str, Any]) -> str:
    return f"data: {json.dumps(said, ensure_ascii=False)}\n\n"
