"""The sets by which answers are fitted and measured, read from the data set `pages`: SciFact's claims with their rationales, ClapNQ's
questions with a passage, WiCE's claims, CANARD's follow-ups, BIPIA's attacks. What they are and their licences: the catalogue's row."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from almanac.runtime import hub


@dataclass(frozen=True)
class Rationale:
    """A claim and sentences that speak of it."""

    claim: str
    """What is claimed."""
    sentences: tuple[str, ...]
    """Of one abstract, all of them, in order."""
    title: str
    """Of the abstract."""
    chosen: tuple[int, ...]
    """The sentences that decide."""
    supported: bool
    """Whether they support it; else they contradict it, or say nothing of it."""


@dataclass(frozen=True)
class Asked:
    """A question with one passage, in which the answer may be."""

    question: str
    """As it was typed."""
    title: str
    """Of the passage's page."""
    sentences: tuple[str, ...]
    """Of the passage, in order."""
    chosen: tuple[frozenset[int], ...]
    """The sentences that each annotator chose; none where the passage holds no answer."""
    answers: tuple[str, ...]
    """What each annotator wrote."""


@dataclass(frozen=True)
class Followed:
    """A question of a conversation."""

    history: tuple[str, ...]
    """The page's title, its section's, then questions and answers in turn."""
    question: str
    """As it was asked."""
    rewrite: str
    """As it would be asked alone."""


def scifact() -> list[Rationale]:
    """SciFact's training claims (Wadden et al. 2020): 809, with what supports and what contradicts them."""
    folder = _folder() / "scifact"
    corpus = {each["_id"]: each for each in _lines(folder / "corpus.jsonl.gz")}
    found = []
    for each in _lines(folder / "claims_train.jsonl"):
        for identifier, sets in each["evidence"].items():
            page = corpus[identifier]
            chosen = tuple(sorted({at for one in sets for at in one["sentences"]}))
            supported = sets[0]["label"] == "SUPPORT"
            found.append(Rationale(each["claim"], tuple(page["sentences"]), page["title"], chosen, supported))
        if not each["evidence"]:
            page = corpus[str(each["cited_doc_ids"][0])]
            found.append(Rationale(each["claim"], tuple(page["sentences"]), page["title"], (), False))
    return found


def clapnq(answerable: bool) -> list[Asked]:
    """ClapNQ's development questions (Rosenthal et al. 2024), those whose passage holds an answer or those whose passage doesn't."""
    found = []
    for each in _lines(_folder() / "clapnq" / f"dev_{'' if answerable else 'un'}answerable.jsonl.gz"):
        passage = each["passages"][0]
        at = {sentence: place for place, sentence in enumerate(passage["sentences"])}
        outputs = [one for one in each["output"] if one["selected_sentences"]]
        chosen = tuple(frozenset(at[one] for one in output["selected_sentences"] if one in at) for output in outputs)
        answers = tuple(output["answer"] for output in outputs)
        found.append(Asked(each["input"], passage["title"], tuple(passage["sentences"]), chosen, answers))
    return found


def wice() -> list[Rationale]:
    """WiCE's development claims (Kamoi et al. 2023): only to measure by; their pages are third parties' text. Partial support is none."""
    found = []
    for each in _lines(_folder() / "wice" / "claim_dev.jsonl.gz"):
        chosen = tuple(sorted({at for one in each["supporting_sentences"] for at in one}))
        supported = each["label"] == "supported"
        found.append(Rationale(each["claim"], tuple(each["evidence"]), "", chosen, supported))
    return found


def canard() -> list[Followed]:
    """CANARD's development questions (Elgohary et al. 2019): 3,430."""
    said = json.loads(gzip.decompress((_folder() / "canard" / "dev.json.gz").read_bytes()))
    return [Followed(tuple(each["History"]), each["Question"], each["Rewrite"]) for each in said]


def attacks() -> list[str]:
    """BIPIA's attack instructions for text (Yi et al. 2023)."""
    found: list[str] = []
    for path in sorted((_folder() / "injection").glob("text_attack_*.json")):
        found += [attack for kind in json.loads(path.read_text()).values() for attack in kind]
    return found


def _folder() -> Path:
    return hub.data("pages")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    said = path.read_bytes()
    yield from map(
        json.loads, (gzip.decompress(said) if path.suffix == ".gz" else said).decode().strip("\n").split("\n")
    )
