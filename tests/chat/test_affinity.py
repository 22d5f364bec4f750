"""Which replica a request goes to: by a simulation, since what it brings in time needs more processors than tests have."""

import json
import random
from collections import OrderedDict

import pytest

from almanac.chat import affinity


def body(system: str, question: str = "x") -> bytes:
    return json.dumps(
        {"messages": [{"role": "system", "content": system}, {"role": "user", "content": question}]}
    ).encode()


def test_what_begins_alike_belongs_together():
    long = "You are a helpful assistant. " * 60
    assert affinity.key_of("a", body(long, "one")) == affinity.key_of("a", body(long, "two"))
    assert affinity.key_of("a", body(long)) != affinity.key_of("b", body(long))
    assert affinity.key_of("a", body("short", "one")) != affinity.key_of("a", body("short", "two"))
    for damaged in (
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        json.dumps({"prompt": [1, 2]}).encode(),
        json.dumps({"prompt": "\ud800"}).encode(),
    ):
        assert len(affinity.key_of("", damaged)) == 16


def test_a_replica_that_comes_or_goes_moves_its_own_requests_only():
    keys = [random.Random(number).randbytes(16) for number in range(2000)]
    four = dict.fromkeys("abcd", 0)
    before = {key: affinity.choose(key, four) for key in keys}
    for name in four:
        assert 400 < list(before.values()).count(name) < 600
    after = {key: affinity.choose(key, dict.fromkeys("abc", 0)) for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != "d")


def test_a_replica_with_much_to_do_is_spared():
    key = next(k for k in (bytes([n]) * 16 for n in range(100)) if affinity.choose(k, {"a": 0, "b": 0}) == "a")
    assert affinity.choose(key, {"a": 4, "b": 0}) == "a"
    assert affinity.choose(key, {"a": 5, "b": 0}) == "b"
    assert affinity.choose(key, {"a": 20, "b": 10}) == "a"


@pytest.mark.parametrize(("replicas", "least"), [(2, 1.8), (4, 3.4)])
def test_replicas_answer_as_many_times_more(replicas, least):
    """Conversations of 300 users with system prompts of their own, of which a replica remembers 100: each request costs its prompt,
    unless the replica knows it, and its answer. By the router the work is divided, and what is remembered too; at random it is divided
    as well, but everybody's prompts are computed everywhere."""
    alone, apart, at_random = (
        _time(count, choose) for count, choose in ((1, True), (replicas, True), (replicas, False))
    )
    assert alone / apart > least
    assert apart < 0.9 * at_random


def _time(replicas: int, by_affinity: bool) -> float:
    """How long 6,000 requests take, 16 at a time at each replica."""
    draw = random.Random(0)
    known: dict[str, OrderedDict[bytes, None]] = {str(number): OrderedDict() for number in range(replicas)}
    busy = {name: [] for name in known}
    free_at = dict.fromkeys(known, 0.0)
    now = 0.0
    for _ in range(6000):
        key = bytes([draw.randrange(256), draw.randrange(2)]) * 8
        while all(len(each) >= 16 for each in busy.values()):  # the next request comes when one is answered
            name = min(busy, key=lambda each: busy[each][0])
            now = busy[name].pop(0)
        loads = {name: len(each) for name, each in busy.items()}
        name = affinity.choose(key, loads) if by_affinity else min(loads, key=lambda each: (loads[each], draw.random()))
        cost = 1.0 if key in known[name] else 4.0
        known[name][key] = None
        known[name].move_to_end(key)
        if len(known[name]) > 100:
            known[name].popitem(last=False)
        free_at[name] = max(free_at[name], now) + cost
        busy[name].append(free_at[name])
    return max(free_at.values())
