"""The checkpoint that was released with the paper (Apache-2.0; the 200-million-parameter model, a pickle of Haiku's parameters and
state), and files of our own. A pickle can run code, so it is read by a reader that knows nothing but dicts, tuples, lists, strings,
numbers and arrays of numbers, and makes even these itself. Parameters by Haiku's names become ours, and ours theirs."""

import codecs
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from almanac.multigame_dt.tokens import PATCH
from almanac.runtime import checkpoint
from almanac.runtime import device as devices
from almanac.runtime.errors import UserError
from almanac.runtime.model_folder import check_weights

SYSTEM = "multigame_dt"
KIND = "transformer"
"""Of networks, as a file's header says it; CQL's have another."""
HEAD_CHANNELS = 64  # of each head in the released code

_HINT = "give the file that was released with the paper, checkpoint_38274228.pkl"
_NET = "decision_transformer"
Parameters = dict[str, dict[str, np.ndarray]]
"""By module and name, as Haiku has them."""


def convert(source: Path, target: Path) -> DecisionTransformer:
    """The released checkpoint as a file of ours.

    Args:
        source: the pickle.
        target: a `.safetensors` file, which `play --model` opens.

    Raises:
        UserError: the pickle can't be read, holds more than numbers, or another network; or the target can't be written.
    """
    model = from_official(read_official(source), source)
    save(target, model, {"source": source.name, "recipe": "released with arXiv 2205.15241"})
    return model


