"""Results go to stdout and nothing else does; `--json` is exactly one object."""

import io
import json
import math
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from almanac.runtime import console

Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture, value: dict[str, Any]) -> Any:
    """What a program reads of `--json`: one line, one object, in JSON as the standard has it."""
    console.result(value, as_json=True)
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("\n")
    assert out.count("\n") == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(out, parse_constant=refuse)


def test_json_is_one_object_on_one_line(capsys: Capture):
    value = {"rows": [{"name": "a\nb", "rmse": 0.5}, {"name": "ü", "rmse": 1}], "ok": True, "none": None}
    assert printed(capsys, value) == value


def test_json_has_null_for_numbers_that_json_does_not_have(capsys: Capture):
    value = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": {"d": (math.nan, 2)}, "e": np.float64("nan")}
    assert printed(capsys, value) == {"a": None, "b": [None, None, 1.5], "c": {"d": [None, 2]}, "e": None}


def test_json_takes_paths_arrays_and_their_numbers(capsys: Capture):
    value = {"out": Path("/a/b"), "n": np.int64(3), "x": np.array([1.5, np.inf]), "t": torch.tensor([[1, 2]]), 7: "key"}
    assert printed(capsys, value) == {"out": "/a/b", "n": 3, "x": [1.5, None], "t": [[1, 2]], "7": "key"}  # type: ignore[arg-type]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=3))
def test_any_result_is_one_json_object(value: dict[str, Any]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        console.result(value, as_json=True)
        lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1
    assert json.loads(lines[0]).keys() == value.keys()


def test_a_result_for_a_person_is_a_table_of_its_rows(capsys: Capture):
    rows = [{"method": "blur [1,2]", "rmse": 0.123456}, {"method": ":smile: [red]x[/red]", "rmse": None}]
    console.result({"rows": rows}, as_json=False)
    out, err = capsys.readouterr()
    assert err == ""
    head, first, second = (line.split() for line in out.splitlines())
    assert head == ["method", "rmse"]
    assert first == ["blur", "[1,2]", "0.1235"]
    assert second == [":smile:", "[red]x[/red]", "–"]  # as it was given: no markup, no emoji


def test_a_table_in_a_pipe_keeps_whole_cells(capsys: Capture):
    row = {f"column_{number}": f"a value that is long {number}" for number in range(20)}
    console.result({"rows": [row]}, as_json=False)
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert all(value in out and name in out for name, value in row.items())


def test_a_result_without_rows_is_its_pairs_or_its_text(capsys: Capture):
    console.result({"path": "/a/[b]/" + "c" * 200, "loss": 0.5}, as_json=False)
    assert capsys.readouterr().out == f"path  /a/[b]/{'c' * 200}\nloss  0.5\n"
    console.result({"path": "a", "scores": [{"of": "x", "psnr": 1.5}], "names": ["b"], "none": []}, as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["path", "a"], ["scores"], ["of", "psnr"], ["x", "1.5"], ["names", "['b']"], ["none", "[]"]]
    console.result({"loss": 0.5}, as_json=False, text="it is [half]")
    assert capsys.readouterr().out == "it is [half]\n"


def test_remarks_go_to_stderr_as_they_are(capsys: Capture):
    console.log("[bold] :smile: " + "x" * 300)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "[bold] :smile: " + "x" * 300 + "\n"


def test_progress_in_a_log_is_a_plain_line_at_the_end(capsys: Capture):
    with console.progress("training [a]", 2000, "steps") as advance:
        for _ in range(1500):
            advance()
        advance(250, note="loss [0.5]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "training [a]: 1,750/2,000 steps, loss [0.5]\n"


def test_progress_in_a_log_is_told_now_and_then(capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.progress("downloading", 9, "B") as advance:
        advance(1)
        advance(2, note="slow")
    first, second, end = capsys.readouterr().err.splitlines()
    assert first.startswith("downloading: 1/9 B, 0:00:0")
    assert first.endswith(" left")
    assert second.startswith("downloading: 3/9 B, 0:00:0")
    assert second.endswith(" left, slow")
    assert end == "downloading: 3/9 B, slow"


def test_what_was_done_before_does_not_count_for_the_time_left(capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.05)
    with console.progress("training", 11_000, "steps", done=10_000) as advance:
        time.sleep(0.1)
        advance(1)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("training: 10,001/11,000 steps, 0:")
    assert "0:00:" not in first  # at one step in 0.1 s, 999 take longer than a minute


def test_progress_of_unknown_length_tells_what_was_done(capsys: Capture):
    with console.progress("downloading", 0, "B") as advance:
        advance(1_000_000)
    assert capsys.readouterr().err == "downloading: 1,000,000 B\n"


def test_progress_tells_how_far_it_came_when_it_fails(capsys: Capture):
    with pytest.raises(ZeroDivisionError), console.progress("dividing", 3) as advance:
        advance()
        raise ZeroDivisionError
    assert capsys.readouterr().err == "dividing: 1/3\n"


def test_progress_on_a_terminal_is_a_bar_on_stderr_that_clears_itself():
    script = (
        "from almanac.runtime import console\n"
        "with console.progress('out[er]', 2, 'steps') as outer, console.progress('inner', 2) as inner:\n"
        "    inner(2, note='[x]'); outer(2)\n"
        "console.result({'a': 1}, as_json=True)\n"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"}
    )
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    seen = b""
    while True:
        try:
            seen += os.read(master, 65536)
        except OSError:  # the terminal was hung up: all is read
            break
    os.close(master)
    assert out == b'{"a": 1}\n'
    assert b"out[er]" in seen
    assert b"2/2" in seen
