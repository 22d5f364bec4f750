"""Layers in eight bits: what they compute, and how far from float32."""

import numpy as np
import pytest
import torch
from torch import nn

from almanac.nn import int8


@pytest.fixture(scope="module")
def layers():
    """Two layers with outputs of very different sizes, one without a bias."""
    torch.manual_seed(0)
    first, second = nn.Linear(96, 33), nn.Linear(96, 7, bias=False)
    first.weight.data *= torch.logspace(-3, 3, 33)[:, None]
    return first, second


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 11, 32, 33, 100])
def test_any_number_of_rows_is_multiplied_by_the_rounded_weights(layers, rows, integers, monkeypatch):
    if not integers:
        monkeypatch.setattr(int8, "has_integer_products", lambda: False)
    monkeypatch.setattr(int8, "_LARGE", 20_000)
    both = int8.Int8Linear(*layers)
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(rows)) * torch.logspace(-3, 3, rows)[:, None]
    x[:, 7] *= 100  # as in trained networks
    weight = both.weight.double() * both.scale[:, None].double()
    expected = x.double() @ weight.T + both.bias
    most = 1e-6 * (x.abs().double() @ weight.abs().T + both.bias.abs())
    if integers and int8.has_integer_products() and rows * both.weight.numel() >= int8._LARGE:
        most += 0.51 * x.abs().amax(1, keepdim=True) / 127 / 254 * weight.abs().sum(1)
    assert ((both(x) - expected).abs() <= most).all()
    assert both(x[None, :, None]).shape == (1, rows, 1, 40)


def test_a_weight_is_off_by_half_a_step_of_its_own_output_at_most(layers):
    layer = int8.Int8Linear(layers[0])
    error = (layer.weight * layer.scale[:, None] - layers[0].weight).abs()
    assert (error <= layers[0].weight.abs().amax(1, keepdim=True) / 127 * 0.501).all()


def test_large_inputs_do_not_drown_small_ones(layers):
    """As they do where inputs are rounded too: trained networks have channels a hundred times as large as the others."""
    layer = int8.Int8Linear(layers[1])
    small, large = torch.zeros(1, 96), torch.zeros(1, 96)
    small[0, 3], large[0, 5] = 1e-3, 1e3
    assert torch.allclose(layer(small + large) - layer(large), layer(small), rtol=0.2, atol=1e-5)


def test_outputs_without_weights_are_their_bias():
    layer = nn.Linear(16, 3)
    layer.weight.data.zero_()
    assert torch.equal(int8.Int8Linear(layer)(torch.ones(2, 16)), layer.bias.detach().expand(2, 3))


def test_a_row_does_not_depend_on_those_beside_it():
    torch.manual_seed(0)
    layer, x = int8.Int8Linear(nn.Linear(160, 30_000)), torch.randn(7, 160)
    x[1:] *= 1000
    assert torch.equal(layer(x)[:2], layer(x[:2]))


@pytest.mark.parametrize(
    ("function", "shapes"), [("multiply", [(6, 96), (40, 96), (40,), (40,)]), ("join", [(12, 40), (6,), (40,), (40,)])]
)
def test_a_compiled_loop_is_the_function_that_it_was_made_of(function, shapes):
    draw = np.random.default_rng(0)
    arrays = [draw.standard_normal(shape).astype(np.float32) for shape in shapes]
    compiled, plain = np.empty((6, 40), np.float32), np.empty((6, 40), np.float32)
    getattr(int8, function)(*arrays, compiled)
    getattr(int8, function).py_func(*arrays, plain)
    assert np.allclose(compiled, plain, rtol=1e-4, atol=1e-3)
