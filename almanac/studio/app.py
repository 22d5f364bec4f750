"""Studio: one web application out of all systems' pages. It knows a system by its row in `almanac.systems` only and imports its page
by name; a page that can't be built shows why, and the others work."""

import importlib
import logging
import os
from pathlib import Path
from types import ModuleType

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from almanac.runtime import console, serving
from almanac.runtime.errors import UserError
from almanac.runtime.services import Services
from almanac.studio import pages
from almanac.studio.theme import theme
from almanac.systems import SYSTEMS, System

UPLOAD_LIMIT = "200mb"
"""Largest file that a page takes; photographs of 40 megapixels are smaller, and so is half an hour of sound as one channel of a CD."""

_LOG = logging.getLogger(__name__)


def create_app(services: Services | None = None, systems: tuple[System, ...] = SYSTEMS) -> FastAPI:
    """Studio as an application.

    Args:
        services: what the pages get.
        systems: whose pages it has.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by every gr.Blocks as it is made
    app = FastAPI(title="Almanac Studio", docs_url=None, redoc_url=None, openapi_url=None)
    troubled: set[str] = set()
    frames: dict[str, str] = {}

    @app.get("/", response_class=HTMLResponse)
    def home() -> str:
        return pages.home(systems, troubled)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/studio.css")
    def stylesheet() -> FileResponse:
        return FileResponse(Path(__file__).with_name("studio.css"), headers={"Cache-Control": "no-cache"})

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(pages.ICON, media_type="image/svg+xml")

    @app.exception_handler(404)
    def not_found(request: Request, error: Exception) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(pages.not_found(systems), 404)
        return JSONResponse({"detail": "not found"}, 404)

    for system in systems:
        try:
            module = _page(system)
            page = module.build(services or Services())
            if hasattr(module, "router"):  # what the page needs of the server beside Gradio's
                app.include_router(module.router(), prefix=pages.path(system).rstrip("/"))
        except Exception as error:
            _LOG.warning(
                "the page of %s could not be built: %s", system.title, error, exc_info=not isinstance(error, UserError)
            )
            troubled.add(system.name)
            _show_trouble(app, systems, system, error)
        else:
            _mount(app, system, page)
            frames[pages.path(system)] = pages.header(systems, system) + pages.masthead(system)
    app.add_middleware(_Framed, frames=frames)
    return app


def serve(host: str = "127.0.0.1", port: int = 7860, services: Services | None = None) -> None:
    """Serve Studio until it is interrupted.

    Args:
        host: the address to listen on; 0.0.0.0 lets other machines in.
        port: the port; 0 takes a free one.
        services: what the pages get.

    Raises:
        UserError: the address can't be listened on.
    """
    with serving.listen(host, port) as listener:  # a port that is taken is said before the pages are built
        app = create_app(services)
        console.log(f"Studio is at http://{host}:{listener.getsockname()[1]} (Ctrl-C stops it)")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def _page(system: System) -> ModuleType:
    name = f"almanac.{system.name}.page"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.removesuffix(".page")):
            raise
        hint = f"use it on the command line: `almanac {system.command} --help`"
        raise UserError(f"{system.title} has no page yet", hint) from None


def _mount(app: FastAPI, system: System, page: gr.Blocks) -> None:
    page.delete_cache = (3600, 86_400)  # each hour what people uploaded a day ago; all of it when Studio stops
    gr.mount_gradio_app(
        app,
        page,
        pages.path(system).rstrip("/"),
        theme=theme(),
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        max_file_size=UPLOAD_LIMIT,
    )


def _show_trouble(app: FastAPI, systems: tuple[System, ...], system: System, error: Exception) -> None:
    @app.get(pages.path(system), response_class=HTMLResponse, status_code=503)
    def trouble() -> str:
        return pages.trouble(systems, system, error)


class _Framed:
    """Puts the header, the masthead and the stylesheet into the HTML that Gradio serves, so that they are there before its scripts
    have run.

    Args:
        app: the application.
        frames: what to put on top of the page, by path.
    """

    def __init__(self, app: ASGIApp, frames: dict[str, str]):
        self.app, self.frames = app, frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        frame = self.frames.get(scope.get("path", ""))
        if frame is None or scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")

        plain = [(key, value) for key, value in scope["headers"] if key != b"accept-encoding"]
        await self.app({**scope, "headers": plain}, receive, collect)
        body = body.replace(b"</head>", pages.HEAD.encode() + b"</head>", 1)
        body = body.replace(b"<gradio-app", frame.encode() + b"<gradio-app", 1)
        headers = [(key, value) for key, value in start["headers"] if key.lower() != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})
