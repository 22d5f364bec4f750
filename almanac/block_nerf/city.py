"""A city: blocks in a folder, each a file of its own that knows nothing of the others, and a list of where they are. A block is read when
it is looked at, and the one that was looked at longest ago is forgotten, so a city may be larger than the memory."""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from almanac.block_nerf.cameras import Camera
from almanac.block_nerf.model import CODE, Block, Dimensions
from almanac.block_nerf.placement import Place
from almanac.runtime import checkpoint
from almanac.runtime.errors import UserError

FILE = "city.json"
FORMAT = 2
_MODEL, _CODES = "model.safetensors", "codes.safetensors"
_DENSITY = "occupancy.density"  # of the grid that says where to look
_BITS = 60.0  # steps of its numbers for a factor of e
_FILLED = "occupancy.filled"  # a bit for each cell: whether it isn't empty
_THINNEST = 0.02  # density, for a metre, below which a cell is empty
_LOADED = 8  # blocks in memory


@dataclass(frozen=True)
class About:
    """What all blocks share."""

    places: tuple[Place, ...]
    sessions: int
    """Lights that there are codes for; the first block's codes say what each looks like."""
    exposure: float
    """The capture's middle one: exposures are told as multiples of it."""
    camera: Camera
    """Of the photos, for views that say nothing else."""
    crossings: tuple[Any, ...] = ()
    """Of the street map: `place` and `arms`."""
    lights: tuple[str, ...] = ()
    """What sessions are called, where it is known."""
    attribution: str = ""
    power: float = 4.0
    """Of the distance, by which blocks' views are mixed (paper, section 4.3: 4 in a network of streets, 1 on one street)."""
    threshold: float = 0.1
    """Mean visibility below which a block is left out of a view."""


@dataclass
class Loaded:
    """A block, ready to be looked at."""

    place: Place
    block: Block
    codes: Float[Tensor, "sessions 32"]
    """Of its own for each session, or those that make it look as its neighbours do."""
    facts: Mapping[str, Any]
    matched: Mapping[str, Any] | None = None
    """How its codes were matched to its neighbours'; None: they weren't."""


class City:
    """A folder of blocks.

    Args:
        folder: which.
        loaded: blocks that are kept in memory, at most.

    Raises:
        UserError: there is no city.
    """

    def __init__(self, folder: Path, loaded: int = _LOADED):
        self.folder, self._most = Path(folder), loaded
        self.about = _read(self.folder / FILE)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where blocks are."""
        return self.about.places

    @property
    def is_matched(self) -> bool:
        """Whether codes of any block were matched to its neighbours'."""
        return any((self.folder / place.name / _CODES).exists() for place in self.places)

    def block(self, name: str) -> Loaded:
        """One of its blocks.

        Raises:
            UserError: there is none of that name, or it can't be read.
        """
        if name not in self._loaded:
            place = next((each for each in self.places if each.name == name), None)
            if place is None:
                raise UserError(
                    f"{self.folder} has no block {name}", f"it has {', '.join(each.name for each in self.places)}"
                )
            self._loaded[name] = load_block(self.folder, place, self.about.sessions)
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def forget(self, name: str) -> None:
        """Read a block anew when it is looked at next."""
        self._loaded.pop(name, None)


def write_about(folder: Path, about: About) -> None:
    """Write a city's list of blocks."""
    said = {"format": FORMAT, **asdict(about)}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(said, indent=1) + "\n"
    checkpoint.write_atomic(folder / FILE, lambda file: file.write(text.encode()))


def save_block(folder: Path, place: Place, block: Block, facts: Mapping[str, Any]) -> None:
    """Write a block's networks; its codes are its own until they are matched."""
    path = folder / place.name / _MODEL
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: each.detach().cpu() for name, each in block.state_dict().items()}
    if block.occupancy is not None:
        tensors |= _packed(tensors.pop(_DENSITY))
    about = {"system": "block_nerf", "dimensions": asdict(block.dimensions), "place": asdict(place), **facts}
    checkpoint.save_weights(path, checkpoint.in_sixteen_bits(tensors), about)
    (folder / place.name / _CODES).unlink(missing_ok=True)


