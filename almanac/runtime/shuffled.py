"""The order in which a training sees a finite set: a function of seed and epoch, so that a run that goes on sees what it would have."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


@lru_cache(maxsize=4)
def order(count: int, seed: int, epoch: int) -> Int[Tensor, " count"]:
    """Numbers below `count`, shuffled."""
    return torch.randperm(count, generator=generator(seed, epoch))


def generator(*parts: int) -> torch.Generator:
    """Random numbers that belong to these numbers."""
    seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(seed)
