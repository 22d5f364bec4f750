"""A web of real pages on loopback, to crawl and to be measured against: nine sites of documentation (Debian's packages, ../data), one port
each, read out of their archive into memory. And the server below it, which tests use with sites of their own: it keeps a log of every
request, the only witness of a crawler's manners."""

import gzip
import hashlib
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TypeAlias
from urllib.parse import unquote

from almanac.runtime import hub

ARCHIVE = "miniweb/miniweb.tar.xz"
"""In the data set "pages"."""


@dataclass(frozen=True)
class Reply:
    """What a site answers."""

    body: bytes | Iterable[bytes] = b""
    """Whole; or in pieces, after which the connection is closed."""
    status: int = 200
    """Of the response."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides its length; `text/html; charset=utf-8` where they name no content type."""


Site: TypeAlias = Callable[[str], Reply]
"""From a request's target (path and query) to the answer."""


@dataclass(frozen=True)
class Request:
    """A line of the log."""

    site: str
    """Who was asked."""
    target: str
    """Path and query, as they came."""
    at: float
    """Monotonic time, s, at which the request had come."""
    status: int
    """That was answered."""
    host: str
    """`Host`, as it was asked for."""
    agent: str
    """`User-Agent` of who asked."""


class Web:
    """Sites on loopback, one port each, while its context lasts.

    Args:
        sites: by name.
    """

    def __init__(self, sites: Mapping[str, Site]):
        self.log: list[Request] = []
        """Every request, in the order in which they came."""
        self._servers = {name: _Server(name, site, self.log) for name, site in sites.items()}

    def __enter__(self) -> "Web":
        for server in self._servers.values():
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    @property
    def hosts(self) -> dict[str, str]:
        """`host:port` by name."""
        return {name: f"127.0.0.1:{server.server_address[1]}" for name, server in self._servers.items()}

    def url(self, site: str, target: str = "/") -> str:
        """The address of a page."""
        return f"http://{self.hosts[site]}{target}"

    def asked(self, site: str) -> list[str]:
        """The targets that a site was asked for, in their order."""
        return [request.target for request in self.log if request.site == site]


def sites(archive: Path | None = None) -> dict[str, dict[str, bytes]]:
    """The nine sites.

    Args:
        archive: of the pages; by default the one in the data set "pages".

    Returns:
        By the site's name, the gzipped pages by their path, as `/library/os.html`. A folder's page is its `index.html`; a site that
        has none begins with a list of its pages, as a server makes it.

    Raises:
        UserError: the data set is not on this machine.
    """
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(archive or hub.data("pages") / ARCHIVE) as tar:
        for member in tar:
            name, *path = member.name.removeprefix("./").split("/")
            content = (
                tar.extractfile(member)
                if (member.isfile() or member.islnk()) and path and name != "copyright"
                else None
            )
            if content is not None:
                found.setdefault(name, {})["/" + "/".join(path)] = gzip.compress(content.read(), 1)
    for pages in found.values():
        if "/index.html" not in pages:
            links = "".join(f'<li><a href="{path}">{path}</a>' for path in sorted(pages) if path.count("/") == 1)
            pages["/"] = gzip.compress(f"<!doctype html><title>Pages</title><ul>{links}</ul>".encode())
    return found


def serve(pages: Mapping[str, bytes]) -> Site:
    """A site of gzipped pages: a folder is its `index.html`, and 404 is what it lacks."""

    def answer(target: str) -> Reply:
        path = unquote(target.partition("?")[0])
        body = pages.get(path) or (pages.get(path + "index.html") if path.endswith("/") else None)
        if body is None:
            return Reply(b"not found", 404, {"Content-Type": "text/plain"})
        return Reply(body, headers={"Content-Encoding": "gzip", "ETag": f'"{hashlib.sha1(body).hexdigest()}"'})

    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, name: str, site: Site, log: list[Request]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.site, self.log = name, site, log

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: who asked hung up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        at, reply = time.monotonic(), self.server.site(self.path)
        headers = {"Content-Type": "text/html; charset=utf-8", **reply.headers}
        known = "ETag" in headers and headers["ETag"] == self.headers.get("If-None-Match")
        status = 304 if known else reply.status
        host, agent = self.headers.get("Host", ""), self.headers.get("User-Agent", "")
        self.server.log.append(Request(self.server.name, self.path, at, status, host, agent))
        pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not isinstance(reply.body, bytes):
            self.send_header("Connection", "close")
        elif not known:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        try:
            for piece in [] if known else pieces:
                self.wfile.write(piece)
        except OSError:  # who asked has heard enough
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the log is `Web.log`."""
