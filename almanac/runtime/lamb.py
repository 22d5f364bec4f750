"""LAMB (You et al. 2020, algorithm 2): Adam whose step for each tensor is as long as the learning rate says in parts of that tensor's own
length, so that batches of thousands can be learnt from at one learning rate."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Lamb(torch.optim.Optimizer):
    """The optimiser.

    Args:
        params: what is optimised, or groups of it.
        lr: learning rate: the length of a step, as a part of the length of the tensor that it changes.
        betas: decay rates of the averages of gradients and of their squares.
        eps: keeps the quotient of the two finite.
        weight_decay: how much of the weights themselves is added to the direction before its length is measured.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group)
        return loss

    def _step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """All tensors at once: a small network has hundreds, and a call for each would take longer than the sums."""
        states = [self.state[weight] for weight in weights]
        for weight, state in zip(weights, states, strict=True):
            if not state:
                state["step"] = 0
                state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["step"] += 1
        first, second = group["betas"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        # Both averages began at zero, and are freed of it (Kingma & Ba 2015, section 3).
        roots = torch._foreach_div(squares, [1 - second ** state["step"] for state in states])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        directions = torch._foreach_div(means, roots)
        torch._foreach_div_(directions, [1 - first ** state["step"] for state in states])
        if group["weight_decay"]:
            torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
        for weight, direction in zip(weights, directions, strict=True):
            length, wanted = torch.linalg.vector_norm(direction), torch.linalg.vector_norm(weight)
            ratio = torch.where((length > 0) & (wanted > 0), wanted / length, 1.0)
            weight.sub_(direction * ratio, alpha=group["lr"])
