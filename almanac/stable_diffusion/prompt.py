"""What people write into prompts beside words, as AUTOMATIC1111's web UI reads it: `(louder)`, `[quieter]`, `(this:1.3)`, `\\(` for a
bracket, `BREAK`; `[this:that:0.5]` for a change on the way, `[this|that]` for one at every step; and `this AND that :0.7` for several at
once."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

ROUND, SQUARE = 1.1, 1 / 1.1
"""What a pair of brackets multiplies weights by."""
BREAK = "BREAK"
"""Ends a chunk of 75 tokens."""

DEEPEST = 64
"""Brackets within brackets that can hold changes."""

_PARTS = re.compile(
    r"""
    \\[()\[\]\\] | \\ | \( | \[ | : \s* ([+-]? (?: \d+ \.? \d* | \. \d+ )) \s* \) | \) | \] | [^\\()\[\]:]+ | :
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"^(.*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$", re.DOTALL)
_NUMBER = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")


@dataclass(frozen=True)
class Weighted:
    """A stretch of a prompt."""

    text: str
    weight: float = 1.0


def weighted(prompt: str) -> list[Weighted]:
    """Stretches of a prompt with their weights; `BREAK` is a stretch of its own. Brackets that are never closed hold to the end."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for match in _PARTS.finditer(prompt):
        part, weight = match[0], match[1]
        if part in opened:
            opened[part].append(len(texts))
        elif weight is not None and opened["("]:
            multiply(opened["("].pop(), float(weight))
        elif part == ")" and opened["("]:
            multiply(opened["("].pop(), ROUND)
        elif part == "]" and opened["["]:
            multiply(opened["["].pop(), SQUARE)
        else:
            text = part[1:] if part.startswith("\\") and len(part) > 1 else part
            for number, piece in enumerate(_BREAK.split(text)):
                more = [BREAK, piece] if number else [piece]
                texts += more
                weights += [1.0] * len(more)
    unclosed = deque(sorted([(at, ROUND) for at in opened["("]] + [(at, SQUARE) for at in opened["["]]))
    factor = 1.0
    for place in range(len(texts)):
        while unclosed and unclosed[0][0] <= place:
            factor *= unclosed.popleft()[1]
        weights[place] *= factor
    found = [Weighted(text, 1.0 if text == BREAK else weight) for text, weight in zip(texts, weights, strict=True)]
    return _joined(found) or [Weighted("")]


def _joined(parts: Sequence[Weighted]) -> list[Weighted]:
    """Neighbours of one weight as one."""
    alike = groupby(parts, lambda part: (part.text == BREAK, part.weight))
    joined = [part for (breaks, weight), group in alike for part in ([*group] if breaks else [_as_one(group, weight)])]
    return [part for part in joined if part.text]


def _as_one(parts: Iterable[Weighted], weight: float) -> Weighted:
    return Weighted("".join(part.text for part in parts), weight)


def together(prompt: str) -> list[Weighted]:
    """The prompts that are followed at once, parted by `AND`, with how much each counts."""
    found = []
    for part in _AND.split(prompt):
        match = _WEIGHT.match(part)
        assert match is not None  # it matches anything
        found.append(Weighted(match[1], float(match[2]) if match[2] else 1.0))
    return found


def scheduled(prompt: str, steps: int) -> list[str]:
    """The prompt of each step.

    Args:
        prompt: with changes on the way.
        steps: how many there are.
    """
    tree = _Reader(prompt).read(0, len(prompt))
    return [tree(step, steps) for step in range(1, steps + 1)]


Piece = Callable[[int, int], str]
"""(step from 1, steps) → text."""


class _Reader:
    """Reads brackets that hold changes; what else there is stays as it is written.

    Args:
        text: a prompt.
    """

    def __init__(self, text: str):
        self.text, self.closed = text, _pairs(text)

    def read(self, start: int, end: int) -> Piece:
        """A stretch of the prompt."""
        parts: list[Piece] = []
        plain = place = start
        while place < end:
            letter, close = self.text[place], self.closed.get(place)
            if letter == "\\" or close is None:
                place += 1 + (letter == "\\")
                continue
            parts.append(_constant(self.text[plain:place]))
            if letter == "(":
                parts += [_constant("("), self.read(place + 1, close), _constant(")")]
            else:
                parts.append(self._square(place + 1, close))
            plain = place = close + 1
        return _sequence([*parts, _constant(self.text[plain:end])])

    def _square(self, start: int, end: int) -> Piece:
        """What square brackets hold: a change on the way, one of several at every step, or text that counts less."""
        marks = self._marks(start, end)
        edges = [start - 1, *marks, end]
        parts = [(left + 1, right) for left, right in pairwise(edges)]
        kinds = "".join(self.text[mark] for mark in marks)
        if kinds and set(kinds) == {"|"}:
            each = [self.read(*part) for part in parts]
            return lambda step, steps: each[(step - 1) % len(each)](step, steps)
        number = _NUMBER.match(self.text[slice(*parts[-1])]) if kinds in (":", "::") else None
        if number is None:
            return _sequence([_constant("["), self.read(start, end), _constant("]")])
        after = self.read(*parts[-2])
        before = self.read(*parts[0]) if kinds == "::" else _constant("")
        when, share = float(number[1]), "." in number[1]

        def change(step: int, steps: int) -> str:
            turn = min(steps, int(when * steps if share else when))
            return (before if step <= turn else after)(step, steps)

        return change

    def _marks(self, start: int, end: int) -> list[int]:
        """Where a stretch is parted, outside of brackets in it."""
        found, place = [], start
        while place < end:
            if self.text[place] in ":|":
                found.append(place)
            place = self.closed.get(place, place) + 1 + (self.text[place] == "\\")
        return found


def _pairs(text: str) -> dict[int, int]:
    """Where each bracket that is closed is closed."""
    found, opened, place = {}, [], 0
    while place < len(text):
        letter = text[place]
        if letter in "([" and len(opened) < DEEPEST:
            opened.append(place)
        elif letter in ")]" and opened and "([".index(text[opened[-1]]) == ")]".index(letter):
            found[opened.pop()] = place
        place += 1 + (letter == "\\")
    return found


def _constant(text: str) -> Piece:
    return lambda step, steps: text


def _sequence(parts: Sequence[Piece]) -> Piece:
    return lambda step, steps: "".join(part(step, steps) for part in parts)
