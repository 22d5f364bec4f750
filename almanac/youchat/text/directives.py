"""What may be done with a page, as it says itself: `robots` in its head, or our own name there, and X-Robots-Tag in its response (RFC 9309
speaks of neither; the words are those of the large search engines). Crawling and reading ask the same question here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

TOKEN = "AlmanacBot"
"""Our name in robots.txt, in pages' heads and in X-Robots-Tag (RFC 9309, 2.2.1: the product token)."""
NAMES = ("robots", TOKEN.lower())
"""The names of `<meta>` elements that speak to us, in lower case."""
_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Words of X-Robots-Tag that have a colon of their own, and are no crawler's name."""


@dataclass(frozen=True)
class Directives:
    """What may be done with a page."""

    index: bool = True
    """It may be found by searching."""
    follow: bool = True
    """Its links may be followed."""
    archive: bool = True
    """A copy of it may be kept."""


def directives(header: str, metas: Iterable[str] = ()) -> Directives:
    """What a response and its page allow.

    Args:
        header: X-Robots-Tag of the response; several of them joined by commas or new lines.
        metas: the contents of the page's `<meta>` elements of one of our `NAMES`.
    """
    words = _from_header(header)
    for content in metas:
        words |= {word.strip().lower() for word in content.split(",")}
    return Directives(
        index=not words & {"noindex", "none"},
        follow=not words & {"nofollow", "none"},
        archive=not words & {"noarchive", "nocache"},
    )


def _from_header(value: str) -> set[str]:
    """The words of X-Robots-Tag that speak to us: those for everybody, and those behind our name."""
    said, to_us = set(), True
    for word in re.split(r"[,\n]", value):
        name, colon, rest = word.partition(":")
        if colon and name.strip().lower() not in _WITH_VALUES:
            to_us, word = name.strip().lower() in (*NAMES, "*", ""), rest
        if to_us:
            said.add(word.strip().lower())
    return said
