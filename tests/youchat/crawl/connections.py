"""Which sockets this process opens while a context lasts, told by the interpreter's own audit events: nothing is patched."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

_watching: list[list[tuple]] = []


@contextmanager
def watched() -> Iterator[list[tuple]]:
    """The addresses that are connected to. A connection to another machine is noted, and then refused: tests stay at home."""
    seen: list[tuple] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


def _audit(event: str, arguments: tuple) -> None:
    if event == "socket.connect" and _watching:
        address = arguments[1]
        for seen in _watching:
            seen.append(address[:2])
        if not ip_address(address[0]).is_loopback:
            raise ConnectionRefusedError(f"a test may not connect to {address[0]}")


sys.addaudithook(_audit)
