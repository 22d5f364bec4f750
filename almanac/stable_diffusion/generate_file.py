"""Pictures from files to files: what `generate` does for the command line, with progress, and a job that goes on after an interruption."""

import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from almanac.runtime import checkpoint, console, pictures
from almanac.runtime import device as devices
from almanac.runtime.errors import UserError
from almanac.stable_diffusion import metadata, models, outpaint, safety, upscale
from almanac.stable_diffusion.generate import Given, Job, Painter, Settings, State
from almanac.stable_diffusion.outpaint import Margins

_JOB = "job.pt"
"""In the folder of the pictures: what an interrupted run had done."""


@dataclass(frozen=True)
class Files:
    """What is read and written."""

    out: Path
    """A folder for the pictures."""
    picture: Path | None = None
    """To begin with."""
    mask: Path | None = None
    """White where it is painted anew."""
    margins: Margins | None = None
    """By which the picture grows."""
    latents_in: Path | None = None
    latents_out: Path | None = None
    loras: tuple[str, ...] = ()
    embeddings: tuple[Path, ...] = ()


def generate(
    settings: Settings,
    scale: float | None,
    files: Files,
    model: str,
    count: int,
    seed: int | None,
    tiled: bool,
    compiled: bool,
    precision: str,
    device: str,
    resume: bool,
    checked: bool = True,
) -> dict[str, Any]:
    """Paint pictures into a folder.

    Args:
        settings: how, but for the scale; a size of 0 is the given picture's, or the model's.
        scale: how closely the prompt is followed; None: as suits the model.
        files: what is read and written.
        model: its name.
        count: pictures.
        seed: of the first; None: drawn by chance.
        tiled: whether pictures are decoded in tiles.
        compiled: whether the U-Net is compiled first.
        precision: of weights.
        device: where.
        resume: whether to go on with what was interrupted.
        checked: whether the safety checker that was published with a model hides what it flags.

    Returns:
        `{"images": [{"file", "seed"}], "seconds"}`; an image that was hidden says why as `flagged`.

    Raises:
        UserError: something is missing, damaged, out of range, or does not fit.
    """
    if not 1 <= count <= 64:
        raise UserError(f"{count} pictures are asked for", "give -n from 1 to 64")
    if seed is not None and not 0 <= seed < 2**63:
        raise UserError(f"the seed is {seed}", "give a number from 0 to 2⁶³ − 1")
    loaded = models.load(model, precision, device)
    painter = models.painter(loaded, files.loras, files.embeddings, tiled, compiled)
    settings, given = _given(settings, files, painter, loaded.size)
    settings = replace(settings, scale=loaded.guidance if scale is None else scale)
    saved = checkpoint.load_state(files.out / _JOB) if resume else None
    first = secrets.randbelow(2**32) if seed is None else seed
    if saved is not None:
        if saved["settings"] != asdict(settings) or saved["count"] != count or seed not in (None, saved["seed"]):
            raise UserError(
                f"what was interrupted in {files.out} is another run", "give the same options, or leave --resume out"
            )
        first = saved["seed"]
    seeds = [first + number for number in range(count)]
    state = None if saved is None else State(**saved["state"])
    began = time.monotonic()
    job = painter.job(settings, seeds, given, _latents(files.latents_in), state)
    try:
        with console.progress("painting", job.steps, "steps", job.number) as advance:
            while not job.done:
                job.advance()
                advance()
        painted = job.pictures()
    except KeyboardInterrupt:
        _save(job, files.out, first, count)
        raise
    if files.latents_out is not None:
        kept = job.latents().cpu().numpy()
        checkpoint.write_atomic(files.latents_out, lambda file: np.save(file, kept))
    more = {"loras": list(files.loras)} if files.loras else {}
    images = []
    flags = loaded.checker.flagged(painted) if checked and loaded.checker else [None] * count
    for picture, own, flag in zip(painted, seeds, flags, strict=True):
        path = _free(files.out, own)
        shown = picture if flag is None else safety.hidden(picture)
        metadata.save(pictures.to_picture(shown), path, settings, own, loaded.name, **more)
        images.append({"file": str(path), "seed": own} | ({} if flag is None else {"flagged": str(flag)}))
    (files.out / _JOB).unlink(missing_ok=True)
    return {"images": images, "seconds": round(time.monotonic() - began, 2)}


