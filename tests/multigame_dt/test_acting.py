"""How an agent draws returns and actions, what it remembers, and that games don't hang on each other."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from almanac.multigame_dt import fast
from almanac.multigame_dt.acting import COLAB, PAPER, Agent, Sampler
from almanac.multigame_dt.model import DecisionTransformer, Dimensions, Prefix
from almanac.nn.int8 import has_integer_products
from almanac.runtime.errors import UserError

TINY = Dimensions(64, 2, 2)
TINY_BC = Dimensions(64, 2, 2, returns=False)
BOTH = pytest.mark.parametrize("dimensions", [TINY, TINY_BC], ids=["dt", "bc"])
GAMES = 500


def made(dimensions: Dimensions) -> DecisionTransformer:
    torch.manual_seed(0)
    model = DecisionTransformer(dimensions)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


class Expecting:
    """In a model's place: it expects the same always, and keeps what it was shown."""

    def __init__(self, returns: np.ndarray, actions: np.ndarray):
        self.dimensions, self._returns, self._actions = TINY, torch.tensor(returns), torch.tensor(actions)
        self.shown = []

    def prefix(self, first):
        self.shown.append([first.clone()])
        return Prefix(self._returns.expand(len(first), -1), [])

    def rest(self, prefix, frames, returns, actions, rewards):
        self.shown[-1] += [frames.clone(), returns.clone(), actions.clone(), rewards.clone()]
        return self._actions.expand(len(frames), -1)


def agent_of(expecting: Expecting, count: int, sampler: Sampler, seed: int = 0) -> Agent:
    agent = Agent(made(TINY), count, sampler, "cpu", "fp32", seed)
    agent._model = expecting
    return agent


