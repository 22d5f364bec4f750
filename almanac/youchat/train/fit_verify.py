"""Fits the verifier: on SciFact's training claims with their rationales, and on sentences of SciFact's abstracts, true as they stand and
planted with falsehoods. Vetoes are not fitted; what is vetoed tells the model nothing and is left out of its examples."""

import math
import random
import re
from collections.abc import Sequence
from itertools import pairwise

from almanac.youchat.ask.verify import Source, examine, plain_idf
from almanac.youchat.ask.weights_file import Logistic, fitted
from almanac.youchat.data.answer_sets import scifact
from almanac.youchat.data.corrupt import corrupt

SIGNS = {"best": 1, "covered": 1, "rarest": -1, "gap": -1}
"""Which way a feature may count."""
STRENGTH = 0.02
"""The inverse of the L2 penalty: strong, for the features overlap and each should say something."""

KEPT = 0.7
"""The part of the true examples that the threshold keeps. Balanced accuracy is the same within a hundredth for thresholds from 0.54 to 0.82
(84 to 66 % of them), so that it does not choose; this keeps both goals on ClapNQ, of true sentences lost and false ones removed."""


def examples(seed: int = 0) -> tuple[list[dict[str, float]], list[bool]]:
    """Features, and whether each is supported: what no veto decides of claims and sentences that are true, foreign or made false."""
    chance = random.Random(seed)
    data = scifact()
    rows: list[dict[str, float]] = []
    labels: list[bool] = []

    def add(claim: str, source: Source, supported: bool) -> None:
        _, features, vetoes = examine(claim, [source], plain_idf)
        if features and not vetoes:
            rows.append(features)
            labels.append(supported)

    for each, other in pairwise(data):
        if each.supported:
            source = Source(" ".join(each.sentences), each.title)
            add(each.claim, source, True)
            add(other.claim, source, other.title == each.title and other.supported)
            if false := corrupt(each.claim, other.sentences, chance):
                add(false.text, source, False)
    for each in data[::2]:
        foreign = chance.choice(data).sentences
        at = chance.randrange(len(each.sentences))
        true = _shortened(each.sentences[at], chance)
        source = Source(" ".join(each.sentences), each.title)
        false = corrupt(true, foreign, chance)
        add(true, source, True)
        if false:
            add(false.text, source, False)
        add(chance.choice(foreign), source, False)
    return rows, labels


def fit(seed: int = 0) -> Logistic:
    """The verifier's model; its threshold keeps KEPT of what it was fitted to and is true."""
    rows, labels = examples(seed)
    found = fitted(rows, labels, STRENGTH, SIGNS)
    true = sorted((found.probability(row) for row, label in zip(rows, labels, strict=True) if label), reverse=True)
    threshold = math.floor(100 * true[int(KEPT * len(true)) - 1]) / 100
    return Logistic(
        found.bias,
        found.weights,
        {"threshold": threshold, "on": f"SciFact train, planted falsehoods: {len(rows)} examples"},
    )


def _shortened(sentence: str, chance: random.Random) -> str:
    """A sentence as a writer might retell it: without what stands in brackets, and at times without a first or last clause."""
    bare = re.sub(r"\s*\([^()]*\)", "", sentence)
    clauses = bare.split(", ")
    if len(clauses) > 2 and chance.random() < 0.5:
        kept: Sequence[str] = clauses[1:] if chance.random() < 0.5 else clauses[:-1]
        bare = ", ".join(kept).rstrip(" .") + "."
    return bare
