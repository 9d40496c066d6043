"""Drops on the lens are of water at the lower severities, and of mud at the higher ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eval.corruptions.colour import constant, with_channels_of
from eval.corruptions.draws import Corruption, ImageDraws
from eval.corruptions.filters import HAIR, blurred, enlarged, filtered, pixel_scale, round_levels

WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)
FARTHEST = 20  # pixels of an image 32 wide, beyond which the inside of a drop is flat
EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))


def spatter(
    images: Tensor,
    draws: ImageDraws,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    muddy: bool,
) -> Tensor:
    """Put drops where smooth noise is above a threshold; `strength` is water's brightness, or mud's blur in pixels."""
    scale = pixel_scale(images)
    noise = blurred(mean + deviation * draws.normal(1, *images.shape[-2:]), sigma)
    liquid = enlarged(noise, scale).clamp(0, 1)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    if muddy:
        return _with_mud(images, blurred((liquid > threshold).double(), strength * scale))
    shine = liquid * embossed(liquid > 0, round(FARTHEST * scale))
    brightest = shine.amax((1, 2, 3), keepdim=True)
    shine = shine * (strength / brightest.clamp(min=1e-9))
    return images + shine * with_channels_of(images, constant(images, *WATER)[None])


def _with_mud(images: Tensor, cover: Tensor) -> Tensor:
    cover = torch.where(cover < 0.8, 0.0, cover)
    return images * (1 - cover) + cover * with_channels_of(images, constant(images, *MUD)[None])


def embossed(drops: Tensor, farthest: int) -> Tensor:
    """Return how bright drops are (n, 1, h, w), in levels: lit from one side, by the distance from the nearest rim.

    Rims are the pixels of drops that touch another, where the original has OpenCV's edge detector and its approximate
    distances; filters, rounding and the spreading of levels are the original's.
    """
    inside = -F.max_pool2d(-drops.double(), 3, stride=1, padding=1)
    rims = drops & (inside == 0)
    box = torch.full((3, 3), 1 / 9, dtype=torch.float64)
    distances = (filtered(distances_to(rims, farthest), box) + HAIR).floor()
    slopes = filtered(spread(distances), torch.tensor(EMBOSS).double())
    return filtered(round_levels(slopes).clamp(0, 255), box)


def distances_to(places: Tensor, farthest: int) -> Tensor:
    """Return Euclidean distances to the nearest of the places (n, 1, h, w), at most `farthest`."""
    # The square of a distance is a sum over the two axes, so that each can be searched by itself.
    squares = torch.where(places, 0.0, float(farthest**2)).double()
    for dim in (2, 3):
        length = squares.shape[dim]
        nearest = squares.clone()
        for step in range(1, min(farthest, length - 1) + 1):
            here, there = squares.narrow(dim, step, length - step), squares.narrow(dim, 0, length - step)
            later, earlier = nearest.narrow(dim, step, length - step), nearest.narrow(dim, 0, length - step)
            torch.minimum(later, there + step**2, out=later)
            torch.minimum(earlier, here + step**2, out=earlier)
        squares = nearest
    return squares.clamp(max=farthest**2).sqrt()


def spread(levels: Tensor) -> Tensor:
    """Spread whole levels over 0 to 255 by how many pixels lie at or below them, as OpenCV's equalizeHist does."""
    flat = levels.flatten(1).long()
    counts = torch.zeros(len(flat), 256, dtype=torch.int64, device=levels.device)
    at_or_below = counts.scatter_add_(1, flat, torch.ones_like(flat)).cumsum(1)
    lowest = at_or_below.gather(1, flat.amin(1, keepdim=True))
    others = (flat.shape[1] - lowest).clamp(min=1)
    ranks = (at_or_below.gather(1, flat) - lowest).double()
    return round_levels(ranks * 255 / others).view(levels.shape)


CORRUPTIONS = {
    # mean and deviation of the noise, its blur, threshold of a drop, brightness of water or blur of mud, whether mud
    "spatter": Corruption(
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    ),
}