def save_codes(folder: Path, place: Place, codes: Float[Tensor, "sessions 32"], facts: Mapping[str, Any]) -> None:
    """Write the codes that make a block look as its neighbours do."""
    about = {"system": "block_nerf", "codes": place.name, **facts}
    checkpoint.save_weights(folder / place.name / _CODES, {"codes": codes.detach().cpu().float()}, about)


def load_block(folder: Path, place: Place, sessions: int) -> Loaded:
    """A block from its files.

    Raises:
        UserError: they can't be read, or are of another version.
    """
    path = folder / place.name / _MODEL
    if not path.exists():
        raise UserError(
            f"{path} is missing", f"train it: almanac block-nerf update-block {folder} --block {place.name}"
        )
    tensors, facts = checkpoint.load_weights(path, "block_nerf")
    try:
        block = Block(Dimensions(**facts["dimensions"]))
        if block.occupancy is not None:
            tensors[_DENSITY] = _unpacked(tensors.pop(_FILLED), tensors[_DENSITY], len(block.occupancy.density))
        dtypes = {name: each.dtype for name, each in block.state_dict().items()}
        block.load_state_dict({name: each.to(dtypes[name]) for name, each in tensors.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is of another version: {error}", "train it again") from None
    codes = torch.zeros(sessions, CODE)
    if block.codes is not None:
        codes[: len(block.codes.weight)] = block.codes.weight.detach()[:sessions].float()
    matched = None
    if (folder / place.name / _CODES).exists():
        found, matched = checkpoint.load_weights(folder / place.name / _CODES, "block_nerf")
        codes = found["codes"].float()
    return Loaded(place, block.eval().requires_grad_(False), codes, facts, matched)


def _packed(density: Float[Tensor, " cells"]) -> dict[str, Tensor]:
    """Which cells have something in them, and how dense each of those is, within 1 %."""
    filled = density > _THINNEST
    steps = (_BITS * (density[filled].log() - math.log(_THINNEST))).round().clamp(0, 255)
    return {_FILLED: torch.from_numpy(np.packbits(filled.numpy())), _DENSITY: steps.to(torch.uint8)}


def _unpacked(bits: UInt8[Tensor, " bytes"], steps: UInt8[Tensor, " some"], count: int) -> Float[Tensor, " cells"]:
    """All cells; those that aren't filled are empty."""
    filled = torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).bool()
    return torch.zeros(count).masked_scatter(filled, torch.exp(steps.float() / _BITS + math.log(_THINNEST)))


def _read(path: Path) -> About:
    try:
        said = json.loads(path.read_bytes())
        if said.pop("format") != FORMAT:
            raise ValueError("it is of another version")
        places = tuple(Place(each["name"], tuple(each["origin"]), each["radius"]) for each in said.pop("places"))
        camera = said.pop("camera")
        lens = Camera(
            **{
                **camera,
                "focal": tuple(camera["focal"]),
                "centre": tuple(camera["centre"]),
                "distortion": tuple(camera["distortion"]),
            }
        )
        shared = {"crossings": tuple(said.pop("crossings")), "lights": tuple(said.pop("lights", ()))}
        return About(places=places, camera=lens, **shared, **said)
    except OSError:
        raise UserError(
            f"{path.parent} is no city: it has no {path.name}", "make one: almanac block-nerf train CAPTURE --out CITY"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} can't be read: {error}", "train the city again") from None


def with_place(about: About, place: Place) -> About:
    """The list with a block more, or one moved."""
    places = [each for each in about.places if each.name != place.name]
    return replace(about, places=tuple(sorted([*places, place], key=lambda each: each.name)))
