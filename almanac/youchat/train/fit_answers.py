"""Fits the small models behind answers and writes `weights.json`: which sentences answer (ClapNQ's annotators), whether a passage holds
an answer (ClapNQ, answerable or not), whether a source supports a sentence (SciFact, planted falsehoods). `python -m
almanac.youchat.train.fit_answers`; a minute on one core. What it prints is out of fold: each question is judged by a model that was fitted
without it."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from almanac.youchat.ask.quotes import best_count
from almanac.youchat.ask.refuse import answer_features, believed
from almanac.youchat.ask.relevance import read, sentence_features
from almanac.youchat.ask.weights_file import Logistic, fitted, write
from almanac.youchat.data.answer_sets import Asked, clapnq
from almanac.youchat.documents import Hit, Passage
from almanac.youchat.text.terms import stems
from almanac.youchat.train import fit_verify

FOLDS = 5
"""Parts into which questions are dealt."""
WRONG = 0.1
"""Answers given where there is none that the refusal's upper threshold allows (issue, section 1.5)."""
STRENGTH = 0.2
"""The inverse of the L2 penalty; from 0.02 to 1 the quality out of fold is the same within a thousandth or two."""
BY_HAND = {"passage": 4.0, "rank": -0.3, "score": 3.0, "fragment": -0.7, "cosine": 3.0}
"""Weights of what compares several passages, which ClapNQ's one passage a question can't teach: chosen, not fitted."""

Idf = Callable[[str], float]
"""The inverse document frequency of a stem."""


@dataclass(frozen=True)
class Folded:
    """A quality that was measured out of fold."""

    value: float
    """Its mean."""
    per_fold: tuple[float, ...]
    """Of each fold."""


def collection_idf(asked: Sequence[Asked]) -> Idf:
    """The idf of the passages of a set, as the index counts it (Robertson and Zaragoza 2009): no label is looked at."""
    count: Counter[str] = Counter()
    for each in asked:
        count.update(set(stems(f"{each.title} {' '.join(each.sentences)}")))
    return lambda stem: math.log(1 + (len(asked) - count[stem] + 0.5) / (count[stem] + 0.5))


def dealt(count: int, seed: int) -> list[list[int]]:
    """Numbers below `count` in FOLDS parts."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [sorted(order[fold::FOLDS]) for fold in range(FOLDS)]


def sentence_f1(taken: set[int], annotators: Sequence[frozenset[int]]) -> float:
    """F1 of the sentences that were taken against those of the annotator who agrees most (ClapNQ has one or two)."""
    return max((2 * len(taken & chosen) / (len(taken) + len(chosen)) for chosen in annotators), default=0.0)


def quote_rows(each: Asked, idf: Idf) -> list[dict[str, float]]:
    """The features of each sentence of a question's passage."""
    return sentence_features(read(each.question, idf), each.title, each.sentences)


def taken(model: Logistic, rows: Sequence[dict[str, float]]) -> set[int]:
    """The sentences that a model quotes."""
    levels = [model.probability(row) for row in rows]
    order = sorted(range(len(rows)), key=lambda at: -levels[at])
    return set(order[: best_count([levels[at] for at in order])])


def fit_quotes(
    asked: Sequence[Asked], rows: Sequence[Sequence[dict[str, float]]], strength: float = STRENGTH
) -> Logistic:
    """The model of which sentences answer; each annotator's choice is an example.

    Args:
        asked: questions with passages.
        rows: `quote_rows` of each.
        strength: of the fit (`weights_file.fitted`).
    """
    flat, labels = [], []
    for each, features in zip(asked, rows, strict=True):
        for chosen in each.chosen:
            flat += features
            labels += [at in chosen for at in range(len(features))]
    found = fitted(flat, labels, strength)
    return Logistic(
        found.bias,
        {**found.weights, **BY_HAND},
        {"on": f"ClapNQ dev, {len(asked)} questions", "by_hand": sorted(BY_HAND)},
    )


