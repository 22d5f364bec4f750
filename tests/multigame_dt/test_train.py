"""The recipe learns what it says it does, and its parts are what they replace."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from almanac.multigame_dt import published
from almanac.multigame_dt import train as recipe
from almanac.multigame_dt.augment import augmented, moved
from almanac.multigame_dt.learner import Learner
from almanac.multigame_dt.model import DecisionTransformer, Dimensions
from almanac.multigame_dt.windows import Batch, Windows
from almanac.runtime.errors import UserError
from almanac.runtime.fit import FitConfig, fit
from almanac.runtime.lamb import Lamb
from tests.multigame_dt.plays import made

TINY = Dimensions(32, 2, 2, dropout=0.0)
PLAY = made(*((i % 2, 12, True) for i in range(40)))


def preset(steps: int = 4, **changed) -> recipe.Preset:
    config = FitConfig(steps, learning_rate=1e-3, warmup_steps=2, save_every=2, log_every=1, precision="fp32")
    return replace(recipe.Preset(TINY, 6, config), **changed)


def model(returns: bool = True) -> DecisionTransformer:
    torch.manual_seed(0)
    return DecisionTransformer(replace(TINY, returns=returns))


def batch(size: int = 6) -> Batch:
    windows = Windows(PLAY, size, 0)
    first = windows.at(PLAY.starts[:size])  # half of them begin an episode
    return Batch(*(torch.cat([a[: size // 2], b[size // 2 :]]) for a, b in zip(first, windows(0), strict=True)))


@pytest.mark.parametrize("returns", [True, False])
def test_a_learner_says_what_the_transformer_says(returns: bool):
    transformer, given = model(returns), batch()
    whole = transformer(given.frames, given.returns, given.actions, given.rewards)
    asked = Learner(transformer)(given.frames, given.returns, given.actions, given.rewards)
    assert torch.allclose(asked.actions, whole.actions, atol=1e-5)
    assert torch.allclose(asked.rewards, whole.rewards, atol=1e-5)
    if returns:
        assert torch.allclose(asked.returns, whole.returns[:, 0], atol=1e-5)
    else:
        assert asked.returns.shape == (6, 0) and whole.returns is None


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("returns", [True, False])
def test_the_loss_is_the_mean_over_tokens_and_in_the_released_form_over_classes_too(returns: bool, released: bool):
    learner, given = Learner(model(returns)), batch()
    chosen = preset(released=released, crop=0, turn=0.0)
    loss = recipe.imitation_loss(chosen)(learner, given, torch.Generator())
    expected = learner(given.frames, given.returns, given.actions, given.rewards)
    parts: dict[str, list[float]] = {"actions": [], "rewards": [], "returns": []}
    for at in range(6):
        for step in range(4):
            if given.played[at, step]:  # what is before an episode's beginning nobody did
                for name in ("actions", "rewards"):
                    surprise = -getattr(expected, name)[at, step].log_softmax(0)[getattr(given, name)[at, step]]
                    parts[name].append(surprise.item())
        if returns:  # but the return is asked for there too
            parts["returns"].append(-expected.returns[at].log_softmax(0)[given.returns[at, 0]].item())
    assert len(parts["actions"]) == 3 * 1 + 3 * 4 or not given.played[3:].all()
    classes = {"actions": 18, "rewards": 4, "returns": 120} if released else dict.fromkeys(parts, 1)
    means = [np.mean(each) / classes[name] for name, each in parts.items() if each]
    assert loss.item() == pytest.approx(sum(means) / len(means), rel=1e-5)


def test_augmentation_by_nothing_is_nothing():
    frames = batch().frames
    assert torch.equal(augmented(frames, torch.Generator(), crop=0, turn=0.0), frames)


def test_augmentation_moves_by_pixels_and_turns_about_the_middle():
    frames = batch(2).frames
    still, quarter = torch.zeros(2), torch.full((2,), math.pi / 2)
    there = moved(frames, torch.tensor([[3, -2], [-4, 4]]), still)
    for at, (x, y) in enumerate([(3, -2), (-4, 4)]):
        padded = F.pad(frames[at], (4, 4, 4, 4))
        assert torch.equal(there[at], padded[:, 4 - y : 88 - y, 4 - x : 88 - x])
    assert torch.equal(moved(frames, torch.zeros(2, 2, dtype=torch.int64), quarter), frames.rot90(1, (2, 3)))


def test_augmentation_keeps_a_windows_frames_together_and_within_its_range():
    frames = torch.full((64, 4, 84, 84), 255, dtype=torch.uint8)
    frames[:, :, :42] = 0
    done = augmented(frames, torch.Generator().manual_seed(0))
    assert done.shape == frames.shape and done.dtype == torch.uint8
    assert (done == done[:, :1]).all()  # all frames of a window alike
    assert len({each.numpy().tobytes() for each in done[:, 0]}) > 32  # each window by itself
    edge = (done[:, 0, :, 42] >= 128).int().argmax(1)  # where it begins to be bright: at 42, moved by at most 4
    assert edge.min() >= 37 and edge.max() <= 47 and edge.unique().numel() >= 7
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmented(frames, torch.Generator().manual_seed(0)), done)


@pytest.mark.parametrize("returns", [True, False])
def test_a_model_learns_one_batch_by_heart(returns: bool):
    learner, given = Learner(model(returns)), Windows(PLAY, 4, 0).at(PLAY.starts[:4] + 5)
    optimizer = torch.optim.AdamW(learner.parameters(), 6e-3, (0.9, 0.95))
    loss = recipe.imitation_loss(preset(crop=0, turn=0.0))
    for _ in range(60):
        found = loss(learner, given, torch.Generator())
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found.item() < 0.1


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [loss for line in lines for loss in line["losses"]]


def test_a_run_that_was_killed_goes_on_to_the_same_losses(tmp_path: Path, monkeypatch):
    whole = recipe.train(PLAY, tmp_path / "whole", preset(6), device_name="cpu")
    given = Windows.__call__

    def dies(windows: Windows, number: int) -> Batch:
        if number == 5 and windows.size == 6:
            raise OSError("killed")
        return given(windows, number)

    monkeypatch.setattr(Windows, "__call__", dies)
    with pytest.raises(OSError, match="killed"):
        recipe.train(PLAY, tmp_path / "killed", preset(6), device_name="cpu")
    monkeypatch.setattr(Windows, "__call__", given)
    again = recipe.train(PLAY, tmp_path / "killed", preset(6), device_name="cpu", resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 6
    assert again["nll"] == whole["nll"]
    one, other = (published.load(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("returns", [True, False])
def test_a_training_writes_a_model_that_play_opens_and_fine_tuning_goes_on_from(tmp_path: Path, returns: bool):
    facts = recipe.train(PLAY, tmp_path, preset(), returns=returns, device_name="cpu")
    found = published.load(tmp_path / "model.safetensors")
    assert found.dimensions == replace(TINY, returns=returns)
    assert set(facts["nll"]) == {"actions", "rewards"} | ({"returns"} if returns else set())
    test = [Windows(PLAY.held_out()[1], 128, 0, [1.0, 1.0])(0)]
    again = recipe.surprise(Learner(found), test)
    assert facts["nll"] == {name: pytest.approx(each, abs=0.01) for name, each in again.items()}  # in bfloat16
    assert [row["game"] for row in facts["data"]] == ["Boxing", "Pong"] and facts["data"][0]["episodes"] == 20
    other = made((0, 30, True), (0, 30, True), games=("Assault",), seed=1)
    changed = replace(preset(1), model=Dimensions(64, 1, 1))
    tuned = recipe.train(other, tmp_path / "tuned", changed, start=found, part=0.5, device_name="cpu")
    assert tuned["games"] == ["Assault"] and tuned["nll"] is None
    after = published.load(tmp_path / "tuned" / "model.safetensors")
    assert (after.dimensions.width, after.dimensions.layers, after.dimensions.returns) == (32, 2, returns)
    moved_by = max((a - b).abs().max().item() for a, b in zip(found.parameters(), after.parameters(), strict=True))
    assert 0 < moved_by < 0.01  # a step from where it was


def test_wrong_wishes_are_said(tmp_path: Path):
    with pytest.raises(UserError, match="no transformer of size '1b'"):
        recipe.resized(preset(), "1b")
    with pytest.raises(UserError, match="batch is 0"):
        recipe.with_overrides(preset(), batch=0)
    with pytest.raises(UserError, match="learning rate is -1"):
        recipe.with_overrides(preset(), learning_rate=-1.0)
    with pytest.raises(UserError, match="2 of the play"):
        recipe.train(PLAY, tmp_path, preset(), part=2.0)
    changed = recipe.with_overrides(recipe.resized(recipe.PRESETS["cpu"], "3m"), steps=7, batch=5, learning_rate=0.5)
    assert (changed.model.width, changed.fit.steps, changed.batch, changed.fit.learning_rate) == (256, 7, 5, 0.5)
    assert changed.model.dropout == recipe.PRESETS["cpu"].model.dropout


def test_the_papers_recipe_is_the_papers():
    paper, tuning = recipe.PRESETS["paper"], recipe.TUNING["paper"]
    assert paper.batch * paper.fit.accumulate == 2048 and paper.fit.lamb and paper.released
    assert tuning.batch * tuning.fit.accumulate == 256 and tuning.fit.weight_decay == 1e-2
    assert (tuning.fit.steps, tuning.fit.learning_rate) == (100_000, 1e-4)


def test_lamb_is_its_algorithm():
    random = np.random.default_rng(0)
    start = [random.normal(size=shape) for shape in ((3, 4), (5,))]
    gradients = [[random.normal(size=each.shape) for each in start] for _ in range(6)]
    weights = [torch.tensor(each, requires_grad=True) for each in start]
    optimizer = Lamb(weights, 0.1, (0.8, 0.9), 1e-6, 0.05)
    for each in gradients:
        for weight, gradient in zip(weights, each, strict=True):
            weight.grad = torch.tensor(gradient)
        optimizer.step()
    for number, x in enumerate(start):
        m = v = np.zeros_like(x)
        for t, each in enumerate(gradients, 1):
            g = each[number]
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
            r = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-6) + 0.05 * x
            x = x - 0.1 * np.linalg.norm(x) / np.linalg.norm(r) * r
        assert np.allclose(weights[number].detach().numpy(), x)


def test_fit_takes_steps_of_lamb_and_a_weight_of_zeros_can_leave_zero(tmp_path: Path):
    network = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(network.bias)
    before = network.weight.detach().clone()
    config = FitConfig(1, learning_rate=0.01, warmup_steps=0, lamb=True, precision="fp32", ema_decay=0.0)
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = fit(
        network, lambda net, x, _: net(x).square().mean(), lambda _: inputs, config, tmp_path, device_name="cpu"
    )
    step = (found.weights["weight"] - before).norm() / before.norm()
    assert step.item() == pytest.approx(0.01, rel=1e-4)
    assert found.weights["bias"].abs().min() > 0
