"""robots.txt by RFC 9309: its rules, and what a missing, broken or unreachable file means."""

import socket

import pytest

from almanac.youchat.crawl import robots
from almanac.youchat.crawl.fetch import Fetcher, Limits
from almanac.youchat.crawl.guard import Guard
from almanac.youchat.crawl.robots import Robots
from almanac.youchat.data.mini_web import Reply, Web

NOW = 1_000_000.0


def rules(text: str) -> Robots:
    return Robots("http://a.example", text, "", NOW)


@pytest.mark.parametrize(
    "text, allowed, forbidden",
    [
        ("", ["/", "/x"], []),
        ("User-agent: *\nDisallow:", ["/", "/x"], []),
        ("User-agent: *\nDisallow: /", [], ["/", "/x?y=1"]),
        ("User-agent: *\nDisallow: /private", ["/", "/Private"], ["/private", "/privately", "/private/x"]),
        ("user-AGENT: *\ndisALLow: /x # why", ["/y"], ["/x"]),
        # the longest rule wins, wherever it stands, and Allow wins ties (2.2.2)
        ("User-agent: *\nAllow: /a/b\nDisallow: /a\nDisallow: /a/b/c", ["/a/b", "/a/b/d"], ["/a", "/a/x", "/a/b/c"]),
        ("User-agent: *\nDisallow: /page\nAllow: /page", ["/page"], []),
        ("User-agent: *\nAllow: /p\nDisallow: /", ["/page"], ["/", "/q"]),
        # wildcards and the end (2.2.3)
        ("User-agent: *\nDisallow: /*.gif$", ["/a.gif?x", "/a.gifs"], ["/a.gif", "/b/c.gif"]),
        ("User-agent: *\nDisallow: /*?session=", ["/x?page=1"], ["/x?session=1"]),
        ("User-agent: *\nDisallow: /a*/b", ["/a/c"], ["/a1/b", "/ax/y/b2"]),
        # escapes compare as the same octets
        ("User-agent: *\nDisallow: /%7Ejoe/\nDisallow: /caf\u00e9", ["/joe"], ["/~joe/x", "/caf%C3%A9"]),
        # groups: ours over everybody's, several lines for one group, several groups for one crawler (2.2.1)
        ("User-agent: almanacbot\nDisallow: /x\n\nUser-agent: *\nDisallow: /", ["/", "/y"], ["/x"]),
        ("User-agent: other\nDisallow: /", ["/"], []),
        ("User-agent: other\nUser-agent: AlmanacBot\nDisallow: /x\n", ["/"], ["/x"]),
        ("User-agent: AlmanacBot\nDisallow: /x\nUser-agent: *\nDisallow: /\nUser-agent: AlmanacBot\nDisallow: /y", ["/z"], ["/x", "/y"]),
        ("User-agent: *\nSitemap: /s.xml\nDisallow: /x", ["/"], ["/x"]),
        ("\ufeffUser-agent: *\nDisallow: /x", ["/"], ["/x"]),
        ("User-agent: *\r\nDisallow: /x\rDisallow: /y", ["/"], ["/x", "/y"]),
        ("<html>not found</html>", ["/"], []),
        ("Disallow: /", ["/"], []),  # a rule of nobody's
    ],
)  # fmt: skip
def test_rules_are_read_as_the_standard_says(text: str, allowed: list[str], forbidden: list[str]):
    with Web({"a": lambda target: Reply(text.encode(), headers={"Content-Type": "text/plain"})}) as web:
        origin = f"http://{web.hosts['a']}"
        with Fetcher(Guard(web.hosts.values())) as fetcher:
            read = robots.fetch(origin, fetcher, NOW)
    assert [path for path in allowed if not read.allows(origin + path)] == []
    assert [path for path in forbidden if read.allows(origin + path)] == []
    assert read.allows(origin + "/robots.txt") and not read.closed


def redirecting(steps: int):
    """robots.txt behind so many redirects, forbidding all."""

    def answer(target: str) -> Reply:
        step = 0 if target == "/robots.txt" else int(target[1:])
        return Reply(b"User-agent: *\nDisallow: /") if step == steps else Reply(b"", 301, {"Location": f"/{step + 1}"})

    return answer


@pytest.mark.parametrize(
    "site, allows, closed",
    [
        (lambda target: Reply(b"", 404), True, ""),
        (lambda target: Reply(b"", 403), True, ""),
        (lambda target: Reply(b"", 401), True, ""),
        (lambda target: Reply(b"", 410), True, ""),
        (lambda target: Reply(b"", 500), False, "answered 500"),
        (lambda target: Reply(b"", 503), False, "answered 503"),
        (lambda target: Reply(b"", 429), False, "answered 429"),
        (lambda target: Reply(b"x", headers={"Content-Encoding": "gzip"}), False, "damaged"),
        (redirecting(5), False, ""),
        (redirecting(6), True, ""),
        (lambda target: Reply(b"", 302, {"Location": target}), True, ""),
        (lambda target: Reply(b"", 302, {"Location": "http://169.254.169.254/robots.txt"}), False, "not public"),
    ],
)
def test_a_missing_file_allows_all_and_a_broken_site_forbids_all(site, allows: bool, closed: str):
    with Web({"a": site}) as web, Fetcher(Guard(web.hosts.values())) as fetcher:
        read = robots.fetch(f"http://{web.hosts['a']}", fetcher, NOW)
    assert read.allows(read.origin + "/page") == allows
    assert closed in read.closed and bool(closed) == bool(read.closed)
    assert NOW + 3600 <= read.expires <= NOW + 24 * 3600


def test_an_unreachable_site_forbids_all():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    with Fetcher(Guard([host]), Limits(seconds=1.0)) as fetcher:
        read = robots.fetch(f"http://{host}", fetcher, NOW)
    assert read.closed and not read.allows(f"http://{host}/")


def test_500_kib_are_read_and_no_more():
    head = b"User-agent: *\nDisallow: /early\n"
    text = head + b"#" * (500 * 1024 - len(head) - 20) + b"\nDisallow: /late\n" + b"#" * 20_000_000
    with Web({"a": lambda target: Reply(text)}) as web, Fetcher(Guard(web.hosts.values())) as fetcher:
        read = robots.fetch(f"http://{web.hosts['a']}", fetcher, NOW)
    assert len(read.text) == 500 * 1024
    assert [read.allows(read.origin + path) for path in ("/early", "/late", "/other")] == [False, False, True]


def test_a_site_may_ask_for_a_delay_and_name_sitemaps():
    read = rules("Sitemap: /a.xml\nSitemap: http://A.example/b.xml#x\nSitemap: /a.xml\nUser-agent: *\nCrawl-delay: 2.5")
    assert read.delay == 2.5 and read.sitemaps == ("http://a.example/a.xml", "http://a.example/b.xml")
    assert rules("User-agent: *\nRequest-rate: 1/10").delay == 10.0
    assert rules("User-agent: *\nCrawl-delay: soon").delay == 0.0 and rules("").sitemaps == ()


def test_a_version_behind_our_name_does_not_count():
    both = rules("User-agent: AlmanacBot/1.0\nDisallow: /private\n\nUser-agent: AlmanacBot\nDisallow: /secret")
    assert not both.allows(f"{both.origin}/private/x") and not both.allows(f"{both.origin}/secret/x")
