"""Files that hold tensors. Two kinds: a run's state (everything needed to go on), and weights (a safetensors file whose
header says which system made it and with what configuration). Writing is atomic: a file is either the old one or
the whole new one. Reading never runs code that a file carries."""

import io
import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes

from almanac.runtime.errors import UserError

_TEMPORARY = ".almanac-tmp"
"""How the name of a file ends that is being written, and of one whose writer was killed."""
_SCALE = ".scale"
"""How the name of a scale ends, after that of its tensor in eight bits."""
_PLACES = ".places"
"""Likewise that of the list which says of each row where it is among those that were kept."""
_NARROW = 8  # numbers of an output, below which it keeps its sixteen bits
_ALIKE = 0.9
"""Share of a matrix's rows that differ, up to which those that are alike are kept once."""


def write_atomic(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replace `path` by what `write` puts into the binary file it is given: temporary file, fsync, rename.

    Raises:
        UserError: it could not be written (a full disk, no permission); the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY, delete=False
        ) as file:
            temporary = Path(file.name)
            _write_through(write, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from None
        raise


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error of a file that can't be written."""
    reason = os.strerror(error.errno) if error.errno else _first_line(error)
    hint = "free some space or choose another --out; what was saved before is intact"
    return UserError(f"could not write {path}: {reason}", hint)


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left behind in a folder that nobody else writes to now."""
    for stray in folder.glob(f".*{_TEMPORARY}"):
        stray.unlink(missing_ok=True)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Save a run's state (tensors, numbers, strings, lists and dicts of them) atomically.

    Raises:
        UserError: it could not be written; the old file is untouched.
    """
    write_atomic(path, lambda file: torch.save(dict(state), file))


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` saved.

    Raises:
        UserError: missing, damaged, or carrying code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"there is no checkpoint at {path}", "check the path; a run that never saved is begun without --resume"
        ) from None
    except pickle.UnpicklingError as error:
        if "allowed" not in str(error) and "blocked" not in str(error):  # neither list of torch's was asked: damage
            raise _unreadable(path, "checkpoint", "not a file of tensors") from None
        raise UserError(
            f"{path} holds more than tensors and numbers, and is not loaded because it could run code",
            "convert it to safetensors where you trust it",
        ) from None
    except Exception as error:  # a damaged file can raise anything: IndexError, zlib.error, AssertionError …
        raise _unreadable(path, "checkpoint", _first_line(error)) from None
    if not isinstance(state, dict):
        raise _unreadable(path, "checkpoint", f"it holds a {type(state).__name__}")
    return state


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Save weights as safetensors.

    Args:
        path: the file, ending in `.safetensors`.
        tensors: name → tensor.
        about: JSON-able facts kept in the header; `system` names the system that reads it.

    Raises:
        UserError: it could not be written; the old file is untouched.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    blob = safetensors_bytes(contiguous, metadata={"almanac": json.dumps(about)})
    write_atomic(path, lambda file: file.write(blob))


def in_sixteen_bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in half their bytes: numbers become bfloat16.

    Args:
        tensors: name → tensor; whole numbers stay as they are.
    """
    return {name: each.bfloat16() if each.is_floating_point() else each for name, each in tensors.items()}


def in_eight_bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in half their bytes: each bfloat16 matrix or kernel becomes int8, with one float32 scale for each output
    (`NAME.scale`), so that no number is off by more than 1/254 of the largest of its output. Where many outputs have the same weights, as
    tokens that no training saw may have, these are kept once (`NAME.places`). `load_weights` undoes it.

    Args:
        tensors: name → tensor; those of other types, vectors, and what is so narrow that scales would be longer, stay as they are.
    """
    kept = {}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.bfloat16 or tensor.dim() < 2 or tensor[0].numel() < _NARROW:
            kept[name] = tensor
            continue
        rows, places = torch.unique(tensor.float(), dim=0, return_inverse=True)
        if len(rows) <= _ALIKE * len(tensor):
            kept[f"{name}{_PLACES}"] = places.to(torch.int32)
        else:
            rows = tensor.float()
        largest = rows.abs().amax(tuple(range(1, rows.dim())), keepdim=True)
        scale = torch.where(largest > 0, largest / 127, 1.0)
        kept |= {name: (rows / scale).round().to(torch.int8), f"{name}{_SCALE}": scale}
    return kept


def load_weights(path: Path, system: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Load what `save_weights` saved.

    Args:
        path: a `.safetensors` file.
        system: the system that asks, e.g. `cold_diffusion`.

    Returns:
        The tensors by name (those `in_eight_bits` as float32), and the facts of the header.

    Raises:
        UserError: missing, damaged, or made by another system.
    """
    if not path.is_file():
        hint = "give a .safetensors file, a shipped name or hf://owner/repo/file"
        raise UserError(f"there are no weights at {path}", hint)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("almanac", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            tensors = _whole(tensors)
    except Exception as error:  # SafetensorError for most damage, anything for a header made to be hostile
        raise _unreadable(path, "safetensors file", _first_line(error)) from None
    made_by = about.get("system") if isinstance(about, dict) else None
    if made_by != system:
        hint = f"give a checkpoint made by `almanac {system.replace('_', '-')} train`"
        raise UserError(f"{path} holds weights of {made_by or 'an unknown program'}, not of {system}", hint)
    return tensors, about


def _whole(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights without their eight bits."""
    whole = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8 and name + _SCALE in tensors:
            scale = whole.pop(name + _SCALE)
            if scale.shape != (*tensor.shape[:1], *(1 for _ in tensor.shape[1:])):
                raise ValueError(f"{name} has scales of shape {tuple(scale.shape)}")
            whole[name] = tensor * scale
            places = whole.pop(name + _PLACES, None)
            if places is not None:
                if places.dim() != 1 or places.min() < 0 or places.max() >= len(tensor):
                    raise ValueError(f"{name} has rows at places that there are not")
                whole[name] = whole[name][places]
    return whole


def _write_through(write: Callable[[BinaryIO], Any], file: Any) -> None:
    """write(file), with the error of a write that failed rather than what a library made of it: torch.save's zip writer
    reports a full disk as one of several RuntimeErrors."""
    failures: list[OSError] = []

    class Watched(io.RawIOBase):
        def write(self, data: Any) -> int:
            try:
                return file.write(data)
            except OSError as error:
                failures.append(error)
                raise

    try:
        write(Watched())  # pyright: ignore[reportArgumentType] (all that a writer needs of a BinaryIO)
    except Exception:
        if failures:
            raise failures[0] from None
        raise


def _unreadable(path: Path, kind: str, reason: str) -> UserError:
    return UserError(f"{path} is not a readable {kind} ({reason})", "it may be truncated")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
