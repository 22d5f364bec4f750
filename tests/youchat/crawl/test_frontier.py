"""The frontier's laws: one request a host at a time, a rest after each, budgets, visits that adapt, and nothing lost by a kill."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from almanac.youchat import addresses
from almanac.youchat.crawl.frontier import FIRST, LATEST, SOONEST, Found, Frontier, Task
from almanac.youchat.crawl.robots import Robots
from almanac.youchat.crawl.settings import Settings

HOUR = 3600.0


def opened(folder: Path, hosts: tuple[str, ...] = ("a.example",), **settings) -> Frontier:
    frontier = Frontier(folder / "frontier.sqlite", Settings(**{"wait": 0.0, **settings}))
    for host in hosts:
        frontier.want(host)
    return frontier


def found(*paths: str, depth: int = 0, host: str = "a.example") -> list[Found]:
    return [Found(f"http://{host}{path}", depth) for path in paths]


def taken(frontier: Frontier) -> Task:
    task = frontier.take()
    assert task is not None
    return task


def visit(frontier: Frontier, digest: str = "1", links_to: list[Found] | None = None) -> Task:
    """Take what is next, and store it."""
    task = taken(frontier)
    frontier.page(task, digest, "", "", "00000.warc.gz", 1, links_to or [])
    frontier.rest(task, 0.0)
    return task


def all_due(folder: Path, frontier: Frontier) -> Frontier:
    """The same frontier when everything is due."""
    frontier.close()
    with sqlite3.connect(folder / "frontier.sqlite") as database:
        database.execute("update urls set due = 1")
        database.execute("update hosts set closed_until = 0, last = 0")
    return opened(folder)


def row(folder: Path, url: str) -> sqlite3.Row:
    with sqlite3.connect(folder / "frontier.sqlite") as database:
        database.row_factory = sqlite3.Row
        return database.execute("select * from urls where url = ?", (url,)).fetchone()


def test_first_found_is_first_fetched_and_each_once(tmp_path: Path):
    frontier = opened(tmp_path)
    assert frontier.add(found("/1", "/2", "/1", "/3")) == 3
    assert frontier.add(found("/3", "/2")) == 0
    assert [visit(frontier).url[-2:] for _ in range(3)] == ["/1", "/2", "/3"]
    assert frontier.take() is None and frontier.pause() is None


def test_a_host_is_asked_one_thing_at_a_time_and_then_rests(tmp_path: Path):
    frontier = opened(tmp_path, ("a.example", "b.example"))
    frontier.add(found("/1", "/2") + found("/1", host="b.example"))
    first, second = taken(frontier), taken(frontier)
    assert {first.host, second.host} == {"a.example", "b.example"} and frontier.take() is None
    assert frontier.pause() is not None  # both are busy, so more may come
    first = first if first.host == "a.example" else second
    frontier.page(first, "1", "", "", "", 0)
    before = time.monotonic()
    frontier.rest(first, 0.3)
    assert frontier.take() is None and 0.0 < (frontier.pause() or 0.0) <= 0.3
    while (task := frontier.take()) is None:
        frontier.wait(0.02)
    assert task.url == "http://a.example/2" and time.monotonic() - before >= 0.3


def test_only_hosts_that_are_wanted_are_crawled(tmp_path: Path):
    frontier = opened(tmp_path)
    assert frontier.add(found("/1", host="b.example")) == 0
    frontier.close()
    assert opened(tmp_path, wander=True).add(found("/1", host="b.example")) == 1


def test_depth_is_bounded_by_the_shortest_way(tmp_path: Path):
    frontier = opened(tmp_path, depth=2)
    assert frontier.add(found("/1", depth=2) + found("/2", depth=3)) == 1
    frontier.add(found("/1", depth=1))
    assert taken(frontier).depth == 1


def test_budgets_bound_what_is_asked_and_a_larger_one_goes_on(tmp_path: Path):
    frontier = opened(tmp_path, ("a.example", "b.example"), pages_per_host=3)
    frontier.add(found(*(f"/{letter}" for letter in "abcdefgh")) + found("/x", host="b.example"))
    assert sorted(visit(frontier).host for _ in range(4)) == ["a.example"] * 3 + ["b.example"]
    assert frontier.take() is None and frontier.pause() is None and frontier.counts["waiting"] == 5
    frontier.close()
    frontier = opened(tmp_path, pages=6)
    time.sleep(0.01)
    assert [visit(frontier).url[-2:] for _ in range(2)] == ["/d", "/e"] and frontier.take() is None


def test_endless_calendars_end(tmp_path: Path):
    frontier = opened(tmp_path, alike=10, depth=1000)
    count, queue = 0, found("/calendar?month=1&year=2026")
    frontier.add(queue)
    while (task := frontier.take()) is not None:
        count += 1
        following = [
            Found(f"http://a.example/calendar?month={m}&year={y}", count)
            for m in range(1, 13)
            for y in range(count, count + 9)
        ]
        frontier.page(task, "1", "", "", "", 0, [*following, *found(f"/day/{'again/' * count}x", depth=count)])
        frontier.rest(task, 0.0)
    assert count == 10 + 3  # ten months, and a path that leads into itself three times


def test_what_changes_is_visited_sooner_and_what_does_not_later(tmp_path: Path):
    frontier = opened(tmp_path)
    frontier.add(found("/1"))
    visit(frontier, "1")
    intervals = []
    for turn in range(30):
        frontier = all_due(tmp_path, frontier)
        if turn < 10:
            visit(frontier, f"{turn}")
        else:
            task = taken(frontier)
            frontier.unchanged(task)
            frontier.rest(task, 0.0)
        intervals.append(row(tmp_path, "http://a.example/1")["interval"])
    assert intervals[:2] == [FIRST / 2, FIRST / 4] and intervals[9] == SOONEST
    assert intervals[10:12] == [SOONEST * 1.5, SOONEST * 2.25] and intervals[-1] == LATEST
    due = row(tmp_path, "http://a.example/1")["due"]
    assert LATEST - 60 < due - time.time() <= LATEST


def test_a_sitemap_that_says_newer_makes_a_page_due(tmp_path: Path):
    frontier = opened(tmp_path)
    frontier.add(found("/1"))
    visit(frontier)
    frontier.add([Found("http://a.example/1", 1, modified=time.time() - HOUR)])
    assert frontier.take() is None
    frontier.add([Found("http://a.example/1", 1, modified=time.time() + 1)])
    assert taken(frontier).digest == "1"


def test_what_is_gone_is_a_tombstone_and_may_rise(tmp_path: Path):
    frontier = opened(tmp_path)
    frontier.add(found("/1"))
    visit(frontier)
    serial = row(tmp_path, "http://a.example/1")["serial"]
    frontier = all_due(tmp_path, frontier)
    task = taken(frontier)
    frontier.gone(task, 410)
    frontier.rest(task, 0.0)
    after = row(tmp_path, "http://a.example/1")
    assert (
        after["state"] == "gone"
        and after["serial"] > serial
        and (frontier.counts["page"], frontier.counts["gone"]) == (0, 1)
    )
    frontier = all_due(tmp_path, frontier)
    assert visit(frontier, "2").etag == "" and row(tmp_path, "http://a.example/1")["state"] == "page"


def test_failures_that_may_pass_are_tried_again_ever_later_and_a_page_is_kept_for_a_while(tmp_path: Path):
    frontier = opened(tmp_path)
    frontier.add(found("/1", "/2"))
    visit(frontier)
    states: dict[str, list[str]] = {"/1": [], "/2": []}
    waits = []
    for _ in range(7):
        frontier = all_due(tmp_path, frontier)
        for _ in range(2):
            task = taken(frontier)
            frontier.failed(task, "answered 503", may_pass=True)
            frontier.rest(task, 0.0)
            after = row(tmp_path, task.url)
            states[task.url[-2:]].append(after["state"])
        waits.append(round(after["due"] - time.time()))
    assert states["/1"] == ["page"] * 5 + ["failed"] * 2
    assert states["/2"] == ["waiting"] * 2 + ["failed"] * 5
    assert waits == [5, 20, 86400, 2 * 86400, 4 * 86400, 8 * 86400, 16 * 86400]
    assert frontier.troubles(5) == [("http://a.example/2", "answered 503"), ("http://a.example/1", "answered 503")]


def test_a_run_waits_for_what_comes_due_soon_and_not_for_more(tmp_path: Path):
    for wait, waits in ((0.0, False), (60.0, True)):
        folder = tmp_path / f"{wait:g}"
        folder.mkdir()
        frontier = opened(folder, wait=wait)
        frontier.add(found("/1"))
        task = taken(frontier)
        frontier.failed(task, "answered 503", may_pass=True)
        frontier.rest(task, 0.0)
        assert frontier.take() is None
        seconds = frontier.pause()
        assert (seconds is not None and 4.0 < seconds <= 5.0) if waits else seconds is None


def test_circles_of_redirects_are_named_and_long_chains_cut(tmp_path: Path):
    frontier = opened(tmp_path)
    frontier.add(found("/a"))
    said = []
    for target in ("/b", "/c", "/a"):
        task = taken(frontier)
        said.append(frontier.redirected(task, f"http://a.example{target}"))
        frontier.rest(task, 0.0)
    circle = " → ".join(f"http://a.example/{at}" for at in "cabc")
    assert said == ["", "", f"redirects in a circle: {circle}"] and frontier.take() is None
    frontier.add(found("/0"))
    for step in range(1, 7):
        task = taken(frontier)
        trouble = frontier.redirected(task, f"http://a.example/{step}")
        frontier.rest(task, 0.0)
    assert "more than 5 redirects" in trouble and frontier.take() is None


def test_a_seed_may_move_to_its_own_www_and_nowhere_else(tmp_path: Path):
    frontier = opened(tmp_path)
    frontier.add(found("/1", "/2"))
    for target, trouble in (("http://b.example/", True), ("https://www.a.example/", False)):
        task = taken(frontier)
        assert bool(frontier.redirected(task, target)) == trouble
        frontier.rest(task, 0.0)
    assert taken(frontier).url == "https://www.a.example/"


def test_a_shut_host_is_left_alone_and_says_why(tmp_path: Path):
    frontier = opened(tmp_path, ("a.example", "b.example"))
    frontier.add(found("/1") + found("/1", host="b.example"))
    frontier.shut("a.example", HOUR, "robots.txt answered 503")
    assert visit(frontier).host == "b.example" and frontier.take() is None and frontier.pause() is None
    assert frontier.shut_hosts() == {"a.example": "robots.txt answered 503"}
    assert visit(all_due(tmp_path, frontier)).host == "a.example"


def test_rules_are_believed_until_they_expire(tmp_path: Path):
    frontier, origin = opened(tmp_path), "http://a.example"
    kept = Robots(origin, "User-agent: *\nDisallow: /x", "", time.time() + HOUR)
    frontier.keep_robots(kept)
    frontier.keep_robots(Robots("https://a.example", "", "", time.time() - 1))
    assert frontier.robots(origin) == kept and frontier.robots("https://a.example") is None


def test_a_borrowed_turn_waits_for_its_host_and_leaves_it_resting(tmp_path: Path):
    frontier = opened(tmp_path)
    frontier.add(found("/1", "/2"))
    task = taken(frontier)
    with frontier.borrowed("a.example", 0.2, patience=0.05) as granted:
        assert not granted  # it is busy
    frontier.page(task, "1", "", "", "", 0)
    frontier.rest(task, 0.0)
    with frontier.borrowed("a.example", 0.2) as granted:
        assert granted and frontier.take() is None
    assert frontier.take() is None
    frontier.wait(0.25)
    time.sleep(0.2)
    assert taken(frontier).url == "http://a.example/2"


_WORKER = """
import sys
from pathlib import Path
from almanac.youchat.crawl.settings import Settings
from almanac.youchat.crawl.frontier import Found, Frontier
frontier = Frontier(Path(sys.argv[1]), Settings(wait=0.0))
frontier.want("a.example")
frontier.add(Found(f"http://a.example/{n:b}", 0) for n in range(20_000))
while True:
    task = frontier.take()
    if task is None:
        continue
    print("take", task.url, flush=True)
    frontier.page(task, "1", "", "", "00000.warc.gz", 7)
    print("done", task.url, flush=True)
    frontier.rest(task, 0.0)
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_kill_loses_nothing_that_was_settled(tmp_path: Path, seed: int):
    file = tmp_path / "frontier.sqlite"
    done: set[str] = set()
    for turn in range(2):
        worker = subprocess.Popen([sys.executable, "-c", _WORKER, str(file)], stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        lines = [
            worker.stdout.readline().split() for _ in range(301 + 200 * turn + seed)
        ]  # ends amid a visit, or after one
        worker.kill()
        lines += [line.split() for line in worker.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        worker.wait()
        assert not done & {line[1] for line in lines if line[0] == "take"}  # nothing twice
        done |= {line[1] for line in lines if line[0] == "done"}
    with sqlite3.connect(file) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        stored = {url for (url,) in database.execute("select url from urls where state = 'page'")}
    assert done <= stored and len(stored - done) <= 2  # at most the visit that a kill cut short
    frontier = opened(tmp_path)
    assert (
        frontier.counts["page"] == len(stored) == frontier.asked and addresses.origin(min(stored)) == "http://a.example"
    )
