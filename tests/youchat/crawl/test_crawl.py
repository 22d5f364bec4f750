"""Crawls of made webs on loopback, judged by the servers' own logs."""

import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest
from filelock import FileLock

from almanac.runtime.errors import UserError
from almanac.youchat.crawl import crawl, warc
from almanac.youchat.crawl.settings import Settings
from almanac.youchat.data.mini_web import Reply, Site, Web
from almanac.youchat.documents import Fetched
from tests.youchat.crawl.raw_server import raw_server

QUICK = Settings(own_delay=0.0, wait=0.0)
"""For what is not about pace."""


def site(robots: str = "", **replies: Reply | str) -> Site:
    """A site of pages by name (`index` is the first); text is HTML, and underscores are slashes."""
    made = {"/" + ("" if name == "index" else name.replace("_", "/")): reply for name, reply in replies.items()}

    def answer(target: str) -> Reply:
        if target == "/robots.txt":
            return Reply(robots.encode(), headers={"Content-Type": "text/plain"}) if robots else Reply(b"", 404)
        reply = made.get(target, Reply(b"", 404))
        return Reply(reply.encode()) if isinstance(reply, str) else reply

    return answer


def anchors(*targets: str) -> str:
    return "<!doctype html><body>" + "".join(f"<a href='{target}'>x</a>" for target in targets)


def run(
    web: Web, folder: Path, settings: Settings = QUICK, seeds: tuple[str, ...] | None = None, **options
) -> crawl.Summary:
    """Crawl every site of a web (or some) from its first page."""
    addresses = [web.url(name) for name in (web.hosts if seeds is None else seeds)]
    return crawl.crawl(addresses, folder, settings, allow_hosts=list(web.hosts.values()), **options)


def paths(addresses) -> list[str]:
    return sorted("/" + address.split("/", 3)[3] for address in addresses)


def calendar(target: str) -> Reply:
    month = target.partition("month=")[2]
    if target == "/robots.txt":
        return Reply(b"User-agent: *\nDisallow: /day/")
    months = anchors(*(f"/?month={int(month or 0) + step}" for step in (1, 2, 3)), f"/day/{month}")
    return Reply(months.encode())


def test_manners_towards_hosts_of_others(tmp_path: Path):
    """At the pace that is law: a second between requests, nothing forbidden, nothing at all where the rules can't be had."""
    forbidding = "User-agent: *\nDisallow: /secret\nAllow: /secret/open\nSitemap: /sitemap.xml"
    sitemap = "<urlset><url><loc>/listed</loc></url><url><loc>/secret/listed</loc></url></urlset>"
    sites = {
        "traps": site(
            forbidding,
            index=anchors("/secret/a", "/moved", "/secret/open"),
            secret_open="open",
            moved=Reply(b"", 301, {"Location": "/secret/b"}),
            listed="listed",
            **{"sitemap.xml": Reply(sitemap.encode(), headers={"Content-Type": "application/xml"})},
        ),
        "slow": site("User-agent: AlmanacBot\nCrawl-delay: 2", index=anchors("/1", "/2"), **{"1": "one", "2": "two"}),
        "calendar": calendar,
        "shut": lambda target: Reply(b"", 503) if target == "/robots.txt" else Reply(b"private"),
        "lent": lambda target: Reply(
            b"", 302, {"Location": web.url("calendar", "/robots.txt")}
        ),  # another's rules, asked for in turn
    }
    with Web(sites) as web:
        settings = Settings(wait=0.0, pages_per_host=5)
        summary = run(web, tmp_path, settings)
        asked = {name: web.asked(name) for name in sites}
    for name in sites:
        times = [request.at for request in web.log if request.site == name]
        assert all(later - earlier >= (2.0 if name == "slow" else 1.0) for earlier, later in pairwise(times[1:])), name
        assert all(later - earlier >= 1.0 for earlier, later in pairwise(times)), name
    assert asked["traps"][0] == "/robots.txt"
    assert sorted(asked["traps"][1:]) == ["/", "/listed", "/moved", "/secret/open", "/sitemap.xml"]
    assert asked["slow"] == ["/robots.txt", "/", "/1", "/2"] and asked["shut"] == ["/robots.txt"]
    assert len(asked["calendar"]) <= 1 + 1 + 5 and not any("/day/" in target for target in asked["calendar"])
    assert summary.shut == {web.hosts["shut"]: "robots.txt answered 503"} and summary.disallowed >= 3
    assert not summary.stopped and summary.noindex == 0


