"""The API in front of several replicas of a model: a request goes to the replica that likely knows its beginning; where one dies, what
it had accepted is asked of another, so that no whole answer is lost. It reads no more of a request than `affinity` needs."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from almanac.chat import affinity
from almanac.chat.requests import UPLOAD
from almanac.runtime import serving
from almanac.runtime.cluster import Fleet, ReplicaDied

TRIES = 4
"""How often a request is asked, of replicas that died meanwhile."""
_PAUSE = 0.5
"""s between them: it takes Ray a moment to see that a replica is gone."""
_LOG = logging.getLogger(__name__)


def application(fleet: Fleet) -> FastAPI:
    """The API of a fleet."""
    app = FastAPI(title="Almanac Chat", docs_url=None, redoc_url=None)
    serving.answer_errors(app)
    api = APIRouter(route_class=serving.openai_route(UPLOAD))

    @api.api_route("/{path:path}", methods=["GET", "POST"])
    async def forward(request: Request, path: str) -> Response:
        body = await request.body()
        key = affinity.key_of(request.headers.get("authorization", ""), body)
        headers = [(name, value) for name, value in request.headers.items() if name not in ("host", "content-length")]
        return await serving.attended(request, _answered(fleet, (key, request.method, f"/{path}", headers, body)))

    app.include_router(api)
    return app


async def _answered(fleet: Fleet, ask: tuple) -> Response:
    """The response of a replica; where it died first, of another."""
    for left in range(TRIES - 1, -1, -1):
        pieces = fleet.ask(*ask)
        try:
            status, named = await anext(pieces)
            headers = dict(named)
            if headers.get("content-type", "").startswith("text/event-stream"):
                first = await anext(pieces, b"")
                return StreamingResponse(_rest(first, pieces), status, headers)
            whole = b"".join([piece async for piece in pieces])
            headers.pop("content-length", None)
            return Response(whole, status, headers)
        except ReplicaDied:
            if not left:
                raise
            _LOG.warning("a replica died; its request is asked again")
            await asyncio.sleep(_PAUSE)
    raise AssertionError("unreachable")


async def _rest(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A stream; one that has begun can't begin again, and ends with an error."""
    yield first
    try:
        async for piece in pieces:
            yield piece
    except ReplicaDied:
        refused = serving.Refused("the replica that was answering is gone", "ask again", 502)
        yield f"data: {json.dumps(serving.error_body(refused))}\n\n".encode()
