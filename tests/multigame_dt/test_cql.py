"""The baseline's target, loss and play are those that its papers write down."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from almanac.multigame_dt import cql, published
from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from almanac.multigame_dt.windows import Windows
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig
from tests.multigame_dt.plays import made

TINY = cql.Shape(4, 3, 16)
PLAY = made(*((i % 2, 8, i % 3 != 0) for i in range(40)))
VALUES = np.linspace(-10, 10, 51)


def preset(steps: int = 3) -> cql.Preset:
    config = FitConfig(steps, learning_rate=1e-3, warmup_steps=0, save_every=2, log_every=1, precision="fp32")
    return cql.Preset(TINY, 4, config)


def learner() -> cql.Learner:
    torch.manual_seed(0)
    made = cql.Learner(cql.QNetwork(TINY))
    with torch.no_grad():
        for parameter in made.target.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def slowly_projected(chances: np.ndarray, reward: float, discount: float) -> np.ndarray:
    """Bellemare et al. 2017, algorithm 1, one value at a time."""
    found = np.zeros(51)
    for value, chance in zip(VALUES, chances, strict=True):
        place = (np.clip(reward + discount * value, -10, 10) + 10) / 0.4
        low, high = int(np.floor(place + 1e-9)), int(np.ceil(place - 1e-9))
        if low == high:
            found[low] += chance
        else:
            found[low] += chance * (high - place)
            found[high] += chance * (place - low)
    return found


def test_the_projection_is_its_algorithm():
    random = np.random.default_rng(0)
    chances = random.dirichlet(np.full(51, 0.3), 8)
    rewards, discounts = np.array([-1, -1, 0, 0, 1, 1, 1, 0.5]), np.array([0.99, 0, 0.99, 0, 0.99, 0, 1, 0.99])
    found = cql.projected(*(torch.from_numpy(each).float() for each in (chances, rewards, discounts))).numpy()
    for row, chance, reward, discount in zip(found, chances, rewards, discounts, strict=True):
        assert np.allclose(row, slowly_projected(chance, reward, discount), atol=1e-5)
    assert np.allclose(found.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_the_loss_is_that_of_a_slow_loop(weight: float):
    both, batch = learner(), Windows(PLAY, 6, 0, ahead=1)(0)
    batch = batch._replace(last=torch.arange(6) % 2 == 0)
    chosen = replace(preset(), weight=weight, crop=0, turn=0.0)
    loss = cql.conservative_loss(chosen)(both, batch, torch.Generator())
    network, target = both.network, both.target
    total = 0.0
    for at in range(6):
        here, after = batch.frames[at, :4][None], batch.frames[at, 1:][None]
        action, reward = int(batch.actions[at, 3]), [0, 1, 0, -1][int(batch.rewards[at, 3])]
        with torch.no_grad():
            logits, following, valued = network(here)[0], network(after)[0], target(after)[0]
        values = torch.from_numpy(VALUES).float()
        best = int((following.softmax(1) @ values).argmax())
        discount = 0.0 if batch.last[at] else 0.99
        wanted = slowly_projected(valued[best].softmax(0).double().numpy(), reward, discount)
        total -= float((wanted * logits[action].log_softmax(0).double().numpy()).sum())
        total -= weight * float((logits.softmax(1) @ values).log_softmax(0)[action])
    assert loss.item() == pytest.approx(total / 6, rel=1e-4)
    loss.backward()
    assert all(parameter.grad is None for parameter in both.target.parameters())
    assert all(parameter.grad is not None for parameter in both.network.parameters())


def test_targets_are_made_by_a_copy_that_is_renewed_now_and_then(monkeypatch):
    monkeypatch.setattr(cql, "_TARGET_EVERY", 3)
    both, batch, alike = learner().train(), Windows(PLAY, 2, 0, ahead=1)(0), []
    loss = cql.conservative_loss(preset())
    for _ in range(7):
        with torch.no_grad():
            both.network.head.bias.add_(0.01)
        loss(both, batch, torch.Generator())
        alike.append(torch.equal(both.network.head.bias, both.target.head.bias))
    assert alike == [True, False, False, True, False, False, True]


def test_sizes_have_the_parameters_that_they_are_named_for():
    for name, shape in cql.SIZES.items():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in cql.QNetwork(shape).parameters())
        assert count == pytest.approx(float(name.removesuffix("m")) * 1e6, rel=0.09)


def test_a_training_that_was_stopped_goes_on_and_play_opens_what_it_wrote(tmp_path: Path):
    whole = cql.train(PLAY, tmp_path / "whole", preset(4), device_name="cpu")
    given = Windows.__call__
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(Windows, "__call__", lambda windows, n: given(windows, n if n < 3 else _killed()))
        cql.train(PLAY, tmp_path / "again", preset(4), device_name="cpu")
    cql.train(PLAY, tmp_path / "again", preset(4), device_name="cpu", resume=True)
    one, other = (cql.load(tmp_path / name / "model.safetensors", "cpu") for name in ("whole", "again"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.shape == TINY and whole["steps"] == 4
    tuned = cql.train(PLAY, tmp_path / "tuned", preset(1), start=one, part=0.1, device_name="cpu")
    assert tuned["shape"] == whole["shape"]


def _killed() -> int:
    raise OSError("killed")


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    published.save(tmp_path / "dt.safetensors", DecisionTransformer(Dimensions(8, 1, 1)), {})
    with pytest.raises(UserError, match="another kind, transformer"):
        cql.load(tmp_path / "dt.safetensors")


def test_it_plays_the_action_of_the_highest_value_seeing_the_last_four_frames():
    network = learner().network
    agent = cql.QAgent(network, 3, "cpu", "fp32", epsilon=0.0)
    frames = np.random.default_rng(0).integers(0, 256, (6, 3, 84, 84), dtype=np.uint8)
    live = np.array([True, False, True])
    for i in range(3):
        agent.reset(i)
    for step in range(6):
        if step == 4:
            agent.reset(2)
        found = agent.act(frames[step], live)
        for i, begun in ((0, 0), (2, 4 if step >= 4 else 0)):
            seen = [frames[at, i] if at >= begun else np.zeros((84, 84), np.uint8) for at in range(step - 3, step + 1)]
            with torch.no_grad():
                values = network.expected(network(torch.from_numpy(np.stack(seen))[None]))[0]
            assert found.actions[i] == int(values.argmax()) and found.action_probabilities[i, found.actions[i]] == 1
        assert found.returns is None and not found.action_probabilities[1].any()
        agent.observe(np.ones(3, np.float32))


def test_some_of_its_actions_are_drawn_and_the_same_with_the_same_seed():
    network, frames = learner().network, np.zeros((50, 84, 84), np.uint8)
    agents = [cql.QAgent(network, 50, "cpu", "fp32", epsilon=0.5) for _ in range(2)]
    for i in range(50):
        for agent in agents:
            agent.reset(i, seed=i)
    one, other = (agent.act(frames) for agent in agents)
    assert one.actions.tolist() == other.actions.tolist()
    best = int(one.action_probabilities[0].argmax())
    assert 15 <= (one.actions != best).sum() <= 35  # 24 on average
    assert np.allclose(one.action_probabilities.sum(1), 1)
