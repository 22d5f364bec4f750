"""Follow-up questions without a language model: whether a question stands alone (pronoun, ellipsis, fewer than four words that tell
something), and if not, the question with the conversation's topic and what the last turns added. Both are returned, for the caller to
search with both and fuse, so that a bad rewrite can't hurt much (issue, section 1.2 step 10; CANARD, Elgohary et al. 2019)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from almanac.youchat.text.terms import STOP_WORDS, content_stems, stem, words

_REFERS = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs|he|him|his|she|her|hers|this|these|those|that(?=\s*(?:\?|$|one|the|mean|work|happen|true))|there(?=\s*(?:\?|$))"
    r"|one|ones|the (?:other|others|same|former|latter|second|first|last|next|previous|band|group|team|album|book|film|song|company"
    r"|country|city|war|show|function|option|command|module|file|method)|else|then|so)\b",
    re.IGNORECASE,
)
"""Words that stand for something that was said."""
_ELLIPSIS = re.compile(
    r"^\W*(?:and|but|or|so|also|what about|how about|why(?: not)?\W*$|what else|any\b|who else|when\W*$|where\W*$|how\W*$)",
    re.IGNORECASE,
)
_ENOUGH = 4
"""Words that tell something from which a question without pronouns stands alone."""
_NAME = re.compile(r"\b(?:[A-Z][\w'’.-]*|\d{3,4})(?:\s+(?:(?:of|the|and|de|von|van|for|in)\s+)*[A-Z][\w'’.-]*)*")
_TURNS = 5
"""Turns that are looked back at."""
_FROM_ANSWER = 40
"""Words of the last answer that are looked at."""
_OF_TOPIC = 4
"""Words of the topic that a question is compared with."""
_ADDED = 24
"""Words that an expansion adds at most: more would drown the question."""


@dataclass(frozen=True)
class Turn:
    """A question of the conversation so far, and what was answered."""

    question: str
    """As it was asked."""
    answer: str
    """Its text; empty where it was refused."""
    titles: tuple[str, ...] = ()
    """Of the pages that the answer cites, the first cited first."""


@dataclass(frozen=True)
class Rewrite:
    """A question in its conversation."""

    raw: str
    """As it was asked."""
    expanded: str
    """With what it leaves out; the same as `raw` where it stands alone."""
    meant: str
    """With the topic alone: what sentences are compared with, since a dozen words of the conversation would outweigh the question."""

    @property
    def searches(self) -> tuple[str, ...]:
        """What to search for, to be fused: one or both."""
        return tuple(dict.fromkeys((self.raw, self.expanded)))


def rewrite(question: str, history: Sequence[Turn]) -> Rewrite:
    """A question with what its conversation adds to it, oldest turn first."""
    if not history or stands_alone(question):
        return Rewrite(question, question, question)
    have = set(content_stems(question))
    added: list[str] = []
    for phrase in _phrases(history):
        new = [
            word for word in re.findall(r"[^\W_]+", phrase) if _tells(word.lower()) and stem(word.lower()) not in have
        ]
        if new and len(added) + len(new) <= _ADDED:
            added += new
            have |= {stem(word.lower()) for word in new}
    about = (
        _topic(history) if _leans(question) else ""
    )  # a short question that leans on nothing may have left the topic
    topic = [word for word in re.findall(r"[^\W_]+", about) if _tells(word.lower())][:_OF_TOPIC]
    meant = " ".join((question, *(word for word in topic if stem(word.lower()) not in content_stems(question))))
    return Rewrite(question, f"{question} {' '.join(added)}".strip(), meant)


def stands_alone(question: str) -> bool:
    """Whether a question needs nothing of what was said before."""
    if _leans(question):
        return False
    return len(content_stems(question)) >= _ENOUGH or len(_names(question)) >= 2


def _leans(question: str) -> bool:
    """Whether a question has a word that stands for what was said, or leaves out what only that can fill."""
    return bool(_REFERS.search(question) or _ELLIPSIS.search(question) or not content_stems(question))


def _phrases(history: Sequence[Turn]) -> list[str]:
    """What a follow-up may leave out, the likeliest first: the topic, names of the last turns, then their other words."""
    last, *before = reversed(history[-_TURNS:])
    found = [_topic(history), *_names(last.question), *_names(last.answer)]
    found += [word for word in words(last.question) if _tells(word)]
    for turn in before[:1]:
        found += [
            *_names(turn.question),
            *_names(turn.answer),
            *(word for word in words(turn.question) if _tells(word)),
        ]
    found += [word for word in words(last.answer)[:_FROM_ANSWER] if _tells(word)]
    for turn in before[1:]:
        found += [*_names(turn.question), *_names(turn.answer)]
    for turn in before[1:]:
        found += [word for word in words(turn.question) if _tells(word)]
    return list(dict.fromkeys(found))


def _topic(history: Sequence[Turn]) -> str:
    """What the conversation is about: the page that was cited last, or what was asked first."""
    return next((turn.titles[0] for turn in reversed(history) if turn.titles), history[0].question)


def _names(text: str) -> list[str]:
    """Runs of words with capitals; a sentence's first word alone is none if it is a stop word."""
    found = (match[0] for match in _NAME.finditer(text))
    return [name for name in found if any(_tells(word) for word in words(name))]


def _tells(word: str) -> bool:
    return word not in STOP_WORDS and len(word) > 1
