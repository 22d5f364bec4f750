"""The tour of YouChat: this machine's Python documentation crawled and indexed, questions answered from it with references, and one that it
can't answer."""

from pathlib import Path

from almanac.runtime.report import Section
from almanac.youchat import draw, own_pages
from almanac.youchat.ask.ask import ask
from almanac.youchat.documents import Answer
from almanac.youchat.index.index import Index

QUESTIONS = (
    "What is the difference between a shallow and a deep copy?",
    "What does heapq.heappush do?",
    "How was Whisper trained from scratch here?",
    "Who won the football world cup in 1998?",
)
"""About Python, about this project, and about neither."""


def run(out: Path) -> Section:
    """Run once on real pages.

    Args:
        out: folder for the index and the pictures.
    """
    folder = out / "index"
    if not folder.exists():
        own_pages.make(folder)
    index = Index.open(folder)
    answers = [ask(question, index) for question in QUESTIONS]
    held = index.statistics()
    quoted = sum(len(each.sentences) for each in answers)
    refused = sum(each.outcome == "refused" for each in answers)
    return Section(
        f"{held.pages} pages, those that pydoc serves on this machine and the project's own, were crawled and cut into "
        f"{held.passages:,} passages. {quoted} sentences answer {len(answers) - refused} of {len(answers)} questions, each of them "
        f"word by word in the page that it names; {refused} is refused: nothing that was found answers it.",
        figures=[
            (draw.card(answers[0], out / "answer.png"), "A question, its answer, and where each sentence stands"),
            (draw.card(answers[-1], out / "refused.png"), "What the index does not hold is not answered"),
        ],
        rows=[{"question": each.question, "answer": _said(each)} for each in answers],
    )


def _said(answer: Answer) -> str:
    if answer.outcome == "refused":
        return "not in this index"
    best = answer.sentences[:2]
    text = " ".join(f"{' '.join(each.text.split())} {''.join(f'[{n}]' for n in each.citations)}" for each in best)
    cited = {n for each in best for n in each.citations}
    return f"{text} ({'; '.join(f'[{each.n}] {each.title}' for each in answer.references if each.n in cited)})"
