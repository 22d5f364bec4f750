"""Weights and data come from a path, the project, $ALMANAC_DATA, the cache, or a server that is real and on this machine."""

import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from almanac.runtime import hub
from almanac.runtime.catalogue import DataSet, Source
from almanac.runtime.errors import UserError
from tests.runtime import training

CONTENT = random.Random(0).randbytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """A web server and what was asked of it. `ranges`: whether it can send a part; `cut`: after how many bytes it hangs
    up; `shift`: how far off the part is that it sends."""

    url: str = ""
    ranges: bool = True
    cut: int | None = None
    shift: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    state = Server(files={"/file.bin": CONTENT})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/file.bin")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path not in state.files:
                self.send_error(404)
                return
            content = state.files[self.path]
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else None
            if start is not None and start >= len(content):
                self.send_error(416)
                return
            self.send_response(200 if start is None else 206)
            if start is not None:
                start = max(0, start - state.shift)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            body = content[start or 0 :]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut])
            self.close_connection = state.cut is not None

        def do_HEAD(self) -> None:
            content = state.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def fetch(server: Server, path: Path, sha256: str = SHA256) -> Path:
    return hub.download(f"{server.url}/file.bin", path, sha256)


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def test_a_file_is_downloaded_whole_and_once(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "new" / "file.bin"
    assert fetch(server, path) == path
    assert fetch(server, path) == path
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/file.bin", None)]
    assert training.names(path.parent) == ["file.bin"]
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "file.bin: 200,000/200,000 B\n"


def test_a_redirect_is_followed(server: Server, tmp_path: Path):
    assert hub.download(f"{server.url}/moved", tmp_path / "file.bin", SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("done", [1, 70_000, len(CONTENT) - 1])
def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, done: int):
    path = tmp_path / "file.bin"
    part_of(path).write_bytes(CONTENT[:done])
    assert fetch(server, path).read_bytes() == CONTENT
    assert server.asked == [("/file.bin", f"bytes={done}-")]
    assert training.names(tmp_path) == ["file.bin"]


def test_a_connection_that_breaks_keeps_what_came_for_the_next_time(server: Server, tmp_path: Path):
    path = tmp_path / "file.bin"
    server.cut = 50_000
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch(server, path)
    kept = part_of(path).read_bytes()
    assert kept == CONTENT[:50_000]
    assert not path.exists()
    server.cut = None
    assert fetch(server, path).read_bytes() == CONTENT
    assert server.asked[-1] == ("/file.bin", "bytes=50000-")


def test_a_server_that_cannot_send_a_part_sends_the_whole(server: Server, tmp_path: Path):
    server.ranges = False
    path = tmp_path / "file.bin"
    part_of(path).write_bytes(CONTENT[:1000])
    assert fetch(server, path).read_bytes() == CONTENT
    assert server.asked == [("/file.bin", "bytes=1000-")]


def test_a_server_that_sends_another_part_is_asked_for_the_whole(server: Server, tmp_path: Path):
    server.shift = 7
    path = tmp_path / "file.bin"
    part_of(path).write_bytes(CONTENT[:1000])
    assert fetch(server, path).read_bytes() == CONTENT


def test_a_complete_part_needs_no_server(nobody: str, tmp_path: Path):
    path = tmp_path / "file.bin"
    part_of(path).write_bytes(CONTENT)
    assert hub.download(f"{nobody}/file.bin", path, SHA256).read_bytes() == CONTENT
    assert training.names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("part", [CONTENT + b"more", bytes(len(CONTENT)), b"another version"])
def test_a_part_that_does_not_fit_is_downloaded_anew(server: Server, tmp_path: Path, part: bytes):
    path = tmp_path / "file.bin"
    part_of(path).write_bytes(part)
    assert fetch(server, path).read_bytes() == CONTENT
    assert server.asked == [("/file.bin", f"bytes={len(part)}-"), ("/file.bin", None)]


@pytest.mark.parametrize("part", [None, CONTENT[:1000]])
def test_a_wrong_hash_keeps_nothing(server: Server, tmp_path: Path, part: bytes | None):
    path = tmp_path / "file.bin"
    if part is not None:
        part_of(path).write_bytes(part)
    with pytest.raises(UserError, match=f"has sha256 {SHA256}, not 0000"):
        fetch(server, path, "0" * 64)
    assert training.names(tmp_path) == []


def test_a_changed_file_is_replaced(server: Server, tmp_path: Path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"an old version")
    assert fetch(server, path).read_bytes() == CONTENT


def test_a_refusal_is_a_user_error_with_its_number(server: Server, tmp_path: Path):
    with pytest.raises(UserError, match=r"/missing answered 404") as caught:
        hub.download(f"{server.url}/missing", tmp_path / "file.bin", SHA256)
    assert len(str(caught.value).splitlines()) == 2
    assert training.names(tmp_path) == []


def test_without_a_network_the_error_says_where_to_put_the_file(nobody: str, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        hub.download(f"{nobody}/file.bin", tmp_path / "file.bin", SHA256)
    assert str(caught.value).splitlines() == [
        "file.bin could not be downloaded (ConnectError)",
        f"connect to the network and try again, or put it at {tmp_path / 'file.bin'}",
    ]


def test_a_folder_that_cannot_be_written_is_a_user_error(server: Server, tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="could not write"):
        fetch(server, tmp_path / "taken" / "file.bin")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The places where things are looked for, all empty, in their order."""
    found = {name: tmp_path / name for name in ("here", "shipped", "data", "cache")}
    for folder in found.values():
        folder.mkdir()
    monkeypatch.chdir(found["here"])
    monkeypatch.setattr(hub, "WEIGHTS", found["shipped"])
    monkeypatch.setenv("ALMANAC_DATA", str(found["data"]))
    monkeypatch.setenv("ALMANAC_CACHE", str(found["cache"]))
    return found


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_data_is_a_path_then_of_almanac_data_then_of_the_cache(places: dict[str, Path], server: Server):
    source = Source(f"{server.url}/file.bin", "file.bin", len(CONTENT), SHA256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hub.DATA, "noise", DataSet("tests/noise", "CC0", (("file.bin",),), (source,)))
        assert not hub.has_data("noise")
        downloaded = hub.data("noise")
        assert downloaded == places["cache"] / "data" / "tests" / "noise"
        assert (downloaded / "file.bin").read_bytes() == CONTENT
        assert hub.has_data("noise")
        assert hub.data("noise") == downloaded
        own = put(places["data"] / "tests" / "noise", "file.bin")
        assert hub.data("noise") == own
        put(places["here"] / "noise", "other.bin")
        assert hub.data("noise") == own  # a folder of that name, but not that data set
        put(places["here"] / "noise", "file.bin")
        assert hub.data("noise") == Path("noise")
        assert len(server.asked) == 1
    assert hub.data(str(downloaded)) == downloaded


def test_a_download_of_data_says_its_size_and_licence_first(
    places: dict[str, Path], server: Server, capfd: pytest.CaptureFixture[str]
):
    source = Source(f"{server.url}/file.bin", "file.bin", len(CONTENT), SHA256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hub.DATA, "noise", DataSet("tests/noise", "CC0 [x]", (("file.bin",),), (source,)))
        hub.data("noise")
    first, *_ = capfd.readouterr().err.splitlines()
    assert first == f"noise: 0.2 MB to download into {places['cache']}/data/tests/noise; licence: CC0 [x]"


def test_unknown_data_lists_the_known(places: dict[str, Path]):
    for name in ("no-such-set", "x" * 5000, "a\0b"):
        assert not hub.has_data(name)
        with pytest.raises(UserError, match="unknown data set") as caught:
            hub.data(name)
        assert all(known in caught.value.hint for known in hub.DATA)


def test_data_that_cannot_be_downloaded_says_how_to_get_it(places: dict[str, Path]):
    with pytest.raises(UserError, match="'emoji' is not on this machine") as caught:
        hub.data("emoji")
    assert "noto_64_webp.zip" in caught.value.hint
    assert "ALMANAC_DATA" in caught.value.hint


def test_weights_are_a_path_then_shipped_then_of_almanac_data_then_of_the_cache(places: dict[str, Path]):
    file = "tests/tiny.safetensors"
    with pytest.raises(UserError, match="there are no weights 'tests/tiny'"):
        hub.weights("tests/tiny")
    for place in (places["cache"] / "weights", places["data"], places["shipped"]):
        put(place, file)
        assert hub.weights("tests/tiny") == place / file
    put(places["here"], "tests/tiny")
    assert hub.weights("tests/tiny") == Path("tests/tiny")
    assert hub.weights(str(places["shipped"] / file)) == places["shipped"] / file


def test_unknown_weights_list_the_known_of_that_system(places: dict[str, Path]):
    put(places["shipped"], "tests/b.safetensors", "tests/a.safetensors", "other/c.safetensors")
    with pytest.raises(UserError) as caught:
        hub.weights("tests/none")
    assert caught.value.hint == "give a path, hf://owner/repo/file, or one of: tests/a, tests/b"
    for name in ("nobody/none", "", ".", "x" * 5000, "a\0b"):
        with pytest.raises(UserError, match="there are no weights") as caught:
            hub.weights(name)
        assert caught.value.hint.endswith("none shipped")


@pytest.mark.parametrize("name", ["hf://", "hf://owner", "hf://owner/repo", "hf://owner/repo/", "hf:///repo/file"])
def test_a_malformed_hub_name_is_a_user_error(name: str):
    with pytest.raises(UserError, match="is not of the form hf://owner/repo/file"):
        hub.weights(name)


SCRIPT = """
import sys
from almanac.runtime import hub
from almanac.runtime.errors import UserError
for name in sys.argv[1:]:
    try:
        print(hub.weights(name).read_text())
    except UserError as error:
        print(repr(str(error)))
"""


def from_hugging_face(cache: Path, *names: str, **environment: str) -> list[str]:
    """What `hub.weights` says of each name, in a process: huggingface_hub reads its environment once."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        capture_output=True, text=True, timeout=100,
        env={**os.environ, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_offline_a_hub_name_is_a_user_error_unless_it_is_in_the_cache(tmp_path: Path):
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--owner--kept"
    put(repository / "snapshots" / commit, "folder/file.txt")
    put(repository, "refs/main")
    (repository / "refs" / "main").write_text(commit)
    names = ("hf://owner/repo/file.txt", "hf://owner/kept/folder/file.txt", "hf://bad owner/repo/file.txt")
    unknown, kept, malformed = from_hugging_face(tmp_path, *names, HF_HUB_OFFLINE="1")
    hint = "connect once, or give a path"
    assert unknown == repr(f"hf://owner/repo/file.txt is not in the cache, and the hub can't be reached\n{hint}")
    assert kept == "x"
    assert "could not be fetched" in malformed


def test_a_file_of_the_hub_is_fetched_and_a_missing_one_is_a_user_error(server: Server, tmp_path: Path):
    server.files["/owner/repo/resolve/main/folder/file.txt"] = b"from the hub"
    names = ("hf://owner/repo/folder/file.txt", "hf://owner/repo/none.txt")
    found, missing = from_hugging_face(tmp_path, *names, HF_ENDPOINT=server.url)
    assert found == "from the hub"
    assert missing.startswith("'hf://owner/repo/none.txt could not be fetched: 404")
    assert missing.count("\\n") == 1


def test_a_repository_is_a_folder_or_named_whole(tmp_path):
    assert hub.repository(str(tmp_path), ["*.json"]) == tmp_path
    with pytest.raises(UserError, match="there is no folder"):
        hub.repository(str(tmp_path / "missing"), ["*.json"])
    for malformed in ("hf://owner", "hf://owner/repo/file", "hf:///repo"):
        with pytest.raises(UserError, match="not of the form hf://owner/repo"):
            hub.repository(malformed, ["*.json"])
