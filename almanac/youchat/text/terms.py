"""Words as the index knows them: runs of letters and digits in lower case, cut to Snowball's English stems (Porter 2001), as tantivy's
`en_stem` cuts them, so that what is counted here is what was searched there. Which words carry nothing in a question is said here too:
they are left out of questions only, never out of the text."""

import re
from functools import lru_cache

import Stemmer

_WORD = re.compile(r"[^\W_]+")
_LONGEST = 40
"""Bytes; tantivy drops longer words."""
_STEMMER = Stemmer.Stemmer("english", 0)  # its own cache is not safe between threads; ours is

STOP_WORDS = frozenset(
    _WORD.findall(
        """
        a about above after again against all also am an and any anyone anything are as at be because been before being below between
        both but by can cannot could did do does doing done down during each either else ever every few for from further get gets give
        given go had has have having he her here hers herself him himself his how however i if in into is it its itself just know let
        like may me might mine more most much must my myself need needs neither no nor not of off on once one only or other our ours
        ourselves out over own please same say says shall she should so some somebody someone something such tell than that the
        their theirs them themselves then there these they thing things this those though through to too under until up upon us use used
        using very want was way we well were what whatever when where whether which while who whom whose why will with within without
        would yet you your yours yourself s t d ll m re ve don isn doesn didn aren wasn weren wouldn couldn shouldn hasn haven
        """
    )
)
"""Words that say nothing of what a question is about."""


def words(text: str) -> list[str]:
    """The words of a text in lower case, in order, longest 39 bytes."""
    return [word.lower() for word in _WORD.findall(text) if len(word.encode()) < _LONGEST]


def stems(text: str) -> list[str]:
    """The stems of a text's words, in order."""
    return [stem(word) for word in words(text)]


def content_stems(text: str) -> list[str]:
    """The stems of the words that are no stop words, in order; may be empty ("To be or not to be")."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS]


@lru_cache(1 << 17)
def stem(word: str) -> str:
    """The stem of a word in lower case."""
    return _STEMMER.stemWord(word)
