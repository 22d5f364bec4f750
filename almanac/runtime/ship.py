"""Shipping weights: `python -m almanac.runtime.ship RUN[,RUN…] SYSTEM/NAME` stores what a run trained in `weights/`, in eight bits where
they are large, and notes in `weights/manifest.json` what it is: sha256, recipe, machine, wall time and measured figures, as the weights'
own header has them beside a vocabulary. Of several runs that went on from each other it stores the mean, which often errs less than each
(Wortsman et al. 2022). A model that is a folder of files ships as such a folder."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from almanac.runtime import checkpoint, console, hub
from almanac.runtime.errors import UserError

LIMIT = 25 * 2**20
"""All weights of a system together, bytes."""
_LONG = 1_000
"""Letters of a fact, beyond which it is in the weights' header alone."""
_LARGE = 2**20
"""Bytes from which weights are stored in eight bits."""


def ship(runs: Sequence[Path], name: str, command: str) -> Path:
    """Store runs' weights as `weights/NAME.safetensors`, in eight bits where they are large, and note them in the manifest.

    Args:
        runs: folder of the run; of several, the mean of their weights, and the facts of the last.
        name: `system/model`.
        command: what trained them.

    Raises:
        UserError: there are none, they are another system's or of different networks, or the system's weights would be too large for
            git.
    """
    system = name.split("/")[0]
    loaded = [checkpoint.load_weights(run / "model.safetensors", system) for run in runs]
    facts = loaded[-1][1]
    if len(runs) > 1:
        facts["mean_of"] = [each.get("steps") for _, each in loaded]
    return _stored(name, _mean([tensors for tensors, _ in loaded]), facts, command)


def ship_folder(folder: Path, name: str, command: str) -> Path:
    """Store a model that is several files as the folder `weights/NAME`: its weights as `ship` does, and what is JSON as it is.

    Args:
        folder: of the model; what lies deeper is shipped, too.
        name: `system/model`.
        command: what trained it.

    Raises:
        UserError: as `ship`.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        tensors, facts = checkpoint.load_weights(path, name.split("/")[0])
        _stored(f"{name}/{path.relative_to(folder).with_suffix('').as_posix()}", tensors, facts, command)
    for path in sorted(folder.rglob("*.json")):
        target = hub.WEIGHTS / name / path.relative_to(folder)
        checkpoint.write_atomic(target, lambda file, path=path: file.write(path.read_bytes()))
    return hub.WEIGHTS / name


def _stored(name: str, tensors: dict[str, Tensor], facts: dict, command: str) -> Path:
    """One file of weights, and what the manifest says of it."""
    system = name.split("/")[0]
    small = checkpoint.in_eight_bits(tensors) if sum(each.nbytes for each in tensors.values()) > _LARGE else tensors
    target = hub.WEIGHTS / f"{name}.safetensors"
    others = sum(path.stat().st_size for path in (hub.WEIGHTS / system).rglob("*.safetensors") if path != target)
    if others + sum(tensor.nbytes for tensor in small.values()) > LIMIT:
        raise UserError(f"the weights of {system} would take more than {LIMIT >> 20} MiB", "ship fewer or smaller ones")
    checkpoint.save_weights(target, small, facts)
    noted = {key: value for key, value in facts.items() if len(json.dumps(value)) <= _LONG}
    _note(name, {"command": command, "bytes": target.stat().st_size, "sha256": hub.hash_of(target), **noted})
    return target


def _mean(runs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, of its own type."""
    shapes = [{name: tensor.shape for name, tensor in run.items()} for run in runs]
    if any(each != shapes[0] for each in shapes):
        raise UserError("the runs trained different networks", "ship runs that went on from each other")
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    return {name: tensors.double().mean(0).to(tensors.dtype) for name, tensors in stacked.items()}


def manifest() -> dict[str, dict]:
    """What ships, by name."""
    path = hub.WEIGHTS / "manifest.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _note(name: str, facts: dict) -> None:
    text = json.dumps(dict(sorted({**manifest(), name: facts}.items())), indent=1) + "\n"
    checkpoint.write_atomic(hub.WEIGHTS / "manifest.json", lambda file: file.write(text.encode()))


if __name__ == "__main__":
    run_folders, shipped_name, *trained_by = sys.argv[1:]
    folders = [Path(folder) for folder in run_folders.split(",")]
    whole = len(folders) == 1 and not (folders[0] / "model.safetensors").exists()
    said = " ".join(trained_by)
    console.log(
        f"shipped {ship_folder(folders[0], shipped_name, said) if whole else ship(folders, shipped_name, said)}"
    )
