"""Lists of recordings with what is said in them: a tab-separated file with a header, one recording a line. Training, cleaning and
evaluation read the same one: `id`, `path` (relative to the list), `lang`, `text`, and where they are there `task` (transcribe if not),
`speaker` and `source`. Other columns are ignored."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.whisper.languages import LANGUAGES
from almanac.whisper.tokenizer import Task

_NEEDED = ("id", "path", "lang", "text")
_COLUMNS = (*_NEEDED, "task", "speaker", "source")
_TASKS: dict[str, Task] = {task: task for task in get_args(Task)}


@dataclass(frozen=True)
class Entry:
    """A recording and what is said in it."""

    id: str
    path: Path
    language: str
    """Code of what is spoken; empty or `zxx` where nothing is."""
    text: str
    """What is said, or its English translation; empty where it is not known, or nothing is said."""
    task: Task = "transcribe"
    """What the text is."""
    speaker: str = ""
    source: str = ""
    """Where the recording is from; errors are counted by it."""


def read(path: Path) -> list[Entry]:
    """Read a list.

    Raises:
        UserError: it can't be read, lacks a column, or names an unknown language or task.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as a list ({error})", "give a tab-separated file in UTF-8") from None
    missing = [name for name in _NEEDED if not rows or name not in rows[0]]
    if missing:
        what = f"has no column {', '.join(missing)}" if rows else "lists nothing"
        raise UserError(f"{path} {what}", f"its first line names the columns: {' '.join(_NEEDED)}, tab-separated")
    return [_entry(path, number, row) for number, row in enumerate(rows, 2)]


def _entry(path: Path, line: int, row: dict[str, str | None]) -> Entry:
    values = {name: (row.get(name) or "").strip() for name in _COLUMNS}
    wanted, language = values["task"] or "transcribe", values["lang"]
    task = _TASKS.get(wanted)
    if task is None:
        raise UserError(f"{path}, line {line}: the task is '{wanted}'", f"one of: {', '.join(_TASKS)}")
    if language not in (*LANGUAGES, "", "zxx", "mul"):
        raise UserError(f"{path}, line {line}: the language is '{language}'", "a code such as en, or zxx for no speech")
    found = path.parent / values["path"]
    return Entry(values["id"], found, language, values["text"], task, values["speaker"], values["source"])


def write(path: Path, entries: Iterable[Entry], **more: Sequence[str]) -> None:
    """Write a list, with paths relative to it where they lie below it.

    Args:
        path: the file.
        entries: the recordings.
        more: further columns, with a value for each recording.

    Raises:
        UserError: it could not be written.
    """
    lines = ["\t".join((*_COLUMNS, *more))]
    for entry, *further in zip(entries, *more.values(), strict=True):
        below = entry.path.is_relative_to(path.parent)
        where = entry.path.relative_to(path.parent) if below else entry.path.resolve()
        values = (entry.id, str(where), entry.language, entry.text, entry.task, entry.speaker, entry.source, *further)
        lines.append("\t".join(" ".join(value.split()) for value in values))
    checkpoint.write_atomic(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))


def by_source(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Recordings by where they are from; without that, by their folder."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.source or entry.path.parent.name, []).append(entry)
    return found
