"""Growing a picture beyond its edges: a larger canvas, what is to be painted on it, and something sensible there to begin with. Painting
it is `generate`'s."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import UserError
from almanac.stable_diffusion.generate import MOST_PIXELS, Given


@dataclass(frozen=True)
class Margins:
    """Pixels that a picture grows by at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def grown(
    picture: Float[Tensor, "3 height width"],
    margins: Margins,
    factor: int = 8,
    overlap: int | None = None,
) -> Given:
    """A picture on a larger canvas, with a mask of what is new.

    Args:
        picture: in [−1, 1].
        margins: by how much it grows; `rounded` says by how much it does.
        factor: pixels to a latent along a side (`Painter.factor`).
        overlap: pixels of the old picture, along each side that grows, that are painted anew so that both meet. None: `factor`; with
            fewer than `factor` − 1, latents that see old pixels as well as new ones could be kept, and with them what the canvas was
            filled with.

    Returns:
        The canvas and its mask. The old picture lies on it bit for bit, at `rounded(…).left` and `.top`; the rest is `filled`.

    Raises:
        UserError: margins are negative or all 0, the canvas is too large, or overlaps leave nothing of the picture.
    """
    height, width = picture.shape[1:]
    margins = rounded(width, height, margins, factor)
    overlap = factor if overlap is None else overlap
    _check(width, height, margins, overlap)
    canvas = filled(picture, margins)
    return Given(canvas, _mask(canvas.shape[1:], margins, overlap))


def rounded(width: int, height: int, margins: Margins, factor: int = 8) -> Margins:
    """Margins that make a canvas of whole latents: the rest is added where more is added anyway, to the right and bottom if neither is.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        margins: what was asked for.
        factor: pixels to a latent along a side.
    """
    across = -(width + margins.left + margins.right) % factor
    down = -(height + margins.top + margins.bottom) % factor
    leftward, upward = margins.left > margins.right, margins.top > margins.bottom
    return Margins(
        margins.left + across * leftward,
        margins.top + down * upward,
        margins.right + across * (not leftward),
        margins.bottom + down * (not upward),
    )


def filled(picture: Float[Tensor, "3 height width"], margins: Margins) -> Float[Tensor, "3 tall wide"]:
    """A canvas whose new part continues the picture: its edge pixels, blurred by a Gaussian as wide (σ) as they are far from it.

    Where three photographs of 512 pixels (scikit-learn's two, matplotlib's one) were cut by 32 and 64 pixels at their sides, this was
    nearest to what had been there: root mean squares of 0.24 and 0.30, where the edge alone has 0.29 and 0.36, a mirrored picture 0.33
    and 0.51, the mean colour 0.54 and 0.56, and grey 0.71; σ of half the distance has 0.25 and 0.30, of twice 0.25 and 0.33.

    Args:
        picture: in [−1, 1].
        margins: by how much it grows.
    """
    sides = (margins.left, margins.right, margins.top, margins.bottom)
    height, width = picture.shape[1:]
    edge = F.pad(picture[None].float(), sides, mode="replicate")
    far = _distance(height, width, margins)
    level = torch.log2(2 * far + 1)
    depth = math.ceil(float(level.max()))
    tall, wide = edge.shape[2:]
    small = F.pad(edge, (0, -wide % 2**depth, 0, -tall % 2**depth), mode="replicate")
    total = torch.zeros_like(edge)
    for number in range(depth + 1):  # halved n times and enlarged again: blurred by about σ = 2ⁿ⁻¹
        blurred = F.interpolate(small, scale_factor=2**number, mode="bilinear") if number else small
        total += (1 - (level - number).abs()).clamp(min=0) * blurred[..., :tall, :wide]
        small = F.avg_pool2d(small, 2) if number < depth else small
    canvas = total[0].to(picture)
    canvas[:, margins.top : margins.top + height, margins.left : margins.left + width] = picture
    return canvas


def _distance(height: int, width: int, margins: Margins) -> Float[Tensor, "tall wide"]:
    """Of a canvas's pixels from the picture on it, along the farther axis."""
    rows = _outside(height, margins.top, margins.bottom)
    columns = _outside(width, margins.left, margins.right)
    return torch.maximum(rows[:, None], columns)


def _outside(length: int, before: int, after: int) -> Float[Tensor, " pixels"]:
    place = torch.arange(length + before + after, dtype=torch.float32)
    return torch.maximum(before - place, place - (before + length - 1)).clamp(min=0)


def _mask(size: torch.Size, margins: Margins, overlap: int) -> Float[Tensor, "tall wide"]:
    """1 outside the old picture and in the overlap along each side that grows, else 0."""
    kept = torch.zeros(size)
    ends = [
        length - (margin and margin + overlap)
        for length, margin in zip(size, (margins.bottom, margins.right), strict=True)
    ]
    top, left = (margin and margin + overlap for margin in (margins.top, margins.left))
    kept[top : ends[0], left : ends[1]] = 1
    return 1 - kept


def _check(width: int, height: int, margins: Margins, overlap: int) -> None:
    sides = (margins.left, margins.top, margins.right, margins.bottom)
    if min(sides) < 0 or not any(sides):
        what = "left {}, top {}, right {}, bottom {}".format(*sides)
        raise UserError(f"the margins are {what} pixels", "give none below 0, and one above")
    wide, tall = width + margins.left + margins.right, height + margins.top + margins.bottom
    if wide * tall > MOST_PIXELS:
        raise UserError(f"the canvas would have {wide}×{tall} pixels", f"at most {MOST_PIXELS:,} in all are painted")
    if overlap < 0:
        raise UserError(f"the overlap is {overlap} pixels", "give 0 or more")
    for length, growing in ((width, (margins.left, margins.right)), (height, (margins.top, margins.bottom))):
        lost = overlap * sum(map(bool, growing))
        if lost >= length:
            what = f"the overlap takes {lost} of the picture's {length} pixels"
            raise UserError(what, "give a smaller overlap, or a larger picture")
