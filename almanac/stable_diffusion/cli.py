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
Preset = Literal["cpu", "gpu", "paper"]
Count = Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])]


def generate(
    prompt: tyro.conf.Positional[str] = "",
    *,
    model: str = "scenes",
    negative_prompt: str = "",
    count: Count = 1,
    seed: int | None = None,
    steps: int = 20,
    scale: float | None = None,
    sampler: Sampler = "dpmpp_2m",
    schedule: Literal["auto", "karras", "linear"] = "auto",
    eta: float | None = None,
    size: str | None = None,
    init_image: Path | None = None,
    mask: Path | None = None,
    outpaint: str | None = None,
    strength: float = 0.75,
    like: Path | None = None,
    lora: tuple[str, ...] = (),
    embedding: tuple[Path, ...] = (),
    latents_in: Path | None = None,
    latents_out: Path | None = None,
    tiled: bool = False,
    compile: bool = False,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    device: str = "auto",
    out: Path = Path("out/stable_diffusion"),
    resume: bool = False,
    safety: Literal["auto", "off"] = "auto",
    json: bool = False,
) -> None:
    """Paint pictures of a prompt; of a picture and a prompt with --init-image; into the white parts of --mask.

    A picture notes how it was made: `--like PICTURE.png` makes it again. A run that was interrupted goes on with --resume, to the same
    pictures.

    Args:
        prompt: what to paint. (this:1.3) counts more, [this] less; [this:that:0.5] changes on the way, [this|that] at each step.
        model: scenes or emoji (shipped: digits with colours and places, or emoji by their names), an official .safetensors or .ckpt file,
            what `train` wrote, a folder of diffusers', or hf://owner/repo.
        negative_prompt: what not to paint.
        count: pictures.
        seed: of the first; the next have the next ones. None: drawn by chance.
        steps: of the sampler; more are slower and often better, up to about 30.
        scale: how closely the prompt is followed; 1: as in training; default: what suits the model, 7.5 for published ones.
        sampler: how noise becomes a picture.
        schedule: of noise; auto: Karras' for the DPM++ samplers.
        eta: share of fresh noise at each step; default: as usual for the sampler.
        size: WIDTHxHEIGHT, pixels, multiples of 8; default: of the picture that is given, or what the model was trained on.
        init_image: a picture to begin with.
        mask: white where it is to be painted anew; other pixels stay as they are, bit for bit.
        outpaint: LEFT,TOP,RIGHT,BOTTOM: pixels by which the picture is grown, and painted on.
        strength: how much of it changes, 0 to 1.
        like: a PNG that this wrote: its prompt and settings are taken.
        lora: files that change the model, each with how much behind a colon: style.safetensors:0.6.
        embedding: files that teach words (textual inversion).
        latents_in: a .npy file of noise to begin with, [count, 4, height / 8, width / 8].
        latents_out: a .npy file for the last latents.
        tiled: decode in tiles: large pictures in little memory.
        compile: compile the U-Net first (a minute or more), for many pictures on a GPU.
        precision: of weights: fp32, bf16 or fp16; auto: bf16 where it is fast.
        device: auto, cpu or cuda.
        out: a folder for the pictures.
        resume: go on with what was interrupted in OUT.
        safety: auto: the checker that was published with a model hides what it flags; off: it is not asked.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import generate_file
    from almanac.stable_diffusion.generate import Settings

    settings = Settings(prompt, negative_prompt, 0, 0, steps, 0.0, sampler, schedule, eta, strength)
    if like is not None:
        from almanac.stable_diffusion import metadata

        settings, facts = metadata.read(like)
        seed, scale = facts.get("seed") if seed is None else seed, settings.scale
    if size is not None:
        settings = replace(settings, **dict(zip(("width", "height"), _size(size), strict=True)))
    found = generate_file.generate(
        settings,
        scale,
        generate_file.Files(out, init_image, mask, _margins(outpaint), latents_in, latents_out, lora, embedding),
        model,
        count,
        seed,
        tiled,
        compile,
        precision,
        device,
        resume,
        safety == "auto",
    )
    console.result(found, json, "\n".join(each["file"] for each in found["images"]))


def upscale(
    image: tyro.conf.Positional[Path],
    *,
    out: Path,
    upscaler: Path | None = None,
    model: str = "scenes",
    prompt: str = "",
    scale: float = 2.0,
    strength: float = 0.25,
    steps: int = 20,
    seed: int = 0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    device: str = "auto",
    json: bool = False,
) -> None:
    """Enlarge a picture: by an upscaler's weights, or without any by painting over it at low strength.

    Args:
        image: a PNG, JPEG or WebP file.
        out: a PNG to write.
        upscaler: weights of the ESRGAN family (.pth or .safetensors), which say by how much they enlarge.
        model: without --upscaler: what paints over the resized picture.
        prompt: what the picture shows.
        scale: without --upscaler: how many times as wide and high.
        strength: without --upscaler: how much changes, 0 to 1.
        steps: of the sampler.
        seed: of the noise.
        precision: of weights.
        device: auto, cpu or cuda.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import generate_file
    from almanac.stable_diffusion.generate import Settings

    settings = Settings(prompt, steps=steps, strength=strength)
    found = generate_file.enlarge(image, out, upscaler, model, settings, scale, seed, precision, device)
    console.result(found, json, found["file"])


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


