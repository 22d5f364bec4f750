"""QR-SAC (Wurman et al. 2022, Methods): soft actor-critic whose critics learn quantiles of n-step returns. Of the two target critics, each
sample takes the whole distribution of the one with the lower mean. What the transitions are of, and where they come from, it does not
know."""

import copy
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from almanac.runtime.errors import RunFailed
from almanac.sophy.model import Critics, Networks, Policy


class Batch(NamedTuple):
    """n-step transitions."""

    observations: Float[Tensor, "batch observed"]
    actions: Float[Tensor, "batch actions"]
    returns: Float[Tensor, " batch"]
    """Of the steps between the two observations, each reward times γ to the power of the steps before it."""
    discounts: Float[Tensor, " batch"]
    """γ to the power of the steps; 0 where the episode ended with them, but not where only its time was over."""
    next_observations: Float[Tensor, "batch observed"]


class Pace(NamedTuple):
    """How fast to learn."""

    critics: float = 1.0
    """Part of the config's rate."""
    policy: float = 1.0
    """Likewise; 0: the policy stays as it is."""
    trust: float = 0.0
    """How far to follow what is shown: 1 is as much as all that actions are worth."""


@dataclass(frozen=True)
class Config:
    """What the paper's learner is told."""

    alpha: float | None = 0.01
    """Weight of the entropy; none: learned, so that the entropy is one nat below 0 for each number of an action."""
    critic_rate: float = 5e-5
    """Adam's step size for the critics."""
    policy_rate: float = 2.5e-5
    """And for the policy."""
    tau: float = 0.005
    """The part of the way to the critics that their targets go after each update."""
    clip: float = 10.0
    """Largest norm of the critics' gradient."""


def targets(
    policy: Policy, critics: Critics, batch: Batch, alpha: Tensor, noise: Float[Tensor, "batch actions"]
) -> Float[Tensor, "batch quantiles"]:
    """What the quantiles are of: the n-step return, and after it the distribution of the critic that is lower on average, less entropy.

    Args:
        policy: of now.
        critics: the targets.
        batch: transitions.
        alpha: weight of the entropy.
        noise: normal numbers, of the action after the transition.
    """
    actions, log_density = policy.sample(batch.next_observations, noise)
    quantiles = critics(batch.next_observations, actions)
    lower = quantiles.mean(-1).argmin(0)
    chosen = quantiles[lower, torch.arange(len(lower), device=lower.device)]
    soft = chosen - alpha * log_density[:, None]
    return batch.returns[:, None] + batch.discounts[:, None] * soft


def quantile_loss(
    quantiles: Float[Tensor, "critics batch quantiles"], targets: Float[Tensor, "batch aims"]
) -> Float[Tensor, ""]:
    """Huber quantile regression (Dabney et al. 2018, eq. 10; κ = 1): summed over a critic's quantiles and over critics, averaged over those
    of the target and over samples. Of a single number, which is a mean and no quantile, half its squared error."""
    if quantiles.shape[-1] == 1:
        return 0.5 * (quantiles - targets).square().mean(1).sum()
    return _QuantileHuber.apply(quantiles, targets)


