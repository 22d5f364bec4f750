"""Figures, drawn with matplotlib in one look: quiet axes, the same fonts and colours everywhere."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from almanac.runtime.checkpoint import write_atomic
from almanac.runtime.pictures import enlarged

INK = "#1c1d22"
"""Colour of text and axes."""
MUTED = "#7a7d87"
"""Colour of remarks."""


def picture_table(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    headers: Sequence[tuple[str, int]],
    side: int = 96,
    gap: int = 6,
) -> Image.Image:
    """Rows of pictures with a label each, under headers that span columns.

    Args:
        rows: label and pictures of each row, all rows equally many.
        headers: text and number of columns of each header, from the left.
        side: side of a picture as shown, pixels.
        gap: white between pictures; twice as much between headers' groups.
    """
    font, small = _font(18), _font(16)
    label_width = max(int(font.getlength(label)) for label, _ in rows) + 24
    columns = len(rows[0][1])
    starts, breaks = [], []
    x, column = label_width, 0
    for text, span in headers:
        breaks.append((x, span * (side + gap) - gap, text))
        for _ in range(span):
            starts.append(x)
            x += side + gap
            column += 1
        x += 2 * gap
    head = 40
    sheet = Image.new("RGB", (x - 2 * gap + gap, head + len(rows) * (side + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for left, width, text in breaks:
        draw.text((left + width / 2, head / 2 - 2), text, fill=MUTED, font=small, anchor="mm")
        draw.line((left, head - 6, left + width, head - 6), fill=MUTED)
    for number, (label, pictures) in enumerate(rows):
        top = head + number * (side + gap)
        draw.text((12, top + side / 2), label, fill=INK, font=font, anchor="lm")
        for left, picture in zip(starts, pictures[:columns], strict=True):
            factor = max(1, side // max(picture.size))
            shown = enlarged(picture.convert("RGB"), factor)
            sheet.paste(
                shown if max(shown.size) == side else shown.resize((side, side), Image.Resampling.NEAREST), (left, top)
            )
    return sheet


def captioned(frames: Sequence[Image.Image], titles: Sequence[str], path: Path, columns: int = 4) -> Path:
    """Pictures with words below them.

    Args:
        frames: the pictures.
        titles: of each.
        path: a PNG to write.
        columns: pictures side by side, at most.
    """
    columns = min(columns, len(frames))
    lines = -(-len(frames) // columns)
    tall = 2.5 * max(frame.height / frame.width for frame in frames) + 0.5
    figure = Figure(figsize=(2.5 * columns, tall * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, frame, title in zip(axes.flat, frames, titles, strict=False):
        axis.imshow(frame, interpolation="nearest")
        axis.axis("on")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_xlabel("\n".join(textwrap.wrap(title, 36)), fontsize=8, color=INK)
    written = io.BytesIO()
    figure.savefig(written, dpi=130, format="png")
    write_atomic(path, lambda file: file.write(written.getbuffer()))
    return path


def save_png(picture: Image.Image, path: Path) -> Path:
    """Write a picture as PNG, atomically."""
    write_atomic(path, lambda file: picture.save(file, "PNG", optimize=True))
    return path


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
