"""The tour runs every system, and a system that fails does not stop the others."""

import json
import re
import sys
import types

from almanac import systems, tour
from almanac.runtime.report import Section


def test_the_tour_of_shipped_weights(almanac, tmp_path):
    done = almanac("tour", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["systems"]
    assert [one["name"] for one in found] == [system.name for system in systems.SYSTEMS]
    assert all(one["ok"] and one["error"] is None and one["seconds"] > 0 for one in found)
    page = (tmp_path / "index.html").read_text()
    shown = re.findall(r'(?:src)="([^"]+)"', page)
    assert len(shown) >= 2
    assert all((tmp_path / path).stat().st_size > 100 for path in shown)
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_a_system_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    good = systems.System("good", "Good", "works", "paper", ())
    bad = systems.System("bad", "Bad", "fails", "paper", ())
    monkeypatch.setattr(systems, "SYSTEMS", (bad, good))

    room = types.ModuleType("almanac.good.tour")
    room.run = lambda out: Section("It worked <well>.", rows=[{"figure": 1.23456}])
    monkeypatch.setitem(sys.modules, "almanac.good.tour", room)
    stops = tour.run(tmp_path)
    assert [stop.error is None for stop in stops] == [False, True]
    page = (tmp_path / "index.html").read_text()
    assert "No module named &#x27;almanac.bad&#x27;" in page
    assert "It worked &lt;well&gt;." in page
    assert "1.235" in page
