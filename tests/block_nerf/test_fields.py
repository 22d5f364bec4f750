import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from almanac.block_nerf import train
from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.captures.photos import Batch
from almanac.block_nerf.fields.hash_grid import HashEncoding, HashField, drawn_in
from almanac.block_nerf.fields.occupancy import CELLS, FAR, NEAR, Occupancy
from almanac.block_nerf.model import Block, Dimensions, Light, Poses
from almanac.block_nerf.rendering import Samples, weights
from almanac.block_nerf.train import PRESETS, Told, scaled

SMALL = Dimensions(radius=30.0, width=16, levels=4, log2_rows=10, finest=64, codes=2)


def rays_about(count: int, spread: float = 8.0, seed: int = 0) -> Rays:
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, 3, generator=random)
    return Rays(torch.randn(count, 3, generator=random) * spread, directions, torch.full((count,), 0.01))


def some_samples(block: Block, rays: Rays) -> Samples:
    assert block.occupancy is not None
    random = torch.Generator().manual_seed(3)
    return block.occupancy.samples(rays, torch.rand(len(rays.origins), generator=random), 16, 0.2)


@pytest.mark.parametrize("joined", [4, 2])
def test_compiled_tables_are_read_as_written_out_in_torch(joined):
    torch.manual_seed(0)
    encoding = HashEncoding(4, 10, 4, 64)
    encoding.joined = joined
    torch.nn.init.normal_(encoding.table)
    assert any(encoding.dense) and not all(encoding.dense)
    points = torch.rand(3_000, 3)
    points[:3] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 1.0, 0.0]])
    given = torch.randn(3_000, encoding.width)
    results = []
    for compiled in (True, False):
        here = points.clone().requires_grad_()
        encoding.table.grad = None
        levels = [encoding._level(here, each) * (each < joined) for each in range(4)]
        found = encoding(here) if compiled else torch.cat(levels, -1)
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


def test_each_level_that_counts_is_as_heavy_however_many_rows_it_has():
    encoding = HashEncoding(4, 10, 4, 64)
    rows = np.diff(encoding.starts)
    assert rows[0] < rows[-1]
    with torch.no_grad():
        encoding.table.fill_(3.0)
    encoding.joined = 2
    total = encoding.mean_squares()
    total.backward()
    assert total.item() == pytest.approx(2 * 9.0)
    slopes = encoding.table.grad.split(rows.tolist())  # type: ignore[union-attr]
    assert [float(each.sum()) for each in slopes] == pytest.approx([6.0, 6.0, 0.0, 0.0])


@pytest.mark.parametrize(("threads", "joined"), [(1, 4), (2, 4), (1, 2)])
def test_the_fused_loop_is_the_field_and_its_colours_layer_by_layer(threads, joined):
    torch.manual_seed(0)
    block = Block(SMALL)
    assert isinstance(block.field, HashField)
    block.field.encoding.joined = joined
    torch.nn.init.normal_(block.field.encoding.table, std=0.3)  # type: ignore[union-attr]
    rays = rays_about(300)._replace(radii=torch.rand(300) * 0.1)
    samples = some_samples(block, rays)
    told = torch.randn(300, 9 + 32 + 8)
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


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_only_looked_at_is_passed_over_where_no_light_comes_from(threads):
    torch.manual_seed(1)
    block = Block(SMALL)
    assert isinstance(block.field, HashField)
    torch.nn.init.normal_(block.field.encoding.table, std=0.3)
    with torch.no_grad():
        block.field.out.bias[0] = 0.5  # dense enough that rays end
    rays = rays_about(700)
    samples = some_samples(block, rays)
    told = torch.randn(700, 9 + 32 + 8)
    density, colours = block.shaded(rays, samples, told)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            found, shades = block.shaded(rays, samples, told)
    finally:
        torch.set_num_threads(before)
    seen = found > 0
    light = weights(density, samples, rays.directions.norm(dim=-1))[1]
    assert 0.1 < seen.float().mean() < 0.9
    assert seen[light > math.exp(-7.9)].all() and light[~seen].max() < math.exp(-7.9)
    assert torch.allclose(found[seen], density[seen], rtol=1e-5) and torch.allclose(
        shades[seen], colours[seen], atol=1e-6
    )
    assert not shades[~seen].any()


def wall(grid: Occupancy, first: int, last: int) -> None:
    """Cells across the x axis in which nothing is seen through."""
    grid.density.view(*CELLS)[first:last] = 5.0