def quotes_out_of_fold(
    asked: Sequence[Asked], idf: Idf, seed: int = 0, strength: float = STRENGTH
) -> tuple[Folded, list[set[int]]]:
    """Sentence F1 on ClapNQ, each question by a model that didn't see it; and the sentences that were quoted for each."""
    rows = [quote_rows(each, idf) for each in asked]
    quoted: list[set[int]] = [set() for _ in asked]
    folds = dealt(len(asked), seed)
    for fold in folds:
        kept = [at for at in range(len(asked)) if at not in set(fold)]
        model = fit_quotes([asked[at] for at in kept], [rows[at] for at in kept], strength)
        for at in fold:
            quoted[at] = taken(model, rows[at])
    scores = [sentence_f1(chosen, each.chosen) for chosen, each in zip(quoted, asked, strict=True)]
    per_fold = tuple(sum(scores[at] for at in fold) / len(fold) for fold in folds)
    return Folded(sum(scores) / len(scores), per_fold), quoted


def refusal_rows(asked: Sequence[Asked], idf: Idf) -> list[dict[str, float]]:
    """The features of each question with its passage."""
    return [answer_features(read(each.question, idf), as_hit(each)) for each in asked]


def fit_refuse(rows: Sequence[dict[str, float]], labels: Sequence[bool], strength: float = STRENGTH) -> Logistic:
    """The model of whether a passage holds an answer. Its thresholds: refuse where an answer is likelier wrong than right by its own
    calibration and the WRONG allowance; answer in full where at most WRONG of the unanswerable would be."""
    found = fitted(list(map(_weighed, rows)), labels, strength)
    level = [believed(found, row) for row in rows]
    without = sorted((p for p, label in zip(level, labels, strict=True) if not label), reverse=True)
    sure = without[int(WRONG * len(without))]
    facts = {
        "refuse_below": round(min(0.5, sure), 3),
        "answer_from": round(sure, 3),
        "on": f"ClapNQ dev, {len(rows)} questions",
    }
    weights = {name: weight for name, weight in found.weights.items() if name not in ("hosts", "cosine")} | {
        "hosts": 0.3,
        "cosine": 1.0,
    }
    return Logistic(found.bias, weights, facts | {"by_hand": ["hosts", "cosine"]})


def refusal_out_of_fold(
    rows: Sequence[dict[str, float]], labels: Sequence[bool], seed: int = 0, strength: float = STRENGTH
) -> Folded:
    """AUROC of answerable against not, each question by a model that didn't see it."""
    from sklearn.metrics import roc_auc_score

    scores, each_fold = [0.0] * len(rows), []
    for fold in dealt(len(rows), seed):
        inside = set(fold)
        kept = [at for at in range(len(rows)) if at not in inside]
        model = fitted([_weighed(rows[at]) for at in kept], [labels[at] for at in kept], strength)
        for at in fold:
            scores[at] = believed(model, rows[at])
        each_fold.append(float(roc_auc_score([labels[at] for at in fold], [scores[at] for at in fold])))
    return Folded(float(roc_auc_score(labels, scores)), tuple(each_fold))


def _weighed(row: dict[str, float]) -> dict[str, float]:
    """The features that are weighed; what the passage speaks of limits their sum's probability instead (`refuse.believed`)."""
    return {name: value for name, value in row.items() if name != "spoken"}


def as_hit(each: Asked) -> Hit:
    """A question's passage as if it had been found."""
    text = " ".join(each.sentences)
    return Hit(
        Passage("https://en.wikipedia.org/wiki/" + each.title.replace(" ", "_"), each.title, text, 0, len(text), ""),
        1.0,
    )


def main() -> None:
    """Fit all three, print what they are worth out of fold, write them."""
    with_answer, without = clapnq(True), clapnq(False)
    idf = collection_idf([*with_answer, *without])
    print("sentence F1, out of fold:", quotes_out_of_fold(with_answer, idf)[0])
    write({"quotes": fit_quotes(with_answer, [quote_rows(each, idf) for each in with_answer])})
    rows = refusal_rows([*with_answer, *without], idf)
    labels = [True] * len(with_answer) + [False] * len(without)
    print("refusal AUROC, out of fold:", refusal_out_of_fold(rows, labels))
    write({"refuse": fit_refuse(rows, labels), "verify": fit_verify.fit()})


if __name__ == "__main__":
    main()
