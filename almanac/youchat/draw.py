"""An answer as a picture: the question in a bar, below it a dark card with the answer, raised numbers behind what they support, and the
numbered references with title and address. What the tour and the card show; the page itself is `search.html`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from almanac.runtime.checkpoint import write_atomic
from almanac.youchat.documents import Answer

_WIDTH, _EDGE, _INSIDE = 1280, 40, 36
"""Pixels: of the picture, around the card, and within it."""
_BACK, _CARD, _RIM = "#131417", "#1f2126", "#3a3d45"
_TEXT, _MUTED, _MARK, _LINK = "#eceae4", "#9a9ca5", "#f0a18a", "#9ec1f7"


@dataclass(frozen=True)
class _Word:
    text: str
    raised: bool = False
    """A mark of citation, which stays with the word before it."""


def card(answer: Answer, path: Path, most: int = 3) -> Path:
    """Draw an answer.

    Args:
        answer: what was said.
        path: of the .png.
        most: sentences, and references, that are shown.
    """
    body, small, title = _font(25), _font(17), _font(21, bold=True)
    lines = list(_lines(_words(answer, most), body, small, _WIDTH - 2 * (_EDGE + _INSIDE)))
    cited = {n for each in answer.sentences[:most] for n in each.citations}
    references = [each for each in answer.references if each.n in cited][:most]
    top = _EDGE + 64 + 28
    height = _INSIDE + 40 * len(lines) + (24 if references else 0) + 66 * len(references) + _INSIDE - 12
    sheet = Image.new("RGB", (_WIDTH, top + height + _EDGE), _BACK)
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((_EDGE, _EDGE, _WIDTH - _EDGE, _EDGE + 64), 32, _CARD, _RIM, 2)
    draw.ellipse((_EDGE + 26, _EDGE + 21, _EDGE + 44, _EDGE + 39), outline=_MUTED, width=3)
    draw.line((_EDGE + 42, _EDGE + 38, _EDGE + 50, _EDGE + 46), _MUTED, 3)
    draw.text((_EDGE + 70, _EDGE + 32), _fitted(answer.question, body, _WIDTH - 2 * _EDGE - 110), _TEXT, body, "lm")
    draw.rounded_rectangle((_EDGE, top, _WIDTH - _EDGE, top + height), 20, _CARD, _RIM, 2)
    y = top + _INSIDE
    for line in lines:
        for x, word in line:
            place = (_EDGE + _INSIDE + x, y - 4 if word.raised else y)
            draw.text(place, word.text, _MARK if word.raised else _TEXT, small if word.raised else body)
        y += 40
    y += 24
    for each in references:
        number = f"[{each.n}]"
        draw.text((_EDGE + _INSIDE, y), number, _MARK, title)
        left = _EDGE + _INSIDE + 52
        width = _WIDTH - left - _EDGE - _INSIDE
        draw.text((left, y), _fitted(each.title, title, width), _LINK, title)
        draw.text((left, y + 29), _fitted(each.url, small, width), _MUTED, small)
        y += 66
    write_atomic(path, lambda file: sheet.save(file, "PNG"))
    return path


def _words(answer: Answer, most: int) -> Iterator[_Word]:
    if answer.outcome == "refused":
        said = "The index holds no answer to this."
        if answer.missing:
            said += f" Nothing that was found speaks of {', '.join(answer.missing)}."
        yield from map(_Word, said.split())
    for each in answer.sentences[:most]:
        yield from map(_Word, each.text.split())
        yield _Word("".join(f"[{n}]" for n in each.citations), raised=True)


def _lines(
    words: Iterator[_Word], body: ImageFont.FreeTypeFont, small: ImageFont.FreeTypeFont, width: int
) -> Iterator[list[tuple[float, _Word]]]:
    """Words by lines, each with its place from the left."""
    blank = body.getlength(" ")
    line: list[tuple[float, _Word]] = []
    x = 0.0
    for word in words:
        length = (small if word.raised else body).getlength(word.text)
        if word.raised:
            x -= blank - 3
        elif line and x + length > width:
            yield line
            line, x = [], 0.0
        line.append((x, word))
        x += length + blank
    if line:
        yield line


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of a text as a line takes."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    family = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return ImageFont.truetype(font_manager.findfont(family), size)
