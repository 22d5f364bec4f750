"""What a command says. Results go to stdout, and with `--json` as exactly one object; progress and remarks go to
stderr, so that a pipe sees results only. Progress is a bar on a terminal, and a plain line now and then in a log. Of several
processes of one run (torchrun), the main one alone says its result."""

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is told where stderr is not a terminal."""
_PIPED_WIDTH = 10_000
"""Columns of a table that is not read on a terminal: as many as it has, so that a file holds whole cells."""

_stderr = Console(stderr=True, highlight=False, emoji=False)


def log(text: str) -> None:
    """A remark to the person, on stderr."""
    _stderr.print(text, markup=False, soft_wrap=True)


def hush() -> None:
    """Say nothing on stderr from here on: in a process of whose work another one tells."""
    _stderr.quiet = True


def result(value: Mapping[str, Any], as_json: bool, text: str | None = None) -> None:
    """The command's result, on stdout.

    Args:
        value: the result: numbers, strings, paths, arrays, and lists and mappings of them.
        as_json: whether the person asked for `--json`; numbers that JSON does not have (NaN, infinity) become null.
        text: how a person reads it; by default a table of `value["rows"]`, or the pairs of `value`, of which rows are tables.
    """
    if not is_main_process():
        return
    if as_json:
        sys.stdout.write(json.dumps(_jsonable(value), allow_nan=False) + "\n")
    elif text is not None:
        sys.stdout.write(text + "\n")
    elif "rows" in value:
        _print(value["rows"])
    else:
        for key, item in value.items():
            if isinstance(item, list) and item and all(isinstance(each, Mapping) for each in item):
                sys.stdout.write(f"{key}\n")
                _print(item)
            else:
                sys.stdout.write(f"{key}  {cell(item)}\n")


def is_main_process() -> bool:
    """Whether this process is the only one of a run, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of equal keys as a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        drawn.add_column(Text(column), justify="right" if numeric else "left")
    for row in rows:
        drawn.add_row(*(Text(cell(row.get(column))) for column in columns))
    return drawn


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table(rows))


def cell(value: Any) -> str:
    """A value as a table shows it: four significant digits or all before the point, a dash for none."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def progress(title: str, total: int, unit: str = "", done: int = 0) -> AbstractContextManager[Callable[..., None]]:
    """Progress on stderr, with the time left.

    Args:
        title: what is going on.
        total: how many steps there are; 0 where nobody knows.
        unit: what a step is.
        done: how many were done before; they do not count for the time left.

    Returns:
        A context that gives `advance(steps=1, note=None)`; the note stands behind the bar.
    """
    return _bar(title, total, unit, done) if _stderr.is_terminal else _lines(title, total, unit, done)


@contextmanager
def _bar(title: str, total: int, unit: str, done: int) -> Iterator[Callable[..., None]]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=_stderr, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(title, total=total or None, completed=done, note="")

        def advance(steps: int = 1, note: str | None = None) -> None:
            bar.advance(task, steps)
            if note is not None:
                bar.update(task, note=note)

        yield advance


@contextmanager
def _lines(title: str, total: int, unit: str, done: int) -> Iterator[Callable[..., None]]:
    noted = ""
    said = deque([(time.monotonic(), done)], maxlen=10)  # the time left is judged by the last few lines

    def say(going_on: bool) -> None:
        now, (then, done_then) = time.monotonic(), said[0]
        parts = [f"{title}: {done:,}" + (f"/{total:,}" if total else "") + f" {unit}".rstrip()]
        if going_on and done_then < done < total and now > then:
            seconds_left = (total - done) * (now - then) / (done - done_then)
            parts.append(f"{timedelta(seconds=round(seconds_left))} left")
        log(", ".join([*parts, *([noted] if noted else [])]))
        said.append((now, done))

    def advance(steps: int = 1, note: str | None = None) -> None:
        nonlocal done, noted
        done += steps
        noted = noted if note is None else note
        if time.monotonic() - said[-1][0] >= SECONDS_BETWEEN_LINES:
            say(going_on=True)

    before = done
    try:
        yield advance
    except BaseException:
        if done > before:  # else there is nothing to tell beside the error
            say(going_on=False)
        raise
    say(going_on=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    return _jsonable(value.tolist()) if hasattr(value, "tolist") else str(value)
