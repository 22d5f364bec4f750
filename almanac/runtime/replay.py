"""A GPU that replays a training step. Small networks keep it waiting for Python, which starts each of a thousand kernels by itself: a step
of a U-Net of 7 million parameters took 120 ms that way, and 46 when its kernels were started as one (docs/log.md)."""

from typing import Any

import torch
from torch import nn


def capture(model: nn.Module) -> None:
    """Have a model's first training step on a GPU record its kernels, forwards and backwards, and all later ones replay them.

    Args:
        model: is given tensors of the same shapes at each step, and nothing else; draws no random numbers, and asks the GPU nothing. Its
            gradients belong to the step: they are overwritten by the next one.
    """

    def first(*given: torch.Tensor) -> Any:
        del model.forward  # what is recorded is the class' own
        sample = tuple(each.detach().clone() for each in given)
        kind, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", kind, enabled, cache_enabled=False):  # weights are read anew when they are replayed
            torch.cuda.make_graphed_callables(model, sample)
        return model(*given)

    model.forward = first
