"""YouChat over HTTP: the page with its search bar, what it asks (search, answers whole or as server-sent events, stored pages with what is
cited marked), and the two APIs that other programs know, OpenAI's chat (`openai_chat`) and SearXNG's search (`searxng`). Nobody who
asks can say what is fetched, from where, or whose language model writes."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from almanac.runtime import serving
from almanac.runtime.serving import Refused
from almanac.youchat.api import openai_chat, reader, searxng
from almanac.youchat.api.asking import LONGEST, MOST_HITS, Asking, Served, Telling, checked
from almanac.youchat.ask.ask import Settings, left_out
from almanac.youchat.ask.rewrite import Turn

UPLOAD = 2**20
"""Bytes of a request."""
_KEPT_OPEN = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_READER_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
_FILES = {"search.js": "text/javascript", "search.css": "text/css"}


class AskedBefore(BaseModel):
    """A turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    question: Annotated[str, Field(max_length=LONGEST)]
    answer: Annotated[str, Field(max_length=20_000)] = ""
    titles: Annotated[list[Annotated[str, Field(max_length=1_000)]], Field(max_length=20)] = []

    def turn(self) -> Turn:
        """It, as questions are rewritten with it."""
        return Turn(self.question, self.answer, tuple(self.titles))


class AskBody(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    question: str
    history: Annotated[list[AskedBefore], Field(max_length=50)] = []
    mode: Literal["extractive", "semi", "abstractive"] | None = None
    stream: bool = False


def router(asking: Asking) -> APIRouter:
    """Everything under one prefix: the page is `ask`, its API `api/…`, and `v1/…` and `search` are there too."""
    api = APIRouter(route_class=serving.openai_route(UPLOAD))
    _pages(api, asking)
    _questions(api, asking)
    api.include_router(standards(asking))
    return api


def standards(asking: Asking, page: str = "ask") -> APIRouter:
    """The APIs that others know: OpenAI's chat and SearXNG's search.

    Args:
        asking: asks.
        page: where whoever searches for people to read is sent.
    """
    api = APIRouter(route_class=serving.openai_route(UPLOAD))
    openai_chat.add(api, asking)
    searxng.add(api, asking, page)
    return api


def _pages(api: APIRouter, asking: Asking) -> None:
    here = Path(__file__).parent

    @api.get("/ask", response_class=HTMLResponse)
    def page() -> Response:
        headers = {**_SAFE, "Content-Security-Policy": _PAGE_POLICY}
        return HTMLResponse((here / "search.html").read_text("utf-8"), headers=headers)

    @api.get("/search.{kind}")
    def part(kind: str) -> Response:
        name = f"search.{kind}"
        if name not in _FILES:
            return JSONResponse({"detail": "not found"}, 404)
        return Response((here / name).read_text("utf-8"), media_type=_FILES[name], headers=_SAFE)

    @api.get("/opensearch.xml")
    def for_browsers(request: Request) -> Response:
        """What a browser reads to search here from its address bar."""
        page = escape(str(request.url.replace(query="")).removesuffix("opensearch.xml") + "ask")
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><OpenSearchDescription xmlns="http://a9.com/-/spec/opensearch/1.1/">'
            "<ShortName>YouChat</ShortName><Description>Answers from an index, each sentence with its source</Description>"
            f'<Url type="text/html" template="{page}?q={{searchTerms}}"/></OpenSearchDescription>'
        )
        return Response(text, media_type="application/opensearchdescription+xml", headers=_SAFE)

    @api.get("/source", response_class=HTMLResponse)
    async def source(
        url: str,
        n: Annotated[int, Query(ge=0, le=999)] = 0,
        at: Annotated[tuple[str, ...], Query()] = (),
        sha: str = "",
    ) -> Response:
        spans = [_span(each) for each in at[:100]]
        held = await asking.run(lambda index: index.page(url))
        text = reader.document(held, n, spans, sha)
        headers = {**_SAFE, "Content-Security-Policy": _READER_POLICY}
        return HTMLResponse(text, 200 if held else 404, headers)


def _questions(api: APIRouter, asking: Asking) -> None:
    @api.get("/api/about")
    async def about() -> dict[str, Any]:
        return await asking.run(lambda _: asking.about())

    @api.get("/api/search")
    async def search(q: str = "", k: Annotated[int, Query(ge=1, le=MOST_HITS)] = 10) -> dict[str, Any]:
        question = checked(q)

        def found(index: Served) -> dict[str, Any]:
            results = Telling(lambda: index, question).hits(question, index.search(question, k))
            return {"query": question, "results": results, "note": left_out(index)}

        return await asking.run(found)

    @api.post("/api/ask")
    async def ask(request: Request, body: AskBody) -> Response:
        question, settings = checked(body.question), asking.chosen(body.mode)
        history = [each.turn() for each in body.history]
        if body.stream:
            events = _events(asking, question, history, settings)
            return StreamingResponse(events, media_type="text/event-stream", headers=_KEPT_OPEN)
        telling = Telling(asking.index, question)
        return JSONResponse(await serving.attended(request, asking.answer(question, history, settings, telling.answer)))


async def _events(asking: Asking, question: str, history: list[Turn], settings: Settings) -> AsyncIterator[str]:
    """Server-sent events: `found`, `said` …, `withdrawn`, `done`; or `error`, which is then the last one."""
    form = Telling(asking.index, question).tell
    try:
        async with aclosing(asking.events(question, history, settings, form)) as told:
            async for event in told:
                if event is None:
                    yield ": still here\n\n"
                    continue
                name, said = event
                yield f"event: {name}\ndata: {json.dumps(said, ensure_ascii=False)}\n\n"
    except Exception as error:
        yield f"event: error\ndata: {json.dumps(serving.error_body(error)['error'], ensure_ascii=False)}\n\n"


def _span(text: str) -> tuple[int, int]:
    """A stretch as a link has it: `120-163`."""
    start, _, end = text.partition("-")
    if not (start.isascii() and start.isdigit() and end.isascii() and end.isdigit() and len(text) < 24):
        raise Refused(f"'{text[:40]}' is no stretch of a text", "give START-END, e.g. at=120-163", param="at")
    return int(start), int(end)
