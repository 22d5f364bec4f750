"""Laps that people drove, best first, by track and car, and the trace of the best, which others race against. SQLite; one file. What a
lap is worth is known before it comes here (`heat`)."""

import sqlite3
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from almanac.runtime import database, hub
from almanac.runtime.errors import UserError

LONGEST_NAME = 24
"""Characters."""
_TABLE = """
create table if not exists laps (
    track text not null, car text not null, name text not null, seconds real not null, aided integer not null, at real not null,
    trace blob not null, primary key (track, car, name)
)
"""
_COLUMNS = 5
"""Of a trace."""


@dataclass(frozen=True)
class Entry:
    """A lap on the board."""

    name: str
    seconds: float
    aided: bool
    """With ABS or traction control."""
    at: float
    """s since 1970."""


def tidy(name: object) -> str:
    """A name as it stands on the board: one line of at most `LONGEST_NAME` characters that can be seen."""
    text = unicodedata.normalize("NFC", name if isinstance(name, str) else "")
    seen = "".join(each if unicodedata.category(each)[0] not in "CZ" else " " for each in text[:1000])
    return " ".join(seen.split())[:LONGEST_NAME].strip() or "Guest"


def default_path() -> Path:
    """Where the board of this machine is kept."""
    return hub.cache() / "sophy" / "board.sqlite"


class Board:
    """Laps in a file.

    Args:
        path: the file; made where it is not there.

    Raises:
        UserError: it can't be used.
    """

    def __init__(self, path: Path):
        self.path = path
        database.create(path, _TABLE, "laps")

    def add(
        self, track: str, car: str, name: str, seconds: float, aided: bool, trace: Float[np.ndarray, "points 5"]
    ) -> int | None:
        """Enter a lap, if it is its driver's best.

        Args:
            track: its digest; so `car`.
            car: likewise.
            name: who drove it, tidy.
            seconds: its time.
            aided: whether with aids.
            trace: where the car was when, as `heat.LapDone` has it.

        Returns:
            Its place, from 1; None: the same person was faster before.

        Raises:
            UserError: it can't be kept.
        """
        row = (track, car, name, float(seconds), int(aided), time.time(), np.ascontiguousarray(trace, "<f4").tobytes())
        better = (
            "insert into laps values (?, ?, ?, ?, ?, ?, ?) on conflict do update set seconds = excluded.seconds, "
            "aided = excluded.aided, at = excluded.at, trace = excluded.trace where excluded.seconds < laps.seconds"
        )
        try:
            with database.connected(self.path) as kept:
                if not kept.execute(better, row).rowcount:
                    return None
                counted = "select count(*) from laps where track = ? and car = ? and seconds < ?"
                return 1 + int(kept.execute(counted, (track, car, float(seconds))).fetchone()[0])
        except sqlite3.Error as error:
            raise UserError(f"the lap can't be kept in {self.path} ({error})", "free some space") from None

    def best(self, track: str, car: str, most: int = 20) -> list[Entry]:
        """The fastest laps, each person's best.

        Raises:
            UserError: they can't be read.
        """
        asked = "select name, seconds, aided, at from laps where track = ? and car = ? order by seconds, at limit ?"
        try:
            with database.connected(self.path) as kept:
                rows = kept.execute(asked, (track, car, most)).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"{self.path} can't be read ({error})", "move it away; another one is made") from None
        return [Entry(name, seconds, bool(aided), at) for name, seconds, aided, at in rows]

    def ghost(self, track: str, car: str) -> tuple[Entry, Float[np.ndarray, "points 5"]] | None:
        """The fastest lap and its trace; None: there is none.

        Raises:
            UserError: it can't be read.
        """
        asked = (
            "select name, seconds, aided, at, trace from laps where track = ? and car = ? order by seconds, at limit 1"
        )
        try:
            with database.connected(self.path) as kept:
                row = kept.execute(asked, (track, car)).fetchone()
        except sqlite3.Error as error:
            raise UserError(f"{self.path} can't be read ({error})", "move it away; another one is made") from None
        if row is None:
            return None
        name, seconds, aided, at, trace = row
        return Entry(name, seconds, bool(aided), at), np.frombuffer(trace, "<f4").reshape(-1, _COLUMNS)
