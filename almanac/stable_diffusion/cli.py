"""`almanac stable-diffusion VERB`: parse, call, print."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError

Sampler = Literal[
    "ddim",
    "plms",
    "euler",
    "euler_a",
    "heun",
    "lms",
    "dpm2",
    "dpm2_a",
    "dpmpp_2s_a",
    "dpmpp_2m",
    "dpmpp_sde",
    "dpmpp_2m_sde",
]
Count = Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])]


def generate(
    prompt: tyro.conf.Positional[str] = "",
    *,
    model: str,
    negative_prompt: str = "",
    count: Count = 1,
    seed: int | None = None,
    steps: int = 20,
    scale: float = 7.5,
    sampler: Sampler = "dpmpp_2m",
    schedule: Literal["auto", "karras", "linear"] = "auto",
    eta: float | None = None,
    size: str | None = None,
    init_image: Path | None = None,
    mask: Path | None = None,
    strength: float = 0.75,
    like: Path | None = None,
    lora: tuple[str, ...] = (),
    embedding: tuple[Path, ...] = (),
    latents_in: Path | None = None,
    latents_out: Path | None = None,
    tiled: bool = False,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    device: str = "auto",
    out: Path = Path("out/stable_diffusion"),
    resume: bool = False,
    json: bool = False,
) -> None:
    """Paint pictures of a prompt; of a picture and a prompt with --init-image; into the white parts of --mask.

    A picture notes how it was made: `--like PICTURE.png` makes it again. A run that was interrupted goes on with --resume, to the same
    pictures.

    Args:
        prompt: what to paint. (this:1.3) counts more, [this] less; [this:that:0.5] changes on the way, [this|that] at each step.
        model: an official .safetensors or .ckpt file, a folder of diffusers', or hf://owner/repo.
        negative_prompt: what not to paint.
        count: pictures.
        seed: of the first; the next have the next ones. None: drawn by chance.
        steps: of the sampler; more are slower and often better, up to about 30.
        scale: how closely the prompt is followed; 1: as in training.
        sampler: how noise becomes a picture.
        schedule: of noise; auto: Karras' for the DPM++ samplers.
        eta: share of fresh noise at each step; default: as usual for the sampler.
        size: WIDTHxHEIGHT, pixels, multiples of 8; default: of the picture that is given, or what the model was trained on.
        init_image: a picture to begin with.
        mask: white where it is to be painted anew; other pixels stay as they are, bit for bit.
        strength: how much of it changes, 0 to 1.
        like: a PNG that this wrote: its prompt and settings are taken.
        lora: files that change the model, each with how much behind a colon: style.safetensors:0.6.
        embedding: files that teach words (textual inversion).
        latents_in: a .npy file of noise to begin with, [count, 4, height / 8, width / 8].
        latents_out: a .npy file for the last latents.
        tiled: decode in tiles: large pictures in little memory.
        precision: of weights: fp32, bf16 or fp16; auto: bf16 where it is fast.
        device: auto, cpu or cuda.
        out: a folder for the pictures.
        resume: go on with what was interrupted in OUT.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import generate_file
    from almanac.stable_diffusion.generate import Settings

    settings = Settings(prompt, negative_prompt, 0, 0, steps, scale, sampler, schedule, eta, strength)
    if like is not None:
        from almanac.stable_diffusion import metadata

        settings, facts = metadata.read(like)
        seed = facts.get("seed") if seed is None else seed
    if size is not None:
        settings = replace(settings, **dict(zip(("width", "height"), _size(size), strict=True)))
    found = generate_file.generate(
        settings,
        generate_file.Files(out, init_image, mask, latents_in, latents_out, lora, embedding),
        model,
        count,
        seed,
        tiled,
        precision,
        device,
        resume,
    )
    console.result(found, json, "\n".join(each["file"] for each in found["images"]))


def inspect(checkpoint: tyro.conf.Positional[str], *, json: bool = False) -> None:
    """Say what a checkpoint is and whether it is whole: layout, parameters, what is missing, and what nobody knows.

    Args:
        checkpoint: an official .safetensors or .ckpt file, a folder of diffusers', or hf://owner/repo.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import models, published

    found = published.read(models.path_of(checkpoint))
    parts = {"unet": published.UNET, "autoencoder": published.AUTOENCODER, "text_encoder": published.TEXT}
    parameters = {
        part: sum(tensor.numel() for name, tensor in found.tensors.items() if name.startswith(beginning))
        for part, beginning in parts.items()
    }
    facts = {
        "layout": found.layout,
        "parameters": parameters,
        "averaged": found.averaged,
        "channels": found.config.unet.in_channels,
        "missing": list(found.missing),
        "unexpected": list(found.unexpected),
        "mismatched": list(found.mismatched),
        "not_finite": [name for name, tensor in found.tensors.items() if not tensor.isfinite().all()],
    }
    lines = [f"{key}: {_brief(value)}" for key, value in facts.items()]
    console.result(facts, json, "\n".join(lines))


def convert(
    checkpoint: tyro.conf.Positional[str],
    *,
    out: Path,
    precision: Literal["fp16", "bf16", "fp32"] = "fp16",
    json: bool = False,
) -> None:
    """Write a checkpoint in another layout: one official file if OUT ends in .safetensors, else a folder of diffusers'.

    Args:
        checkpoint: an official .safetensors or .ckpt file, a folder of diffusers', or hf://owner/repo.
        out: a .safetensors file, or a folder.
        precision: of the weights that are written.
        json: print one JSON object.
    """
    import torch

    from almanac.stable_diffusion import models, published

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    model = published.load(models.path_of(checkpoint), kind)
    if out.suffix == ".safetensors":
        published.save(model, out, kind)
    else:
        published.save_folder(model, out, kind)
    console.result({"out": str(out)}, json, str(out))


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise UserError(f"the size '{text}' is not WIDTHxHEIGHT", "give it as 512x512")
    return int(parts[0]), int(parts[1])


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each:,}" for key, each in value.items())
    if isinstance(value, list):
        more = f" and {len(value) - 3:,} more" if len(value) > 3 else ""
        return (", ".join(value[:3]) + more) or "none"
    return str(value)


COMMANDS: dict[str, Callable[..., None]] = {"generate": generate, "inspect": inspect, "convert": convert}
