"""Which replica a request goes to: the one that has likely answered what begins alike, whose pages it then finds again, unless that one
has much more to do than another."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

BEGINNING = 1024
"""Characters by which requests are alike."""
_SLACK = 4
"""Requests by which, and"""
_FACTOR = 2.0
"""times which the least busy replica is outdone before affinity is given up."""


def key_of(authorization: str, body: bytes) -> bytes:
    """What requests of one user that begin alike have in common: system prompt, tools and first messages, or the beginning of a text."""
    try:
        asked: Any = json.loads(body)
        asked = asked if isinstance(asked, dict) else {}
    except ValueError:
        asked = {}
    told = asked.get("messages") or asked.get("prompt") or asked.get("input") or ""
    beginning = json.dumps([asked.get("tools"), told], ensure_ascii=False)[:BEGINNING]
    return hashlib.blake2b(f"{authorization}\n{beginning}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def choose(key: bytes, loads: Mapping[str, int]) -> str:
    """A replica, by rendezvous hashing (Thaler and Ravishankar 1998): when one comes or goes, only its own requests go elsewhere.

    Args:
        key: of the request.
        loads: replicas that there are, with how much each has to do.
    """
    favourite = max(loads, key=lambda name: hashlib.blake2b(key + name.encode(), digest_size=8).digest())
    least = min(loads, key=lambda name: (loads[name], name))
    overloaded = loads[favourite] > _FACTOR * loads[least] + _SLACK
    return least if overloaded else favourite
