"""The average follows its recurrence, copies what is not a parameter, and goes on from a checkpoint."""

import pytest
import torch
from torch import nn

from almanac.nn.ema import EMA


def moved(model: nn.Module, to: float) -> nn.Module:
    """The model with every parameter set to one value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(to)
    return model


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_follows_its_recurrence(decay: float):
    ema = EMA(moved(nn.Linear(3, 2), 1.0), decay)
    expected = 1.0
    for update, value in enumerate([5.0, -2.0, 0.5, 8.0], 1):
        ema.update(moved(nn.Linear(3, 2), value))
        weight = min(decay, (1 + update) / (10 + update))
        expected = weight * expected + (1 - weight) * value
        for tensor in ema.weights.values():
            torch.testing.assert_close(tensor, torch.full_like(tensor, expected))


def test_the_average_of_a_model_that_stands_still_is_the_model():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    ema = EMA(model, 0.9)
    for _ in range(50):
        ema.update(model)
    torch.testing.assert_close(ema.weights, dict(model.state_dict()))


def test_buffers_are_copied_as_they_are():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
    ema = EMA(model, 0.999)
    for _ in range(3):
        model(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) + 3)
        ema.update(model)
    for name, buffer in model.named_buffers():
        assert torch.equal(ema.weights[name], buffer)
    assert int(ema.weights["0.num_batches_tracked"]) == 3


def test_the_average_does_not_share_memory_with_the_model():
    model = moved(nn.Linear(2, 2), 1.0)
    ema = EMA(model)
    moved(model, 7.0)
    assert all(bool((tensor == 1).all()) for tensor in ema.weights.values())


def test_tied_parameters_are_averaged_under_both_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    ema = EMA(model, 0.5)
    ema.update(moved(model, 2.0))
    assert torch.equal(ema.weights["0.weight"], ema.weights["1.weight"])


def test_a_model_without_parameters_has_an_average_too():
    model = nn.BatchNorm1d(2, affine=False)
    ema = EMA(model)
    model(torch.ones(4, 2) * 5)
    ema.update(model)
    assert torch.equal(ema.weights["running_mean"], model.get_buffer("running_mean"))


def test_an_average_goes_on_from_its_state_to_the_last_bit():
    def steps(ema: EMA, values: list[float]) -> EMA:
        for value in values:
            ema.update(moved(nn.Linear(3, 2), value))
        return ema

    start = moved(nn.Linear(3, 2), 0.1)
    whole = steps(EMA(start), [1.0, 2.0, 3.0])
    again = EMA(moved(nn.Linear(3, 2), 9.0))
    again.load_state_dict(steps(EMA(start), [1.0]).state_dict())
    steps(again, [2.0, 3.0])
    assert again.updates == whole.updates
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)
