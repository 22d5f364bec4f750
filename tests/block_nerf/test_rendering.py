import math

import nerfacc
import pytest
import torch

from almanac.block_nerf.rendering import Samples, distortion, evenly, median, summed, weights


def ragged(seed: int = 0, rays: int = 200) -> Samples:
    random = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 12, (rays,), generator=random)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total = int(offsets[-1])
    ray = torch.arange(rays).repeat_interleave(counts)
    starts = torch.rand(total, generator=random)
    return Samples(starts, starts + torch.rand(total, generator=random) * 0.3, ray, offsets)


def test_weights_are_those_of_nerfacc():
    samples = evenly(torch.rand(500, 65).sort(1).values * 10)
    density, lengths = torch.rand(500 * 64) * 3, torch.ones(500)
    weight, through = weights(density, samples, lengths)
    theirs, passed, _ = nerfacc.render_weight_from_density(
        samples.starts.view(500, 64), samples.ends.view(500, 64), density.view(500, 64)
    )
    assert (weight.view(500, 64) - theirs).abs().max() < 1e-6
    assert (through.view(500, 64) - passed).abs().max() < 1e-6


def test_weights_and_what_is_left_add_up_to_one():
    samples = ragged()
    density, lengths = torch.rand(len(samples.ray)) * 5, torch.rand(200) + 0.5
    weight, _ = weights(density, samples, lengths)
    depth = density * (samples.ends - samples.starts) * lengths[samples.ray]
    total = torch.zeros(200).index_add_(0, samples.ray, weight)
    left = torch.exp(-torch.zeros(200).index_add_(0, samples.ray, depth))
    assert torch.allclose(total + left, torch.ones(200), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_are_those_of_the_sums_written_out(seed):
    samples = ragged(seed)
    density = torch.rand(len(samples.ray), requires_grad=True)
    values = torch.randn(len(samples.ray), 3, requires_grad=True)
    lengths = torch.rand(200) + 0.5
    weight, through = weights(density, samples, lengths)
    found = summed(values, weight, samples)
    torch.manual_seed(seed)
    mine = [torch.randn_like(found), torch.randn_like(through)]
    loss = (found * mine[0]).sum() + (through * mine[1]).sum()
    loss.backward()
    again, other = density.detach().double().requires_grad_(), values.detach().double().requires_grad_()
    depth = again * (samples.ends - samples.starts) * lengths[samples.ray]
    parts = []
    for first, last in zip(samples.offsets[:-1].tolist(), samples.offsets[1:].tolist(), strict=True):
        here = depth[first:last]
        passed = torch.exp(-(here.cumsum(0) - here))
        parts.append((passed, passed * (1 - torch.exp(-here))))
    passed, weighed = (torch.cat([part[at] for part in parts]) for at in (0, 1))
    sums = torch.zeros(200, 3, dtype=torch.float64).index_add_(0, samples.ray, weighed[:, None] * other)
    ((sums * mine[0]).sum() + (passed * mine[1]).sum()).backward()
    assert torch.allclose(found.double(), sums, atol=1e-5)
    assert density.grad is not None and again.grad is not None and (density.grad - again.grad).abs().max() < 1e-4
    assert values.grad is not None and other.grad is not None and (values.grad - other.grad).abs().max() < 1e-5


def test_distortion_is_its_double_sum():
    random = torch.Generator().manual_seed(5)
    samples = evenly(torch.rand(40, 13, generator=random).sort(1).values)
    weight = torch.rand(40 * 12, generator=random, dtype=torch.float64, requires_grad=True)
    starts, ends = samples.starts.double(), samples.ends.double()
    found = distortion(weight, starts, ends, samples)
    w, middle = weight.view(40, 12), ((starts + ends) / 2).view(40, 12)
    apart = (w[:, :, None] * w[:, None, :] * (middle[:, :, None] - middle[:, None, :]).abs()).sum((1, 2))
    written = (apart + (w.square() * (ends - starts).view(40, 12)).sum(1) / 3).mean()
    assert torch.allclose(found, written, rtol=1e-9)
    slope, wanted = (torch.autograd.grad(each, weight, retain_graph=True)[0] for each in (found, written))
    assert torch.allclose(slope, wanted, atol=1e-7)


def test_half_of_what_a_ray_sees_is_nearer_than_its_median():
    offsets = torch.tensor([0, 3, 3, 5])
    starts = torch.tensor([0.0, 1.0, 3.0, 2.0, 4.0])
    ends = torch.tensor([1.0, 3.0, 4.0, 4.0, 8.0])
    samples = Samples(starts, ends, torch.tensor([0, 0, 0, 2, 2]), offsets)
    found = median(torch.tensor([0.1, 0.4, 0.1, 0.0, 0.5]), samples)
    wanted = [1 + 2 * math.log(7 / 9) / math.log(5 / 9), 0.0, 4 + 4 * math.log(0.75) / math.log(0.5)]
    assert torch.allclose(found, torch.tensor(wanted))
    assert median(torch.zeros(5), samples).isfinite().all()
    none = Samples(*(torch.zeros(0),) * 2, torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(median(torch.zeros(0), none), torch.zeros(2))


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_the_median_of_fog_does_not_depend_on_how_it_is_cut(pieces):
    edges = (2 + 8 * torch.rand(1, pieces + 1)).sort()[0]
    edges[0, 0], edges[0, -1] = 2.0, 10.0
    samples = evenly(edges)
    weight, _ = weights(torch.full((pieces,), 0.3), samples, torch.ones(1))
    assert float(median(weight, samples)) == pytest.approx(2 - math.log((1 + math.exp(-0.3 * 8)) / 2) / 0.3, rel=1e-5)
