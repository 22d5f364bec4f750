"""`almanac sophy`: a person's own circuit is imported, raced on, and shown; what can't be is refused in two lines."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from almanac.sophy import lap as laps
from almanac.sophy.sim import track as tracks

GPX = '<?xml version="1.0"?><gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>{}</trkseg></trk></gpx>'


def recorded(folder: Path, part: float = 1.0) -> Path:
    """A lap of 1.6 km as a phone records it, or a part of one."""
    points = []
    for number in range(round(160 * part)):
        turn = 2 * math.pi * number / 160
        east, north = 300 * math.cos(turn), 200 * math.sin(turn) + 60 * math.sin(2 * turn)
        place = f'lat="{47.0 + north / 111_320:.7f}" lon="{11.0 + east / 75_900:.7f}"'
        points.append(f"<trkpt {place}><ele>{600 + 5 * math.sin(turn):.1f}</ele></trkpt>")
    path = folder / "home.gpx"
    path.write_text(GPX.format("".join(points)))
    return path


def test_a_recorded_lap_becomes_a_track_and_is_raced_on(typed, tmp_path):
    done = typed("sophy", "track", recorded(tmp_path), "--out", tmp_path / "home.csv", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    again = tracks.load(tmp_path / "home.csv")
    assert abs(again.length - facts["length_m"]) < 0.01 * facts["length_m"] and 5 < again.z.max() - again.z.min() < 12
    done = typed(
        "sophy", "race", "--track", tmp_path / "home.csv", "-n", 1, "--laps", 1, "--out", tmp_path / "a.npz", "--json"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["laps"] for row in rows] == [1] and 25 < rows[0]["time_s"] < 60
    if (Path(sys.prefix) / "node_modules" / "three").is_dir():
        done = typed("sophy", "replay", tmp_path / "a.npz", "--track", tmp_path / "home.csv", "--json")
        assert done.returncode == 0, done.stderr
        assert "three" in Path(json.loads(done.stdout)["page"]).read_text()


@pytest.mark.skipif(not (Path(sys.prefix) / "node_modules" / "three").is_dir(), reason="three.js is not installed")
def test_a_driven_lap_knows_its_track_and_car_by_its_name(typed, tmp_path):
    course, points = tracks.find("solstice"), 400
    s, flat, wheels = course.length / points * np.arange(points), np.zeros(points), np.zeros((4, points))
    around = laps.Lap(
        60.0, s, 60.0 * np.arange(points) / points, flat + 50.0, flat, flat, flat, flat, flat, flat, wheels, wheels
    )
    laps.write(around, tmp_path / "solstice-gt3-driven.csv")
    done = typed("sophy", "replay", tmp_path / "solstice-gt3-driven.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert "solstice, 60.00 s" in Path(json.loads(done.stdout)["page"]).read_text()


def test_the_policy_that_ships_laps_its_track_cleanly(typed, tmp_path):
    done = typed("sophy", "drive", "--laps", 2, "--out", tmp_path / "a.npz", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["off_course_s"] == 0 and [row["lap"] for row in facts["rows"]] == [1, 2]
    assert 73.5 < facts["rows"][1]["time_s"] < 76.5  # between the fastest that there is and the built-in driver


def test_tracks_that_ship_are_found_by_name(typed):
    done = typed("sophy", "track", "solstice", "--json")
    assert done.returncode == 0 and 3000 < json.loads(done.stdout)["length_m"] < 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("track", "nowhere"), "no track 'nowhere'"),
        (("track", "{open}"), "open track"),
        (("race", "-n", "21"), "21 cars"),
        (("race", "--skill", "3"), "skill"),
        (("race", "--car", "nobody"), "no car 'nobody'"),
        (("replay", "{open}"), "optimal lap"),
        (("validate", "--lap", "{open}"), "lap"),
    ],
)
def test_wrong_use_is_told_in_two_lines(typed, tmp_path, arguments, said):
    path = str(recorded(tmp_path, 0.6))
    done = typed("sophy", *(each.replace("{open}", path) for each in arguments))
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
