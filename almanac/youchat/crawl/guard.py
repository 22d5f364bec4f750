"""The guard against server-side request forgery: addresses that pages, users or a language model choose are fetched by our machine, and
must never reach what only our machine can reach. Every connection is made to an address that was vetted just before (so a name that
changes its mind between two look-ups gains nothing), whoever asks for it. How a response is read is `fetch`'s matter."""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

import httpcore

from almanac.runtime.errors import UserError

Address: TypeAlias = IPv4Address | IPv6Address
Resolver: TypeAlias = Callable[[str, int], list[str]]
"""From a host and a port to all its addresses, as `getaddrinfo` writes them."""

PORTS = frozenset({80, 443})
"""The ports of the public web; others must be on the operator's list."""
_NOT_OF_THE_WEB = ("localhost", "local", "localdomain", "internal", "intranet", "lan", "home.arpa", "corp")
"""Last labels of names that mean something on a local network only (RFC 6761, 6762, 8375; ICANN's `internal`)."""
_REFUSED_4 = tuple(
    IPv4Network(network)
    for network in (
        "192.0.0.0/24",  # IETF's own; `is_global` lets parts of it through, and Oracle's cloud answers at 192.0.0.192
        "192.88.99.0/24",  # relays of 6to4
        "224.0.0.0/4",  # multicast; `is_global` is true for it
        "168.63.129.16/32",  # Azure's virtual machines find their host there
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
"""All that was ever assigned for the public network (RFC 4291); compatible, translated, site-local and the rest lie outside."""
_REFUSED_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF's own: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # examples
        "2002::/16",  # 6to4, whose relays are gone
        "3fff::/20",  # examples (RFC 9637)
        "3ffe::/16",  # the 6bone
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


class Refused(Exception):
    """An address that is not ours to fetch; says why."""


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, by the system's resolver.

    Raises:
        OSError: it has none.
    """
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Guard:
    """What may be fetched.

    Args:
        allowed: `host:port` of servers that the operator lets through wherever they are; the name must be the same, letter by letter.
            Never take it from a request: whoever sets it can reach them.
        resolver: how names become addresses.

    Raises:
        UserError: an entry is not of the form host:port.
    """

    def __init__(self, allowed: Iterable[str] = (), resolver: Resolver = resolve):
        self.allowed = frozenset(_host_and_port(entry) for entry in allowed)
        self._resolver = resolver

    def check(self, url: str) -> SplitResult:
        """Refuse what the address itself gives away, without a look-up.

        Returns:
            The parts of the address, of which the connection is made, so that no second reader can understand it differently.

        Raises:
            Refused: it is not an address of the public web, nor on the operator's list.
        """
        if any(character <= " " or character in "\\\x7f" for character in url) or not url.isascii():
            raise Refused("the address holds characters that addresses do not have")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", port_of(parts)
        except ValueError:
            raise Refused("the address can't be understood") from None
        if parts.scheme not in ("http", "https"):
            raise Refused(f"'{parts.scheme}' is not a scheme of the web")
        if "@" in parts.netloc:
            raise Refused("the address holds a user's name")
        if (host, port) not in self.allowed:
            if port not in PORTS:
                raise Refused(f"port {port} is not one of the web's")
            _check_host(host)
        return parts

    def is_own(self, url: str) -> bool:
        """Whether the operator's list names the server of an address that passed `check`."""
        parts = urlsplit(url)
        return (parts.hostname or "", port_of(parts)) in self.allowed

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to connect to, from one look-up.

        Raises:
            Refused: any of them is not public, and the operator's list does not name the host.
            OSError: there are none.
        """
        if (host, port) not in self.allowed:
            if port not in PORTS:
                raise Refused(f"port {port} is not one of the web's")
            _check_host(host)
        found = list(dict.fromkeys(self._resolver(host, port)))
        if not found:
            raise OSError(f"{host} has no address")
        if (host, port) not in self.allowed:
            for address in found:
                if not is_public(address):
                    raise Refused(f"{host} leads to {address}, which is not public")
        return found

    def pool(self, connections: int) -> httpcore.ConnectionPool:
        """Connections that lead to vetted addresses only. Names of certificates and the header `Host` stay those of the address asked
        for; no proxy is used, whatever the environment says.

        Args:
            connections: how many may be open.
        """
        return httpcore.ConnectionPool(
            ssl_context=_authorities(),
            max_connections=connections,
            keepalive_expiry=30.0,
            network_backend=_VettedBackend(self),
        )


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let every wait of this thread's connections end within that many seconds from now, however slowly bytes drip in."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def is_public(address: str) -> bool:
    """Whether an address leads to the public network, and so does every IPv4 address that hides in it (mapped, NAT64, 6to4, Teredo,
    ISATAP)."""
    if "%" in address:  # bound to an interface
        return False
    parsed = ip_address(address)
    return _public_4(parsed) if isinstance(parsed, IPv4Address) else _public_6(parsed)


def port_of(parts: SplitResult) -> int:
    """The port that is named, or the scheme's."""
    return parts.port if parts.port is not None else {"http": 80}.get(parts.scheme, 443)


@cache
def _authorities() -> ssl.SSLContext:
    """Whose certificates are believed; read once, for it takes longer than a request."""
    return httpcore.default_ssl_context()


def _public_4(address: IPv4Address) -> bool:
    return address.is_global and not any(address in network for network in _REFUSED_4)


def _public_6(address: IPv6Address) -> bool:
    if address.ipv4_mapped is not None:
        return _public_4(address.ipv4_mapped)
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64:  # what DNS64 answers on networks without IPv4
        return _public_4(last)
    isatap = (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE  # ::0:5efe:a.b.c.d and ::200:5efe:a.b.c.d
    return (
        address in _UNICAST_6
        and address.is_global
        and not any(address in network for network in _REFUSED_6)
        and (not isatap or _public_4(last))
    )


def _check_host(host: str) -> None:
    """Refuse hosts that are no public name and no public address in its usual spelling."""
    if not host:
        raise Refused("the address names no host")
    if ":" in host:
        try:
            public = is_public(host)
        except ValueError:
            raise Refused(f"'{host}' is no address") from None
        if not public:
            raise Refused(f"{host} is not public")
        return
    name = host.rstrip(".")
    labels = name.split(".")
    if _ends_in_a_number(labels[-1]):
        try:
            public = is_public(name)
        except ValueError:  # decimal, octal, hexadecimal, short: no honest link is written so
            raise Refused(f"'{host}' is an address in an unusual spelling") from None
        if not public:
            raise Refused(f"{host} is not public")
    elif len(labels) < 2 or any(name == end or name.endswith("." + end) for end in _NOT_OF_THE_WEB):
        raise Refused(f"'{host}' is a name of a local network")


def _ends_in_a_number(label: str) -> bool:
    """Whether a host's last label makes it an IPv4 address to somebody (WHATWG URL, "ends in a number")."""
    return label.isdigit() or (
        label[:2] in ("0x", "0X") and all(digit in "0123456789abcdefABCDEF" for digit in label[2:])
    )


def _host_and_port(entry: str) -> tuple[str, int]:
    try:
        parts = urlsplit("//" + entry)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or set(entry) & set("@/?#"):
        raise UserError(f"'{entry}' is not of the form host:port", "write it like 127.0.0.1:8000 or [::1]:8000")
    return host, port


class _VettedBackend(httpcore.NetworkBackend):
    """Opens sockets to vetted addresses, and ends every wait at the thread's deadline."""

    def __init__(self, guard: Guard):
        self._guard = guard
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        try:
            addresses = self._guard.addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} could not be looked up ({error.strerror or error})") from None
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return _TimedStream(self._sockets.connect_tcp(address, port, _left(timeout), None, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(self, path, timeout=None, socket_options=None):
        raise Refused("a file of this machine is not the web")


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends at the thread's deadline."""

    def __init__(self, stream: httpcore.NetworkStream):
        self._stream = stream

    def read(self, max_bytes, timeout=None):
        return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer, timeout=None):
        self._stream.write(buffer, _left(timeout))

    def close(self):
        self._stream.close()

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info):
        return self._stream.get_extra_info(info)


def _left(timeout: float | None) -> float | None:
    """The wait that is left until the deadline, at most `timeout`."""
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for one page is over")
    if left == float("inf"):
        return timeout
    return left if timeout is None else min(timeout, left)