def train_vae(
    *,
    start: str | None = None,
    data: str = "scenes",
    preset: Preset = "cpu",
    out: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    cluster: str | None = None,
    workers: int = 2,
    json: bool = False,
) -> None:
    """Train an autoencoder from scratch, the first part of a model, or with --start a model's decoder further. Writes
    OUT/model.safetensors, which `train` takes as --vae.

    A run that is stopped (Ctrl-C, SIGTERM, kill -9) goes on with --resume.

    Args:
        start: an autoencoder, or a whole model that `train` wrote or that ships: its decoder alone goes on learning, and what is written is
            the same model with a better decoder.
        data: scenes (digits with colours and places), emoji, or a folder of captioned pictures: metadata.jsonl with file_name and text,
            a .txt beside each picture, or webdataset's .tar.
        preset: size of machine: cpu (two cores, an hour; or a GPU, with a larger --batch-size), gpu (one large GPU, minutes), paper (the
            published sizes).
        out: the run's folder; default: runs/DATA-vae.
        steps: optimiser steps, instead of the preset's.
        batch_size: pictures a batch, instead of the preset's.
        resume: go on with the run in --out.
        seed: of weights, order and noise.
        device: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local to start one here; then --workers processes train together.
        workers: processes on the cluster.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import models
    from almanac.stable_diffusion import train as recipe

    chosen = recipe.with_overrides(recipe.PRESETS[preset], steps=steps, batch_size=batch_size, part="autoencoder")
    folder = (out or Path("runs") / f"{Path(data).name}-vae").absolute()
    begun = None if start is None else models.path_of(start).absolute()

    def run() -> dict[str, Any]:
        how = {"seed": seed, "device_name": device, "resume": resume}
        return recipe.train_autoencoder(data, folder, chosen, start=begun, **how)

    _trained(_together(run, cluster, workers, device), folder, ("steps", "l1", "seconds", "images_per_second"), json)


def train(
    *,
    vae: str | None = None,
    start: str | None = None,
    data: str = "scenes",
    preset: Preset = "cpu",
    out: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    cluster: str | None = None,
    workers: int = 2,
    json: bool = False,
) -> None:
    """Train a text encoder and a U-Net on an autoencoder's latents: from scratch with --vae, or a whole model further with --start. Writes
    OUT/model.safetensors, the whole model, which `generate` takes as --model. From scratch, the text encoder learns alone at first which
    caption is of which picture (in OUT/reading).

    A run that is stopped (Ctrl-C, SIGTERM, kill -9) goes on with --resume.

    Args:
        vae: what `train-vae` wrote: its folder, or the file in it; or a model that ships, whose autoencoder is taken: scenes, emoji.
        start: a model that goes on learning, instead of --vae: a shipped one, what this wrote, an official file, or hf://owner/repo. It
            keeps its sizes, autoencoder and vocabulary.
        data: scenes, emoji, or a folder of captioned pictures, as `train-vae` takes it.
        preset: size of machine: cpu (two cores, three hours; or a GPU, minutes with --batch-size 256), gpu (one large GPU, a quarter of an
            hour), paper (the published recipe).
        out: the run's folder; default: runs/DATA.
        steps: optimiser steps, instead of the preset's.
        batch_size: pictures a batch, instead of the preset's.
        learning_rate: at its peak; default: the preset's, or a tenth of it with --start.
        resume: go on with the run in --out.
        seed: of weights, order, times and noise.
        device: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local to start one here; then --workers processes train together.
        workers: processes on the cluster.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import models
    from almanac.stable_diffusion import train as recipe

    if (vae is None) == (start is None):
        what = "neither --vae nor --start is given" if vae is None else "--vae and --start are given together"
        raise UserError(
            what, "give --vae, what `train-vae` wrote, to begin from scratch; or --start, a model that learns more"
        )
    usual = recipe.PRESETS[preset]
    if start is not None and learning_rate is None:
        learning_rate = usual.fit.learning_rate / 10
    chosen = recipe.with_overrides(usual, steps=steps, batch_size=batch_size, part="unet", learning_rate=learning_rate)
    folder = (out or Path("runs") / Path(data).name).absolute()
    if vae is not None:
        begun = (Path(vae) / "model.safetensors" if Path(vae).is_dir() else models.path_of(vae)).absolute()
    else:
        begun = models.path_of(str(start)).absolute()

    def run() -> dict[str, Any]:
        known = begun if start is None else models.load(str(begun), "fp32", "cpu")
        return recipe.train(data, known, folder, chosen, seed=seed, device_name=device, resume=resume)

    _trained(_together(run, cluster, workers, device), folder, ("steps", "loss", "seconds", "images_per_second"), json)


