"""Answers and hits as others get them: as JSON, which the command line prints and the API sends, and as one text with marks ([1]) in it. A
text may be rendered as Markdown by whoever asked, so titles lose pictures and addresses there; in JSON, all is as the pages have it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from almanac.youchat.ask.compose import plain
from almanac.youchat.documents import Answer, Hit, Reference, Sentence

Json = dict[str, Any]
_MARKS = re.compile(r" ?\[\d{1,3}\]")
_CLOSEST = 3
"""Pages that a refusal names."""


@dataclass(frozen=True)
class Mark:
    """A citation in a text."""

    start: int
    """Its first character: the bracket."""
    end: int
    """One past its last."""
    reference: Reference
    """What it cites."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a text: a sentence with its marks, or a remark."""

    text: str
    """With the blank or line break that separates it from what was before."""
    marks: tuple[Mark, ...] = ()
    """Their places count from the beginning of the whole text."""


def answer(said: Answer) -> Json:
    """An answer: what `almanac youchat ask --json` prints."""
    return {
        "question": said.question,
        "outcome": said.outcome,
        "sentences": [sentence(each) for each in said.sentences],
        "references": [reference(each) for each in said.references],
        "removed": said.removed,
        "missing": list(said.missing),
        "closest": [hit(each) for each in said.closest],
        "searched": said.searched,
        "confidence": round(said.confidence, 4),
        "note": said.note,
    }


def sentence(said: Sentence) -> Json:
    """A sentence and what it rests on."""
    spans = [[span.source, span.start, span.end] for span in said.spans]
    return {"text": said.text, "citations": list(said.citations), "spans": spans}


def reference(cited: Reference) -> Json:
    """A page that is cited."""
    dates = {"fetched_at": date(cited.fetched_at), "published_at": date(cited.published_at)}
    return {"n": cited.n, "url": cited.url, "title": cited.title, "link": cited.link, **dates}


def hit(found: Hit) -> Json:
    """A passage that was found: what `almanac youchat search --json` prints of each."""
    passage = found.passage
    return {
        "url": passage.url,
        "title": passage.title,
        "passage": passage.text,
        "score": found.score,
        "doc_id": passage.identifier or passage.url,
        "start": passage.start,
        "end": passage.end,
        "fetched_at": date(passage.fetched_at),
        "published_at": date(passage.published_at),
    }


def date(when: datetime | None) -> str | None:
    """A time as ISO 8601 has it."""
    return when.isoformat() if when else None


def pieces(said: Answer) -> list[Piece]:
    """An answer as a text, in the pieces in which it may be sent; joined, they are the whole."""
    found: list[Piece] = []
    at = 0
    for each in said.sentences:
        found.append(marked(each, said.references, at))
        at += len(found[-1].text)
    text = "\n\n".join(remarks(said))
    return [*found, Piece(f"\n\n{text}" if found else text)] if text else found


def marked(said: Sentence, references: Sequence[Reference], at: int) -> Piece:
    """A sentence with its marks.

    Args:
        said: the sentence.
        references: those that it cites among them.
        at: how long the text before it is.
    """
    known: Mapping[int, Reference] = {each.n: each for each in references}
    block = said.text.lstrip().startswith(("```", "~~~"))
    text = ("\n\n" if block else " ") if at else ""
    text += said.text + ("\n" if block else " ")
    marks = []
    for number in said.citations:
        begin = at + len(text)
        text += f"[{number}]"
        marks.append(Mark(begin, at + len(text), known[number]))
    return Piece(text, tuple(marks))


def remarks(said: Answer) -> list[str]:
    """What is to be said besides the answer: that there is none, what is missing, what was taken out, how it came about."""
    found = []
    if said.outcome == "refused":
        found.append("The index holds no answer to this question.")
    if said.missing:
        found.append(f"Nothing that was found speaks of: {', '.join(map(plain, said.missing))}.")
    if said.outcome == "refused" and said.closest:
        titles = list(dict.fromkeys(plain(each.passage.title) for each in said.closest))
        found.append(f"The closest pages: {'; '.join(filter(None, titles[:_CLOSEST]))}.")
    if said.removed:
        one = said.removed == 1
        found.append(f"{said.removed} statement{' was' if one else 's were'} removed, which no page supports.")
    return [*found, said.note] if said.note else found


def without_marks(text: str) -> str:
    """A text without its marks, as it is looked back at."""
    return _MARKS.sub("", text)
