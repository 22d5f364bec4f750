"""A SQLite file that several threads and processes write, each for a moment: how it is made, and how it is opened."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from almanac.runtime.errors import UserError

_PATIENCE = 10.0
"""s for others to finish writing."""


def create(path: Path, table: str, what: str) -> None:
    """Make a file where there is none.

    Args:
        path: the file.
        table: `create table if not exists …`.
        what: it keeps, in words.

    Raises:
        UserError: it can't be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with connected(path) as database:
            database.execute("pragma journal_mode = wal")
            database.execute(table)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{path} can't keep {what} ({error})", "give another file") from None


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """The open file; what was done is kept if nothing was raised."""
    with closing(sqlite3.connect(path, timeout=_PATIENCE)) as database, database:
        yield database
