"""QR-SAC against a version of it in NumPy that shares nothing with it but the weights, and on distributions that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from almanac.sophy.model import Networks, Policy
from almanac.sophy.qr_sac import Batch, Config, Learner, Pace, policy_loss, quantile_loss, targets

CPU = torch.device("cpu")
SMALL = Networks(observed=5, actions=2, width=16, depth=2, quantiles=8)


def batch_of(count: int, networks: Networks = SMALL, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    discounts = torch.full((count,), 0.93)
    discounts[::4] = 0.0  # episodes that ended
    discounts[1::4] = 0.93**0.5  # and returns of fewer steps
    return Batch(
        torch.randn(count, networks.observed, generator=g),
        torch.rand(count, networks.actions, generator=g) * 1.8 - 0.9,
        3 * torch.randn(count, generator=g),
        discounts,
        torch.randn(count, networks.observed, generator=g),
    )


class InNumPy:
    """The same formulas, in float64, sample by sample."""

    def __init__(self, learner: Learner):
        self.policy = {name: each.detach().double().numpy() for name, each in learner.policy.named_parameters()}
        self.critics = self._critics(learner.critics, learner.networks.scale)
        self.targets = self._critics(learner.target_critics, learner.networks.scale)

    @staticmethod
    def _critics(module, scale):
        found = []
        for critic in range(2):
            layers = []
            for layer in module.layers:
                layers.append(
                    (layer.weight[critic].detach().double().numpy(), layer.bias[critic, 0].detach().double().numpy())
                )
            layers[-1] = (scale * layers[-1][0], scale * layers[-1][1])
            found.append(layers)
        return found

    def act(self, observation, noise):
        hidden = observation
        for number in (0, 2):
            hidden = np.maximum(self.policy[f"trunk.{number}.weight"] @ hidden + self.policy[f"trunk.{number}.bias"], 0)
        out = self.policy["head.weight"] @ hidden + self.policy["head.bias"]
        mean, log_std = out[: len(out) // 2], np.clip(out[len(out) // 2 :], -20, 2)
        before = mean + np.exp(log_std) * noise
        density = stats.norm.logpdf(before, mean, np.exp(log_std)) - np.log(1 - np.tanh(before) ** 2)
        return np.tanh(before), density.sum()

    @staticmethod
    def say(layers, observation, action):
        hidden = np.concatenate((observation, action))
        for weight, bias in layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0)
        return hidden @ layers[-1][0] + layers[-1][1]

    def aim(self, sample, alpha, noise):
        action, density = self.act(sample.next_observations, noise)
        said = [self.say(layers, sample.next_observations, action) for layers in self.targets]
        lower = said[0] if said[0].mean() <= said[1].mean() else said[1]
        return sample.returns + sample.discounts * (lower - alpha * density)

    @staticmethod
    def loss(quantiles, aims):
        total = 0.0
        for j, quantile in enumerate(quantiles):
            level = (2 * j + 1) / (2 * len(quantiles))
            pairs = []
            for aim in aims:
                u = aim - quantile
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                pairs.append(abs(level - (u < 0)) * huber)
            total += np.mean(pairs)
        return total


def doubled(batch: Batch) -> list[Batch]:
    return [Batch(*(each[number].double().numpy() for each in batch)) for number in range(len(batch.returns))]


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_targets_and_losses_equal_a_version_in_numpy(scale: float):
    learner = Learner(replace(SMALL, scale=scale), Config(alpha=0.2), CPU, seed=1)
    with torch.no_grad():  # targets that are not the critics
        for each in learner.target_critics.parameters():
            each.add_(0.1 * torch.randn(each.shape, generator=torch.Generator().manual_seed(2)))
    batch, alpha = batch_of(24), torch.tensor(0.2)
    noise, other = (torch.randn(24, 2, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    ours, same = targets(learner.policy, learner.target_critics, batch, alpha, noise), InNumPy(learner)
    samples = doubled(batch)
    aims = [same.aim(each, 0.2, noise[at].double().numpy()) for at, each in enumerate(samples)]
    np.testing.assert_allclose(ours.detach().numpy(), np.stack(aims), atol=1e-5, rtol=1e-5)
    lower = [np.argmin([same.say(layers, each.next_observations, same.act(each.next_observations, noise[at].double().numpy())[0]).mean()
                        for layers in same.targets]) for at, each in enumerate(samples)]  # fmt: skip
    assert len(set(lower)) == 2  # either critic is the lower one somewhere: chosen for each sample

    quantiles = learner.critics(batch.observations, batch.actions)
    loss = quantile_loss(quantiles, ours.detach())
    expected = np.mean(
        [
            sum(same.loss(same.say(layers, each.observations, each.actions), aims[at]) for layers in same.critics)
            for at, each in enumerate(samples)
        ]
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)

    loss, density = policy_loss(learner.policy, learner.critics, batch.observations, alpha, other)
    values, densities = [], []
    for at, each in enumerate(samples):
        action, of_it = same.act(each.observations, other[at].double().numpy())
        worth = min(same.say(layers, each.observations, action).mean() for layers in same.critics)
        values.append(0.2 * of_it - worth)
        densities.append(of_it)
    assert loss.item() == pytest.approx(np.mean(values), rel=1e-5)
    assert density.item() == pytest.approx(np.mean(densities), rel=1e-5)


def test_gradient_of_the_quantile_loss_is_its_derivative():
    g = torch.Generator().manual_seed(0)
    quantiles = torch.randn(2, 3, 4, generator=g, dtype=torch.float64, requires_grad=True)
    aims = 2 * torch.randn(3, 6, generator=g, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda each: quantile_loss(each, aims), (quantiles,))


def test_one_quantile_is_the_mean_of_soft_actor_critic():
    said, aims = torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[2.0]])
    assert quantile_loss(said, aims).item() == pytest.approx(0.5 * 1 + 0.5 * 4)


def test_quantiles_of_a_known_mixture_are_learnt():
    """One step, whatever is done: 0.3 of N(−40, 4²) and 0.7 of N(60, 8²), far wider than Huber's 1."""
    networks = Networks(observed=1, actions=1, width=32, depth=1, quantiles=32)
    learner = Learner(networks, Config(alpha=0.01, critic_rate=1e-2, policy_rate=1e-3), CPU)
    g = torch.Generator().manual_seed(0)
    for step in range(4_000):
        pace = min(1.0, (4_000 - step) / 2_000)
        learner.set_pace(Pace(pace, pace))
        low = torch.rand(256, generator=g) < 0.3
        normal = torch.randn(256, generator=g)
        returns = torch.where(low, -40 + 4 * normal, 60 + 8 * normal)
        ones = torch.ones(256, 1)
        learner.update(Batch(ones, 2 * torch.rand(256, 1, generator=g) - 1, returns, torch.zeros(256), ones))
    said = learner.critics(torch.ones(1, 1), torch.zeros(1, 1)).mean(0)[0].detach().sort().values.numpy()
    levels = (np.arange(32) + 0.5) / 32
    grid = np.linspace(-80, 120, 200_001)
    cumulative = 0.3 * stats.norm.cdf(grid, -40, 4) + 0.7 * stats.norm.cdf(grid, 60, 8)
    true = np.interp(levels, cumulative, grid)
    spread = true[-1] - true[0]
    inner = np.abs(levels - 0.3) > 0.03  # where the mixture has a gap, any number between is a quantile
    assert np.abs(said - true)[inner].max() < 0.02 * spread


