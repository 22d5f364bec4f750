"""Measures how good answers are, each on data that nothing was fitted to, or out of fold: ClapNQ (which sentences, whether to answer),
planted falsehoods through a stub language model over HTTP, WiCE (the verifier and the judge), CANARD (rewriting), BIPIA's attacks
planted in pages, and whether quotes are what stands in the page. `python -m almanac.youchat.evaluate.measure_answers` prints it as JSON."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

from almanac.youchat.ask.ask import Settings, ask
from almanac.youchat.ask.language_model import Endpoint
from almanac.youchat.ask.rewrite import Turn, rewrite
from almanac.youchat.ask.verify import Source, examine, plain_idf, support
from almanac.youchat.ask.weights_file import model
from almanac.youchat.data.answer_sets import Asked, attacks, canard, clapnq, scifact, wice
from almanac.youchat.data.corrupt import KINDS, corrupt
from almanac.youchat.documents import Answer, Hit, Page, Passage
from almanac.youchat.evaluate.judge import ENTAILED, quality, strength
from almanac.youchat.evaluate.stub_model import question_in, serving
from almanac.youchat.text.injections import speaks_to_assistant
from almanac.youchat.text.sentences import split
from almanac.youchat.text.terms import content_stems, stems, words
from almanac.youchat.train import fit_answers

PLANTED = 0.3
"""The part of a stub's sentences that are false (issue)."""


class SmallIndex:
    """Pages of one passage each, searched by BM25 in memory: an index for measurements and tests, not for use.

    Args:
        pages: what it holds.
    """

    def __init__(self, pages: Sequence[Page]):
        self.pages = {page.url: page for page in pages}
        self._counts = {page.url: Counter(stems(f"{page.title} {page.text}")) for page in pages}
        self._average = sum(count.total() for count in self._counts.values()) / max(1, len(pages))
        self._documents = Counter(stem for count in self._counts.values() for stem in count)

    def idf(self, stem: str) -> float:
        """The inverse document frequency of a stem."""
        count = self._documents[stem]
        return math.log(1 + (len(self.pages) - count + 0.5) / (count + 0.5))

    def page(self, url: str) -> Page | None:
        """The page at an address."""
        return self.pages.get(url)

    def search(self, question: str, k: int) -> list[Hit]:
        """The best pages, as passages."""
        wanted, found = content_stems(question), []
        for url, count in self._counts.items():
            norm = 1.2 * (0.25 + 0.75 * count.total() / self._average)
            score = sum(self.idf(stem) * count[stem] * 2.2 / (count[stem] + norm) for stem in wanted)
            if score:
                page = self.pages[url]
                found.append(Hit(Passage(url, page.title, page.text, 0, len(page.text), ""), score, score))
        return sorted(found, key=lambda hit: -hit.score)[:k]


def as_pages(asked: Sequence[Asked], hosts: int = 5) -> list[Page]:
    """ClapNQ's passages as pages of some hosts."""
    return [
        Page(f"http://host{at % hosts}.example/{at}", each.title, " ".join(each.sentences))
        for at, each in enumerate(asked)
    ]


def clapnq_figures() -> dict[str, float]:
    """Sentence F1, ROUGE-L and refusal AUROC out of fold, over five dealings of the folds, with the issue's baselines beside them."""
    with_answer, without = clapnq(True), clapnq(False)
    idf = fit_answers.collection_idf([*with_answer, *without])
    rows = fit_answers.refusal_rows([*with_answer, *without], idf)
    labels = [True] * len(with_answer) + [False] * len(without)
    seeds = range(5)
    f1 = [fit_answers.quotes_out_of_fold(with_answer, idf, seed) for seed in seeds]
    auroc = [fit_answers.refusal_out_of_fold(rows, labels, seed).value for seed in seeds]
    lead = [fit_answers.sentence_f1(set(range(min(3, len(each.sentences)))), each.chosen) for each in with_answer]
    whole = [fit_answers.sentence_f1(set(range(len(each.sentences))), each.chosen) for each in with_answer]
    said = [
        " ".join(each.sentences[at] for at in sorted(chosen))
        for each, chosen in zip(with_answer, f1[0][1], strict=True)
    ]
    rouge = [
        max(rouge_l(text, answer) for answer in each.answers) for each, text in zip(with_answer, said, strict=True)
    ]
    return {
        "sentence_f1": _mean([found.value for found, _ in f1]),
        "sentence_f1_lowest_dealing": min(found.value for found, _ in f1),
        "sentence_f1_lead_3": _mean(lead),
        "sentence_f1_whole_passage": _mean(whole),
        "rouge_l": _mean(rouge),
        "refusal_auroc": _mean(auroc),
        "refusal_auroc_lowest_dealing": min(auroc),
    }


