"""Studio in a process of its own, and a real browser to use it with."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


SERVE = "from almanac.studio.app import serve; serve(port=0)"


@pytest.fixture(scope="session")
def studio(tmp_path_factory) -> Iterator[str]:
    """The address of a running Studio."""
    with serving(tmp_path_factory.mktemp("studio")) as address:
        yield address


@contextmanager
def serving(folder: Path, program: str = SERVE, **variables: str) -> Iterator[str]:
    """A Studio in a process of its own, and its address.

    Args:
        folder: for its log and what Gradio keeps.
        program: what runs it.
        variables: of its environment, beside ours.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder / "gradio"), **variables}
    with (folder / "log").open("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield _address(server, folder / "log")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _address(server: subprocess.Popen, log) -> str:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        said = log.read_text()
        if "Studio is at " in said:
            address = said.split("Studio is at ")[1].split()[0]
            assert httpx.get(f"{address}/healthz", timeout=60).json() == {"status": "ok"}
            return address
        time.sleep(0.2)
    raise AssertionError(f"Studio did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def chromium():
    """A running browser, for a module: while it runs, its thread has an event loop, and a test that runs one of its own fails there."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: run `make setup`, which installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 860}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}


@pytest.fixture(params=SCREENS)
def page(request, studio, chromium):
    """Studio's home in a fresh tab, on a desktop and on a phone. At its end the tab must have asked nobody but Studio for anything,
    and its console must hold no error."""
    context = chromium.new_context(**SCREENS[request.param], base_url=studio)
    tab = context.new_page()
    elsewhere: list[str] = []
    errors: list[str] = []
    ours = (f"{studio}/", "data:", "blob:")
    tab.on("request", lambda sent: None if sent.url.startswith(ours) else elsewhere.append(sent.url))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto("/")
    yield tab
    context.close()
    assert not elsewhere
    assert not errors
