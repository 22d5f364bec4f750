"""How far apart images, or sets of images, are. A distance between sets is the Fréchet or the kernel distance of features from an
extractor of ours, so it is called FD and KID and never FID, which means Inception's features."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import linalg
from torch import Tensor

Batch = Float[Tensor, "batch channels height width"]


def rmse(images: Batch, truth: Batch) -> float:
    """Root of the mean squared difference over a whole set of images, whatever their scale."""
    return (images.double() - truth.double()).square().mean().sqrt().item()


def ssim(images: Batch, truth: Batch, data_range: float = 1.0) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 × 11, σ 1.5, no padding; mean over images and channels.

    Args:
        images: at least 11 × 11 pixels.
        truth: what they should be.
        data_range: largest possible difference of two values.
    """
    channels = images.shape[1]
    offset = torch.arange(11, dtype=images.dtype, device=images.device) - 5
    window = torch.exp(-(offset**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(channels, 1, 1, 11).contiguous()

    def local_mean(x: Batch) -> Tensor:
        return F.conv2d(F.conv2d(x, window, groups=channels), window.transpose(2, 3), groups=channels)

    total = 0.0
    for x, y in zip(images.split(500), truth.split(500), strict=True):
        mean_x, mean_y = local_mean(x), local_mean(y)
        variance_x = local_mean(x * x) - mean_x**2
        variance_y = local_mean(y * y) - mean_y**2
        covariance = local_mean(x * y) - mean_x * mean_y
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
        total += (luminance * structure).mean().item() * len(x)
    return total / len(images)


def frechet_distance(features: Float[Tensor, "n dim"], reference: Float[Tensor, "m dim"]) -> float:
    """Fréchet distance of two sets' Gaussians: |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et al. 2017, eq. 6).

    It is biased upwards for few samples: compare sets of the same n, and with two halves of the real set.
    """
    mean1, cov1 = _gaussian(features)
    mean2, cov2 = _gaussian(reference)
    # The square root of a product of two covariances has the real eigenvalues of C½ Σ₂ C½, which is symmetric.
    values, vectors = linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.clip(linalg.eigvalsh(root @ cov2 @ root), 0, None)
    return float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * np.sqrt(product).sum())


def kernel_distance(features: Float[Tensor, "n dim"], reference: Float[Tensor, "m dim"]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / dim + 1)³ (Bińkowski et al. 2018, KID)."""
    x, y = features.double(), reference.double()
    n, m = len(x), len(y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within_x, within_y = kernel(x, x), kernel(y, y)
    within = (within_x.sum() - within_x.trace()) / (n * (n - 1)) + (within_y.sum() - within_y.trace()) / (m * (m - 1))
    return (within - 2 * kernel(x, y).mean()).item()


def _gaussian(features: Float[Tensor, "n dim"]) -> tuple[np.ndarray, np.ndarray]:
    values = features.double().cpu().numpy()
    return values.mean(0), np.cov(values, rowvar=False)
