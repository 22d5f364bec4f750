"""What search is measured on, from the data set `pages`: SciFact as a collection with judgements, and the mini web with the questions that
stand as headings in it. What answers are measured on is in `answer_sets`."""

import csv
import gzip
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from almanac.runtime import hub
from almanac.youchat.data import mini_web
from almanac.youchat.documents import Fetched, Heading, Page

_WHEN = datetime(2023, 6, 10, tzinfo=UTC)
"""When the mini web counts as fetched: Debian 12, whose packages it is of, was released on that day."""


@dataclass(frozen=True)
class Collection:
    """Documents, and which of them answer which question."""

    pages: tuple[Page, ...]
    """Their `identifier` is their name."""
    questions: dict[str, str]
    """By their name."""
    relevant: dict[str, dict[str, int]]
    """Question's name → document's name → grade."""


@dataclass(frozen=True)
class Faq:
    """A question that is a heading of a page, whose section answers it."""

    question: str
    """As the heading says it, without its number."""
    url: str
    """Of the page."""
    anchor: str
    """Of the heading; empty where the page has none."""
    answer: str = ""
    """What the section says, in a line."""


@dataclass(frozen=True)
class Gold:
    """Where a question is answered."""

    question: str
    """To be asked."""
    url: str
    """Of the page."""
    start: int
    """The first character of the section in the page's text, its heading stripped."""
    end: int
    """One past its last."""


def scifact(split: Literal["train", "test"]) -> Collection:
    """SciFact (Wadden et al. 2020) as BEIR has it: 5,183 abstracts; claims and the abstracts that they cite."""
    folder = hub.data("pages") / "scifact"
    pages = []
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        for each in map(json.loads, file):
            url = f"https://scifact.example/{each['_id']}"
            pages.append(Page(url, each["title"], " ".join(each["sentences"]), identifier=each["_id"]))
    claims = [json.loads(line) for line in (folder / f"claims_{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    said = {str(each["id"]): each["claim"] for each in claims}
    relevant: dict[str, dict[str, int]] = {}
    with (folder / f"qrels_{split}.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            relevant.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return Collection(tuple(pages), {name: said[name] for name in relevant}, relevant)


def mini_web_pages() -> Iterator[Fetched]:
    """The mini web's 3,616 pages, as they would come from nine hosts that are named like their sites."""
    for site, pages in mini_web.sites().items():
        for path, body in sorted(pages.items()):
            if path != "/":  # a list of files, made for crawlers
                yield Fetched(f"http://{site}{path}", gzip.decompress(body), "text/html", _WHEN)


def faq() -> list[Faq]:
    """The mini web's questions: 186 in the file, though its provenance speaks of 378."""
    rows = map(json.loads, (hub.data("pages") / "miniweb" / "faq_qa.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        Faq(row["question"], f"http://{row['site']}/{row['path']}", row["anchor"] or "", row["answer_text"])
        for row in rows
    ]


def stripped(pages: Iterable[Page], questions: Iterable[Faq]) -> tuple[list[Page], list[Gold]]:
    """Pages in which no question is found by its own words, and where each is answered.

    Every occurrence of a question's text is taken out, of headings, lists of contents and titles of all pages. A question is left out if
    its page has no such heading, or its section has no text: then there is nothing that could be found.
    """
    asked = list(questions)
    texts = list(dict.fromkeys(each.question for each in asked))
    by_url: dict[str, list[Faq]] = {}
    for each in asked:
        by_url.setdefault(each.url, []).append(each)
    held, gold = [], []
    for page in pages:
        places = [(each, _section(page, each)) for each in by_url.get(page.url, [])]
        found = [(text, at) for text in texts for at in _occurrences(page.text, text)]
        cut = _merged(sorted((at, at + len(text)) for text, at in found))
        if cut or any(text in page.title for text in texts):
            moved = _Moved(cut)
            headings = tuple(
                Heading(each.level, _without(each.text, texts) or "…", moved.at(each.start), each.anchor)
                for each in page.headings
            )
            text = "".join(page.text[start:end] for start, end in _kept(cut, len(page.text)))
            page = replace(page, title=_without(page.title, texts) or page.url, text=text, headings=headings)
            places = [(each, (moved.at(at[0]), moved.at(at[1])) if at else None) for each, at in places]
        held.append(page)
        for each, at in places:
            if at and len(page.text[at[0] : at[1]].split()) >= 5:
                gold.append(Gold(each.question, page.url, *at))
    return held, gold


def _section(page: Page, asked: Faq) -> tuple[int, int] | None:
    """From a question's heading to the next one that is not below it."""
    named = [at for at, each in enumerate(page.headings) if _numberless(each.text) == _numberless(asked.question)]
    anchored = [at for at, each in enumerate(page.headings) if asked.anchor and each.anchor == asked.anchor]
    both = [at for at in named if at in anchored] or named or anchored
    if not both:
        return None
    own = page.headings[both[0]]
    later = (each.start for each in page.headings[both[0] + 1 :] if each.level <= own.level)
    return own.start, next(later, len(page.text))


def _numberless(text: str) -> str:
    return " ".join(re.sub(r"^\s*[\d.]+\s+", "", text).split()).lower()


def _occurrences(text: str, wanted: str) -> Iterator[int]:
    at = text.find(wanted)
    while at >= 0:
        yield at
        at = text.find(wanted, at + len(wanted))


def _without(text: str, taken: list[str]) -> str:
    for each in taken:
        text = text.replace(each, " ")
    return text.strip()


def _merged(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    made: list[tuple[int, int]] = []
    for start, end in stretches:
        if made and start <= made[-1][1]:
            made[-1] = made[-1][0], max(end, made[-1][1])
        else:
            made.append((start, end))
    return made


def _kept(cut: list[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    at = 0
    for start, end in cut:
        yield at, start
        at = end
    yield at, length


class _Moved:
    """Where places are after stretches were cut out."""

    def __init__(self, cut: list[tuple[int, int]]):
        self._cut = cut

    def at(self, place: int) -> int:
        return place - sum(min(end, place) - start for start, end in self._cut if start < place)
