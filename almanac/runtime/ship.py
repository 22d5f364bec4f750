"""Shipping weights: `python -m almanac.runtime.ship RUN SYSTEM/NAME` stores what a run trained in `weights/`, in eight bits, and notes in
`weights/manifest.json` what it is: sha256, recipe, machine, wall time and measured figures, as the weights' own header has them beside
a vocabulary."""

import json
import sys
from pathlib import Path

from almanac.runtime import checkpoint, console, hub
from almanac.runtime.errors import UserError

LIMIT = 25 * 2**20
"""All weights of a system together, bytes."""


def ship(run: Path, name: str, command: str) -> Path:
    """Store a run's weights as `weights/NAME.safetensors`, in eight bits, and note them in the manifest.

    Args:
        run: folder of the run.
        name: `system/model`.
        command: what trained them.

    Raises:
        UserError: there are none, they are another system's, or the system's weights would be too large for git.
    """
    system = name.split("/")[0]
    tensors, facts = checkpoint.load_weights(run / "model.safetensors", system)
    small = checkpoint.in_eight_bits(tensors)
    target = hub.WEIGHTS / f"{name}.safetensors"
    others = sum(path.stat().st_size for path in target.parent.glob("*.safetensors") if path != target)
    if others + sum(tensor.nbytes for tensor in small.values()) > LIMIT:
        raise UserError(f"the weights of {system} would take more than {LIMIT >> 20} MiB", "ship fewer or smaller ones")
    checkpoint.save_weights(target, small, facts)
    noted = {key: value for key, value in facts.items() if key != "vocabulary"}  # thousands of lines
    _note(name, {"command": command, "bytes": target.stat().st_size, "sha256": hub.hash_of(target), **noted})
    return target


def manifest() -> dict[str, dict]:
    """What ships, by name."""
    path = hub.WEIGHTS / "manifest.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _note(name: str, facts: dict) -> None:
    text = json.dumps(dict(sorted({**manifest(), name: facts}.items())), indent=1) + "\n"
    checkpoint.write_atomic(hub.WEIGHTS / "manifest.json", lambda file: file.write(text.encode()))


if __name__ == "__main__":
    run_folder, shipped_name, *trained_by = sys.argv[1:]
    console.log(f"shipped {ship(Path(run_folder), shipped_name, ' '.join(trained_by))}")
