"""An index follows its crawl and its files."""

from pathlib import Path

from almanac.youchat.crawl import crawl
from almanac.youchat.crawl.settings import Settings
from almanac.youchat.data.mini_web import Reply, Web
from almanac.youchat.index import refresh
from almanac.youchat.index.index import Index

SAYING = "The %s sleeps by day in a hollow tree and comes out at dusk, when the wind drops and the moths fly low over the pond. "
RESTS = [
    " ".join(f"{chr(97 + at % 26)}{chr(97 + at // 26)}{ending}" for at in range(150)) + "." for ending in ("ul", "om")
]
"""Two texts of a hundred and fifty words of their own."""


def page_of(*sayings: str) -> str:
    return f"<title>Animals</title><p>{' '.join(sayings)}</p>"


def crawled(web: Web, folder: Path) -> refresh.Refreshed:
    settings = Settings(own_delay=0.0, wait=0.0)
    crawl.crawl([web.url("a")], folder / refresh.CRAWL, settings, allow_hosts=list(web.hosts.values()))
    return refresh.from_crawl(folder)


def found(folder: Path, question: str) -> list[str]:
    return [hit.passage.url.rpartition("/")[2] for hit in Index.open(folder).search(question)]


def test_no_page_that_lives_goes_with_its_duplicate(tmp_path: Path):
    """Exact and near duplicates, of which one is edited or gone: the other is found as before, though nobody fetches it anew."""
    pages = {
        "/": "".join(f"<a href=/{name}>x</a>" for name in ("ex", "ex-b", "n1", "n1-b", "n2", "n2-b")),
        "/ex": page_of(SAYING % "wombat"),
        "/ex-b": page_of(SAYING % "wombat"),
        "/n1": page_of(SAYING % "axolotl", RESTS[0]),
        "/n1-b": page_of(SAYING % "axolotl", RESTS[0], "So they say."),
        "/n2": page_of(SAYING % "dugong", RESTS[1]),
        "/n2-b": page_of(SAYING % "dugong", RESTS[1], "So they say."),
    }
    with Web({"a": lambda target: Reply(pages.get(target, "").encode(), 200 if target in pages else 410)}) as web:
        assert crawled(web, tmp_path).counts.duplicates == 3
        assert found(tmp_path, "wombat axolotl dugong")[:3] and len(Index.open(tmp_path).urls()) == 4
        pages |= {"/ex": page_of(SAYING % "narwhal"), "/n2": page_of("Another matter altogether, of a heron.")}
        del pages["/n1"]
        done = crawled(web, tmp_path)
    assert (
        found(tmp_path, "wombat")[0] == "ex-b"
        and found(tmp_path, "axolotl")[0] == "n1-b"
        and found(tmp_path, "dugong")[0] == "n2-b"
    )
    assert (
        found(tmp_path, "narwhal")[0] == "ex"
        and found(tmp_path, "heron")[0] == "n2"
        and Index.open(tmp_path).orphans() == []
    )
    assert (done.counts.changed, done.counts.removed) == (2, 1)


def test_the_same_holds_of_files(tmp_path: Path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.html").write_text(page_of(SAYING % "dugong", RESTS[0], "So they say."))
    (folder / "b.html").write_text(page_of(SAYING % "dugong", RESTS[0]))
    assert refresh.from_files(tmp_path / "index", [folder]).counts.duplicates == 1
    (folder / "b.html").unlink()
    assert found(tmp_path / "index", "dugong") == ["a.html"]
    (folder / "b.html").write_text(page_of(SAYING % "dugong", RESTS[0]))
    refresh.from_files(tmp_path / "index", [folder])
    (folder / "a.html").write_text(page_of("Another matter."))
    refresh.from_files(tmp_path / "index", [folder])
    assert found(tmp_path / "index", "dugong") == ["b.html"]


def test_a_canonical_address_that_must_be_in_no_index_does_not_count(tmp_path: Path):
    pages = {
        "/": "<a href=/1>x</a><a href=/2>x</a><a href=/hidden>x</a>",
        "/1": "<link rel=canonical href=/nowhere>" + page_of(SAYING % "wombat"),
        "/2": "<link rel=canonical href=/hidden>" + page_of(SAYING % "dugong"),
        "/hidden": "<meta name=robots content=noindex>" + page_of(SAYING % "heron"),
    }
    with Web({"a": lambda target: Reply(pages.get(target, "").encode(), 200 if target in pages else 404)}) as web:
        crawled(web, tmp_path)
    assert found(tmp_path, "wombat")[0] == "1" and found(tmp_path, "dugong")[0] == "2"


def test_a_copy_that_is_damaged_is_told_and_the_others_are_read(tmp_path: Path):
    pages = {"/": "<a href=/1>x</a>" + page_of(SAYING % "wombat"), "/1": page_of(SAYING % "dugong")}
    settings = Settings(own_delay=0.0, wait=0.0)
    with Web({"a": lambda target: Reply(pages.get(target, "").encode(), 200 if target in pages else 404)}) as web:
        crawl.crawl([web.url("a")], tmp_path / refresh.CRAWL, settings, allow_hosts=list(web.hosts.values()))
    path = tmp_path / refresh.CRAWL / "warc" / "00000.warc.gz"
    *_, last = sorted(
        place for place in range(path.stat().st_size) if path.read_bytes()[place : place + 4] == b"\x1f\x8b\x08\x00"
    )
    path.write_bytes(path.read_bytes()[: last + 20] + b"?" * 40)
    done = refresh.from_crawl(tmp_path)
    assert done.counts.added == 1 and len(done.unread) == 1 and "damaged" in done.unread[0].reason