def lora(
    *,
    data: str,
    model: str = "scenes",
    out: Path | None = None,
    steps: int = 1000,
    rank: int = 16,
    alpha: float = 16.0,
    learning_rate: float = 1e-4,
    batch_size: int = 4,
    size: int | None = None,
    text_encoder: bool = False,
    convolutions: bool = False,
    frugal: bool = False,
    resume: bool = False,
    seed: int = 0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    device: str = "auto",
    cluster: str | None = None,
    workers: int = 2,
    json: bool = False,
) -> None:
    """Teach a model a style or a subject from captioned pictures (LoRA). Writes OUT/lora.safetensors in the layout that web UIs read,
    which `generate` takes as --lora; the model stays as it is.

    A run that is stopped (Ctrl-C, SIGTERM, kill -9) goes on with --resume.

    Args:
        data: a folder of captioned pictures: metadata.jsonl with file_name and text, a .txt beside each picture, or webdataset's .tar.
        model: a shipped model, an official file, a folder of diffusers', or hf://owner/repo.
        out: the run's folder; default: runs/DATA-lora.
        steps: optimiser steps.
        rank: of each layer's change: more can learn more, and forget more.
        alpha: the change counts alpha / rank.
        learning_rate: the highest.
        batch_size: pictures a batch.
        size: pixels of a side; default: the model's own.
        text_encoder: whether the text encoder is changed too.
        convolutions: whether convolutions are changed too (LoCon).
        frugal: less memory for a longer step.
        resume: go on with the run in --out.
        seed: of the changes' first numbers, order, times and noise.
        precision: of the model's weights while it is taught.
        device: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local to start one here; then --workers processes train together.
        workers: processes on the cluster.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import fine_tune, models

    chosen = fine_tune.Preset(steps, rank, alpha, learning_rate, batch_size, size, text_encoder, convolutions, frugal)
    folder = (out or Path("runs") / f"{Path(data).name}-lora").absolute()

    def run() -> dict[str, Any]:
        loaded = models.load(model, precision, device)
        return fine_tune.train(loaded, data, folder, chosen, seed=seed, device_name=device, resume=resume)

    facts = _together(run, cluster, workers, device)
    _trained(facts, folder, ("steps", "loss", "seconds"), json, fine_tune.FILE)


def recogniser(*, out: Path = Path("runs/recogniser"), resume: bool = False, seed: int = 0, json: bool = False) -> None:
    """Train the recogniser by which `evaluate` reads scenes, on real ones.

    Args:
        out: the run's folder.
        resume: go on with the run in --out.
        seed: of weights and scenes.
        json: print one JSON object.
    """
    from almanac.stable_diffusion import recogniser as reader

    _trained(reader.train(out, seed, resume), out, ("steps", "seconds"), json)


def evaluate(
    *,
    model: str | None = None,
    data: Literal["scenes", "emoji"] = "scenes",
    captions: Path | None = None,
    n: int = 1000,
    scale: tuple[float, ...] = (),
    steps: int = 20,
    sampler: Sampler = "dpmpp_2m",
    judge: Path | None = None,
    out: Path | None = None,
    write: bool = False,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Measure how well pictures show what their captions ask for.

    Scenes: captions of combinations of digit, colour and place that no training saw are painted, and read by a recogniser that saw only
    real scenes; beside it what it reads in real pictures (the ceiling), in those that the autoencoder gives back, and with shuffled
    captions (chance). Emoji: held-out skin tones and styles are painted and compared with the true pictures.

    Args:
        model: a shipped model, or what `train` wrote; default: the one that ships for the data.
        data: what is asked for: scenes or emoji.
        captions: a file of captions of scenes, a line each, instead of those that are held out.
        n: captions, at most; of emoji, of either kind.
        scale: of guidance; several are compared; default: the model's.
        steps: of the sampler.
        sampler: how noise becomes a picture.
        judge: weights of a recogniser of one's own; default: the shipped one.
        out: a folder for the first 64 pictures, as one sheet.
        write: whether the table goes into results/.
        seed: of the first picture; the next have the next ones.
        device: auto, cpu or cuda.
        json: print one JSON object.
    """
    import torch

    from almanac.runtime import pictures, results
    from almanac.runtime.plots import captioned, save_png
    from almanac.stable_diffusion import data as sets
    from almanac.stable_diffusion import evaluate as measure
    from almanac.stable_diffusion import models
    from almanac.stable_diffusion import recogniser as reader
    from almanac.stable_diffusion.generate import Settings

    if n < 1:
        raise UserError(f"n is {n}", "give a whole number from 1 on")
    if captions is not None and data != "scenes":
        raise UserError(f"--captions are of scenes, and --data is {data}", "leave one of them out")
    loaded = models.load(model or data, device=device)
    painter = models.painter(loaded)
    scale = scale or (loaded.guidance,)
    settings = Settings(width=loaded.size, height=loaded.size, steps=steps, sampler=sampler, scale=scale[0])
    if data == "emoji":
        known = measure.emoji_test(loaded.size, n)
        total = len(known.asked) * len(scale)
        with console.progress("painting", total, "pictures") as advance:
            rows, painted = measure.emoji_rows(painter, known, settings, scale, seed, advance)
        wishes = [sets.caption_of(each) for each in known.asked]
        truth = torch.stack([known.known[each] for each in known.asked])
        painted = torch.cat((painted, truth), 3)  # side by side
    else:
        test = measure.scene_test(n) if captions is None else measure.own_test(captions)
        total = len(test.captions) * len(scale)
        with console.progress("painting", total, "pictures") as advance:
            rows, painted = measure.scene_rows(painter, reader.load(judge), test, settings, scale, seed, advance)
        wishes = test.captions
    if out is not None:
        save_png(pictures.grid(painted[:64], 8, 2), out / "painted.png")
        (out / "captions.txt").write_text("\n".join(wishes[:64]) + "\n")
    if write:
        some = range(len(painted))[:: max(len(painted) // 12, 1) if data == "emoji" else 1][:12]
        frames = [pictures.to_picture(painted[number]) for number in some]
        sheet = results.default_folder(models.SYSTEM) / f"{data}.png"
        captioned(frames, [wishes[number] for number in some], sheet, 4 if data == "emoji" else 6)
    rows = [{"model": loaded.name, **row} for row in rows]
    if write:
        results.write(models.SYSTEM, data, rows, seed, by="model")
    console.result({"rows": rows}, json)


def _together(run: Callable[[], dict[str, Any]], cluster: str | None, workers: int, device: str) -> dict[str, Any]:
    """A training, here or on a cluster."""
    if cluster is None:
        return run()
    from almanac.runtime import cluster as ray

    return ray.train(run, address=cluster, workers=workers, gpus=0 if device == "cpu" else 1)


def _trained(
    facts: dict[str, Any], folder: Path, shown: tuple[str, ...], json: bool, file: str = "model.safetensors"
) -> None:
    """Say what came of a training."""
    said = {name: value for name, value in facts.items() if name != "vocabulary"}
    brief = ", ".join(f"{name} {facts[name]}" for name in shown)
    console.result({**said, "out": str(folder)}, json, f"{folder}/{file}  {brief}")


def _margins(text: str | None) -> Any:
    from almanac.stable_diffusion.outpaint import Margins

    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise UserError(f"the margins '{text}' are not LEFT,TOP,RIGHT,BOTTOM", "give four numbers: 64,0,64,0")
    return Margins(*map(int, parts))


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


COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate,
    "train-vae": train_vae,
    "train": train,
    "lora": lora,
    "recogniser": recogniser,
    "evaluate": evaluate,
    "upscale": upscale,
    "convert": convert,
    "inspect": inspect,
}
