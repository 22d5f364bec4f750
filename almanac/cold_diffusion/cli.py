"""`almanac cold-diffusion VERB`: parse, call, print."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import tyro

from almanac.runtime import console
from almanac.runtime.errors import UserError

SamplerName = Literal["improved", "naive", "estimated", "direct"]
Preset = Literal["cpu", "gpu", "paper"]
Fit = Literal["auto", "tile", "resize"]
Purpose = Literal["restoration", "generation"]


def degrade(
    image: tyro.conf.Positional[Path | None] = None,
    *,
    degradation: str = "blur",
    data: str = "mnist",
    split: Literal["train", "test"] = "test",
    size: int = 32,
    severity: float = 1.0,
    fit: Fit = "auto",
    limit: int | None = None,
    out: Path | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Degrade a picture (or a folder of them), or measure what a degradation does to a set of images.

    With IMAGE: writes the degraded picture to --out; a PNG notes what was done, so that `restore` can invert just that.
    Without: degrades all of --data fully and prints RMSE and SSIM against the clean images (the paper's "degraded" columns).

    Args:
        image: a PNG, JPEG or WebP file, or a folder of them.
        degradation: blur, mask, pixelate, snow, colour, animorph, noise, or your own class as module:Class.
        data: set of images, whose settings of the degradation are taken (with IMAGE too): mnist, cifar10, emoji, animals, photos,
            digits, or a folder.
        split: part of the set: train or test.
        size: side of the images, pixels.
        severity: how far to degrade, 0 (not at all) to 1 (fully).
        fit: whether a picture is first made --size pixels high and wide: resize, tile (never), auto (up to twice that size).
        limit: take only so many images of the set.
        out: where the picture (or pictures) go; for a set, a sheet of the first 64 degraded images.
        seed: of what is random in a degradation.
        json: print one JSON object.
    """
    from almanac.cold_diffusion import data as images
    from almanac.cold_diffusion import degrade as verb
    from almanac.cold_diffusion.recipes import recipe
    from almanac.runtime import pictures

    found = recipe(degradation, data, size)
    if image is None:
        clean, degraded, _ = verb.degrade_set(found, images.load(data, split, size), seed, limit)
        if out is not None:
            verb.save_picture(pictures.grid(degraded[:64], 8, 2), out)
        console.result(
            {"degradation": degradation, "data": data, "n": len(clean), **verb.measure(degraded, clean)}, json
        )
        return
    t = verb.step_of(found, severity)
    jobs = _in_and_out(image, out, ".degraded.png")
    written = [str(verb.degrade_file(source, target, found, t, seed, fit, size)) for source, target in jobs]
    console.result({"degradation": degradation, "severity": severity, "out": written}, json, "\n".join(written))


def train(
    *,
    degradation: str = "blur",
    data: str = "mnist",
    purpose: Purpose | None = None,
    preset: Preset = "cpu",
    out: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    strides: int | None = None,
    compile: bool = False,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    cluster: str | None = None,
    workers: int = 2,
    json: bool = False,
) -> None:
    """Train a restorer from scratch; writes OUT/model.safetensors, which `restore` and `generate` take as --model.

    A run that is stopped (Ctrl-C, SIGTERM, kill -9) goes on with --resume.

    Args:
        degradation: blur, mask, pixelate, snow, colour, animorph, noise, or your own class as module:Class.
        data: set of images: mnist, cifar10, emoji, photos, digits, or the path of a folder of images.
        purpose: restoration (keeps enough of an image to find it again) or generation (degrades it until nothing but a start is left);
            default: restoration where the paper has it (mnist: blur, mask, pixelate; cifar10: those, snow, colour), else generation.
        preset: size of machine: cpu (one core, under half an hour), gpu (one large GPU, under 25 minutes), paper (the published
            recipe: 700,000 steps at 128 pixels).
        out: the run's folder; default: runs/DATA-DEGRADATION, or runs/DATA-PURPOSE-DEGRADATION.
        steps: optimiser steps, instead of the preset's.
        batch_size: images a batch, instead of the preset's.
        size: side of the images, pixels, instead of the preset's.
        strides: restorations: severities of each image in a batch, along the network's own sampling, instead of the preset's; more
            make sampling better, and a batch less varied.
        compile: run the network through torch.compile.
        resume: go on with the run in --out.
        seed: of weights, order, severities and states.
        device: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local to start one here; then --workers processes train together.
        workers: processes on the cluster.
        json: print one JSON object.
    """
    from almanac.cold_diffusion import train as recipe
    from almanac.runtime import cluster as ray

    chosen = recipe.with_overrides(
        recipe.PRESETS[preset], steps=steps, batch_size=batch_size, size=size, strides=strides, compile=compile
    )
    name = "-".join(part for part in (Path(data).name, purpose, degradation.split(":")[-1]) if part)
    folder = (out or Path("runs") / name).absolute()

    def run() -> dict[str, Any]:
        return recipe.train(
            degradation, data, folder, chosen, purpose=purpose, seed=seed, device_name=device, resume=resume
        )

    facts = (
        run() if cluster is None else ray.train(run, address=cluster, workers=workers, gpus=0 if device == "cpu" else 1)
    )
    shown = {key: facts[key] for key in ("steps", "loss", "seconds", "images_per_second")}
    console.result({**facts, "out": str(folder)}, json, f"{folder}/model.safetensors  {shown}")


