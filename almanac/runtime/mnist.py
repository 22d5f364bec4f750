"""MNIST (LeCun et al. 1998): digits that people wrote, from its four files."""

import gzip
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from almanac.runtime import hub


def read(split: str) -> tuple[UInt8[np.ndarray, "count 28 28"], UInt8[np.ndarray, " count"]]:
    """Its pictures, white on black, and what they show.

    Args:
        split: `train` or `test`.

    Raises:
        UserError: it is not at hand, and can't be had.
    """
    folder, stem = hub.data("mnist"), "train" if split == "train" else "t10k"
    pixels = _read(folder / f"{stem}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    return pixels, _read(folder / f"{stem}-labels-idx1-ubyte.gz", header=8)


def _read(path: Path, header: int) -> UInt8[np.ndarray, " bytes"]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).copy()
