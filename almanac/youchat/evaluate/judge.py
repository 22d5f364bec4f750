"""Citation recall and precision by ALCE's algorithm (Gao et al. 2023, section 4.2 and its `compute_autoais`), with a judge of entailment
that shares nothing with the verifier but the text: no stems, no idf, no model, no parsed numbers. ALCE's own judge is an
11-billion-parameter NLI model; ours compares letters. It can't see a paraphrase (its recall is a lower bound there) nor a relation
turned round with the same words ("A beat B"), and `measure_answers` gives its AUROC on WiCE beside every figure that rests on it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from almanac.youchat.documents import Answer, Page

_TOKEN = re.compile(r"\d[\d.,:/-]*\d|\w+(?:['’]\w+)?")
_CAPITAL = re.compile(r"(?<=[a-z,;)] )[A-Z]\w{2,}")
"""A word with a capital letter within a sentence: a name."""
_NOT = frozenset(
    re.findall(
        r"\S+",
        """not no never none neither nor without cannot can't didn't doesn't don't isn't aren't wasn't weren't won't hasn't
    haven't""",
    )
)
ENTAILED = 0.85
"""From which part of a claim's letters on the premise entails it. Chosen, not fitted: higher would be better on sentences as they stand in
their source, and would fail whoever retells them; `measure_answers.judge_figures` says how many true and planted false ones pass."""

Judge = Callable[[str, str], bool]
"""(premise, claim) → whether the premise entails the claim."""


@dataclass(frozen=True)
class Quality:
    """ALCE's scores of an answer, or their means over answers."""

    recall: float
    """The part of sentences that what they cite supports."""
    precision: float
    """The part of citations that their sentences need; 0 where nothing is cited."""


def entails(premise: str, claim: str) -> bool:
    """Whether a premise entails a claim."""
    return strength(premise, claim) >= ENTAILED


def strength(premise: str, claim: str) -> float:
    """The part of a claim's letters that stands in its premise, within a stretch not much longer than the claim; 0 where a number or name
    of the claim is nowhere, or one of the two negates what the other says."""
    wanted, given = _tokens(claim), _tokens(premise)
    if not wanted or not given:
        return 0.0
    there = set(given)
    if any(word[0].isdigit() and word not in there for word in wanted):
        return 0.0
    if any(name.lower() not in there for name in _CAPITAL.findall(claim)):
        return 0.0
    if _negates(wanted, given) or _negates(given, wanted):
        return 0.0
    telling = [word for word in wanted if len(word) > 3 or word[0].isdigit()] or wanted
    hits = {word: [at for at, other in enumerate(given) if _alike(word, other)] for word in set(telling)}
    total = sum(map(len, telling))
    width = 3 * len(wanted) + 20
    starts = sorted({at for places in hits.values() for at in places}) or [0]
    return (
        max(
            sum(len(word) for word in telling if any(start <= at < start + width for at in hits[word]))
            for start in starts
        )
        / total
    )


def quality(answer: Answer, pages: Mapping[str, Page], judge: Judge = entails) -> Quality:
    """ALCE's citation recall and precision of an answer, what is cited being the exact stretches with their page's title.

    Args:
        answer: with at least one sentence.
        pages: by address.
        judge: of entailment.
    """
    by_number = {reference.n: pages[reference.url] for reference in answer.references}
    sentences = []
    for sentence in answer.sentences:
        premises = {}
        for span in sentence.spans:
            page = by_number[span.source]
            said = premises.get(span.source, f"Title: {page.title}\n")
            premises[span.source] = f"{said}{page.text[span.start : span.end]}\n"
        sentences.append((sentence.text, [premises.get(number, "") for number in sentence.citations]))
    return alce(sentences, judge)


def alce(sentences: Sequence[tuple[str, Sequence[str]]], judge: Judge = entails) -> Quality:
    """ALCE's scores of sentences with the premises that each cites."""
    supported = correct = total = 0
    for claim, premises in sentences:
        total += len(premises)
        holds = bool(premises) and judge("\n".join(premises), claim)
        supported += holds
        if not holds:
            continue
        for at, premise in enumerate(premises):
            others = [*premises[:at], *premises[at + 1 :]]
            needless = bool(others) and not judge(premise, claim) and judge("\n".join(others), claim)
            correct += not needless
    return Quality(supported / max(1, len(sentences)), correct / total if total else 0.0)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower().replace("’", "'"))


def _alike(word: str, other: str) -> bool:
    """Whether two words are forms of one: the same, or one beginning of five letters or more with short endings."""
    if word == other:
        return True
    same = 0
    for one, two in zip(word, other, strict=False):
        if one != two:
            break
        same += 1
    return same >= 4 and max(len(word), len(other)) - same <= 3 and not word[0].isdigit()


def _negates(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether `one` negates a word or two that `other` has, and `other` negates nothing."""
    if any(word in _NOT or word.endswith("n't") for word in other):
        return False
    long = [word for word in other if len(word) > 3]
    for at, word in enumerate(one):
        if word in _NOT or word.endswith("n't"):
            after = [each for each in one[at + 1 : at + 6] if len(each) > 3][:2]
            if after and all(any(_alike(each, two) for two in long) for each in after):
                return True
    return False