def test_what_pages_ask_for_is_done(tmp_path: Path):
    home = (
        anchors("/noindex", "/nofollow", "/noarchive", "/other", "/loop_a", "/gone")
        + "<a href='/vouched' rel='nofollow'>x</a>"
    )
    pages = site(
        index=home,
        noindex="<meta name='robots' content='noindex'>" + anchors("/beyond"),
        nofollow="<meta name='robots' content='nofollow'>" + anchors("/unseen"),
        noarchive=Reply(b"do not keep", headers={"X-Robots-Tag": "noarchive"}),
        other="<link rel='canonical' href='/own'>the same",
        own="<link rel='canonical' href='/own'>the same",
        beyond="beyond",
        unseen="unseen",
        vouched="vouched",
        **{"loop_a": Reply(b"", 302, {"Location": "/loop_b"})},
    )
    with Web({"a": lambda target: Reply(b"", 302, {"Location": "/loop_a"}) if target == "/loop_b" else
              Reply(b"", 302, {"Location": "/loop_b"}) if target == "/loop_a" else pages(target)}) as web:  # fmt: skip
        summary = run(web, tmp_path)
        asked = web.asked("a")
    changes = crawl.changed(tmp_path)
    assert paths(changes.changed) == ["/", "/beyond", "/nofollow", "/other", "/own"] and changes.gone == ()
    assert {"/unseen", "/vouched"} & set(asked) == set() and asked.count("/loop_a") == asked.count("/loop_b") == 1
    assert (summary.pages, summary.noindex, summary.gone, summary.redirects, summary.failed) == (5, 2, 1, 1, 1)
    assert "in a circle" in summary.troubles[0][1]
    kept = {page.url: page for page in crawl.pages(tmp_path)}
    assert set(kept) == set(changes.changed)
    assert [page.url for page in warc.read(tmp_path / "warc" / "00000.warc.gz")] == [page.url for page in kept.values()]


def due_again(folder: Path) -> None:
    with sqlite3.connect(folder / "frontier.sqlite") as database:
        database.execute("update urls set due = 1")
        database.execute("update hosts set closed_until = 0")
        database.execute("delete from robots")


def test_a_second_crawl_tells_what_changed_and_what_is_gone(tmp_path: Path):
    replies: dict[str, Reply | str] = {
        "index": Reply(
            anchors("/same", "/edited", "/deleted", "/hidden", "/forbidden", "/moved").encode(), headers={"ETag": '"1"'}
        ),
        **{name: name for name in ("same", "edited", "deleted", "hidden", "forbidden", "moved")},
    }
    rules = ["User-agent: *\nDisallow:"]
    with Web({"a": lambda target: site(rules[0], **replies)(target)}) as web:
        run(web, tmp_path)
        first = crawl.changed(tmp_path)
        assert len(first.changed) == 7 and crawl.changed(tmp_path, first.until) == crawl.Changes(first.until, (), ())
        asked = len(web.log)
        assert run(web, tmp_path, seeds=()).fetched == 0 and len(web.log) == asked  # nothing is due
        replies["edited"], replies["hidden"] = "edited again", "<meta name='robots' content='noindex'>"
        replies["moved"] = Reply(b"", 301, {"Location": "/new"})
        replies["new"] = "new"
        del replies["deleted"]
        rules[0] = "User-agent: *\nDisallow: /forbidden"
        due_again(tmp_path)
        before = len(web.log)
        summary = run(web, tmp_path, seeds=())
        later = web.log[before:]
        second = crawl.changed(tmp_path, first.until)
        assert paths(second.changed) == ["/edited", "/new"]
        assert paths(second.gone) == ["/deleted", "/forbidden", "/hidden", "/moved"]
        edited = [page for page in crawl.pages(tmp_path, first.until) if page.url.endswith("edited")]
        assert [page.body for page in edited if isinstance(page, Fetched)] == [b"edited again"]
        assert len(list(crawl.pages(tmp_path))) == 4  # the newest of each: /, /same, /edited, /new
        assert (summary.fetched, summary.unchanged) == (2, 2)
        assert next(request.status for request in later if request.target == "/") == 304
        replies["deleted"] = "back"
        due_again(tmp_path)
        run(web, tmp_path, seeds=())
        assert paths(crawl.changed(tmp_path, second.until).changed) == ["/deleted"]


