"""Folders of published models, as Hugging Face has them: facts in JSON, weights in safetensors, whole or in shards. What they mean is for
each system's `published.py` to know."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from almanac.runtime.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UserError: it is missing, or holds none.
    """
    if not path.is_file():
        raise UserError(f"there is no {path.name} in {path.parent}", "give the folder of a whole model")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error})", "it is damaged; get it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not an object", "it is damaged; get it anew")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.is_file():
        hint = "give the weights as safetensors; other formats can run code"
        raise UserError(f"there is no {path.name} in {path.parent}", hint)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # SafetensorError for most damage, anything for a hostile header
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is not a readable safetensors file ({reason})", "it may be truncated") from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's `model.safetensors`, or of its shards.

    Raises:
        UserError: some are missing or damaged.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return read_tensors(folder / "model.safetensors")
    placed = read_json(index).get("weight_map")
    files = sorted(set(map(str, placed.values()))) if isinstance(placed, dict) else []
    if not files or any(Path(file).name != file for file in files):
        raise UserError(f"{index} does not name shards beside it", "it is damaged; get it anew")
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more shards" if len(missing) > 3 else ""
        raise UserError(f"{folder} lacks {', '.join(missing[:3])}{more}", "a shard was not downloaded; get it anew")
    return {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}


def check_weights(source: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], hint: str) -> None:
    """Refuse weights that are not those of a network.

    Args:
        source: where they are from.
        wanted: tensors of the network's shapes.
        tensors: the weights.
        hint: what to do.

    Raises:
        UserError: some are missing, unknown, of another shape, or not finite; the first ones are named.
    """
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in wanted]
    wrong += [
        f"{name} is {size_of(tensor)}, not {size_of(wanted[name])}"
        for name, tensor in tensors.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    wrong = wrong or [
        f"{name} holds numbers that are not finite" for name, each in tensors.items() if not each.isfinite().all()
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{source}: {', '.join(wrong[:3])}{more}", hint)


def size_of(tensor: Tensor) -> str:
    """A tensor's shape, as a person reads it."""
    return "×".join(map(str, tensor.shape)) or "one number"
