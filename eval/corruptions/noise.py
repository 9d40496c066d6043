"""Noise changes single pixels and channels. Images are float64 (n, c, h, w) from 0 to 1; results are not clipped yet.

Deviations are in units of the whole range. Nothing here depends on the size of the images.
"""

from functools import cache

import torch
from torch import Tensor

from eval.corruptions.draws import Corruption, ImageDraws


def gaussian_noise(images: Tensor, draws: ImageDraws, deviation: float) -> Tensor:
    return images + deviation * draws.normal(*images.shape[1:])


def speckle_noise(images: Tensor, draws: ImageDraws, deviation: float) -> Tensor:
    """Add normal noise in proportion to each value."""
    return images + images * (deviation * draws.normal(*images.shape[1:]))


def impulse_noise(images: Tensor, draws: ImageDraws, share: float) -> Tensor:
    """Scatter salt and pepper, half and half, on each channel by itself, as skimage.util.random_noise does."""
    replaced = draws.uniform(*images.shape[1:]) < share
    white = draws.uniform(*images.shape[1:]) < 0.5
    return torch.where(replaced, white.double(), images)


def shot_noise(images: Tensor, draws: ImageDraws, photons: int) -> Tensor:
    """Draw a Poisson number of photons in place of each value, where white is `photons` of them on average."""
    levels = (images * 255).round()
    edges = _edges_of_counts(photons).to(images.device)
    at = torch.searchsorted(edges, (draws.uniform(*images.shape[1:]) + levels).flatten(), right=True)
    return (at.view(images.shape) - levels * (len(edges) // 256)) / photons


@cache
def _edges_of_counts(photons: int) -> Tensor:
    """List g + P(count <= k) for k = 0, 1, ..., of every grey level g, one after the other.

    A uniform u then has the count that is the number of g's edges at or below g + u, which one search in all of them
    finds. The highest count is more than 9 deviations above white's mean.
    """
    counts = torch.arange(photons + 10 * int(photons**0.5) + 30, dtype=torch.float64)
    means = torch.arange(256, dtype=torch.float64)[:, None] * (photons / 255)
    at_most = torch.special.gammaincc(counts + 1, means).clamp(max=1.0)
    at_most[:, -1] = 1.0
    return (at_most + torch.arange(256)[:, None]).flatten()


CORRUPTIONS = {
    # standard deviation, of a range of 1
    "gaussian_noise": Corruption(gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    # photons in a white pixel
    "shot_noise": Corruption(shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    # share of the values replaced
    "impulse_noise": Corruption(impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    # standard deviation, in proportion to the value
    "speckle_noise": Corruption(speckle_noise, ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,))),
}