def test_a_site_that_is_named_again_is_visited_anew_once_the_run_before_has_ended(tmp_path: Path):
    replies: dict[str, Reply | str] = {str(number): f"page {number}" for number in range(6)}
    replies["index"] = anchors(*(f"/{number}" for number in range(6)))
    stop = Event()

    def stop_early(now: crawl.Progress) -> None:
        if now.fetched >= 3:
            stop.set()

    with Web({"a": lambda target: site(**replies)(target)}) as web:
        slowly = Settings(own_delay=0.3, wait=0.0)
        first = run(web, tmp_path, slowly, stop=stop, progress=stop_early)
        assert first.stopped and 3 <= first.fetched < 7
        second = run(web, tmp_path)
        assert (first.fetched + second.fetched, second.unchanged) == (7, 0)  # it went on
        replies["3"] = "page 3 is another"
        del replies["4"]
        third = run(web, tmp_path)
        assert (third.fetched, third.unchanged, third.gone) == (1, 5, 1)


def test_a_site_in_trouble_keeps_its_pages(tmp_path: Path):
    up = site(index=anchors("/1"), **{"1": "one"})
    trouble: list[int] = []
    with Web({"a": lambda target: Reply(b"", trouble[0], {"Retry-After": "3600"}) if trouble else up(target)}) as web:
        run(web, tmp_path)
        before = crawl.changed(tmp_path)
        trouble.append(503)
        due_again(tmp_path)
        summary = run(web, tmp_path)
        assert crawl.changed(tmp_path) == before and summary.pages == 2 and web.asked("a")[-1] == "/robots.txt"
        assert list(summary.shut) == [web.hosts["a"]]


def test_a_slow_down_is_obeyed(tmp_path: Path):
    busy = Reply(b"", 429, {"Retry-After": "600"})
    with Web({"a": site(index=anchors("/1", "/2", "/3"), **{"1": busy, "2": busy, "3": busy})}) as web:
        summary = run(web, tmp_path)
        assert web.asked("a") == ["/robots.txt", "/", "/1"] and summary.waiting == 3
        assert "asked to wait" in summary.shut[web.hosts["a"]]


def test_a_host_that_falls_silent_is_left_alone(tmp_path: Path):
    asked: list[bytes] = []

    def answer(connection: socket.socket, request: bytes) -> None:
        asked.append(request.split()[1])
        body = anchors(*(f"/{n}" for n in range(40))).encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        if asked[-1] in (b"/", b"/robots.txt"):
            connection.sendall(head % (b"200 OK", len(body)) + body)  # and to all else it says nothing

    with raw_server(answer) as host:
        summary = crawl.crawl([f"http://{host}/"], tmp_path, QUICK, allow_hosts=[host])
    assert asked[:2] == [b"/robots.txt", b"/"] and len(asked) == 2 + 5
    assert summary.pages == 1 and summary.waiting == 40 and "damaged" in summary.shut[host]


def test_bad_pages_do_not_stop_a_crawl(tmp_path: Path):
    import gzip

    names = ["/bomb", "/large", "/torn", "/picture", "/type", "/bytes", "/charset", "/fine"]
    pages = site(
        index=anchors(*names, "http://169.254.169.254/", "http://user@a/", "http://[::1", "/a/b/a/b/a/b/a/b/a/b"),
        bomb=Reply(gzip.compress(bytes(10_000_000)) * 20, headers={"Content-Encoding": "gzip"}),
        large=Reply([bytes(1_000_000)] * 100),
        torn=Reply(gzip.compress(b"x" * 999)[:-5], headers={"Content-Encoding": "gzip"}),
        type=Reply(b"?", headers={"Content-Type": "video/mp4"}),
        picture=Reply(b"GIF89a", headers={"Content-Type": "image/gif"}),
        bytes=Reply(bytes(range(256)) * 50),
        charset=Reply("<p>кот".encode("koi8-r"), headers={"Content-Type": "text/html; charset=no-such"}),
        fine="fine",
    )
    with Web({"a": pages}) as web:
        summary = run(web, tmp_path)
    assert paths(crawl.changed(tmp_path).changed) == ["/", "/bytes", "/charset", "/fine"]
    reasons = {address.rpartition("/")[2]: why for address, why in summary.troubles}
    assert set(reasons) == {"bomb", "large", "picture", "type"} and summary.waiting == 1  # /torn is tried again later
    assert "more than" in reasons["bomb"] and "more than" in reasons["large"] and "video/mp4" in reasons["type"]


