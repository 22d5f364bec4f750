"""Work that compiled loops share, in as many threads as PyTorch computes in."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def shared(work: Callable[[Any], None], parts: list) -> None:
    """Do work on each part.

    Args:
        work: which lets other threads run while it computes.
        parts: one for each thread.
    """
    if len(parts) <= 1:
        for part in parts:
            work(part)
        return
    list(_pool(len(parts)).map(work, parts))


def slices(count: int, least: int) -> list[slice]:
    """So many things in parts, one for each thread.

    Args:
        count: of things.
        least: that a part is worth a thread for.
    """
    step = max(math.ceil(count / torch.get_num_threads()), least)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)
