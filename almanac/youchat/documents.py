"""What YouChat's rooms hand to each other: a response that was fetched becomes a page, a page becomes passages, a question finds hits
among them, and an answer quotes or cites those. Plain values; how each is made is said where it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Outcome = Literal["answer", "partial", "refused"]
"""An answer; one that names what it does not cover; or the word that the index does not hold one."""


@dataclass(frozen=True)
class Fetched:
    """A document as it came: from the web, a WARC, or a local file."""

    url: str
    """Where it was found in the end, after redirects; `file://…` for a local file."""
    body: bytes
    """Decompressed, not decoded."""
    content_type: str
    """As the server said it, with its charset where it named one; by the file's name for a local file."""
    fetched_at: datetime
    """In UTC."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the response, names in lower case."""
    status: int = 200
    """Of the response."""


@dataclass(frozen=True)
class Heading:
    """A heading in a page's text."""

    level: int
    """1 for the page's title, up to 6."""
    text: str
    """What it says."""
    start: int
    """The character of the page's text at which it begins."""
    anchor: str = ""
    """The fragment that leads to it, without `#`; empty where the page has none."""


@dataclass(frozen=True)
class Page:
    """A document as it is read: its main text, and what is known of it."""

    url: str
    """Its canonical address, without a fragment."""
    title: str
    """What it calls itself; its address where it says nothing."""
    text: str
    """The text that is stored, searched and quoted. All offsets count its characters."""
    headings: tuple[Heading, ...] = ()
    """In the text's order."""
    language: str = ""
    """ISO 639-1 code; empty where it could not be told."""
    fetched_at: datetime | None = None
    """When it was fetched (UTC)."""
    published_at: datetime | None = None
    """When it says that it was published or last changed: never the time it was fetched."""
    aliases: tuple[str, ...] = ()
    """Other addresses of the same text."""
    identifier: str = ""
    """The name of the document in a collection (`_id` of JSONL); empty for pages of the web."""
    is_canonical: bool = False
    """Whether the page itself says that this address is its own (rel=canonical); where it was found is then the first alias, if another."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a page of about 150 words: what is searched and cited."""

    url: str
    """Of its page."""
    title: str
    """Of its page."""
    text: str
    """Exactly `page.text[start:end]`."""
    start: int
    """The first character in its page's text."""
    end: int
    """One past the last."""
    sha256: str
    """Of its page's whole text in UTF-8, in hexadecimal: whether the page is still what was quoted."""
    headings: tuple[str, ...] = ()
    """The headings above it, from the outermost."""
    anchor: str = ""
    """The nearest fragment above it; empty where there is none."""
    fetched_at: datetime | None = None
    """When its page was fetched (UTC)."""
    published_at: datetime | None = None
    """When its page says that it was published."""
    identifier: str = ""
    """Its page's name in a collection."""


@dataclass(frozen=True)
class Hit:
    """A passage that was found, best first in a list of hits."""

    passage: Passage
    """What was found."""
    score: float
    """Higher is better; comparable among the hits of one search only."""
    bm25: float = 0.0
    """Its BM25 score; 0 where words did not find it."""
    cosine: float = 0.0
    """Of its vector and the question's; 0 where there are no vectors."""


@dataclass(frozen=True)
class Span:
    """A stretch of a cited page's text."""

    source: int
    """The reference's number, from 1."""
    start: int
    """The first character in the page's text."""
    end: int
    """One past the last."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of an answer, and what it rests on."""

    text: str
    """Without marks of citation."""
    citations: tuple[int, ...]
    """Numbers of references, ascending, each once."""
    spans: tuple[Span, ...]
    """The exact stretches that support it, at least one of each citation."""


@dataclass(frozen=True)
class Reference:
    """A page that an answer cites."""

    n: int
    """Its number, from 1 without gaps, in the order of first citation."""
    url: str
    """Of the page."""
    title: str
    """Of the page."""
    link: str
    """The address with a text fragment that leads to the first sentence cited."""
    fetched_at: datetime | None = None
    """When it was fetched (UTC)."""
    published_at: datetime | None = None
    """When it says that it was published."""


@dataclass(frozen=True)
class Answer:
    """What is said to a question."""

    question: str
    """As it was asked."""
    outcome: Outcome
    """Whether it is answered."""
    sentences: tuple[Sentence, ...]
    """None where it is refused."""
    references: tuple[Reference, ...]
    """Those that the sentences cite."""
    removed: int = 0
    """Statements of a language model that no page supported and that were taken out."""
    missing: tuple[str, ...] = ()
    """Terms of the question that nothing found speaks of."""
    closest: tuple[Hit, ...] = ()
    """What came nearest: shown with a refusal."""
    searched: str = ""
    """What was searched for, where it was not the question itself."""
    confidence: float = 0.0
    """The calibrated probability that the index holds an answer, in [0, 1]."""
    note: str = ""
    """A word to the reader about how it was made, such as that the language model failed and quotes stand instead; mostly empty."""