def enlarge(
    picture: Path,
    out: Path,
    upscaler: Path | None,
    model: str,
    settings: Settings,
    scale: float,
    seed: int,
    precision: str,
    device: str,
) -> dict[str, Any]:
    """Enlarge a picture in a file.

    Args:
        picture: the file.
        out: a PNG to write.
        upscaler: weights of the ESRGAN family; None: it is resized, and painted over.
        model: what paints over it.
        settings: how that is done.
        scale: how many times as wide and high it becomes, where it is painted over.
        seed: of its noise.
        precision: of weights.
        device: where.

    Returns:
        `{"file", "width", "height", "seconds"}`.

    Raises:
        UserError: something is missing, damaged or out of range.
    """
    began = time.monotonic()
    shown = pictures.to_tensor(pictures.read_picture(picture).convert("RGB"), 3)
    if upscaler is not None:
        network = upscale.load(upscaler).to(devices.resolve(device))
        with console.progress("enlarging", 1, "pictures") as advance:
            made = network.enlarge(shown[None])[0].cpu()
            advance()
    else:
        painter = models.painter(models.load(model, precision, device))
        made = upscale.latent(painter, shown, scale, settings, seed)
    enlarged = pictures.to_picture(made)
    checkpoint.write_atomic(out, lambda file: enlarged.save(file, "PNG"))
    seconds = round(time.monotonic() - began, 2)
    return {"file": str(out), "width": enlarged.width, "height": enlarged.height, "seconds": seconds}


def _given(settings: Settings, files: Files, painter: Painter, size: int) -> tuple[Settings, Given | None]:
    """What is painted upon, and settings with a size."""
    factor = painter.factor
    if files.picture is None:
        if files.mask is not None or files.margins is not None:
            what = "a mask is" if files.mask is not None else "margins are"
            raise UserError(f"{what} given without a picture", "give --init-image too")
        return replace(settings, width=settings.width or size, height=settings.height or size), None
    picture = pictures.read_picture(files.picture).convert("RGB")
    if files.margins is not None:
        if files.mask is not None or settings.width:
            raise UserError("margins are given with a mask or a size", "grow the picture first, then change it")
        given = outpaint.grown(pictures.to_tensor(picture, 3), files.margins, factor)
        height, width = given.picture.shape[1:]
        return replace(settings, width=width, height=height), given
    width, height = (
        asked or max(own // factor, 1) * factor
        for asked, own in zip((settings.width, settings.height), picture.size, strict=True)
    )
    mask = None
    if files.mask is not None:
        shown = pictures.read_picture(files.mask).convert("L")
        if shown.size != picture.size:
            what = f"the mask has {shown.width}×{shown.height} pixels, and the picture {picture.width}×{picture.height}"
            raise UserError(what, "make them of one size")
        shown = shown.resize((width, height), Image.Resampling.NEAREST)
        mask = (torch.from_numpy(np.array(shown)) > 127).float()
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return replace(settings, width=width, height=height), Given(pictures.to_tensor(picture, 3), mask)


def _latents(path: Path | None) -> Tensor | None:
    if path is None:
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", "check --latents-in") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a readable .npy file ({error})", "write it with numpy.save") from None
    if not isinstance(found, np.ndarray) or found.ndim != 4 or found.dtype.kind != "f":
        raise UserError(f"{path} does not hold latents", "give floats of [count, channels, height, width]")
    return torch.from_numpy(found.astype(np.float32))


def _save(job: Job, out: Path, seed: int, count: int) -> None:
    state = job.state()
    parts = {name: getattr(state, name) for name in ("x", "number", "memory", "generators")}
    saved = {"settings": asdict(job.asked), "seed": seed, "count": count, "state": parts}
    checkpoint.save_state(out / _JOB, saved)


def _free(out: Path, seed: int) -> Path:
    """A name that no other picture has."""
    path, other = out / f"{seed}.png", 1
    while path.exists():
        other += 1
        path = out / f"{seed}-{other}.png"
    return path