def drawn(sampler: Sampler, returns: np.ndarray, actions: np.ndarray, times: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """How often each return and each action came."""
    agent, frames = agent_of(Expecting(returns, actions), GAMES, sampler), np.zeros((GAMES, 84, 84), np.uint8)
    decisions = [agent.act(frames) for _ in range(times)]
    return tuple(
        np.bincount(np.concatenate(each), minlength=most)
        for each, most in (([one.returns + 20 for one in decisions], 120), ([one.actions for one in decisions], 18))
    )


def fits(found: np.ndarray, probabilities: np.ndarray) -> bool:
    """Whether counts are a sample of a distribution (χ² at one in a thousand); there are none of what can't be."""
    assert found[probabilities == 0].sum() == 0
    expected = probabilities * found.sum()
    order = np.argsort(expected)
    groups = (expected[order].cumsum() // 8).astype(int)  # of kinds that are expected eight times together, or more
    wanted, got = (np.bincount(groups, each[order]) for each in (expected, found))
    return stats.chisquare(got[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray]:
    """Of returns and actions."""
    random = np.random.default_rng(3)
    return 2 * random.normal(size=120), 2 * random.normal(size=18)


@pytest.mark.parametrize("kappa", [0.0, 3.0, 10.0])
def test_kappa_tilts_what_the_model_expects(logits, kappa):
    returns, actions = logits
    found = drawn(Sampler(kappa=kappa), returns, actions)
    expert = np.array([math.exp(kappa * (value - -20) / (99 - -20)) for value in range(-20, 100)])
    wanted = softmax(returns) * expert
    assert fits(found[0], wanted / wanted.sum())
    assert fits(found[1], softmax(actions))
    other = softmax(returns) * expert**1.3  # and the test would tell another κ
    assert kappa == 0 or not fits(found[0], other / other.sum())


def test_the_notebooks_sampler_takes_the_highest_of_128(logits):
    returns, actions = logits
    random = np.random.default_rng(5)
    highest = random.choice(120, (20_000, 128), p=softmax(0.75 * returns)).max(1)
    found = drawn(COLAB, returns, actions)
    wanted = COLAB.returns(returns)
    assert fits(np.bincount(highest, minlength=120), wanted)
    assert fits(found[0], wanted)
    likely = actions > np.median(actions)
    assert fits(found[1], softmax(np.where(likely, actions, -np.inf)))
    assert likely.sum() == 9


def test_the_papers_sampler_keeps_what_is_strictly_above_a_percentile(logits):
    returns, _ = logits
    kept = PAPER.returns(returns) > 0
    assert kept.sum() == 18
    assert returns[kept].min() > returns[~kept].max()  # what is likely, whatever κ would make of the rest
    tilted = returns + 10 * np.linspace(0, 1, 120)
    assert np.allclose(PAPER.returns(returns)[kept], softmax(tilted[kept]))
    tied = np.array([5.0, 2.0, *[1.0] * 16])  # the median is 1, and what equals it is left out
    assert Sampler(action_percentile=50.0).actions(tied)[2:].sum() == 0
    assert Sampler(action_percentile=50.0).actions(np.full(18, 2.0)) == pytest.approx(
        1 / 18
    )  # nothing above: all alike


def test_the_notebooks_temperature_multiplies(logits):
    _, actions = logits
    assert np.allclose(Sampler(action_sharpness=3.0).actions(actions), softmax(3 * actions))
    blunt = Sampler(action_sharpness=0.0, action_percentile=50.0).actions(actions)
    assert np.allclose(blunt, (actions > np.median(actions)) / 9)
    assert np.allclose(Sampler(kappa=0.0).returns(logits[0]), softmax(logits[0]))


def test_a_window_begins_black_and_holds_what_was_done_and_won(logits):
    seen = np.random.default_rng(0).integers(0, 256, (6, 2, 84, 84), dtype=np.uint8)
    expecting = Expecting(*logits)
    agent = agent_of(expecting, 2, PAPER)
    done = np.array([[3, 4], [5, 6], [7, 8], [9, 10], [11, 12]])
    points = np.array([[10.0, 0.0], [0.0, -5.0], [-1.0, 200.0], [0.0, 0.0], [1.0, 1.0]])
    for step in range(5):
        agent.act(seen[step])
        agent.observe(points[step], done[step])
    agent.reset(1)
    agent.act(seen[5])
    windows = [
        (torch.cat((each[0][:, None], each[1]), 1).numpy(), each[3].numpy(), each[4].numpy())
        for each in expecting.shown
    ]
    for step, (frames, actions, rewards) in enumerate(windows):
        for game in range(2):
            begun = 5 if step == 5 and game == 1 else 0
            for place in range(4):
                at = step - 3 + place
                assert np.array_equal(frames[game, place], seen[at, game] if at >= begun else np.zeros((84, 84)))
                if place < 3:
                    won = np.sign(points[at, game]) if at >= begun else 0
                    assert actions[game, place] == (done[at, game] if at >= begun else 0)
                    assert rewards[game, place] == {0: 0, 1: 1, -1: 3}[won]


def test_an_agent_remembers_its_own_actions_and_may_decide_again(logits):
    expecting = Expecting(*logits)
    agent, frames = (
        agent_of(expecting, 1, PAPER),
        np.ones((3, 1, 84, 84), np.uint8) * np.arange(1, 4)[:, None, None, None].astype(np.uint8),
    )
    agent.act(frames[0])
    took = agent.act(frames[1]).actions  # nothing happened since: the same step, seen anew
    agent.observe(np.array([0.0]))
    agent.act(frames[2])
    _, later, _, actions, _ = expecting.shown[-1]
    assert later[0, :, 0, 0].tolist() == [0, 2, 3]
    assert actions[0].tolist() == [0, 0, took[0]]


def test_games_that_are_over_are_left_alone(logits):
    expecting = Expecting(*logits)
    agent, frames = agent_of(expecting, 3, PAPER), np.full((3, 84, 84), 9, np.uint8)
    decision = agent.act(frames, np.array([True, False, True]))
    assert len(expecting.shown[0][0]) == 2
    assert decision.action_probabilities[1].sum() == 0
    agent.observe(np.array([1.0, 1.0, 1.0]))
    agent.act(frames)
    _, later, _, _, rewards = expecting.shown[-1]
    assert later[:, 1, 0, 0].tolist() == [9, 0, 9]
    assert rewards[:, 2].tolist() == [1, 0, 1]


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_games_in_a_batch_go_as_they_do_alone(dimensions, precision):
    if precision == "int8" and not has_integer_products():
        pytest.skip("no products of eight bits here")
    model, seen = made(dimensions), np.random.default_rng(1).integers(0, 256, (5, 3, 84, 84), dtype=np.uint8)
    points = np.random.default_rng(2).integers(-1, 2, (5, 3)).astype(float)
    together = Agent(model, 3, PAPER, "cpu", precision, seed=4)
    alone = [Agent(model, 1, PAPER, "cpu", precision, seed=9) for _ in range(3)]
    for game in range(3):
        together.reset(game, 100 + game)
        alone[game].reset(0, 100 + game)
    for frames, won in zip(seen, points, strict=True):
        decided = together.act(frames)
        for game, agent in enumerate(alone):
            own = agent.act(frames[game : game + 1])
            assert own.actions[0] == decided.actions[game]
            assert np.abs(own.action_probabilities[0] - decided.action_probabilities[game]).max() < (
                0.02 if precision == "bf16" else 1e-5
            )
            assert (own.returns is None) == (decided.returns is None) == (not dimensions.returns)
            assert own.returns is None or own.returns[0] == decided.returns[game]
            agent.observe(won[game : game + 1])
        together.observe(won)


@BOTH
def test_threads_share_games_without_a_trace(dimensions):
    model, seen = made(dimensions), np.random.default_rng(1).integers(0, 256, (3, 5, 84, 84), dtype=np.uint8)
    alone = Agent(model, 5, PAPER, "cpu", "fp32", seed=4)
    live = np.array([True, True, False, True, True])
    try:
        torch.set_num_threads(3)
        shared = Agent(model, 5, PAPER, "cpu", "fp32", seed=4)
        decided = []
        for frames in seen:
            decided.append(shared.act(frames, live))
            shared.observe(np.ones(5))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    for frames, theirs in zip(seen, decided, strict=True):
        ours = alone.act(frames, live)
        alone.observe(np.ones(5))
        for one, other in zip(ours, theirs, strict=True):
            assert one is other is None or np.allclose(one, other, atol=1e-5)


def test_the_same_seed_draws_the_same_and_no_two_games_do(logits):
    frames = np.zeros((6, 84, 84), np.uint8)
    plays = []
    for seed in (1, 1, 2):
        agent = agent_of(Expecting(*logits), 6, Sampler(kappa=0.0), seed)
        plays.append(np.array([agent.act(frames).returns for _ in range(20)]))
    assert np.array_equal(plays[0], plays[1])
    assert not np.array_equal(plays[0], plays[2])
    assert len({tuple(game) for game in plays[0].T}) == 6
    agent.reset(0)
    assert not np.array_equal(
        [agent.act(frames).returns[0] for _ in range(20)], plays[2][:, 0]
    )  # a new episode, new draws


def test_acting_leaves_the_model_as_it_was():
    model = made(TINY).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    for precision in ("auto", "bf16", "fp32"):
        agent = Agent(model, 1, device="cpu", precision=precision)
        agent.act(np.zeros((1, 84, 84), np.uint8))
        agent.sampler = replace(agent.sampler, kappa=0.0)
        agent.act(np.zeros((1, 84, 84), np.uint8))
    assert model.training and all(each.requires_grad for each in model.parameters())
    assert all(torch.equal(each, model.state_dict()[name]) for name, each in before.items())


@pytest.mark.skipif(not has_integer_products(), reason="no products of eight bits here")
@BOTH
def test_eight_bits_change_little(dimensions):
    model = made(dimensions).eval()
    quick, chance = fast.in_eight_bits(model), torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8, generator=chance)
    actions, rewards = torch.randint(0, 18, (8, 3), generator=chance), torch.randint(0, 4, (8, 3), generator=chance)
    returns = torch.randint(0, 120, (8,), generator=chance) if dimensions.returns else None
    with torch.inference_mode():
        exact, near = model.prefix(frames[:, 0]), quick.prefix(frames[:, 0])
        logits = [(exact.returns, near.returns)] if dimensions.returns else []
        later = frames[:, 1:], returns, actions, rewards
        logits.append((model.rest(exact, *later), quick.rest(near, *later)))
    for exact, near in logits:
        divergence = (exact.softmax(-1) * (exact.log_softmax(-1) - near.log_softmax(-1))).sum(-1)
        assert 0 < divergence.max() < 1e-3


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"kappa": math.nan}, "kappa"),
        ({"samples": 0}, "samples"),
        ({"return_percentile": 101.0}, "return_percentile"),
        ({"action_percentile": -1.0}, "action_percentile"),
        ({"return_sharpness": -0.5}, "return_sharpness"),
    ],
)
def test_samplers_that_make_no_sense_are_refused(wrong, word):
    with pytest.raises(UserError, match=word):
        Sampler(**wrong)


def test_unknown_precisions_are_refused():
    with pytest.raises(UserError, match="precision"):
        Agent(made(TINY), 1, device="cpu", precision="fp8")