class _QuantileHuber(torch.autograd.Function):
    """Its value and its gradient in one pass over all pairs of quantiles: a quarter of the time that autograd takes."""

    @staticmethod
    def forward(ctx: Any, quantiles: Tensor, targets: Tensor) -> Tensor:
        _, batch, count = quantiles.shape
        tilt = ((2 * torch.arange(count, device=quantiles.device) + 1) / count - 1)[:, None]  # 2τ − 1
        error = targets[None, :, None, :] - quantiles[..., None]  # critics batch quantiles targets
        slope = error.clamp(-1, 1)
        # |τ − 1(error < 0)| × slope is half of this, whichever sign the slope has.
        weighted = slope.abs().mul_(tilt).add_(slope)
        ctx.save_for_backward(weighted.mean(-1).div_(-2 * batch))
        # Huber is slope × (error − slope / 2): the square's half within 1, and linear beyond.
        error.sub_(slope, alpha=0.5)
        return (weighted.flatten() @ error.flatten()) / (2 * batch * targets.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None


def policy_loss(
    policy: Policy,
    critics: Critics,
    observations: Float[Tensor, "batch observed"],
    alpha: Tensor,
    noise: Float[Tensor, "batch actions"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """How much less than the lower critic's mean, with entropy, actions are worth; and the mean logarithm of their densities."""
    actions, log_density = policy.sample(observations, noise)
    worth = critics(observations, actions).mean(-1).amin(0)
    return (alpha * log_density - worth).mean(), log_density.mean()


def imitation_loss(policy: Policy, shown: Batch) -> Float[Tensor, ""]:
    """How far the policy is from doing what was shown: squared, summed over an action's numbers."""
    return (policy.best(shown.observations) - shown.actions).square().sum(-1).mean()


class Learner:
    """Networks that learn.

    Args:
        networks: their sizes.
        config: how they learn.
        device: where.
        seed: of their weights and noise.
        compiled: whether to compile losses (`torch.compile`), which takes a minute and pays in long runs.
    """

    def __init__(self, networks: Networks, config: Config, device: torch.device, seed: int = 0, compiled: bool = False):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy, critics = Policy(networks), Critics(networks)
        self.networks, self.config, self.device = networks, config, device
        self.policy, self.critics = policy.to(device), critics.to(device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.tensor(0.0 if config.alpha is None else config.alpha, device=device)
        self.log_alpha = self.log_alpha if config.alpha is None else self.log_alpha.log()
        self.log_alpha.requires_grad_(config.alpha is None)
        self.policy_adam = torch.optim.Adam(self.policy.parameters(), config.policy_rate, fused=True)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), config.critic_rate, fused=True)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], config.policy_rate)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.updates, self.pace = 0, Pace()
        self._losses = (
            (torch.compile(_critic_loss), torch.compile(policy_loss)) if compiled else (_critic_loss, policy_loss)
        )

    def update(self, batch: Batch, shown: Batch | None = None) -> dict[str, Tensor]:
        """Learn from a batch: critics, then the policy, then targets.

        Args:
            batch: transitions.
            shown: some that others drove, whom the policy is to follow as far as its pace says.

        Returns:
            `critic_loss`, `policy_loss`, `entropy`, `worth` (the mean of the critics) and `alpha`, as tensors that nobody waited for.
        """
        critic_loss_of, policy_loss_of = self._losses
        alpha, noise = self.log_alpha.detach().exp(), self._noise(batch)
        critic_loss, worth = critic_loss_of(self.critics, self.policy, self.target_critics, batch, alpha, noise)
        self.critic_adam.zero_grad()
        critic_loss.backward()
        torch.nn.utils.clip_grad_norm_(self.critics.parameters(), self.config.clip)
        self.critic_adam.step()

        self.critics.requires_grad_(False)
        loss, log_density = policy_loss_of(self.policy, self.critics, batch.observations, alpha, self._noise(batch))
        if shown is not None and self.pace.trust:
            # As a part of what the policy is worth, so that neither outweighs the other by its unit (Fujimoto and Gu 2021, eq. 5).
            loss = loss + self.pace.trust * worth.abs() * imitation_loss(self.policy, shown)
        if self.pace.policy:
            self.policy_adam.zero_grad()
            loss.backward()
            self.policy_adam.step()
        self.critics.requires_grad_(True)

        if self.config.alpha is None and self.pace.policy:
            self.alpha_adam.zero_grad()
            (-self.log_alpha * (log_density.detach() - self.networks.actions)).backward()
            self.alpha_adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.target_critics.parameters()), list(self.critics.parameters()), self.config.tau
            )
        self.updates += 1
        return {
            "critic_loss": critic_loss.detach(),
            "policy_loss": loss.detach(),
            "entropy": -log_density.detach(),
            "worth": worth,
            "alpha": alpha,
        }

    def set_pace(self, pace: Pace) -> None:
        """Learn so fast from now on."""
        self.pace = pace
        self.critic_adam.param_groups[0]["lr"] = pace.critics * self.config.critic_rate
        self.policy_adam.param_groups[0]["lr"] = pace.policy * self.config.policy_rate

    def _noise(self, batch: Batch) -> Tensor:
        return torch.randn(batch.actions.shape, generator=self.generator, device=self.device)

    def state(self) -> dict[str, Any]:
        """All that going on takes."""
        parts = {name: copy.deepcopy(getattr(self, name).state_dict()) for name in _PARTS}
        about = {"networks": self.networks.facts(), "config": asdict(self.config)}
        return {**parts, **about, "log_alpha": self.log_alpha.detach().clone(), "updates": self.updates} | {
            "generator": self.generator.get_state()
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            RunFailed: it is of other networks.
        """
        if state["networks"] != self.networks.facts():
            raise RunFailed(
                f"the run's networks are {state['networks']}, not {self.networks.facts()}",
                "resume with the options that it was begun with",
            )
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]


_PARTS = ("policy", "critics", "target_critics", "policy_adam", "critic_adam", "alpha_adam")


def _critic_loss(
    critics: Critics, policy: Policy, target_critics: Critics, batch: Batch, alpha: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The critics' loss, and what they say on average."""
    with torch.no_grad():
        aims = targets(policy, target_critics, batch, alpha, noise)
    quantiles = critics(batch.observations, batch.actions)
    return quantile_loss(quantiles, aims), quantiles.detach().mean()