def test_a_learned_alpha_brings_the_entropy_to_its_aim():
    networks = Networks(observed=1, actions=2, width=16, depth=1, quantiles=4)
    learner = Learner(networks, Config(alpha=None, critic_rate=1e-3, policy_rate=3e-3), CPU)
    ones = torch.ones(64, 1)
    for _ in range(1_500):
        action = 2 * torch.rand(64, 2, generator=learner.generator) - 1
        found = learner.update(Batch(ones, action, -action.square().sum(1), torch.zeros(64), ones))
    assert found["entropy"].item() == pytest.approx(-2.0, abs=0.3)


def test_what_is_shown_is_followed_as_far_as_it_is_trusted():
    """Worth says that the action should be 0, and what is shown is 0.8."""
    networks = Networks(observed=1, actions=1, width=32, depth=1, quantiles=8)
    found = []
    for trust in (0.0, 1.0, 50.0):
        learner = Learner(networks, Config(alpha=0.01, critic_rate=3e-3, policy_rate=1e-3), CPU)
        learner.set_pace(Pace(trust=trust))
        ones = torch.ones(64, 1)
        shown = Batch(ones, 0.8 * ones, ones[:, 0], ones[:, 0], ones)
        for _ in range(600):
            action = 2 * torch.rand(64, 1, generator=learner.generator) - 1
            learner.update(Batch(ones, action, 2 - 2 * action.square()[:, 0], torch.zeros(64), ones), shown)
        found.append(learner.policy.best(ones[:1]).item())
    assert abs(found[0]) < 0.1 and 0.2 < found[1] < 0.6 and 0.7 < found[2] < 0.85


@pytest.mark.parametrize("alpha", [0.01, None])
def test_a_policy_without_pace_stays_and_critics_learn_of_it(alpha: float | None):
    learner = Learner(SMALL, Config(alpha=alpha, critic_rate=1e-3, policy_rate=1e-3), CPU)
    before, alpha_before = learner.state(), learner.log_alpha.clone()
    learner.set_pace(Pace(policy=0.0, trust=1.0))
    for seed in range(3):
        learner.update(batch_of(32, seed=seed), batch_of(8, seed=seed))
    now = learner.state()
    assert all(torch.equal(now["policy"][name], each) for name, each in before["policy"].items())
    assert not any(torch.equal(now["critics"][name], each) for name, each in before["critics"].items())
    assert torch.equal(learner.log_alpha, alpha_before)


def test_log_density_is_right_where_tanh_is_flat():
    policy = Policy(SMALL)
    with torch.no_grad():
        policy.head.bias[:2] = 12.0  # tanh(12) is 1 in float32
    _, density = policy.sample(torch.zeros(1, 5), torch.zeros(1, 2))
    assert math.isfinite(density.item()) and density.item() > 30


def test_learning_goes_on_from_a_state_to_the_same_weights():
    one, other = Learner(SMALL, Config(), CPU, seed=3), Learner(SMALL, Config(), CPU, seed=4)
    for number in range(5):
        one.update(batch_of(16, seed=number))
    other.load(one.state())
    for number in range(5, 10):
        one.update(batch_of(16, seed=number))
        other.update(batch_of(16, seed=number))
    for a, b in zip(one.critics.parameters(), other.critics.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)
