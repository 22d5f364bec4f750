"""What the transformer sees, and that acting in two halves comes to the same."""

import pytest
import torch
from torch import Tensor, nn

from almanac.multigame_dt.model import SIZES, DecisionTransformer, Dimensions

TINY = Dimensions(64, 3, 2)
TINY_BC = Dimensions(64, 3, 2, returns=False)
BOTH = pytest.mark.parametrize("dimensions", [TINY, TINY_BC], ids=["dt", "bc"])
STEPS = 4


def made(dimensions: Dimensions) -> DecisionTransformer:
    """A model whose biases and norms aren't what they begin as, so that nothing is hidden by a zero or a one."""
    torch.manual_seed(0)
    model = DecisionTransformer(dimensions).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def windows(batch: int, seed: int = 1) -> dict[str, Tensor]:
    """Steps of play, of noise."""
    chance = torch.Generator().manual_seed(seed)
    return {
        "frames": torch.randint(0, 256, (batch, STEPS, 84, 84), dtype=torch.uint8, generator=chance),
        "returns": torch.randint(0, 120, (batch, STEPS), generator=chance),
        "actions": torch.randint(0, 18, (batch, STEPS), generator=chance),
        "rewards": torch.randint(0, 4, (batch, STEPS), generator=chance),
    }


def outcome(model: DecisionTransformer, window: dict[str, Tensor]) -> Tensor:
    """Every token as it comes out of the last layer."""
    kept = []
    handle = model.norm.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        model(**window)
    handle.remove()
    return kept[0]


def sees(returns: bool, one: int, other: int) -> bool:
    """Whether a token sees another, by the paper's words."""
    kinds = [*["patch"] * 36, *(["return"] if returns else []), "action", "reward"]
    (step, kind), (other_step, other_kind) = (
        (place // len(kinds), kinds[place % len(kinds)]) for place in (one, other)
    )
    if other_kind == "return" and other_step > 0:
        return False
    return other <= one or (step == other_step and kind == other_kind == "patch")


@pytest.mark.parametrize(
    ("size", "returns", "count"),
    [
        ("200m", True, 197_638_542),
        ("40m", True, 43_045_774),
        ("10m", True, 12_955_278),
        ("10m", False, 12_955_278 - (120 * 512 + 120 * 512 + 120 + 4 * 512)),
    ],
)
def test_sizes_have_as_many_parameters_as_published(size, returns, count):
    shape = SIZES[size]
    with torch.device("meta"):
        model = DecisionTransformer(Dimensions(shape.width, shape.layers, shape.heads, returns))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@BOTH
def test_a_changed_token_changes_what_sees_it_and_nothing_else(dimensions):
    model, window = made(dimensions), windows(1)
    before, length = outcome(model, window), dimensions.tokens
    changes = []
    for step in range(STEPS):
        for patch in (0, 17, 35):
            changed = {name: each.clone() for name, each in window.items()}
            row, column = patch // 6 * 14 + 5, patch % 6 * 14 + 9
            changed["frames"][0, step, row, column] += 128
            changes.append((step * length + patch, changed))
        for place, name in ((-1, "rewards"), (-2, "actions"), (-3, "returns")):
            changed = {name: each.clone() for name, each in window.items()}
            changed[name][0, step] = (changed[name][0, step] + 1) % 4
            if name != "returns" or (dimensions.returns and step == 0):
                changes.append(((step + 1) * length + place, changed))
            else:
                changes.append((None, changed))  # a return that is hidden
    for place, changed in changes:
        moved = (outcome(model, changed) - before).abs().amax((0, 2)) > 1e-6
        expected = [place is not None and sees(dimensions.returns, one, place) for one in range(STEPS * length)]
        assert moved.tolist() == expected


def test_guesses_are_read_where_the_next_token_is_not_yet_seen():
    model, window = made(TINY), windows(1)
    with torch.no_grad():
        before = model(**window)
        for step in range(STEPS):
            for name, first in (
                ("actions", {"returns": step + 1, "actions": step + 1, "rewards": step}),
                ("rewards", {"returns": step + 1, "actions": step + 1, "rewards": step + 1}),
                ("frames", {"returns": step, "actions": step, "rewards": step}),
            ):
                changed = {**window, name: window[name].clone()}
                changed[name][0, step] = (window[name][0, step] + 1) % 4
                after = model(**changed)
                for guess, start in first.items():
                    moved = (getattr(after, guess) - getattr(before, guess)).abs().amax((0, 2)) > 1e-6
                    assert moved.tolist() == [at >= start for at in range(STEPS)]
        shown = model(**{**window, "returns": (window["returns"] + 1) % 120})
    assert torch.equal(shown.returns[:, 0], before.returns[:, 0])
    assert ((shown.actions - before.actions).abs().amax((0, 2)) > 1e-6).all()


@BOTH
def test_a_shorter_window_is_the_beginning_of_a_longer_one(dimensions):
    model, window = made(dimensions), windows(2)
    with torch.no_grad():
        whole, short = model(**window), model(**{name: each[:, :2] for name, each in window.items()})
    for one, other in zip(whole, short, strict=True):
        assert one is other is None or torch.allclose(one[:, :2], other, atol=1e-5)


@pytest.mark.parametrize(
    "dimensions",
    [TINY, TINY_BC, SIZES["0.8m"], SIZES["1.5m"], SIZES["3m"], SIZES["10m"], Dimensions(512, 4, 8, returns=False)],
    ids=["tiny", "tiny-bc", "0.8m", "1.5m", "3m", "10m", "10m-bc"],
)
def test_two_halves_come_to_what_two_whole_passes_do(dimensions):
    model, window = made(dimensions), windows(2)
    with torch.no_grad():
        whole = model(**window)
        prefix = model.prefix(window["frames"][:, 0])
        first = window["returns"][:, 0] if dimensions.returns else None
        rest = model.rest(prefix, window["frames"][:, 1:], first, window["actions"][:, :3], window["rewards"][:, :3])
    assert (rest - whole.actions[:, -1]).abs().max() < 1e-5
    if dimensions.returns:
        assert (prefix.returns - whole.returns[:, 0]).abs().max() < 1e-5
    else:
        assert prefix.returns is whole.returns is None


def test_weights_begin_as_the_released_code_has_them():
    torch.manual_seed(0)
    model = DecisionTransformer(Dimensions(256, 4, 4))
    spread = 2 / 4
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.bias.abs().max() == 0
            inputs = module.in_features
            within = name.startswith("blocks.")
            cut = 0.8796  # what is left of a deviation when numbers beyond two of them are drawn again
            deviation = (spread / inputs) ** 0.5 if within else inputs**-0.5 * cut
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.05)
            assert module.weight.abs().max() <= 2 * deviation / cut * 1.001
    for table in (model.positions, model.returns.weight, model.actions.weight):
        assert table.std().item() == pytest.approx(0.02 * 0.8796, rel=0.05)
        assert table.abs().max() <= 0.04
    assert model.patch_positions.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.patch_positions.abs().max() > 0.04  # these are normal, not cut off


def test_a_tenth_of_what_layers_add_is_left_out_in_training_only():
    model, window = made(TINY), windows(2)
    with torch.no_grad():
        assert torch.equal(model(**window).actions, model(**window).actions)
        model.train()
        assert not torch.equal(model(**window).actions, model(**window).actions)
    assert all(module.p == 0.1 for module in model.modules() if isinstance(module, nn.Dropout))
