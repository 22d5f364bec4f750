"""Measures against independent references."""

import numpy as np
import pytest
import torch
from scipy import linalg

from almanac.runtime import metrics


def ssim_by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Window by window, as Wang et al. 2004 write it (eq. 13)."""
    offset = np.arange(11) - 5
    weight = np.exp(-(offset**2) / (2 * 1.5**2))
    weight = np.outer(weight, weight) / weight.sum() ** 2
    values = []
    for a, b in zip(x.reshape(-1, *x.shape[2:]), y.reshape(-1, *y.shape[2:]), strict=True):
        for row in range(a.shape[0] - 10):
            for column in range(a.shape[1] - 10):
                p, q = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
                mp, mq = (weight * p).sum(), (weight * q).sum()
                vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
                cov = (weight * (p - mp) * (q - mq)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def images(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 24, 20, generator=torch.Generator().manual_seed(seed))


def test_ssim_is_its_definition():
    x, y = images(), (images() + 0.2 * images(seed=1)).clamp(0, 1)
    assert metrics.ssim(x, y) == pytest.approx(ssim_by_definition(x.numpy(), y.numpy()), abs=1e-5)


def test_ssim_of_equal_images_is_one():
    assert metrics.ssim(images(), images()) == pytest.approx(1.0, abs=1e-6)


def test_rmse_is_over_the_whole_set():
    x = torch.zeros(2, 1, 11, 11)
    y = torch.stack((torch.zeros(1, 11, 11), torch.ones(1, 11, 11)))
    assert metrics.rmse(x, y) == pytest.approx(0.5**0.5)


def test_frechet_distance_is_the_formula():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 6)), rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 1
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov1 + cov2 - 2 * linalg.sqrtm(cov1 @ cov2).real)
    assert metrics.frechet_distance(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-6)


def test_distances_of_a_set_from_itself_are_nothing():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    draws = [
        metrics.kernel_distance(torch.randn(40, 4, generator=generator), torch.randn(40, 4, generator=generator))
        for _ in range(300)
    ]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / len(draws) ** 0.5


def test_distances_grow_with_the_difference():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator)
    for distance in (metrics.frechet_distance, metrics.kernel_distance):
        near, far = (distance(torch.randn(300, 8, generator=generator) + shift, x) for shift in (0.1, 1.0))
        assert near < far
