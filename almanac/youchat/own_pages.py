"""The index that is there at once, without a network: this machine's own Python documentation, which pydoc serves on loopback as real,
linked pages, crawled as any site is, and the documents of this project. It is made on first use, in some seconds, and kept."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from almanac.runtime import hub
from almanac.runtime.errors import RunFailed
from almanac.youchat.crawl import crawl
from almanac.youchat.crawl.settings import Settings
from almanac.youchat.index import refresh

MODULES = re.findall(
    r"\S+",
    """
    abc argparse array ast asyncio base64 bisect calendar cmath collections collections.abc concurrent.futures configparser contextlib
    copy csv ctypes dataclasses datetime decimal difflib dis email.message enum errno fileinput fnmatch fractions functools gc getpass
    glob gzip hashlib heapq hmac html html.parser http.client http.server importlib inspect io ipaddress itertools json keyword locale
    logging logging.handlers lzma math mimetypes multiprocessing numbers operator os os.path pathlib pickle platform pprint queue
    random re sched secrets select selectors shelve shlex shutil signal socket socketserver sqlite3 ssl statistics string struct
    subprocess sys tarfile tempfile textwrap threading time timeit tokenize trace traceback types typing unicodedata unittest
    unittest.mock urllib.parse urllib.request urllib.robotparser uuid warnings wave weakref xml.etree.ElementTree zipfile zlib
    zoneinfo
    """,
)
"""Of the standard library: what people ask about. pydoc imports what it shows, so that others are left alone."""
_PORT = 7464
"""Where pydoc serves, if it is free: `python -m pydoc -p 7464` shows the cited pages again."""


def folder() -> Path:
    """Where this index is kept."""
    return hub.cache() / "youchat" / "own-pages"


def is_made() -> bool:
    """Whether it is there."""
    return (folder() / "pages.sqlite").is_file()


def ready(progress: Callable[[crawl.Progress], None] | None = None) -> Path:
    """The folder of this index, which is made if it is not there; `progress` as in `make`."""
    if not is_made():
        make(folder(), progress)
    return folder()


def make(folder: Path, progress: Callable[[crawl.Progress], None] | None = None) -> None:
    """Make this index.

    Args:
        folder: where to; it is there when it is whole.
        progress: is told how far the crawl is.

    Raises:
        RunFailed: pydoc could not be started.
    """
    making = folder.with_name(folder.name + ".part")
    shutil.rmtree(making, ignore_errors=True)
    with _pydoc() as host:
        seeds = [f"http://{host}/{module}.html" for module in MODULES]
        settings = Settings(depth=0, own_delay=0.0, sitemaps=False)
        crawl.crawl(seeds, making / refresh.CRAWL, settings, allow_hosts=[host], progress=progress)
    refresh.from_crawl(making)
    refresh.from_files(making, documents())
    making.replace(folder)


def documents() -> list[Path]:
    """The project's own documents that are here: its README and docs, and each system's card."""
    root = Path(__file__).parents[2]
    cards = sorted(root.glob("almanac/*/README.md"))
    return [path for path in (root / "README.md", root / "CONTRIBUTING.md", root / "docs", *cards) if path.exists()]


@contextmanager
def _pydoc() -> Iterator[str]:
    """A server of Python's documentation on loopback: its host and port."""
    for port in (_PORT, 0):
        server = subprocess.Popen(
            [sys.executable, "-I", "-m", "pydoc", "-n", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.PIPE,  # it ends with its input
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None and server.stdin is not None
        said = server.stdout.readline()
        try:
            if "http://" in said:
                yield said.partition("http://")[2].strip().rstrip("/")
                return
        finally:
            with suppress(OSError):
                server.stdin.close()
            server.kill()
            server.wait()
    raise RunFailed(f"pydoc could not be started: {said.strip()}", "give an index of your own: --index DIR")
