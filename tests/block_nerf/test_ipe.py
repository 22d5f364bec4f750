import numpy as np
import torch

from almanac.block_nerf.cameras import Rays
from almanac.block_nerf.fields.ipe import (
    FREQUENCIES,
    Gaussians,
    IpeField,
    gaussians,
    integrated_encoding,
    resampled,
    two_passes,
)
from almanac.block_nerf.rendering import evenly

MANY = 10_000


def frustums(seed: int = 0) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    starts = 0.5 + 5 * drawn(MANY)
    ends = starts + 0.05 + 2 * drawn(MANY)
    return drawn(MANY, 3) * 4 - 2, drawn(MANY, 3) * 2 - 1, drawn(MANY) * 0.1, starts, ends


def test_pieces_of_cones_have_the_moments_of_the_closed_form():
    origins, directions, radii, starts, ends = frustums()
    found = gaussians(origins, directions, radii, starts, ends)
    a, b = starts.numpy().astype(np.longdouble), ends.numpy().astype(np.longdouble)
    volume = (b**3 - a**3) / 3  # ∫ t² dt: a cone's sections grow as t²
    mean = (b**4 - a**4) / 4 / volume
    along = (b**5 - a**5) / 5 / volume - mean**2
    across = radii.numpy().astype(np.longdouble) ** 2 / 4 * (b**5 - a**5) / 5 / volume
    d = directions.numpy().astype(np.longdouble)
    squares = d**2 / (d**2).sum(-1, keepdims=True)
    assert np.abs(found.mean.numpy() - (origins.numpy() + mean[:, None] * d)).max() < 1e-10
    expected = along[:, None] * d**2 + across[:, None] * (1 - squares)
    assert np.abs(found.variance.numpy() - expected).max() < 1e-10


def test_moments_are_what_points_of_a_cone_have():
    random = np.random.default_rng(0)
    start, end, radius, direction = 1.0, 1.8, 0.2, np.array([0.0, 0.0, 2.0])
    t = np.cbrt(random.uniform(start**3, end**3, 2_000_000))
    across = radius * t * np.sqrt(random.uniform(0, 1, len(t)))
    turn = random.uniform(0, 2 * np.pi, len(t))
    points = np.stack([across * np.cos(turn), across * np.sin(turn), t * 2], -1)
    found = gaussians(
        torch.zeros(1, 3),
        torch.from_numpy(direction)[None].float(),
        torch.tensor([radius]),
        torch.tensor([start]),
        torch.tensor([end]),
    )
    assert np.allclose(found.mean[0], points.mean(0), atol=2e-3)
    assert np.allclose(found.variance[0], points.var(0), rtol=6e-3)


def test_encoding_is_the_expected_sine_of_a_gaussian():
    random = torch.Generator().manual_seed(1)
    mean = torch.rand(MANY, 3, generator=random, dtype=torch.float64) * 6 - 3
    variance = torch.rand(MANY, 3, generator=random, dtype=torch.float64) * 0.3
    nodes, shares = np.polynomial.hermite_e.hermegauss(80)
    octaves = 3
    found = integrated_encoding(Gaussians(mean, variance), octaves).numpy()
    places = mean.numpy()[..., None] + np.sqrt(variance.numpy())[..., None] * nodes
    for octave in range(octaves):
        angle = places * 2**octave
        for half, function in enumerate((np.sin, np.cos)):
            expected = (function(angle) * shares).sum(-1) / shares.sum()
            columns = found[:, (half * octaves + octave) * 3 :][:, :3]
            assert np.abs(columns - expected).max() < 1e-10


def test_fine_octaves_of_wide_gaussians_vanish():
    cones = Gaussians(torch.zeros(1, 3) + 1.3, torch.ones(1, 3))
    encoded = integrated_encoding(cones).view(2, FREQUENCIES, 3)
    assert encoded[:, 4:].abs().max() < 1e-6 < encoded[:, 0].abs().min()


def test_field_gives_a_density_and_features_for_each_piece():
    torch.manual_seed(0)
    field = IpeField(10.0, width=16)
    rays = Rays(torch.zeros(5, 3), torch.randn(5, 3), torch.full((5,), 0.01))
    samples = evenly(torch.linspace(1, 4, 9).expand(5, 9))
    density, features = field(rays, samples)
    assert density.shape == (40,) and features.shape == (40, 16) and (density >= 0).all()


def test_new_pieces_are_where_something_was_seen():
    edges = torch.linspace(0, 10, 11).expand(4, 11)
    weight = torch.zeros(4, 10)
    weight[:, 6] = 1.0
    found = resampled(edges, weight, torch.full((4, 65), 0.5))
    assert (found.diff(dim=1) >= 0).all() and found.min() >= 0 and found.max() <= 10
    assert ((found > 5) & (found < 8)).float().mean() > 0.85


def test_two_passes_look_from_near_to_far_and_then_closer():
    torch.manual_seed(0)
    rays = Rays(torch.zeros(6, 3), torch.randn(6, 3), torch.full((6,), 0.01))
    first, second = two_passes(IpeField(10.0, width=16), rays, 8, torch.rand(6, 18), 10.0)
    for samples in (first, second):
        assert len(samples.ray) == 48 and (samples.ends >= samples.starts).all()
        assert (samples.starts.view(6, 8)[:, 1:] == samples.ends.view(6, 8)[:, :-1]).all()
    lengths = rays.directions.norm(dim=-1)
    assert (first.ends.view(6, 8)[:, -1] * lengths > 15).all()