def test_samples_touch_and_lie_where_most_is_seen():
    grid = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    rays = Rays(torch.zeros(2, 3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.full((2,), 0.01))
    grid.density.zero_()
    wall(grid, CELLS[0] * 5 // 8, CELLS[0] * 5 // 8 + 2)  # x from 15 m to 16.9
    wall(grid, CELLS[0] * 6 // 8 - 2, CELLS[0] * 6 // 8)  # and from 28.1 to 30
    found = grid.samples(rays, torch.full((2,), 0.5), 32, 0.2)
    assert found.offsets.tolist() == [0, 32, 64] and (found.ends > found.starts).all()
    for ray, length in ((0, 2.0), (1, 1.0)):
        here = found.ray == ray
        starts, ends = found.starts[here] * length, found.ends[here] * length
        assert torch.allclose(starts[1:], ends[:-1])
        assert starts[0] == pytest.approx(NEAR) and ends[-1] == pytest.approx(FAR, rel=0.06)
    at = found.middles[found.ray == 0] * 2
    assert ((at > 14) & (at < 18)).sum() >= 22, "where the first wall is"
    assert ((at > 27) & (at < 31)).sum() <= 2, "what is behind it is not seen"
    free = found.starts[found.ray == 1].log()
    assert free.diff().std() < 0.2 * free.diff().mean(), "where nothing is, evenly by the distance's logarithm"


def test_rays_are_sampled_alike_without_compiled_loops():
    torch.manual_seed(0)
    grid = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    grid.density.copy_(torch.rand(len(grid.density)) ** 8)
    rays, jitter = rays_about(200), torch.rand(200)
    lengths = rays.directions.norm(dim=-1)
    found = grid.samples(rays, jitter, 24, 0.2)
    edges = grid._placed(rays, lengths, jitter, 24, 0.2)
    assert torch.allclose(edges[:, :-1].reshape(-1), found.starts, rtol=2e-3)
    assert torch.allclose(edges[:, 1:].reshape(-1), found.ends, rtol=2e-3)
    other = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    other.density.copy_(grid.density)
    density = torch.rand(len(found.ray)) * 0.25 + 0.05
    points = rays.origins[found.ray] + rays.directions[found.ray] * found.middles[:, None]
    grid.remember(rays, found, density)
    other._remember(points, density)
    assert torch.allclose(grid.density, other.density, atol=0.02)
    assert (grid.density - other.density).abs().mean() < 1e-4


def test_jitter_moves_samples_by_less_than_a_piece():
    grid = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    rays = rays_about(50)
    low, middle, high = (
        grid.samples(rays, torch.full((50,), each), 16, 0.5).starts.view(50, 16) for each in (0.0, 0.5, 1.0)
    )
    assert (low[:, 1:] < middle[:, 1:]).all() and (middle[:, 1:] < high[:, 1:]).all()
    assert torch.allclose(low[:, 2:], high[:, 1:-1], rtol=1e-3)


def test_cells_remember_the_mean_of_what_was_found_of_late():
    grid = Occupancy(torch.tensor([30.0, 30.0, 15.0]))
    rays = Rays(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.full((1,), 0.01))
    samples = Samples(torch.tensor([9.9]), torch.tensor([10.1]), torch.tensor([0]), torch.tensor([0, 1]))
    before = grid.density.clone()

    def hear(*densities: float) -> None:
        for number in range(200):
            grid.remember(rays, samples, torch.tensor([densities[number % len(densities)]]))

    def near() -> int:
        middles = grid.samples(rays, torch.tensor([0.5]), 64, 0.2).middles
        return int(((middles > 9) & (middles < 12)).sum())

    empty = near()
    hear(0.2, 0.1)
    changed = grid.density != before
    assert changed.sum() == 1 and grid.density[changed].item() == pytest.approx(0.15, abs=0.01)
    assert near() > empty + 2
    hear(0.0)
    assert grid.density[changed].item() < 1e-6
    hear(4.0)
    assert grid.density[changed].item() == pytest.approx(0.3), "looks are to reach the cell's other side"


def test_what_is_finer_than_a_pixel_says_little():
    torch.manual_seed(0)
    field = HashField(30.0, encoding=HashEncoding(4, 12, 4, 256))
    torch.nn.init.normal_(field.encoding.table)
    with torch.no_grad():
        field.encoding.table[: field.encoding.starts[3]] = 0  # only the finest level says anything
        points = torch.randn(500, 3) * 10
        sharp = field.at(points)[1]
        spread = [
            field.at(points, torch.full((500,), radius))[1].std(0).mean() / sharp.std(0).mean()
            for radius in (0.01, 0.3, 5.0)
        ]
    assert spread[0] > 0.99 and 0.3 < spread[1] < 0.95 and spread[2] < 0.1


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


def test_a_shift_counts_by_the_radius_of_its_block():
    poses = Poses(2)
    with torch.no_grad():
        poses.shift[0, 1] = 5.0  # tenths of a metre
    size = float(poses.size(100.0).detach())
    assert size == pytest.approx((0.5 / 100) ** 2)
    first, last, _ = PRESETS["cpu"].pose_penalty
    assert first * size > 1 and last * size < 1e-6, "held at first, let go at last"


def test_what_rays_see_is_drawn_together_more_and_more():
    preset = PRESETS["cpu"]
    weights = [train._spread(preset, step) for step in (0, preset.fit.steps // 2, preset.fit.steps)]
    assert weights == pytest.approx([0.005, (0.005 * 0.2) ** 0.5, 0.2])
    assert train._spread(PRESETS["paper"], 100) == 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_step_of_each_preset_moves_all_that_it_learns(name):
    torch.manual_seed(0)
    preset = PRESETS[name]
    small = replace(
        preset.block, radius=30.0, width=16, levels=4, log2_rows=10, finest=64, samples=6, codes=2, segments=2
    )
    preset = replace(preset, block=small)
    block = Block(small)
    told = Told((0.0, 0.0, 0.0), np.array([0, 1]), np.array([0, 1]), np.array([0.5, 2.0]))
    batch = Batch(rays_about(64), torch.arange(64) % 2, torch.rand(64, 3))
    value = train.block_loss(preset, told)(block, batch, torch.Generator().manual_seed(0))
    value.backward()
    assert value.isfinite() and int(block.steps) == 1
    still = [name for name, each in block.named_parameters() if each.grad is None or not each.grad.isfinite().all()]
    assert not still


def test_levels_of_the_tables_join_in_until_half_of_the_training():
    preset = PRESETS["cpu"]
    joined = [train._joined(preset, step) for step in range(preset.fit.steps)]
    assert joined[0] == 4 and joined == sorted(joined)
    assert set(joined[preset.fit.steps // 2 :]) == {preset.block.levels}
    assert train._joined(scaled(preset, 1), 0) == preset.block.levels, "all of them at the end, however short"


def test_the_field_is_as_fine_upwards_as_it_is_told():
    field = HashField(40.0, squat=4.0)
    assert field.scale(torch.zeros(1)).tolist() == [40.0, 40.0, 10.0]
