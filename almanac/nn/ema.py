"""An exponential moving average of a model's weights, the copy that is evaluated and shipped."""

import torch
from torch import nn


class EMA:
    """Averages a model's weights.

    Args:
        model: whose parameters are averaged; buffers (a BatchNorm's statistics) are copied as they are.
        decay: weight of the old average at each update; the effective decay starts lower, (1 + n) / (10 + n) at
            update n, so that a short run's average does not remember its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float = 0.995):
        self.decay = decay
        self.updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self.averaged = [
            name for name, tensor in self.weights.items() if name in parameters and tensor.is_floating_point()
        ]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        if self.averaged:
            averages = [self.weights[name] for name in self.averaged]
            torch._foreach_lerp_(averages, [current[name] for name in self.averaged], 1 - decay)
        for name in self.weights.keys() - set(self.averaged):
            self.weights[name].copy_(current[name])

    def state_dict(self) -> dict:
        """What a checkpoint keeps."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what a checkpoint kept."""
        self.updates = state["updates"]
        for name, tensor in self.weights.items():
            tensor.copy_(state["weights"][name])
