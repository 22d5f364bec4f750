"""Folders of published models, as Hugging Face has them: facts in JSON, weights in safetensors, whole or in shards. What they mean is for
each system's `published.py` to know."""

import json
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