def restore(
    image: tyro.conf.Positional[Path],
    *,
    degradation: str | None = None,
    out: Path | None = None,
    steps_out: Path | None = None,
    severity: float | None = None,
    sampler: SamplerName | None = None,
    strides: int | None = None,
    degrade: bool = False,
    fit: Fit = "auto",
    model: str | None = None,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Restore a degraded picture, or a folder of them.

    IMAGE is taken as degraded already. If `almanac cold-diffusion degrade` wrote it, its note says how; otherwise say it with
    --degradation and --severity. With --degrade, IMAGE is clean: it is degraded first, then restored.

    Args:
        image: a PNG, JPEG or WebP file of any size, or a folder of them.
        degradation: what to invert: blur, mask, pixelate, snow, colour, animorph, noise, or your own class as module:Class (then with
            --model).
        out: where the restored picture (or pictures) go; default: beside the image, NAME.restored.png.
        steps_out: where a strip of the sampling's steps goes (the more --strides, the more of them).
        severity: how degraded the picture is, 0 to 1; default: what its note says, else 1.
        sampler: improved (Algorithm 2), naive (Algorithm 1), estimated, or direct (one step); default: improved where the note tells the
            state of the degradation or none is needed, else direct.
        strides: in how many strides to sample from the full severity, each one call of the network; default: 2 with a model that was
            trained to restore, every severity with one that was trained to generate.
        degrade: degrade the picture first.
        fit: how a picture meets a network for small images: tile (overlapping tiles), resize (the whole picture at the
            network's size), auto (resize up to twice that size, else tile).
        model: shipped name, path, or hf://owner/repo/file; default: the shipped one for the degradation and for grey or colour.
        seed: of what is random in a degradation.
        device: auto, cpu or cuda.
        json: print one JSON object.
    """
    from almanac.cold_diffusion import restore as verb
    from almanac.cold_diffusion import restore_file

    jobs = _in_and_out(image, out, ".restored.png")
    if steps_out is not None and len(jobs) > 1:
        raise UserError("--steps-out takes one picture, not a folder", "give one IMAGE")
    settings = restore_file.Settings(degradation, severity, sampler, strides, degrade, fit, model, seed, device)
    models: dict[str, verb.Restorer] = {}
    done = [restore_file.run(source, target, steps_out, settings, models) for source, target in jobs]
    summary = done[0] if len(done) == 1 else {"pictures": done}
    console.result(summary, json, "\n".join(str(one["out"]) for one in done))


def generate(
    *,
    degradation: str = "blur",
    n: int = 16,
    out: Path = Path("generated.png"),
    steps_out: Path | None = None,
    sampler: SamplerName = "improved",
    strides: int | None = None,
    symmetry_noise: float = 0.002,
    model: str | None = None,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Generate images from nothing: from a constant colour (blur, mask), large pixels, snow, pictures of animals, or noise.

    Args:
        degradation: what the model inverts: blur, mask, pixelate, snow, animorph or noise.
        n: how many images.
        out: where the sheet of images goes.
        steps_out: where a strip of the first image's steps goes.
        sampler: improved (Algorithm 2), naive (Algorithm 1), estimated (for noise and animorph: DDIM), or direct (one step).
        strides: in how many strides to sample, each one call of the network; default: every severity, or 2 with a model that was
            trained to restore.
        symmetry_noise: standard deviation of the noise that breaks the symmetry of a constant start, on [−1, 1]; 0: none.
        model: shipped name, path, or hf://owner/repo/file; default: the shipped colour model for the degradation.
        seed: of the starts.
        device: auto, cpu or cuda.
        json: print one JSON object.
    """
    import torch

    from almanac.cold_diffusion import generate as verb
    from almanac.cold_diffusion.degrade import save_picture
    from almanac.cold_diffusion.restore import default_model, load
    from almanac.runtime import pictures

    if n < 1:
        raise UserError(f"--n {n} is not a number of images", "give 1 or more")
    chosen = model or default_model(_known(degradation), ("emoji", "cifar10-generation"))
    restorer = load(chosen, device, degradation, strides)
    calls = 1 if sampler == "direct" else len(restorer.path(restorer.degradation.steps))
    frames = []
    with console.progress("generating", calls, "steps") as advance:

        def on_step(t: int, x: Any, estimate: Any) -> None:
            frames.append(x[0])
            advance()

        images = verb.generate(restorer, n, torch.Generator().manual_seed(seed), sampler, symmetry_noise, on_step)
    enlarge = max(1, 128 // restorer.size)
    save_picture(pictures.grid(images, None, enlarge), out)
    if steps_out is not None:
        frames.append(images[0])
        save_picture(pictures.strip([pictures.to_picture(x) for x in pictures.spread(frames, 11)], enlarge), steps_out)
    console.result({"degradation": degradation, "data": restorer.data, "n": n, "out": str(out)}, json, str(out))


def evaluate(
    *,
    model: tuple[str, ...] = (),
    n: int = 500,
    strides: tuple[int, ...] = (),
    generated: int = 500,
    figure: bool = True,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    cluster: str | None = None,
    json: bool = False,
) -> None:
    """Measure trained models as the paper does: degraded, direct and sampled images against clean ones; generated images
    against training images; and the paper's first figure.

    FD and KID use features of a classifier of ours, so they compare with each other and not with published FIDs. `fd_real` is
    the FD of clean test images, the least that can be expected.

    Args:
        model: models to measure (shipped names or paths); default: all that ship.
        n: at most so many test images a model.
        strides: in how many strides to sample restorations, a row each; default: 2 for models that were trained to restore, every
            severity for those trained to generate.
        generated: images to generate for each way of generating; 0: none.
        figure: whether to draw the figure, of the models that are named and all that ship.
        out: folder for the tables (evaluate.json, generate.json, degraded.json) and figure.png; default: results/cold_diffusion.
            Its rows of other models stay.
        seed: of everything random.
        device: auto, cpu or cuda.
        cluster: address of a Ray cluster (auto, host:port), or local, to spread the models over.
        json: print one JSON object.
    """
    from almanac.cold_diffusion import evaluate as verb
    from almanac.cold_diffusion.restore import shipped
    from almanac.runtime import cluster as ray
    from almanac.runtime import results

    known = [name.removeprefix("cold_diffusion/") for name in (*model, *shipped())]
    names = known[: len(model)] or known
    if not names:
        raise UserError("there are no models to evaluate", "train one and give it with --model")
    rows, generation = [], []
    with ExitStack() as stack:
        total = 0 if cluster else sum(verb.calls(name, n, generated, strides) for name in names)
        advance = stack.enter_context(console.progress("evaluating", total, "batches"))

        def measure(name: str, advance: Callable[..., None] = lambda: None) -> tuple[list, list]:
            made = verb.generation_rows(name, generated, seed, device, advance) if generated else []
            return verb.restoration_rows(name, n, seed, device, advance, strides), made

        measured = ray.map(measure, names, address=cluster) if cluster else (measure(name, advance) for name in names)
        for restored, made in measured:
            rows += restored
            generation += made
    folder = out or results.default_folder("cold_diffusion")
    for table, measured in (("evaluate", rows), ("generate", generation)):
        if measured:
            results.write("cold_diffusion", table, measured, seed, folder, by="model")
    results.write("cold_diffusion", "degraded", verb.degraded_rows(seed), seed, folder)
    drawn = verb.draw_figure(known, seed, device, folder) if figure else None
    found = {"rows": rows, "generation": generation, "figure": str(drawn) if drawn else None}
    console.result(found, json)
    if not json and generation:
        console.result({"rows": generation}, json)


def features(
    *,
    data: Literal["mnist", "colour"] = "mnist",
    out: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train the feature extractor behind FD and KID, a small classifier.

    Args:
        data: mnist (grey), or colour (CIFAR-10 and emoji).
        out: the run's folder; default: runs/features-DATA.
        resume: go on with the run in --out.
        seed: of weights and order.
        json: print one JSON object.
    """
    from almanac.cold_diffusion import features as verb

    console.result(
        verb.train(1 if data == "mnist" else 3, out or Path("runs") / f"features-{data}", seed, resume), json
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "degrade": degrade,
    "train": train,
    "restore": restore,
    "generate": generate,
    "evaluate": evaluate,
    "features": features,
}


def _known(degradation: str) -> str:
    """The plain name of a degradation that ships, or an error that names the known ones."""
    from almanac.cold_diffusion.degradations import ALIASES, named

    named(degradation)
    return ALIASES.get(degradation, degradation)


def _in_and_out(image: Path, out: Path | None, suffix: str) -> list[tuple[Path, Path]]:
    """Pairs of a picture and where its result goes: one, or one for each picture of a folder."""
    from almanac.runtime.pictures import SUFFIXES

    if not image.is_dir():
        return [(image, out or image.with_name(image.stem + suffix))]
    sources = sorted(path for path in image.iterdir() if path.suffix.lower() in SUFFIXES)
    if not sources:
        raise UserError(f"there are no pictures in {image}", f"put {', '.join(SUFFIXES)} files there")
    if out is not None and (out.is_file() or out.suffix.lower() in SUFFIXES):
        raise UserError(f"--out {out} is a file, but {image} is a folder of {len(sources)} pictures", "give a folder")
    folder = out or image.with_name(image.name + suffix.removesuffix(".png").replace(".", "-"))
    return [(source, folder / (source.stem + ".png")) for source in sources]
