"""Tracks: whatever file they come from, they are closed, even, and as wide as they were; what nobody can drive on is refused."""

import json
import math

import numpy as np
import pytest

from almanac.runtime import hub
from almanac.runtime.errors import UserError
from almanac.sophy.sim import track


def test_all_tracks_at_hand_are_closed_even_and_smooth(needs_data):
    needs_data("racing")
    folder = hub.data("racing")
    files = [*folder.glob("fastest_lap/tracks/*.xml"), *folder.glob("tumftm_racetrack_database/tracks/*.csv")]
    assert len(files) > 25
    for path in files:
        found = track.load(path)
        turns = found.curvature.sum() * found.step / (2 * math.pi)
        assert abs(abs(turns) - 1) < 0.005, path
        ring = np.stack((np.append(found.x, found.x[0]), np.append(found.y, found.y[0])))
        steps = np.hypot(*np.diff(ring))
        assert abs(steps - found.step).max() < 0.1 and 4 < 1 / abs(found.curvature).max() < 300, path
        course = np.unwrap(np.arctan2(*np.diff(ring)[::-1]))
        away = (course - found.heading - found.curvature * found.step / 2 + math.pi) % (2 * math.pi) - math.pi
        assert abs(away).max() < 0.035, path


def test_a_line_that_was_smoothed_keeps_its_edges(tmp_path):
    """Of a circle whose points err: its radius is found, and its edges stay where they were."""
    turn = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    err = np.random.default_rng(0).normal(0, 0.1, 200)
    lines = [
        f"{(100 + e) * math.cos(t)},{(100 + e) * math.sin(t)},{5 + e},{5 - e}" for t, e in zip(turn, err, strict=True)
    ]
    (tmp_path / "ring.csv").write_text("# x_m,y_m,w_tr_right_m,w_tr_left_m\n" + "\n".join(lines))
    found = track.load(tmp_path / "ring.csv")
    assert abs(found.length - 200 * math.pi) < 3 and abs(1 / found.curvature - 100).max() < 20
    left, right = (np.hypot(*edge.T) for edge in found.edges())
    assert all(
        abs(edge - radius).max() < 0.5 and abs(edge - radius).mean() < 0.2
        for edge, radius in ((left, 95), (right, 105))
    )
    assert np.allclose(found.left + found.right, 10)


@pytest.mark.parametrize("kind", ["gpx", "geojson"])
def test_a_recorded_line_becomes_a_track(kind, tmp_path):
    turn = np.linspace(0, 2 * math.pi, 90)
    x, y, z = 300 * np.cos(turn), 200 * np.sin(turn), 8 * np.cos(turn)
    points = [(11 + math.degrees(e / 6378388 / math.cos(math.radians(48))), 48 + math.degrees(n / 6378388), 400 + h)
              for e, n, h in zip(x, y, z, strict=True)]  # fmt: skip
    if kind == "gpx":
        text = "".join(f'<trkpt lat="{n}" lon="{e}"><ele>{h}</ele></trkpt>' for e, n, h in points)
        text = f'<gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>{text}</trkseg></trk></gpx>'
    else:
        line = {"type": "LineString", "coordinates": points}
        text = json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": line}]})
    path = tmp_path / f"home.{kind}"
    path.write_text(text)
    found = track.load(path, width=9.0)
    around = math.pi * (3 * 500 - math.sqrt((3 * 300 + 200) * (300 + 3 * 200)))
    assert abs(found.length - around) < 8 and abs(np.ptp(found.z) - 16) < 1.5
    assert (found.left + found.right == pytest.approx(9)) and abs(found.slope).max() < 0.1


def write(path, x, y, right=5.0, left=5.0, header="# x_m,y_m,w_tr_right_m,w_tr_left_m"):
    path.write_text(header + "\n" + "\n".join(f"{a},{b},{right},{left}" for a, b in zip(x, y, strict=True)))
    return path


def test_what_nobody_can_drive_on_is_refused(tmp_path):
    turn = np.linspace(0, 2 * math.pi, 100, endpoint=False)
    x, y = 100 * np.cos(turn), 100 * np.sin(turn)
    path = tmp_path / "bad.csv"
    for made, said in (
        (lambda: write(path, x[:60], y[:60]), "open track"),
        (lambda: write(path, x / 50, y / 50), "a track of 13 m"),
        (lambda: write(path, 1000 * x, 1000 * y), "a track of 628"),
        (lambda: write(path, x, y, 0.5, 0.5), "1.0 m wide"),
        (lambda: write(path, x / 4, y / 4, 30, 30), "crosses itself"),
        (lambda: write(path, x, y, header="# x_ft,y_ft,w_ft,w_ft"), "in feet"),
        (lambda: write(path, [math.nan, *x], [0, *y]), "not finite"),
        (lambda: write(path, x[:5], y[:5]), "open track|points"),
        (lambda: path.write_text("x,y\n"), "no points"),
        (lambda: path.write_text("1,2,3\n4,5\n"), "can't be read"),
    ):
        made()
        with pytest.raises(UserError, match=said):
            track.load(path)
    for name, text, said in (
        ("a.gpx", "<gpx></gpx>", "0 points"),
        ("a.gpx", "<gpx>", "can't be read"),
        ("a.geojson", '{"type": "Point", "coordinates": [1, 2]}', "no line"),
        ("a.xml", '<circuit type="open"></circuit>', "open track"),
        ("a.xml", '<circuit type="closed"><data></data></circuit>', "lacks a part"),
        ("a.doc", "", "no kind"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said):
            track.load(tmp_path / name)
    with pytest.raises(UserError, match="the width is nan"):
        track.load(path, width=math.nan)
    with pytest.raises(UserError, match="no file"):
        track.load(tmp_path / "none.csv")
