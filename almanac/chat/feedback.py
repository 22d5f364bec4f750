"""What people think of answers: thumbs and comments, kept with the exact tokens that they are about and how those were drawn, so that a
later model can learn from them. SQLite; one file."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from almanac.runtime import database

Split = Literal["train", "valid", "test"]

_TABLE = """
create table if not exists votes (
    message text primary key, conversation text not null, user text not null, time real not null, thumb integer not null,
    tags text not null, comment text not null, consent integer not null, model text not null, sampling text not null,
    prompt text not null, answer text not null, messages text not null, text text not null, rival text not null
)
"""


@dataclass(frozen=True)
class Vote:
    """A person's word on an answer."""

    conversation: str
    message: str
    """The answer's id; a later vote of it takes the former's place."""
    user: str
    """Who; kept as a digest."""
    thumb: Literal[-1, 0, 1]
    """Down, none, up."""
    model: str
    """Its name, and a digest of its weights."""
    sampling: dict[str, Any]
    """How the answer was drawn."""
    prompt: Sequence[int]
    """Tokens that were answered."""
    answer: Sequence[int]
    """The answer's tokens."""
    messages: Sequence[dict[str, str]]
    """The conversation before it, in words."""
    text: str
    """The answer, in words."""
    tags: Sequence[str] = ()
    comment: str = ""
    consent: bool = False
    """Whether it may be learnt from."""
    rival: str = ""
    """The id of another answer to the same, which it was written or chosen instead of."""
    time: float = field(default_factory=time.time)
    """s since 1970."""


class FeedbackStore:
    """Votes in a file.

    Args:
        path: the file; made where it is not there.

    Raises:
        UserError: it can't be used.
    """

    def __init__(self, path: Path):
        self.path = path
        database.create(path, _TABLE, "feedback")

    def record(self, vote: Vote) -> None:
        """Keep a vote."""
        row = {**asdict(vote), "user": digest(vote.user)}
        for name in ("tags", "sampling", "prompt", "answer", "messages"):
            row[name] = json.dumps(row[name], ensure_ascii=False)
        marks = ", ".join(f":{name}" for name in row)
        with database.connected(self.path) as kept:
            kept.execute(f"insert or replace into votes ({', '.join(row)}) values ({marks})", row)

    def votes(self, consented: bool = True) -> Iterator[Vote]:
        """Votes, the oldest first; their users are digests.

        Args:
            consented: only those that may be learnt from.
        """
        with database.connected(self.path) as kept:
            kept.row_factory = sqlite3.Row
            chosen = "where consent = 1" if consented else ""
            rows = [dict(row) for row in kept.execute(f"select * from votes {chosen} order by time")]
        for row in rows:
            for name in ("tags", "sampling", "prompt", "answer", "messages"):
                row[name] = json.loads(row[name])
            yield Vote(**{**row, "consent": bool(row["consent"])})

    def unpaired(self) -> Iterator[dict[str, Any]]:
        """Answers with a thumb, for KTO and reward models: prompt, answer, label, split."""
        for vote in self.votes():
            if vote.thumb:
                yield {**_shown(vote), "label": vote.thumb > 0}

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Two answers to the same tokens of which one was liked better, for DPO and reward models: prompt, chosen, rejected, split.
        Better is what has a thumb up beside what has one down, and what was written or chosen instead."""
        votes = list(self.votes())
        by_message = {vote.message: vote for vote in votes}
        told = set()
        for vote in votes:
            rivals = [by_message[vote.rival]] if vote.rival in by_message else []
            if vote.thumb > 0:
                rivals += [each for each in votes if each.thumb < 0 and list(each.prompt) == list(vote.prompt)]
            for rival in rivals:
                if vote.thumb >= rival.thumb and (vote.message, rival.message) not in told:
                    told.add((vote.message, rival.message))
                    shown = _shown(vote)
                    yield {
                        "messages": shown["messages"],
                        "prompt": shown["prompt"],
                        "chosen": {"tokens": shown["answer"], "text": vote.text},
                        "rejected": {"tokens": list(rival.answer), "text": rival.text},
                        "split": shown["split"],
                    }


def digest(user: str) -> str:
    """A user's name, as it is kept."""
    return user if user.startswith("user:") else "user:" + hashlib.blake2b(user.encode(), digest_size=8).hexdigest()


def split_of(user: str) -> Split:
    """Where a user's votes belong: all of one user's to the same part, of ten users about one to `valid` and one to `test`."""
    place = int(hashlib.blake2b(digest(user).encode(), digest_size=4).hexdigest(), 16) % 10
    return "test" if place == 0 else "valid" if place == 1 else "train"


def _shown(vote: Vote) -> dict[str, Any]:
    return {
        "messages": list(vote.messages),
        "prompt": list(vote.prompt),
        "answer": list(vote.answer),
        "text": vote.text,
        "model": vote.model,
        "split": split_of(vote.user),
    }