def test_sitemaps_are_seeds_and_may_be_gzipped_lists_of_lists(tmp_path: Path):
    import gzip

    xml = {"Content-Type": "application/xml"}
    inner = gzip.compress(b"<urlset><url><loc>/1</loc></url><url><loc>http://elsewhere.example/</loc></url></urlset>")
    outer = Reply(b"<sitemapindex><sitemap><loc>/inner.xml.gz</loc></sitemap></sitemapindex>", headers=xml)
    pages = site(
        **{"outer.xml": outer, "inner.xml.gz": Reply(inner, headers={"Content-Type": "application/gzip"}), "1": "one"}
    )
    with Web({"a": pages}) as web:
        run(web, tmp_path, seeds=(), sitemap_seeds=[web.url("a", "/outer.xml")])
        assert web.asked("a") == ["/robots.txt", "/outer.xml", "/inner.xml.gz", "/1"]
    assert paths(crawl.changed(tmp_path).changed) == ["/1"]


def many(pages: int) -> Site:
    """A site of pages in a tree, each of which links to three more."""

    def answer(target: str) -> Reply:
        if target == "/robots.txt":
            return Reply(b"", 404)
        number = int(target[2:] or "0")
        return Reply(
            anchors(*(f"/p{n}" for n in range(3 * number + 1, 3 * number + 4) if n < pages)).encode() + target.encode()
        )

    return answer


_CRAWLER = """
import sys
from pathlib import Path
from almanac.youchat.crawl import crawl
from almanac.youchat.crawl.settings import Settings
crawl.crawl(sys.argv[2:], Path(sys.argv[1]), Settings(own_delay=0.0, wait=0.0), allow_hosts=[each[7:-1] for each in sys.argv[2:]])
"""


def test_a_killed_crawl_goes_on_where_it_was(tmp_path: Path):
    count = 150
    with Web({"a": many(count), "b": many(count)}) as web:
        seeds = [web.url(name) for name in web.hosts]
        for portion in (90, 190):
            crawler = subprocess.Popen([sys.executable, "-c", _CRAWLER, str(tmp_path), *seeds])
            while len(web.log) < portion:
                assert crawler.poll() is None, "it ended too soon"
                time.sleep(0.001)
            crawler.kill()
            crawler.wait()
        with next((tmp_path / "warc").iterdir()).open("ab") as file:
            file.write(b"\x1f\x8b\x08\x00torn")
        summary = run(web, tmp_path)
        asked = Counter((request.site, request.target) for request in web.log if request.target != "/robots.txt")
    assert len(asked) == 2 * count == summary.pages == len(list(crawl.pages(tmp_path)))
    assert sum(asked.values()) - len(asked) <= 2 * 2  # two kills, at most one request under way at each of two hosts
    stored = [page.url for page in warc.read(tmp_path / "warc" / "00000.warc.gz")]
    assert set(stored) == set(crawl.changed(tmp_path).changed) and len(stored) - len(set(stored)) <= 4


def test_a_crawl_can_be_stopped_and_tells_how_far_it_is(tmp_path: Path):
    stop, told = Event(), []

    def tell(progress: crawl.Progress) -> None:
        told.append(progress)
        if progress.fetched >= 3:
            stop.set()

    with Web({"a": many(10_000)}) as web:
        summary = run(web, tmp_path, Settings(own_delay=0.05, wait=0.0), stop=stop, progress=tell)
        assert summary.stopped and summary.waiting > 0 and 3 <= summary.fetched < 100
        assert told[-1].waiting > 0 and told[-1].pages_per_second > 0 and told[-1].seconds_left > 0
        again = run(web, tmp_path, Settings(own_delay=0.0, wait=0.0, pages=summary.fetched + 5))
        assert again.fetched == 5 and not again.stopped and again.pages == summary.pages + 5


