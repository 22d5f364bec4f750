"""Degrading: a picture of any size, with a note in its PNG of what was done so that `restore` can invert just that; and a whole set
of images, measured against the clean ones as in the first columns of the paper's tables."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from almanac.cold_diffusion import data
from almanac.cold_diffusion.degradations import Degradation, Images, State, from_json, to_json
from almanac.runtime import checkpoint, metrics, pictures
from almanac.runtime.errors import UserError

_NOTE = "almanac:cold-diffusion"

Fit = Literal["auto", "tile", "resize"]
"""How a picture meets a network for small images, see `working_size`."""


@dataclass(frozen=True)
class Note:
    """What was done to a picture."""

    degradation: Degradation
    """The degradation."""
    t: int
    """Its severity, 0 … steps."""
    seed: int
    """Seed of the sample's state."""
    size: tuple[int, int]
    """Height and width at which it was degraded, pixels; the file may be an enlargement of that."""


def degrade_picture(
    degradation: Degradation, picture: Float[Tensor, "channels height width"], t: int, generator: torch.Generator
) -> tuple[Float[Tensor, "channels height width"], State]:
    """Degrade a picture of any size.

    Args:
        degradation: what is done to it.
        picture: in [−1, 1].
        t: severity, 0 … steps.
        generator: of the picture's state.

    Returns:
        The degraded picture, and the state (for a batch of one).
    """
    batch = picture[None]
    state = degradation.draw(batch, generator)
    return degradation(batch, torch.tensor([t]), state)[0], state


def degrade_file(
    source: Path, target: Path, degradation: Degradation, t: int, seed: int, fit: Fit = "auto", side: int = 32
) -> Path:
    """Degrade a picture in a file; a PNG gets a note along.

    Args:
        source: the picture.
        target: where the degraded one goes.
        degradation: what is done to it.
        t: severity, 0 … steps.
        seed: of the picture's state.
        fit: see `working_size`.
        side: the network's side, pixels.
    """
    picture = pictures.read_picture(source)
    size = working_size(picture.height, picture.width, side, fit)
    image = resized(pictures.to_tensor(picture, 1 if picture.mode == "L" else 3), size)
    degraded, _ = degrade_picture(degradation, image, t, torch.Generator().manual_seed(seed))
    save_picture(pictures.to_picture(degraded), target, Note(degradation, t, seed, size))
    return target


def working_size(height: int, width: int, side: int, fit: Fit) -> tuple[int, int]:
    """The size at which a picture is degraded and restored by a network for images of side × side pixels.

    Args:
        height: of the picture.
        width: of the picture.
        side: the network's side.
        fit: `resize`: the network's size; `tile`: the picture's own; `auto`: the network's up to twice that, else the picture's.
    """
    resize = fit == "resize" or (fit == "auto" and max(height, width) <= 2 * side)
    return (side, side) if resize else (height, width)


def state_of(note: Note, channels: int) -> State:
    """The state that degraded a picture, drawn again from the note's seed."""
    shape = torch.zeros(1, channels, *note.size)
    return note.degradation.draw(shape, torch.Generator().manual_seed(note.seed))


def step_of(degradation: Degradation, severity: float) -> int:
    """The step t of a severity from 0 (clean) to 1 (full).

    Raises:
        UserError: it is outside.
    """
    if not 0 <= severity <= 1:
        raise UserError(f"severity {severity} is outside 0 … 1", "0 leaves the picture as it is, 1 degrades it fully")
    return round(severity * degradation.steps)


def degrade_set(
    degradation: Degradation, images: data.ImageSet, seed: int, limit: int | None = None
) -> tuple[Images, Images, State]:
    """Degrade a set of images fully.

    Args:
        degradation: what is done to them.
        images: the set.
        seed: of the samples' states.
        limit: take only so many images; None: all.

    Returns:
        The clean images, the degraded ones, and their states.
    """
    clean = images.batch(slice(None, limit))
    state = degradation.draw(clean, torch.Generator().manual_seed(seed))
    parts = [
        degradation(
            clean[start : start + 500],
            torch.full((len(clean[start : start + 500]),), degradation.steps),
            cut(state, start, 500),
        )
        for start in range(0, len(clean), 500)
    ]
    return clean, torch.cat(parts), state


def cut(state: State, start: int, count: int) -> State:
    """The state of `count` samples from `start`."""
    return {key: value[start : start + count] for key, value in state.items()}


def measure(images: Images, clean: Images) -> dict[str, float]:
    """RMSE and SSIM on the scale [0, 1], not clipped, as the paper measures."""
    ours, truth = (images + 1) / 2, (clean + 1) / 2
    return {"rmse": round(metrics.rmse(ours, truth), 5), "ssim": round(metrics.ssim(ours, truth), 5)}


def save_picture(picture: Image.Image, path: Path, note: Note | None = None) -> None:
    """Write a picture by its suffix; a PNG takes a note along.

    Raises:
        UserError: the suffix is of no kind we write, or the file can't be written.
    """
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"pictures are not written as '{path.suffix or path.name}'", f"end --out in {', '.join(kinds)}")
    options: dict[str, Any] = {"quality": 95} if kind != "PNG" else {}
    if note is not None and kind == "PNG":
        info = PngInfo()
        kept = {"degradation": to_json(note.degradation), "t": note.t, "seed": note.seed, "size": list(note.size)}
        info.add_text(_NOTE, json.dumps(kept))
        options["pnginfo"] = info
    checkpoint.write_atomic(path, lambda file: picture.save(file, kind, **options))


def read_note(path: Path, trusted: str | None = None) -> Note | None:
    """What a PNG says was done to it; None if it says nothing.

    Args:
        path: a picture.
        trusted: the person's own `module:Class`, see `degradations.from_json`.

    Raises:
        UserError: it says something that makes no sense, or names a degradation that is not known.
    """
    with Image.open(path) as picture:
        text = getattr(picture, "text", {}).get(_NOTE)
    if text is None:
        return None
    try:
        kept = json.loads(text)
        height, width = map(int, kept["size"])
        return Note(from_json(kept["degradation"], trusted), int(kept["t"]), int(kept["seed"]), (height, width))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the note in {path} is damaged ({error})", "give --degradation instead") from None


def resized(picture: Float[Tensor, "channels h w"], size: tuple[int, int]) -> Float[Tensor, "channels height width"]:
    """A picture at another size, bilinear and antialiased, within [−1, 1]."""
    if tuple(picture.shape[1:]) == size:
        return picture
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