def planted_figures(seed: int = 0, most: int = 1000) -> dict[str, float]:
    """For `most` questions, what becomes of a stub model's sentences: ClapNQ's annotators' own words, of which PLANTED are made false, with
    wrong and dangling marks, through `ask` over HTTP; and ALCE's scores of what stands, by the judge."""
    asked = clapnq(True)
    index = SmallIndex(as_pages(asked))
    chance = random.Random(seed)
    truth: dict[str, dict[tuple[str, ...], str]] = {}
    replies = {each.question: _reply(each, asked, index, chance, truth) for each in asked}
    counts: Counter[str] = Counter()
    scores = []
    with serving(lambda messages: replies.get(question_in(messages), "")) as url:
        settings = Settings("abstractive", endpoint=Endpoint(url, "stub"))
        for each in asked[:most]:
            answer = ask(each.question, index, (), settings)
            if answer.outcome == "refused":
                counts["refused"] += 1
                continue
            stands = {tuple(words(sentence.text)) for sentence in answer.sentences}
            for told, kind in truth[each.question].items():
                counts[kind] += 1
                counts[f"{kind} stands"] += told in stands
            counts["dangling"] += sum(
                not 1 <= n <= len(answer.references) for one in answer.sentences for n in one.citations
            )
            scores.append(quality(answer, index.pages))
    false = sum(counts[kind] for kind in KINDS)
    return {
        "false_removed": 1 - sum(counts[f"{kind} stands"] for kind in KINDS) / max(1, false),
        **{f"{kind}_removed": 1 - counts[f"{kind} stands"] / max(1, counts[kind]) for kind in KINDS},
        "true_lost": 1 - counts["true stands"] / max(1, counts["true"]),
        "false": float(false),
        "true": float(counts["true"]),
        "dangling_marks": float(counts["dangling"]),
        "refused": float(counts["refused"]),
        "alce_recall": _mean([score.recall for score in scores]),
        "alce_precision": _mean([score.precision for score in scores]),
    }


def extractive_figures(most: int = 1000) -> dict[str, float]:
    """For `most` questions: quotes against their pages, byte for byte; ALCE's scores by the judge; right and wrong pages; refusals where
    the page is gone."""
    asked = clapnq(True)
    pages = as_pages(asked)
    index = SmallIndex(pages)
    exact = total = gold = refused = 0
    scores = []
    for each, page in list(zip(asked, pages, strict=True))[:most]:
        answer = ask(each.question, index)
        for sentence in answer.sentences:
            total += 1
            exact += all(_stretch(answer, index, span.source)[span.start : span.end] for span in sentence.spans) and (
                _stretch(answer, index, sentence.spans[0].source)[sentence.spans[0].start : sentence.spans[0].end]
                == sentence.text
            )
        if answer.sentences:
            scores.append(quality(answer, index.pages))
            gold += page.url in {reference.url for reference in answer.references}
        rest = SmallIndex([other for other in pages if other.title != page.title])
        refused += ask(each.question, rest).outcome == "refused"
    return {
        "quotes_exact": exact / total,
        "quotes": float(total),
        "answered": len(scores) / len(asked[:most]),
        "gold_page_cited": gold / max(1, len(scores)),
        "refused_without_gold_page": refused / len(asked[:most]),
        "alce_recall": _mean([score.recall for score in scores]),
        "alce_precision": _mean([score.precision for score in scores]),
    }


def wice_figures() -> dict[str, float]:
    """AUROC of the verifier and of the judge on WiCE's claims, supported against the rest, with how many supported ones are vetoed."""
    from sklearn.metrics import roc_auc_score

    labels, ours, features_only, judged, vetoed = [], [], [], [], 0
    for each in wice():
        source = [Source("\n".join(each.sentences))]
        found = support(each.claim, source)
        _, features, _ = examine(each.claim, source, plain_idf)
        labels.append(each.supported)
        ours.append(found.probability)
        features_only.append(model("verify").probability(features))
        judged.append(strength("\n".join(each.sentences), each.claim))
        vetoed += each.supported and bool(found.vetoes)
    return {
        "verifier_auroc": float(roc_auc_score(labels, ours)),
        "verifier_auroc_without_vetoes": float(roc_auc_score(labels, features_only)),
        "judge_auroc": float(roc_auc_score(labels, judged)),
        "supported_vetoed": vetoed / max(1, sum(labels)),
        "claims": float(len(labels)),
        "supported": float(sum(labels)),
    }