def save(
    path: Path, model: DecisionTransformer, about: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model to a file of ours.

    Args:
        path: a `.safetensors` file.
        model: what to write.
        about: facts to keep with it.
        weights: those to write in the place of the model's own, such as averaged or rounded ones.

    Raises:
        UserError: it can't be written.
    """
    facts = {"system": SYSTEM, "model": KIND, "dimensions": asdict(model.dimensions), **about}
    checkpoint.save_weights(path, model.state_dict() if weights is None else weights, facts)


def load(path: Path, device: str = "auto") -> DecisionTransformer:
    """Read a model from a file of ours.

    Args:
        path: what `save` or `convert` wrote.
        device: where to put it.

    Raises:
        UserError: it is missing, damaged, or holds something else.
    """
    where = devices.resolve(device)
    tensors, about = checkpoint.load_weights(path, SYSTEM)
    hint = "give a transformer made by `almanac multigame-dt train` or `convert`"
    if about.get("model") != KIND:
        raise UserError(f"{path} holds a network of another kind, {about.get('model')}", hint)
    try:
        dimensions = Dimensions(**about["dimensions"])
        if dimensions.layers != _layers(tensors, ".attention.query.weight") or dimensions.width % dimensions.heads:
            raise ValueError
        with torch.device("meta"):
            wanted = DecisionTransformer(dimensions).state_dict()
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError):
        raise UserError(f"{path} doesn't say the shape of its transformer", hint) from None
    check_weights(path, wanted, tensors, hint)
    return _filled(dimensions, {name: each.float() for name, each in tensors.items()}).to(where)


def read_official(path: Path) -> Parameters:
    """The arrays of a released checkpoint, by Haiku's names.

    Args:
        path: a pickle of `(parameters, state)`.

    Raises:
        UserError: it can't be read, or holds more than numbers; what it wants besides is named, and never run.
    """
    try:
        with path.open("rb") as file:
            found = _Reader(file).load()
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}", _HINT) from None
    except _Refused as refused:
        hint = "nothing of it was run; " + _HINT
        raise UserError(f"{path} asks for {refused}, which no checkpoint needs and could be code", hint) from None
    except Exception as error:  # what is damaged, or made to be, raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is not a readable pickle ({reason})", "it may be truncated; " + _HINT) from None
    parameters = found[0] if isinstance(found, tuple | list) and len(found) == 2 else found
    if not isinstance(parameters, dict) or not all(
        isinstance(module, str)
        and isinstance(arrays, dict)
        and all(isinstance(each, _Array) for each in arrays.values())
        for module, arrays in parameters.items()
    ):
        raise UserError(f"{path} holds no network's parameters", _HINT)
    try:
        return {
            module: {str(name): each.numbers() for name, each in arrays.items()}
            for module, arrays in parameters.items()
        }
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} holds a damaged array ({error})", _HINT) from None


def from_official(parameters: Parameters, source: Path) -> DecisionTransformer:
    """A model of Haiku's parameters.

    Args:
        parameters: as `read_official` gives them.
        source: where they are from, for errors.

    Raises:
        UserError: they are another network's.
    """
    positions = parameters.get(_NET, {}).get("positional_embeddings", np.zeros(0))
    layers = _layers(parameters, "_attn/query")
    if positions.ndim != 2 or not layers or not positions.shape[1] or positions.shape[1] % HEAD_CHANNELS:
        raise UserError(f"{source} holds another network than a multi-game decision transformer", _HINT)
    dimensions = Dimensions(positions.shape[1], layers, positions.shape[1] // HEAD_CHANNELS)
    places = _places(layers)
    here = {(module, name) for module, arrays in parameters.items() for name in arrays}
    wrong = [f"{'/'.join(place)} is missing" for place in places.values() if place not in here]
    wrong += [f"{'/'.join(place)} is unknown" for place in sorted(here - set(places.values()))]
    if wrong:
        raise UserError(f"{source}: {', '.join(wrong[:3])}{f', and {len(wrong) - 3} more' * (len(wrong) > 3)}", _HINT)
    tensors = {ours: _ours(parameters[module][name], name) for ours, (module, name) in places.items()}
    with torch.device("meta"):
        wanted = DecisionTransformer(dimensions).state_dict()
    check_weights(source, wanted, tensors, _HINT)
    return _filled(dimensions, tensors)


def to_official(model: DecisionTransformer) -> Parameters:
    """Haiku's parameters of a model that knows returns, as the released checkpoint has them.

    Args:
        model: whose.
    """
    found: Parameters = {}
    tensors = model.state_dict()
    for ours, (module, name) in _places(model.dimensions.layers).items():
        array = tensors[ours].float().cpu().numpy()
        if name == "w":
            array = np.ascontiguousarray(array.T)
        if module.endswith("image_emb") and name == "w":
            array = array.reshape(PATCH, PATCH, 1, -1)
        found.setdefault(module, {})[name] = array[None, None] if name == "image_pos_enc" else array
    return found


def write_official(path: Path, model: DecisionTransformer) -> None:
    """Write a model as a pickle like the released one.

    Args:
        path: where to.
        model: one that knows returns.
    """
    checkpoint.write_atomic(path, lambda file: pickle.dump((to_official(model), {}), file))


def _ours(array: np.ndarray, name: str) -> Tensor:
    """Haiku's [inputs, outputs] and [height, width, channels, outputs] turned; what leads without need dropped."""
    flat = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array
    return torch.from_numpy(np.array(flat.T if name == "w" else flat, np.float32, order="C"))


def _places(layers: int) -> dict[str, tuple[str, str]]:
    """Where Haiku has each of our parameters: its module, and its name there."""
    embedded = f"{_NET}/~_embed_inputs"
    places = {
        "patch_positions": (_NET, "image_pos_enc"),
        "positions": (_NET, "positional_embeddings"),
        "returns.weight": (f"{embedded}/embed", "embeddings"),
        "actions.weight": (f"{embedded}/embed_1", "embeddings"),
        "rewards.weight": (f"{embedded}/embed_2", "embeddings"),
    }
    linear = {"patches": f"{embedded}/image_emb"}
    linear |= {
        f"{long}_head": f"{_NET}/{short}_linear"
        for long, short in (("return", "ret"), ("action", "act"), ("reward", "rew"))
    }
    norms = {"norm": f"{_NET}/~/sequence/ln_f"}
    for i in range(layers):
        ours, theirs = f"blocks.{i}", f"{_NET}/~/sequence/h{i}"
        norms |= {f"{ours}.attention_norm": f"{theirs}_ln_1", f"{ours}.mlp_norm": f"{theirs}_ln_2"}
        linear |= {f"{ours}.attention.{name}": f"{theirs}_attn/{name}" for name in ("query", "key", "value")}
        linear |= {f"{ours}.attention.out": f"{theirs}_attn/linear"}
        linear |= {f"{ours}.mlp.up": f"{theirs}_mlp/linear", f"{ours}.mlp.down": f"{theirs}_mlp/linear_1"}
    for kind, (weight, bias) in ((norms, ("scale", "offset")), (linear, ("w", "b"))):
        for ours, module in kind.items():
            places |= {f"{ours}.weight": (module, weight), f"{ours}.bias": (module, bias)}
    return places


def _layers(names: Iterable[str], ending: str) -> int:
    return sum(name.endswith(ending) for name in names)


def _filled(dimensions: Dimensions, tensors: Mapping[str, Tensor]) -> DecisionTransformer:
    with torch.device("meta"):
        model = DecisionTransformer(dimensions)
    model.load_state_dict(dict(tensors), assign=True)
    return model.requires_grad_(True).eval()


class _Refused(pickle.UnpicklingError):
    """Something that a pickle asks for."""


class _Reader(pickle._Unpickler):
    """A reader of pickles in which the names of numpy's makers stand for our own, and no other name for anything. It is Python's own, not
    the compiled one, which a hostile number can make to fill the memory."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise _Refused(f"{module}.{name}")
        return known

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"the outside object {str(pid)[:60]}")


class _Closed:
    """What a pickle may make and can't change."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a {type(self).__name__.strip('_').lower()} has no state")


class _Type(_Closed):
    """A type of numbers."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[fiub?]\d?", code):
            raise _Refused(f"numbers of type {str(code)[:20]}")
        self.type = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1]
        self.type = self.type.newbyteorder(order)


class _Array(_Closed):
    """An array of numbers, in pieces until `numbers` puts them together."""

    def __init__(self, *_: Any):
        self.pieces: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        self.pieces = shape, kind, "F" if is_fortran else "C", data

    def numbers(self) -> np.ndarray:
        """The array.

        Raises:
            ValueError: the pieces don't belong together.
            TypeError: likewise.
        """
        shape, kind, order, data = self.pieces
        if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
            raise TypeError("it isn't made of numbers")
        return np.frombuffer(data, kind.type).reshape(tuple(map(int, shape)), order=order)


class _Buffered(_Array):
    """The same, all at once, as newer pickles have it."""

    def __init__(self, data: Any, kind: Any, shape: Any, order: Any = "C"):
        self.pieces = shape, kind, order, data


class _Scalar(_Array):
    """A single number."""

    def __init__(self, kind: Any, data: Any):
        self.pieces = (), kind, "C", data


class _Bytes(_Closed):
    """Bytes, which older pickles hold as text."""

    def __new__(cls, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise _Refused(f"bytes as {encoding[:20]}")
        return codecs.latin_1_encode(text)[0]


_KNOWN: dict[tuple[str, str], type[_Closed]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy.core.numeric", "_frombuffer"): _Buffered,
    ("_codecs", "encode"): _Bytes,
}
