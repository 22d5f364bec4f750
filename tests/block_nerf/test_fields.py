import numpy as np
import pytest
import torch
import torch.nn.functional as F

from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields.hash_grid import HashEncoding, HashField, drawn_in
from almanac.block_nerf.fields.occupancy import CELLS, FAR, NEAR, Occupancy
from almanac.block_nerf.model import Block, Dimensions, Light
from almanac.block_nerf.rendering import Samples

SMALL = Dimensions(radius=30.0, width=16, levels=4, log2_rows=10, finest=64, codes=2)


def rays_about(count: int, spread: float = 8.0, seed: int = 0) -> Rays:
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, 3, generator=random)
    return Rays(torch.randn(count, 3, generator=random) * spread, directions, torch.full((count,), 0.01))


def some_samples(block: Block, rays: Rays, share: float = 0.1) -> Samples:
    assert block.occupancy is not None
    random = torch.Generator().manual_seed(3)
    block.occupancy.weight.copy_((torch.rand(len(block.occupancy.weight), generator=random) < share).float())
    return block.occupancy.samples(rays, torch.rand(len(rays.origins), generator=random))


def test_compiled_tables_are_read_as_written_out_in_torch():
    torch.manual_seed(0)
    encoding = HashEncoding(4, 10, 4, 64)
    torch.nn.init.normal_(encoding.table)
    assert any(encoding.dense) and not all(encoding.dense)
    points = torch.rand(3_000, 3)
    points[:3] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 1.0, 0.0]])
    given = torch.randn(3_000, encoding.width)
    results = []
    for compiled in (True, False):
        here = points.clone().requires_grad_()
        encoding.table.grad = None
        found = encoding(here) if compiled else torch.cat([encoding._level(here, each) for each in range(4)], -1)
        found.backward(given)
        assert here.grad is not None and encoding.table.grad is not None
        results.append((found.detach(), here.grad[3:], encoding.table.grad.clone()))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_all_of_space_is_drawn_into_the_unit_cube_and_the_middle_is_not_bent():
    far = torch.randn(1_000, 3) * 10.0 ** torch.arange(-2, 6).repeat(125)[:, None]
    found = drawn_in(far)
    assert found.min() >= 0 and found.max() <= 1
    near = F.normalize(torch.randn(100, 3), dim=-1) * 0.99
    assert torch.allclose(drawn_in(near), (near + 2) / 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_fused_loop_is_the_field_and_its_colours_layer_by_layer(threads):
    torch.manual_seed(0)
    block = Block(SMALL)
    torch.nn.init.normal_(block.field.encoding.table, std=0.3)  # type: ignore[union-attr]
    rays = rays_about(300)
    samples = some_samples(block, rays)
    told = torch.randn(300, 27 + 32 + 8)
    mine = torch.randn(len(samples.ray)), torch.randn(len(samples.ray), 3)
    results = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for fusedly in (True, False):
            block.zero_grad()
            here = Rays(rays.origins.clone().requires_grad_(), rays.directions.clone().requires_grad_(), rays.radii)
            facts = told.clone().requires_grad_()
            if fusedly:
                density, colours = block.shaded(here, samples, facts)
            else:
                density, features = block.field(here, samples)
                colours = torch.sigmoid(block.colour(features, facts, samples.ray))
            (torch.log(density) * mine[0]).sum().add((colours * mine[1]).sum()).backward()
            gradients = [each.grad for each in (here.origins, here.directions, facts)]
            gradients += [each.grad for each in [*block.field.parameters(), *block.colour.parameters()]]
            results.append([density.detach().log(), colours.detach(), *gradients])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert one is not None and other is not None
        assert (one - other).norm() <= 5e-3 * other.norm() + 1e-6  # a unit at its corner may go either way


def test_rays_are_sampled_where_cells_count_and_explorers_everywhere():
    grid = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    rays = Rays(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), torch.full((2,), 0.01))
    grid.weight.zero_()
    middle = grid.weight.view(*CELLS)
    middle[CELLS[0] * 5 // 8 :, CELLS[1] // 2, CELLS[2] // 2] = 1  # x from 15 m on
    found = grid.samples(rays, torch.full((2,), 0.5))
    assert (
        (found.ray == 0).all()
        and found.starts.min() > 14
        and found.offsets.tolist() == [0, len(found.ray), len(found.ray)]
    )
    found = grid.samples(rays, torch.full((2,), 0.5), torch.tensor([False, True]))
    looked = found.starts[found.ray == 1] * 2
    assert looked.min() < NEAR + 1 and looked.max() > FAR / 2
    gaps = found.starts[found.ray == 1][1:] - found.ends[found.ray == 1][:-1]
    assert gaps.abs().max() < 1e-2


def test_what_rays_pass_over_holds_nothing():
    grid = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    random = torch.Generator().manual_seed(0)
    grid.weight.copy_((torch.rand(len(grid.weight), generator=random) < 2e-4).float())
    rays, jitter = rays_about(400), torch.full((400,), 0.5)
    every = grid.samples(rays, jitter)
    grid.refresh()
    assert grid.away.float().mean() > 3
    some = grid.samples(rays, jitter)
    lengths = rays.directions.norm(dim=-1)
    seen = [
        torch.zeros(400).index_add_(0, each.ray, (each.ends - each.starts) * lengths[each.ray])
        for each in (every, some)
    ]
    near = seen[0] < 30  # far away a piece is as long as cells are
    assert near.sum() > 300 and (seen[0] - seen[1])[near].abs().mean() < 0.1 * seen[0][near].mean()
    grid.weight.zero_()
    grid.refresh()
    assert len(grid.samples(rays, jitter).ray) == 0


def test_cells_remember_what_was_seen_and_forget_it():
    grid = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    rays = Rays(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.full((1,), 0.01))
    samples = Samples(torch.tensor([9.9]), torch.tensor([10.1]), torch.tensor([0]), torch.tensor([0, 1]))
    for _ in range(1_500):
        grid.remember(rays, samples, torch.tensor([0.5]))
    assert grid.counts().sum() == 1
    assert len(grid.samples(rays, torch.tensor([0.5])).ray) > 0
    for _ in range(1_500):
        grid.remember(rays, samples, torch.tensor([0.0]))
    assert grid.counts().sum() == 0


def test_a_ray_that_meets_nothing_sees_the_sky():
    torch.manual_seed(0)
    block = Block(SMALL)
    rays = rays_about(10)
    nothing = Samples(
        torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(11, dtype=torch.int64)
    )
    light = block.light(torch.zeros(10, dtype=torch.int64), torch.ones(10))
    view, _, _ = block.seen(rays, light, nothing)
    sky = torch.sigmoid(block.sky(block.told(rays, light)))
    assert torch.equal(view.colours, sky) and (view.opacity == 0).all()


def test_geometry_does_not_know_the_light():
    torch.manual_seed(0)
    block = Block(SMALL)
    torch.nn.init.normal_(block.field.encoding.table, std=0.3)  # type: ignore[union-attr]
    rays = rays_about(40)
    samples = some_samples(block, rays)
    views = [
        block.seen(rays, Light(torch.randn(40, 32), torch.full((40,), exposure)), samples)[0] for exposure in (0.5, 2.0)
    ]
    assert torch.equal(views[0].distance, views[1].distance) and torch.equal(views[0].opacity, views[1].opacity)
    assert not torch.allclose(views[0].colours, views[1].colours)


def test_poses_begin_as_they_were_given_and_stay_rotations():
    torch.manual_seed(0)
    block = Block(Dimensions(**{**SMALL.__dict__, "segments": 3}))
    assert block.poses is not None
    rays, segment = rays_about(20), torch.arange(20) % 3
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(block.poses.corrected(rays, segment), rays, strict=True))
    torch.nn.init.normal_(block.poses.turn, std=20.0)
    turned = block.poses.rotations()
    assert torch.allclose(turned @ turned.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-5)
    assert np.allclose(torch.linalg.det(turned).detach().numpy(), 1, atol=1e-5)


def test_the_field_is_as_fine_upwards_as_it_is_told():
    field = HashField(40.0, squat=4.0)
    assert field.scale(torch.zeros(1)).tolist() == [40.0, 40.0, 10.0]
