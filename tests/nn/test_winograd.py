"""Convolutions by Winograd are PyTorch's, with their gradients, at any size and layout; and see that their weights changed."""

import copy

import pytest
import torch
from torch import nn

from almanac.nn import winograd
from almanac.nn.winograd import Conv3x3


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Layers of few channels are convolved so, too."""
    monkeypatch.setattr(winograd, "_FEWEST", 16)


def twins(width: int, outside: int) -> tuple[Conv3x3, nn.Conv2d]:
    """The same weights in ours and in PyTorch's, in float64."""
    ours = Conv3x3(width, outside)
    theirs = nn.Conv2d(width, outside, 3, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 7, 5), (3, 1, 1), (1, 2, 33), (2, 40, 70)])
@pytest.mark.parametrize("last", [True, False])
def test_outputs_and_gradients_are_those_of_the_definition(shape, last):
    ours, theirs = twins(68, 64)
    x = torch.randn(shape[0], 68, *shape[1:], generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    wanted = torch.randn(shape[0], 64, *shape[1:], generator=torch.Generator().manual_seed(2))
    made = []
    for module, given in ((ours, x.clone().requires_grad_()), (theirs, x.double().requires_grad_())):
        found = module(given)
        (found * wanted.to(found.dtype)).sum().backward()
        made.append((found, given.grad, module.weight.grad, module.bias.grad))
    for mine, its in zip(*made, strict=True):
        assert mine.shape == its.shape and (mine - its).abs().max() < 1e-5 * max(its.abs().max(), 1)
    with torch.inference_mode():
        assert torch.equal(ours(x), made[0][0])
    changed = ours(x.clone().requires_grad_()).add_(1.0)  # in place, as changes of a layer are
    changed.sum().backward()


def test_strips_and_threads_change_nothing(monkeypatch):
    ours, _ = twins(64, 80)
    x = torch.randn(2, 64, 30, 34)
    with torch.no_grad():
        whole = ours(x)
        for name, value in (("_TOGETHER", 40), ("_PARALLEL", 0)):
            monkeypatch.setattr(winograd, name, value)
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert (ours(x) - whole).abs().max() < 1e-5
        finally:
            torch.set_num_threads(before)


def test_changed_weights_are_seen():
    """By an optimiser, a file, a copy, and in a copy of the module."""
    ours, theirs = twins(64, 64)
    x = torch.randn(1, 64, 6, 6)

    def agree(module: Conv3x3 = ours) -> bool:
        theirs.load_state_dict(module.state_dict())
        with torch.inference_mode():
            return torch.allclose(module(x).double(), theirs(x.double()), rtol=1e-5, atol=1e-4)

    assert agree()
    ours(x).sum().backward()
    assert agree()
    torch.optim.AdamW(ours.parameters(), 0.1, fused=True).step()
    assert agree()
    ours.requires_grad_(False)
    assert agree() and ours._known is not None
    with torch.no_grad():
        ours.weight.mul_(2)
    assert agree()
    ours.load_state_dict(Conv3x3(64, 64).state_dict())
    assert agree()
    other = copy.deepcopy(ours)
    assert other._known is None
    with torch.no_grad():
        other.weight.add_(1)
    assert agree(other) and agree(ours)
    ours.weight.data = torch.randn(64, 64, 3, 3)
    assert agree()


def test_other_precisions_are_pytorchs():
    ours, theirs = twins(64, 64)
    x = torch.randn(1, 64, 6, 6)
    assert torch.equal(ours.double()(x.double()), theirs(x.double()))
    theirs.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours.float()(x), theirs(x)) and ours(x).dtype == torch.bfloat16