@pytest.mark.parametrize(
    "seed, words",
    [
        ("http://127.0.0.1:9/", "port 9 is not"),
        ("http://127.0.0.1/", "127.0.0.1 is not public"),
        ("http://localhost/", "local network"),
        ("ftp://a.example/", "not an address"),
        ("nonsense", "local network"),
    ],
)
def test_seeds_that_can_not_be_fetched_are_refused_at_once(tmp_path: Path, seed: str, words: str):
    with pytest.raises(UserError, match=words):
        crawl.crawl([seed], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_wrong_use_is_told_in_two_lines(tmp_path: Path):
    with pytest.raises(UserError, match="nothing to crawl"):
        crawl.crawl([], tmp_path / "new")
    with pytest.raises(UserError, match="holds no crawl"):
        crawl.changed(tmp_path)
    with pytest.raises(UserError, match="too short for hosts of others"):
        Settings(delay=0.5)
    with pytest.raises(UserError, match="pages is 0"):
        Settings(pages=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        crawl.crawl(["http://a.example/"], tmp_path / "file" / "below")
    with FileLock(tmp_path / "lock"), pytest.raises(UserError, match="another crawl is running"):
        crawl.crawl(["http://a.example/"], tmp_path)


def test_no_answer_ends_a_crawl_or_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Headers in UTF-8, headers without end, numbers that are none, and what nobody foresaw."""
    home = anchors("/utf8", "/retry", "/many", "/twice", "/203", "/moved", "/unforeseen", "/fine").encode()
    heads = {
        "/": "200 OK", "/fine": "200 OK", "/utf8": "200 OK\r\nLink: <http://host/caf\u00e9/>; rel=shortlink",
        "/retry": "404 No\r\nRetry-After: \u00b2", "/many": "200 OK" + "\r\nX-Y: zzzzzz" * 3_000, "/203": "203 Changed",
        "/twice": "200 OK\r\nContent-Type: text/html", "/moved": "301 Moved\r\nLocation: /caf\u00e9", "/caf%C3%A9": "200 OK",
    }  # fmt: skip

    def answer(connection: socket.socket, request: bytes) -> None:
        target = request.split()[1].decode()
        body = home if target == "/" else target.encode()
        head = heads.get(target, "404 No").encode("latin-1" if target == "/retry" else "utf-8")
        rest = b"\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(b"HTTP/1.1 " + head + rest % len(body) + body)

    allows = crawl.robots.Robots.allows
    monkeypatch.setattr(
        crawl.robots.Robots, "allows", lambda self, url: 1 / (not url.endswith("/unforeseen")) and allows(self, url)
    )
    with raw_server(answer) as host:
        summary = crawl.crawl([f"http://{host}/"], tmp_path, QUICK, allow_hosts=[host])
    wanted = ["/", "/203", "/caf%C3%A9", "/fine", "/many", "/twice", "/utf8"]
    assert paths(crawl.changed(tmp_path).changed) == wanted and summary.gone == 1
    assert paths(page.url for page in crawl.pages(tmp_path) if isinstance(page, Fetched)) == wanted
    assert [(paths([url]), "ZeroDivisionError" in why) for url, why in summary.troubles] == [(["/unforeseen"], True)]


def test_a_page_that_did_not_change_but_asks_not_to_be_indexed_is_dropped(tmp_path: Path):
    now: dict[str, Reply] = {"/": Reply(b"text", headers={"ETag": '"1"'})}
    with Web({"a": lambda target: now.get(target, Reply(b"", 404))}) as web:
        run(web, tmp_path)
        until = crawl.changed(tmp_path).until
        now["/"] = Reply(b"", 304, {"X-Robots-Tag": "noindex"})
        assert run(web, tmp_path).noindex == 1
    assert paths(crawl.changed(tmp_path, until).gone) == ["/"]


def test_a_site_that_asks_for_long_pauses_is_asked_once_a_run(tmp_path: Path):
    pages = site("User-agent: *\nCrawl-delay: 86400", index=anchors("/1"), **{"1": "one"})
    with Web({"a": pages}) as web:
        summary = run(web, tmp_path)
        assert web.asked("a") == ["/robots.txt", "/"] and "pause of 86,400 s" in summary.shut[web.hosts["a"]]
        with sqlite3.connect(tmp_path / "frontier.sqlite") as database:
            database.execute("update hosts set closed_until = 0")
        assert run(web, tmp_path).pages == 2


def test_addresses_that_differ_in_numbers_are_bounded_counted_and_not_in_sitemaps(tmp_path: Path):
    listed = "<urlset>" + "".join(f"<url><loc>/listed/{n}</loc></url>" for n in range(6)) + "</urlset>"
    pages = site(
        "Sitemap: /sitemap.xml",
        index=anchors(*(f"/article/{n}" for n in range(9))),
        **{"sitemap.xml": Reply(listed.encode(), headers={"Content-Type": "application/xml"})},
    )
    settings = Settings(own_delay=0.0, wait=0.0, alike=4)
    with Web({"a": lambda target: Reply(b"page") if target[:3] in ("/li", "/ar") else pages(target)}) as web:
        summary = run(web, tmp_path, settings)
    assert summary.alike == 5 and summary.pages == 1 + 4 + 6
