"""What a command says. Results go to stdout, and with `--json` as exactly one object; progress and remarks go to stderr, so that a pipe
sees results only."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_stderr = Console(stderr=True, highlight=False)


def log(text: str) -> None:
    """A remark to the person, on stderr."""
    _stderr.print(text, markup=False, soft_wrap=True)


def result(value: Mapping[str, Any], as_json: bool, text: str | None = None) -> None:
    """The command's result, on stdout.

    Args:
        value: the result.
        as_json: whether the person asked for `--json`.
        text: how a person reads it; by default a table of `value["rows"]`, or the pairs of `value`.
    """
    if as_json:
        sys.stdout.write(json.dumps(value) + "\n")
    elif text is not None:
        sys.stdout.write(text + "\n")
    elif "rows" in value:
        Console().print(table(value["rows"]))
    else:
        Console(highlight=False).print("\n".join(f"{key}  {cell(item)}" for key, item in value.items()))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of equal keys as a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        drawn.add_row(*(cell(row.get(column)) for column in columns))
    return drawn


def cell(value: Any) -> str:
    """A value as a table shows it: four significant digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(title: str, total: int, unit: str = "") -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, with the time left.

    Args:
        title: what is going on.
        total: how many steps there are.
        unit: what a step is.

    Yields:
        `advance(steps=1, note=None)`; the note stands behind the bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=_stderr, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(title, total=total or None, note="")

        def advance(steps: int = 1, note: str | None = None) -> None:
            bar.update(task, advance=steps, **({} if note is None else {"note": note}))

        yield advance
