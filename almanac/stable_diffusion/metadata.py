"""What a picture says of how it was made: the text that web UIs write into PNG files and read again (`parameters`), and all of our settings
(`almanac`), from which the same picture can be made."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError
from almanac.stable_diffusion.generate import Settings

_KEY = "almanac"
NAMES = {
    "ddim": "DDIM",
    "plms": "PLMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
}
"""Samplers, as web UIs call them."""


def save(picture: Image.Image, path: Path, settings: Settings, seed: int, model: str, **more: Any) -> None:
    """Write a PNG with what it says.

    Args:
        picture: the picture.
        path: ends in `.png`.
        settings: how it was made.
        seed: its own.
        model: what made it.
        more: further facts, as JSON has them.
    """
    facts = PngInfo()
    facts.add_itxt("parameters", parameters(settings, seed, model))
    facts.add_itxt(_KEY, json.dumps({"model": model, "seed": seed, "settings": asdict(settings), **more}))
    checkpoint.write_atomic(path, lambda file: picture.save(file, "PNG", pnginfo=facts))


def read(path: Path) -> tuple[Settings, dict[str, Any]]:
    """How a picture was made: its settings, and what else it says (`model`, `seed` …).

    Raises:
        UserError: it does not say, or can't be read.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            said = json.loads(picture.info[_KEY])  # pyright: ignore[reportAttributeAccessIssue]
        known = {each.name for each in fields(Settings)}
        return Settings(**{key: value for key, value in said.pop("settings").items() if key in known}), said
    except FileNotFoundError:
        raise UserError(f"there is no picture {path}", "check the path") from None
    except Exception:  # a stranger's file can hold anything
        raise UserError(f"{path} does not say how it was made", "give a PNG that `generate` wrote") from None


def parameters(settings: Settings, seed: int, model: str) -> str:
    """The text that web UIs show."""
    sampler = NAMES[settings.sampler] + (" Karras" if settings.karras else "")
    facts = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "CFG scale": f"{settings.scale:g}",
        "Seed": seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model": model,
    }
    lines = [settings.prompt, *([f"Negative prompt: {settings.negative}"] if settings.negative else [])]
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in facts.items())])
