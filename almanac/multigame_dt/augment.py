"""What a training does to its frames (paper, appendix B.5): each window is moved by up to 4 pixels, with black coming in at the edges, and
turned by up to 5°, the same for all of its frames, so that a small set of play does not become a set of pictures to remember."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

CROP = 4  # pixels
TURN = 5.0  # degrees


def augmented(
    frames: UInt8[Tensor, "batch seen 84 84"], generator: torch.Generator, crop: int = CROP, turn: float = TURN
) -> UInt8[Tensor, "batch seen 84 84"]:
    """Move and turn windows, each by its own amount.

    Args:
        frames: windows.
        generator: what the amounts are drawn from, on the CPU.
        crop: pixels that a window is moved by at most, up or down and left or right.
        turn: degrees that it is turned by at most.
    """
    count = len(frames)
    moves = torch.randint(-crop, crop + 1, (count, 2), generator=generator)
    angles = (2 * torch.rand(count, generator=generator) - 1) * turn
    return moved(frames, moves.to(frames.device), angles.to(frames.device) * (math.pi / 180))


def moved(
    frames: UInt8[Tensor, "batch seen height width"],
    moves: Int[Tensor, "batch 2"],
    angles: Float[Tensor, " batch"],
) -> UInt8[Tensor, "batch seen height width"]:
    """Windows moved by whole pixels, then turned about their middle; between pixels, what is linearly between them.

    Args:
        frames: windows.
        moves: pixels to the right and downwards.
        angles: anticlockwise, in radians.
    """
    height, width = frames.shape[2:]
    x = torch.arange(width, device=frames.device) - (width - 1) / 2  # from the middle
    y = torch.arange(height, device=frames.device)[:, None] - (height - 1) / 2
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    from_x = (cosine * x - sine * y - moves[:, 0, None, None]) * (2 / width)
    from_y = (sine * x + cosine * y - moves[:, 1, None, None]) * (2 / height)
    grid = torch.stack([from_x, from_y], 3)
    return F.grid_sample(frames.float(), grid, align_corners=False).round_().to(torch.uint8)
