"""Our group normalisation is PyTorch's, forwards and backwards."""

import pytest
import torch
from torch import nn

from almanac.nn.group_norm import GroupNorm


@pytest.mark.parametrize(("groups", "channels"), [(32, 32), (32, 64), (4, 12), (1, 6)])
@pytest.mark.parametrize("last", [False, True])
def test_it_is_pytorchs(groups, channels, last):
    torch.manual_seed(0)
    ours, theirs = GroupNorm(groups, channels, 1e-6), nn.GroupNorm(groups, channels, 1e-6)
    with torch.no_grad():
        theirs.weight.normal_()
        theirs.bias.normal_()
    ours.load_state_dict(theirs.state_dict())
    x = 3 + 2 * torch.randn(3, channels, 7, 5)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    given = torch.randn_like(x)
    found = []
    for norm in (ours, theirs):
        own = x.clone().requires_grad_()
        out = norm(own)
        out.backward(given)
        found.append((out, own.grad, norm.weight.grad, norm.bias.grad))
    for mine, its in zip(*found, strict=True):
        assert (mine - its).abs().max() < 2e-5 * its.abs().max()
    assert not last or found[0][0].is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_its_gradient_is_the_formulas():
    norm = GroupNorm(2, 4).double()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    # In float32 inside, so to its precision.
    assert torch.autograd.gradcheck(norm, (x,), eps=1e-3, atol=2e-3, rtol=2e-3)


def test_a_constant_map_stays_finite():
    norm = GroupNorm(4, 8, 1e-6)
    x = torch.full((1, 8, 4, 4), 100.0, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and norm(x).isfinite().all()
