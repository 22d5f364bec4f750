"""What a step computes: rows of tokens of several sequences, and where their keys and values lie."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Batch:
    """The tokens of a step; those of a sequence lie together, in order."""

    tokens: Int[np.ndarray, " rows"]
    """int64."""
    positions: Int[np.ndarray, " rows"]
    """int32."""
    owner: Int[np.ndarray, " rows"]
    """int32: each row's line in `table`."""
    table: Int[np.ndarray, "sequences pages"]
    """int32: the pages of each sequence, of 32 tokens each."""
    wanted: Int[np.ndarray, " wanted"]
    """int32: rows whose logits are asked for."""
