"""The review's figure: what is said of two families of models where they are as good on what they know."""

import numpy as np
import pytest
from PIL import Image

from almanac.whisper import robustness


def family(name: str, reference: list[float], slope: float, offset: float) -> list[dict]:
    rows = []
    for x in reference:
        y = slope * x + offset
        intervals = {"reference_interval": (x / 2, x * 1.5), "shifted_interval": (y * 0.9, y * 1.1)}
        rows.append({"model": f"{name}-{x}", "family": name, "reference": x, "shifted": y, **intervals})
    return rows


def test_families_are_compared_in_the_middle_of_what_both_span():
    rows = family("narrow", [0.02, 0.05, 0.1, 0.2], 1.5, 0.3) + family("diverse", [0.01, 0.03, 0.06], 1.0, 0.2)
    narrow, diverse = robustness.at_equal_reference(rows)
    assert (narrow["family"], diverse["family"]) == ("narrow", "diverse")
    assert narrow["reference"] == diverse["reference"] == pytest.approx(0.04)
    assert narrow["shifted"] == pytest.approx(0.36) and diverse["shifted"] == pytest.approx(0.24)
    assert narrow["shifted_interval"] == pytest.approx((0.36, 0.36))  # its models lie on one line


def test_models_off_the_line_widen_its_interval():
    rows = family("narrow", [0.02, 0.05, 0.1, 0.2], 1.5, 0.3) + family("diverse", [0.01, 0.03, 0.06], 1.0, 0.2)
    rows[1]["shifted"] += 0.1
    narrow, _ = robustness.at_equal_reference(rows)
    low, high = narrow["shifted_interval"]
    assert low < narrow["shifted"] < high and high - low > 0.02


def test_the_picture_has_both_families(tmp_path):
    rows = family("narrow", [0.02, 0.05, 0.1, 0.2], 1.5, 0.3) + family("diverse", [0.01, 0.03, 0.06], 1.0, 0.2)
    pixels = np.asarray(Image.open(robustness.draw_figure(rows, tmp_path / "a.png")).convert("RGB")).astype(int)
    for colour in ((0x2F, 0x6F, 0xB0), (0x8A, 0x4F, 0xBF)):
        assert (abs(pixels - colour).max(-1) < 4).sum() > 500
