"""Pictures of a city from many places, in files, and how near they come to photos from there."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from almanac.block_nerf.captures.capture import Capture
from almanac.block_nerf.city import City
from almanac.block_nerf.render import Appearance, Method, view
from almanac.runtime import checkpoint, console, metrics, pictures
from almanac.runtime.errors import UserError


def rendered(
    city: City,
    capture: Capture,
    out: Path,
    *,
    session: int | None = None,
    exposure: float | None = None,
    method: Method = "idw",
    every: int = 1,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """A picture for each place of a capture that is to test with, or for all where none is.

    Args:
        city: which.
        capture: the places; its photos need not be there.
        out: folder of the pictures.
        session: whose light they have; None: each place's own.
        exposure: in the capture's unit; None: each place's own.
        method: of mixing blocks.
        every: only one place in so many.
        size: width and height; None: the photos'.

    Returns:
        `views`; `psnr` and `ssim`, means over those with a photo of the same size, or None; `frames`, each with its own.

    Raises:
        UserError: there is no place.
    """
    if capture.tested.any():
        capture = capture.of(capture.tested)
    capture = capture.of(np.arange(0, len(capture), every))
    if not len(capture):
        raise UserError("there is no place to look from", "give a transforms.json with frames")
    rows = []
    with console.progress("rendering", len(capture), "pictures") as advance:
        for number in range(len(capture)):
            camera = capture.cameras[capture.camera[number]]
            camera = camera.scaled(*size) if size else camera
            known = exposure if exposure is not None else capture.exposures[number]
            share = float(known) / city.about.exposure if np.isfinite(known) else 1.0
            light = int(session if session is not None else min(capture.sessions[number], city.about.sessions - 1))
            picture = view(city, camera, capture.poses[number], Appearance(light, share), method)
            pixels = np.round(picture.colours * 255).astype(np.uint8)
            name = Path(capture.images[number]).with_suffix(".png").name
            out.mkdir(parents=True, exist_ok=True)
            checkpoint.write_atomic(out / name, lambda file, pixels=pixels: Image.fromarray(pixels).save(file, "PNG"))
            row = {"file": name, "blocks": [part.place.name for part in picture.parts if part.kept]}
            rows.append({**row, **_compared(pixels, capture, number)})
            advance(1)
    known_rows = [row for row in rows if "psnr" in row]
    found = {
        name: float(np.mean([row[name] for row in known_rows])) if known_rows else None for name in ("psnr", "ssim")
    }
    return {"out": str(out), "views": len(rows), **found, "frames": rows}


def _compared(pixels: np.ndarray, capture: Capture, number: int) -> dict[str, float]:
    path = capture.folder / capture.images[number]
    if not path.is_file():
        return {}
    photo = np.asarray(pictures.read_picture(path).convert("RGB"))
    if photo.shape != pixels.shape:
        return {}
    return {name: round(value, 4) for name, value in compared(pixels / 255, photo / 255).items()}


def compared(picture: np.ndarray, photo: np.ndarray, counts: np.ndarray | None = None) -> dict[str, float]:
    """PSNR and SSIM of a picture.

    Args:
        picture: [height, width, 3], from 0 to 1.
        photo: likewise.
        counts: pixels that count for PSNR; None: all.
    """
    errors = (picture - photo) ** 2
    error = float(errors.mean() if counts is None else errors[counts].mean())
    one, other = (
        torch.from_numpy(np.ascontiguousarray(each.transpose(2, 0, 1), np.float32))[None] for each in (picture, photo)
    )
    return {"psnr": float(-10 * np.log10(max(error, 1e-10))), "ssim": metrics.ssim(one, other)}