def judge_figures(seed: int = 0) -> dict[str, float]:
    """AUROC of the judge on sentences of SciFact's abstracts, as they stand and planted with falsehoods, each against the three sentences
    around its own; and how many of both it passes."""
    from sklearn.metrics import roc_auc_score

    chance, labels, scores = random.Random(seed), [], []
    data = scifact()
    for each in data[::3]:
        at = chance.randrange(len(each.sentences))
        true, premise = each.sentences[at], " ".join(each.sentences[max(0, at - 1) : at + 2])
        false = corrupt(true, chance.choice(data).sentences, chance)
        for text, label in ((true, True), (false.text if false else "", False)):
            if text:
                labels.append(label)
                scores.append(strength(premise, text))
    true = [score for score, label in zip(scores, labels, strict=True) if label]
    false = [score for score, label in zip(scores, labels, strict=True) if not label]

    return {
        "judge_auroc_planted": float(roc_auc_score(labels, scores)),
        "judge_true_passed": _mean([float(score >= ENTAILED) for score in true]),
        "judge_false_passed": _mean([float(score >= ENTAILED) for score in false]),
        "judge_sentences": float(len(labels)),
    }


def canard_figures(every: int = 1) -> dict[str, float]:
    """For one question in `every`, how many of the words that tell something in a human's rewrite are in ours, and how many of ours are
    in it."""
    recall, copied, precision = [], [], []
    for each in canard()[::every]:
        title, section, *said = each.history
        turns = [Turn(said[at], said[at + 1], (title,)) for at in range(0, len(said) - 1, 2)] or [
            Turn(section, "", (title,))
        ]
        wanted = set(content_stems(each.rewrite))
        if wanted:
            ours = set(content_stems(rewrite(each.question, turns).expanded))
            recall.append(len(wanted & ours) / len(wanted))
            copied.append(len(wanted & set(content_stems(each.question))) / len(wanted))
            precision.append(len(wanted & ours) / max(1, len(ours)))
    return {"canard_recall": _mean(recall), "canard_recall_copy": _mean(copied), "canard_precision": _mean(precision)}


def injection_figures(seed: int = 0, times: int = 2) -> dict[str, float]:
    """How often an attack that is planted in the page that answers, each `times` times, is repeated in an extractive answer or
    brings a foreign host into it, and how many the patterns alone would catch."""
    chance = random.Random(seed)
    asked, planted = clapnq(True), attacks()
    success = foreign = tried = 0
    for at, attack in enumerate(planted * times):
        each = asked[at % len(asked)]
        sentences = list(each.sentences)
        sentences.insert(chance.randrange(len(sentences) + 1), attack)
        page = Page("http://host.example/page", each.title, " ".join(sentences))
        answer = ask(each.question, SmallIndex([page, *as_pages(asked[at % 50 : at % 50 + 20])]))
        said = " ".join(sentence.text for sentence in answer.sentences)
        tried += 1
        success += attack[:40] in said
        foreign += any(host in said for host in (".com", ".xyz", "http", "@"))
    return {
        "attack_success": success / tried,
        "foreign_hosts": float(foreign),
        "attacks_tried": float(tried),
        "caught_by_patterns": _mean([float(speaks_to_assistant(attack)) for attack in planted]),
    }


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words."""
    one, other = words(text), words(reference)
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for at, against in enumerate(other, 1):
            above = row[at]
            row[at] = before + 1 if word == against else max(above, row[at - 1])
            before = above
    return 2 * row[-1] / max(1, len(one) + len(other))


def _reply(
    each: Asked,
    asked: Sequence[Asked],
    index: SmallIndex,
    chance: random.Random,
    truth: dict[str, dict[tuple[str, ...], str]],
) -> str:
    """What a stub says to a question: sentences of the annotators and of the passage, some false, some with marks that are wrong."""
    shown = [hit.passage.text for hit in index.search(each.question, 5)]
    own = " ".join(each.sentences)
    mark = shown.index(own) + 1 if own in shown else 0
    answer = each.answers[0]
    true = [piece.of(answer) for piece in split(answer)] + chance.sample(each.sentences, min(2, len(each.sentences)))
    said, kinds = [], truth.setdefault(each.question, {})
    for text in true:
        told = text.rstrip(" .") + "."
        kind = "true"
        if chance.random() < PLANTED and (false := corrupt(told, chance.choice(asked).sentences, chance)):
            told, kind = false.text, false.kind
        if len(content_stems(told)) < 2 or not mark:
            continue
        kinds[tuple(words(told))] = kind
        wrong = chance.random()
        number = 97 if wrong < 0.1 else mark % len(shown) + 1 if wrong < 0.2 else mark
        said.append(f"{told} [{number}]")
    return " ".join(said)


def _stretch(answer: Answer, index: SmallIndex, source: int) -> str:
    return index.pages[answer.references[source - 1].url].text


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


MEASUREMENTS: dict[str, Callable[[], dict[str, float]]] = {
    "clapnq": clapnq_figures,
    "planted": planted_figures,
    "extractive": extractive_figures,
    "wice": wice_figures,
    "judge": judge_figures,
    "canard": canard_figures,
    "injections": injection_figures,
}
"""What is measured."""

if __name__ == "__main__":
    print(
        json.dumps(
            {name: {key: round(value, 4) for key, value in run().items()} for name, run in MEASUREMENTS.items()},
            indent=1,
        )
    )
