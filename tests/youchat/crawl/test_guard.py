"""The guard: what it refuses opens no socket, whatever spelling, name, look-up or redirect it comes by."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almanac.runtime.errors import UserError
from almanac.youchat import addresses
from almanac.youchat.crawl.fetch import Failure, Fetcher
from almanac.youchat.crawl.guard import Guard, is_public
from almanac.youchat.data.mini_web import Reply, Web
from almanac.youchat.documents import Fetched
from tests.youchat.crawl.connections import watched
from tests.youchat.crawl.raw_server import raw_server

HOSTILE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.1./",
    "http://0/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/opc/v2/instance/",
    "http://192.0.0.8/",
    "http://192.88.99.1/",
    "http://198.18.0.1/",
    "http://203.0.113.7/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    "http://[2606:4700::5efe:10.0.0.1]/",
    "http://[2606:4700::200:5efe:127.0.0.1]/",
    "http://[fec0::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
    "http://[100::1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://printer/",
    "http://nas.local/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://user@93.184.216.34/",
    "http://93.184.216.34@127.0.0.1/",
    "http://93.184.216.34\\@127.0.0.1/",
    "http://93.184.216.34:22/",
    "http://93.184.216.34:6379/",
    "https://93.184.216.34:8443/",
    "http://93.184.216.34:0/",
    "http://93.184.216.34:99999/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "ftp://93.184.216.34/",
    "http:///",
    "http://[::1/",
    "http://a b.com/",
    "http://example.com/\r\nHost: localhost",
    "http://ⓛocalhost/",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_addresses_open_no_socket(url: str):
    with watched() as seen, Fetcher(Guard(resolver=lambda host, port: ["127.0.0.1"])) as fetcher:
        answer = fetcher.get(url)
        again = fetcher.get(addresses.normalise(url) or url)  # nor do they when they were tidied up
    assert isinstance(answer, Failure) and answer.reason == "refused" and answer.detail
    assert isinstance(again, Failure) and again.reason == "refused"
    assert seen == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.216.34", "10.0.0.5"],  # one bad address among good ones is enough
        ["2606:4700::1111", "::ffff:169.254.169.254"],
        ["fe80::1%2"],
        ["64:ff9b::a9fe:a9fe"],
        ["::1"],
    ],
)
def test_names_that_lead_inside_open_no_socket(addresses: list[str]):
    with watched() as seen, Fetcher(Guard(resolver=lambda host, port: addresses)) as fetcher:
        answer = fetcher.get("http://innocent.example/")
    assert isinstance(answer, Failure) and answer.reason == "refused" and "not public" in answer.detail
    assert seen == []


def test_a_name_that_changes_its_mind_gains_nothing():
    answers = [["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]]
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    with watched() as seen, Fetcher(Guard(resolver=rebinding)) as fetcher:
        first, second = fetcher.get("http://rebind.example/"), fetcher.get("http://rebind.example/")
    assert (
        seen == [("93.184.216.34", 80)] and asked == ["rebind.example"] * 2
    )  # one look-up a connection, and that one is used
    assert isinstance(first, Failure) and first.reason == "unreachable"
    assert isinstance(second, Failure) and second.reason == "refused"


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "http://[::ffff:169.254.169.254]/",
        "http://0xA9FEA9FE/",
        "//localhost/",
        "http://inside.example/",
        "http://127.0.0.1:{other}/",
        "file:///etc/passwd",
    ],
)
def test_redirects_are_checked_hop_by_hop(target: str):
    with Web({"open": lambda path: Reply(b"", 302, {"Location": aim}), "inside": lambda path: Reply(b"secret")}) as web:
        aim = target.format(other=web.hosts["inside"].partition(":")[2])
        guard = Guard([web.hosts["open"]], resolver=lambda host, port: ["127.0.0.1"])
        with watched() as seen, Fetcher(guard) as fetcher:
            answer = fetcher.get(web.url("open"))
        assert isinstance(answer, Failure) and answer.reason in ("refused", "redirects")
        assert len(seen) == 1 and len(web.asked("open")) == 1 and web.asked("inside") == []


def test_only_what_the_operator_names_is_let_through():
    with Web({"own": lambda path: Reply(b"mine")}) as web:
        port = web.hosts["own"].partition(":")[2]
        with Fetcher(Guard([web.hosts["own"]])) as fetcher:
            assert isinstance(fetcher.get(web.url("own")), Fetched)
            for other in (f"http://localhost:{port}/", f"http://127.0.0.2:{port}/", f"https://127.1:{port}/"):
                answer = fetcher.get(other)
                assert isinstance(answer, Failure) and answer.reason == "refused"
    for wrong in ("127.0.0.1", "http://127.0.0.1:80", "a:b", "u@a:80", ""):
        with pytest.raises(UserError, match="host:port"):
            Guard([wrong])


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch):
    with Web({"own": lambda path: Reply(b"mine"), "proxy": lambda path: Reply(b"theirs")}) as web:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, web.url("proxy"))
        with Fetcher(Guard([web.hosts["own"]])) as fetcher:
            answer = fetcher.get(web.url("own"))
        assert isinstance(answer, Fetched) and answer.body == b"mine" and web.asked("proxy") == []


def test_host_and_certificate_name_stay_those_of_the_address():
    hellos: list[bytes] = []
    with Web({"own": lambda path: Reply(b"mine")}) as web, raw_server(lambda _, first: hellos.append(first)) as tls:
        ports = [host.partition(":")[2] for host in (web.hosts["own"], tls)]
        guard = Guard([f"named.example:{port}" for port in ports], resolver=lambda host, port: ["127.0.0.1"])
        with Fetcher(guard) as fetcher:
            assert isinstance(fetcher.get(f"http://named.example:{ports[0]}/"), Fetched)
            assert isinstance(fetcher.get(f"https://named.example:{ports[1]}/"), Failure)
        assert web.log[0].host == f"named.example:{ports[0]}"
    assert b"named.example" in hellos[0]  # SNI goes in the clear


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_judged_the_same_in_whatever_it_hides(number: int):
    bare = IPv4Address(number)
    verdict = is_public(str(bare))
    assert is_public(f"::ffff:{bare}") == verdict
    assert is_public(str(IPv6Address((0x64FF9B << 96) | number))) == verdict
    isatap = (0x26064700 << 96) | (0x5EFE << 32) | number
    assert is_public(str(IPv6Address(isatap))) == verdict
    for never in (number, (0x2002 << 112) | (number << 80), (0xFFFF << 48) | number):  # compatible, 6to4, translated
        assert not is_public(str(IPv6Address(never)))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808"]
)
def test_the_public_network_is_public(address: str):
    assert is_public(address)
