"""Files that hold tensors. Two kinds: a run's state (everything needed to go on), and weights (a safetensors file whose
header says which system made it and with what configuration). Writing is atomic: a file is either the old one or
the whole new one. Reading never runs code that a file carries."""

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from almanac.runtime.errors import UserError


def write_atomic(path: Path, write: Callable[[Any], None]) -> None:
    """Replace `path` by what `write` puts into the binary file it is given: temporary file, fsync, rename.

    Raises:
        UserError: it could not be written (a full disk, no permission); the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        # torch.save reports a failed write as a RuntimeError of its zip writer.
        if isinstance(error, OSError) or (isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)):
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "the disk may be full"
            raise UserError(
                f"could not write {path}: {reason}",
                "free some space or choose another --out; what was saved before is intact",
            ) from None
        raise


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Save a run's state (tensors, numbers, strings, lists and dicts of them) atomically."""
    write_atomic(path, lambda file: torch.save(dict(state), file))


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` saved.

    Raises:
        UserError: missing, damaged, or carrying code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint at {path}", "check the path, or start without --resume") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and numbers, and is not loaded because it could run code",
            "convert it to safetensors where you trust it",
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a readable checkpoint ({_first_line(error)})", "it may be truncated") from None


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Save weights as safetensors.

    Args:
        path: the file, ending in `.safetensors`.
        tensors: name → tensor.
        about: JSON-able facts kept in the header; `system` names the system that reads it.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    blob = safetensors_bytes(contiguous, metadata={"almanac": json.dumps(about)})
    write_atomic(path, lambda file: file.write(blob))


def load_weights(path: Path, system: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Load what `save_weights` saved.

    Args:
        path: a `.safetensors` file.
        system: the system that asks, e.g. `cold_diffusion`.

    Returns:
        The tensors by name, and the facts of the header.

    Raises:
        UserError: missing, damaged, or made by another system.
    """
    if not path.is_file():
        raise UserError(f"there are no weights at {path}", "give a .safetensors file, a shipped name or hf://owner/repo/file")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("almanac", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({_first_line(error)})", "it may be truncated") from None
    if about.get("system") != system:
        made_by = about.get("system", "an unknown program")
        raise UserError(f"{path} holds weights of {made_by}, not of {system}", f"give a checkpoint made by `almanac {system.replace('_', '-')} train`")
    return tensors, about


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
