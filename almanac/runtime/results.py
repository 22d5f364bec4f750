"""Measured results: `results/<system>/<name>.json`, and the tables in cards and the README, which are rendered from these files by
`make tables` so that a number can't drift from its measurement.

A table stands in Markdown between `<!-- results: system/name column column … -->` and `<!-- /results -->`; `column=value` among them keeps
the rows that have that value, and does not show it."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from almanac.runtime import console, hub
from almanac.runtime.errors import UserError

_TABLE = re.compile(r"(<!-- results: (?P<name>\S+)(?P<columns>[^>]*?) -->\n).*?(<!-- /results -->)", re.DOTALL)


def write(
    system: str,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    folder: Path | None = None,
    by: str | None = None,
    **more: Any,
) -> Path:
    """Write what was measured.

    Args:
        system: the system's package name.
        name: what was measured, e.g. `evaluate`.
        rows: the table.
        seed: what it was run with.
        folder: where to; None: the project's `results/<system>`.
        by: a column, e.g. `model`: rows that the file has of others stay, and `sources` says how those of each were measured.
        more: further facts beside the rows.
    """
    from almanac.runtime import device
    from almanac.runtime.checkpoint import write_atomic

    source = {
        "command": " ".join(["almanac", *map(_portable, sys.argv[1:])]),
        "commit": commit(),
        "machine": device.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": seed,
    }
    path = (folder or default_folder(system)) / f"{name}.json"
    facts = _merged(path, by, rows, source) if by else {**source, "rows": list(rows)}
    text = json.dumps({**facts, **more}, indent=1) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))
    return path


def _portable(argument: str) -> str:
    """An argument, `--option=value` too, whose absolute path is shortened to its last name: the folders are this machine's."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    return option + equals + path.name if path.is_absolute() else argument


def _merged(path: Path, by: str, rows: Sequence[Mapping[str, Any]], source: dict[str, Any]) -> dict[str, Any]:
    """Facts with the file's rows of others than `rows` are of, in the order of what they are of."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    sources = {**known.get("sources", {}), **{row[by]: source for row in rows}}
    anew = {row[by] for row in rows}
    kept = [row for row in known.get("rows", []) if row.get(by) in sources.keys() - anew]
    merged = sorted([*kept, *rows], key=lambda row: row[by])
    return {"sources": {key: sources[key] for key in sorted({row[by] for row in merged})}, "rows": merged}


def default_folder(system: str) -> Path:
    """Where a system's results go."""
    return hub.PROJECT / "results" / system


def commit() -> str:
    """The commit that is checked out, with a + if files differ from it; empty outside a checkout."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=hub.PROJECT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()


def render(markdown: str) -> str:
    """A Markdown text with its tables rendered anew.

    Raises:
        UserError: a table names results that are not there.
    """

    def table(match: re.Match) -> str:
        path = hub.PROJECT / "results" / f"{match['name']}.json"
        if not path.is_file():
            raise UserError(f"the table {match['name']} has no results at {path}", "run the command that measures it")
        facts = json.loads(path.read_text())
        asked = match["columns"].split()
        wanted = dict(each.split("=", 1) for each in asked if "=" in each)
        rows = [row for row in facts["rows"] if all(str(row.get(column)) == value for column, value in wanted.items())]
        if not rows:
            raise UserError(f"the table {match['name']} {match['columns'].strip()} has no rows", f"see {path}")
        columns = [each for each in asked if "=" not in each] or list(rows[0])
        # A row that has a name and nothing else of what is asked for belongs to another table.
        rows = [row for row in rows if len(columns) == 1 or sum(column in row for column in columns) > 1]
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(console.cell(row.get(column)) for column in columns) + " |" for row in rows]
        sources = facts.get("sources", {"": facts}).items()
        said = dict.fromkeys(
            f"`{source['command']}`, {source['date']}, {source['machine']}"
            for key, source in sources
            if not key or any(key in row.values() for row in rows)
        )
        return "\n".join([match[1].rstrip("\n"), *lines, "", f"<sub>{'<br>'.join(said)}</sub>", match[4]])

    return _TABLE.sub(table, markdown)


def documents() -> list[Path]:
    """The Markdown files that may hold tables."""
    return [
        hub.PROJECT / "README.md",
        *sorted((hub.PROJECT / "almanac").rglob("README.md")),
        *sorted((hub.PROJECT / "docs").glob("*.md")),
    ]


def main() -> None:
    """Render every table in place."""
    for path in documents():
        before = path.read_text()
        after = render(before)
        if after != before:
            path.write_text(after)
            console.log(f"rendered {path.relative_to(hub.PROJECT)}")


if __name__ == "__main__":
    main()
