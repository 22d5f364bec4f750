"""Sophy's networks (Wurman et al. 2022, Methods): a policy that is a Gaussian squashed by tanh, and two critics, each of which says how
the return of an action is distributed, by quantiles (Dabney et al. 2018). Both critics are computed at once, as one batched product."""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_LOG_STD = (-20.0, 2.0)
"""Between which the logarithm of a standard deviation lies: covariances of e⁻⁴⁰ to e⁴."""
CRITICS = 2


@dataclass(frozen=True)
class Networks:
    """Sizes of all networks."""

    observed: int
    """Numbers of an observation."""
    actions: int = 2
    width: int = 256
    """Of each hidden layer; 2,048 in the paper."""
    depth: int = 2
    """Hidden layers; 4 in the paper."""
    quantiles: int = 32
    """Of each critic; 1: it says the mean alone, as SAC's does."""
    scale: float = 1.0
    """What the critics' last layer is multiplied by. Adam moves each weight by as much whatever returns are like: where they are of
    hundreds, critics without it take tens of thousands of updates to come as far (docs/log.md)."""

    def facts(self) -> dict[str, Any]:
        """As JSON takes them."""
        return asdict(self)


class Policy(nn.Module):
    """How to act: a Gaussian of independent numbers, squashed to (−1, 1).

    Args:
        networks: its sizes.
    """

    def __init__(self, networks: Networks):
        super().__init__()
        sizes = [networks.observed] + [networks.width] * networks.depth
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(sizes)]
        self.trunk = nn.Sequential(*(each for pair in layers for each in pair))
        self.head = nn.Linear(networks.width, 2 * networks.actions)

    def forward(self, observations: Float[Tensor, "*batch observed"]) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of the Gaussian, before tanh."""
        mean, log_std = self.head(self.trunk(observations)).chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD)

    def sample(
        self, observations: Float[Tensor, "*batch observed"], noise: Float[Tensor, "*batch actions"]
    ) -> tuple[Float[Tensor, "*batch actions"], Float[Tensor, "*batch"]]:
        """Actions, differentiable in the weights, and the logarithms of their densities.

        Args:
            observations: what is seen.
            noise: normal numbers.
        """
        mean, log_std = self(observations)
        before = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 − tanh²) without the loss of digits of that difference.
        squashed = 2 * (math.log(2) - before - F.softplus(-2 * before))
        return before.tanh(), (gaussian - squashed).sum(-1)

    def best(self, observations: Float[Tensor, "*batch observed"]) -> Float[Tensor, "*batch actions"]:
        """The action without noise."""
        return self(observations)[0].tanh()


class Critics(nn.Module):
    """Quantiles of the return of an action, by two critics.

    Args:
        networks: their sizes.
    """

    def __init__(self, networks: Networks):
        super().__init__()
        sizes = [networks.observed + networks.actions] + [networks.width] * networks.depth + [networks.quantiles]
        self.layers = nn.ModuleList(_Twin(a, b) for a, b in pairwise(sizes))
        self.scale = networks.scale

    def forward(
        self, observations: Float[Tensor, "batch observed"], actions: Float[Tensor, "batch actions"]
    ) -> Float[Tensor, "critics batch quantiles"]:
        """Quantiles, by each critic."""
        hidden = torch.cat((observations, actions), dim=-1).expand(CRITICS, -1, -1)
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        return self.scale * self.layers[-1](hidden)


class _Twin(nn.Module):
    """A linear layer of each critic."""

    def __init__(self, before: int, after: int):
        super().__init__()
        bound = before**-0.5
        self.weight = nn.Parameter(torch.empty(CRITICS, before, after).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(CRITICS, 1, after).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "critics batch before"]) -> Float[Tensor, "critics batch after"]:
        return torch.baddbmm(self.bias, x, self.weight)
