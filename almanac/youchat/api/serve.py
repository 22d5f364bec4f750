"""YouChat as an application of its own: the page at `/`, OpenAI's chat at `/v1/…`, SearXNG's search at `/search`, and everything again
under `/youchat`, as Studio has it."""

from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from almanac.runtime import serving
from almanac.youchat.api import api
from almanac.youchat.api.asking import Asking, Served
from almanac.youchat.ask.ask import Settings


def app(index: Served, settings: Settings | None = None) -> FastAPI:
    """The application.

    Args:
        index: what is asked.
        settings: how to answer.
    """
    made = FastAPI(title="Almanac YouChat", docs_url=None, redoc_url=None, openapi_url=None)
    serving.answer_errors(made)

    @made.get("/")
    def home(request: Request) -> Response:
        asked = urlencode(request.query_params.multi_items())
        if "format" in request.query_params:  # SearXNG, too, may be asked without the word
            return RedirectResponse(f"search?{asked}", 308)
        return RedirectResponse(f"youchat/ask?{asked}" if asked else "youchat/ask")

    @made.get("/youchat/")
    def folder() -> Response:
        return RedirectResponse("ask")

    @made.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @made.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    asking = Asking(lambda: index, settings)
    made.include_router(api.router(asking), prefix="/youchat")
    made.include_router(api.standards(asking, page="youchat/ask"))
    return made
