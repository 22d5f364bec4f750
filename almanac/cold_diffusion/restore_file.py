"""Restoring a picture in a file: finding out what was done to it, choosing the model, and saying on stderr what was decided."""

import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from almanac.cold_diffusion import degradations, restore
from almanac.cold_diffusion.degradations import State
from almanac.cold_diffusion.degrade import (
    Fit,
    degrade_picture,
    read_note,
    resized,
    save_picture,
    state_of,
    step_of,
    working_size,
)
from almanac.runtime import console, pictures
from almanac.runtime.errors import UserError


@dataclass(frozen=True)
class Settings:
    """What the person asked for."""

    degradation: str | None
    """Name of what to invert; None: what the picture's note says."""
    severity: float | None
    """How degraded the picture is, 0 to 1; None: what its note says, else 1."""
    sampler: restore.Sampler | None
    """How to restore; None: the best that the known state allows."""
    strides: int | None
    """In how many strides to sample; None: the model's."""
    degrade: bool
    """Whether the picture is clean and to be degraded first."""
    fit: Fit
    """See `degrade.working_size`."""
    model: str | None
    """The model; None: the shipped one."""
    seed: int
    """Of the degradation's state."""
    device: str
    """Where to run."""


def run(
    source: Path,
    target: Path,
    steps_out: Path | None,
    settings: Settings,
    models: MutableMapping[str, restore.Restorer],
) -> dict[str, Any]:
    """Restore one picture.

    Args:
        source: the picture.
        target: where the restored one goes; as large as the source.
        steps_out: where a strip of the sampling goes.
        settings: see `Settings`.
        models: models loaded so far, by name; added to.

    Returns:
        What was done: `image, out, degradation, model, t, sampler, strides, width, height, seconds`.
    """
    picture = pictures.read_picture(source)
    note = None if settings.degrade else read_note(source, settings.degradation)
    name = settings.degradation or (degradations.to_json(note.degradation)["name"] if note else None)
    if name is None:
        raise UserError(f"{source} does not say how it was degraded", "add --degradation, e.g. --degradation blur")
    restorer = _model(name, settings, 1 if picture.mode == "L" else 3, models)
    if restorer.channels == 1 and picture.mode != "L":
        console.log(f"{source.name}: taken as grey, because the model was trained on grey images ({restorer.data})")
    note = note if note and note.degradation == restorer.degradation else None
    size = note.size if note else working_size(picture.height, picture.width, restorer.size, settings.fit)
    image = resized(pictures.to_tensor(picture, restorer.channels), size)
    t = (
        note.t
        if note and settings.severity is None
        else step_of(restorer.degradation, 1.0 if settings.severity is None else settings.severity)
    )
    if settings.degrade:
        image, state = degrade_picture(restorer.degradation, image, t, torch.Generator().manual_seed(settings.seed))
    else:
        state = state_of(note, restorer.channels) if note else restorer.degradation.infer(image[None], t)
    sampler = settings.sampler or _best_sampler(restorer, state)
    _say(source, picture.size, size, restorer, t, sampler, state)
    state = state if state is not None else _stand_in(restorer, image, settings.seed)
    started, frames = time.monotonic(), []
    calls = 1 if sampler == "direct" else max(1, len(restorer.path(t)))
    with console.progress(source.name, calls, "steps") as advance:

        def on_step(step: int, x: torch.Tensor, estimate: torch.Tensor) -> None:
            frames.append(x[0])
            advance()

        state = {key: value.to(restorer.device) for key, value in state.items()}
        restored = restore.restore_picture(restorer, image, state, t, sampler, on_step)
    save_picture(pictures.to_picture(resized(restored, (picture.height, picture.width))), target)
    if steps_out is not None:
        shown = [pictures.to_picture(frame) for frame in [*pictures.spread(frames, 10), restored]]
        save_picture(pictures.strip(shown, max(1, 128 // max(size))), steps_out)
    return {
        "image": str(source), "out": str(target), "degradation": name, "model": restorer.data, "t": t, "sampler": sampler,
        "strides": len(frames), "width": picture.width, "height": picture.height,
        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def _model(
    name: str, settings: Settings, channels: int, models: MutableMapping[str, restore.Restorer]
) -> restore.Restorer:
    if settings.model is None:
        degradations.named(name)
        known = degradations.ALIASES.get(name, name)
        if ":" in known:
            raise UserError(f"no model for your own degradation '{name}' ships", "train one, and give it with --model")
        chosen = restore.default_model(known, ("mnist",) if channels == 1 else ("cifar10", "emoji"))
    else:
        chosen = settings.model
    if chosen not in models:
        models[chosen] = restore.load(chosen, settings.device, name, settings.strides)
    found = models[chosen]
    if type(found.degradation) is not degradations.named(name.partition("@")[0]):
        raise UserError(
            f"the model {chosen} inverts '{_name(found)}', not '{name}'", "give another --model or --degradation"
        )
    return found


def _name(restorer: restore.Restorer) -> str:
    return degradations.to_json(restorer.degradation)["name"]


def _best_sampler(restorer: restore.Restorer, state: State | None) -> restore.Sampler:
    if state is not None:
        return "improved"
    return "estimated" if hasattr(restorer.degradation, "estimate_state") else "direct"


def _stand_in(restorer: restore.Restorer, image: torch.Tensor, seed: int) -> State:
    """A state for samplers that were asked for although the real one is not known."""
    return restorer.degradation.draw(image[None], torch.Generator().manual_seed(seed))


def _say(
    source: Path,
    given: tuple[int, int],
    size: tuple[int, int],
    restorer: restore.Restorer,
    t: int,
    sampler: str,
    state: State | None,
) -> None:
    height, width = size
    tiles = restore.tile_count(restorer.size, height, width)
    how = f"in {tiles} tiles" if tiles > 1 else "as one"
    resized_to = "" if (width, height) == given else f" at {width}×{height} pixels,"
    unknown = (
        "; its state is not known, so it is drawn from --seed"
        if state is None and sampler in ("improved", "naive")
        else ""
    )
    strides = "" if sampler == "direct" else f" in {len(restorer.path(t))} strides"
    console.log(
        f"{source.name}:{resized_to} {how}, from step {t} of {restorer.degradation.steps}, {sampler}{strides}{unknown}"
    )
