"""Weather is snow, frost, fog. Images are float64 (n, c, h, w) from 0 to 1; lengths are pixels of an image 32 wide."""

import torch
from torch import Tensor

from eval.corruptions.colour import as_colour, constant, luma, with_channels_of
from eval.corruptions.draws import Corruption, ImageDraws
from eval.corruptions.filters import enlarged, pixel_scale, streaked

ICE = (0.82, 0.91, 1.0)  # a blueish white


def snow(
    images: Tensor,
    draws: ImageDraws,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> Tensor:
    """Lay streaks over a whitened image: what lies above a threshold in noise, and the same turned upside down."""
    scale = pixel_scale(images)
    noise = mean + deviation * draws.normal(1, *images.shape[-2:])
    flakes = enlarged(noise, size * scale)
    flakes = torch.where(flakes < threshold, 0.0, flakes.clamp(0, 1))
    flakes = streaked(flakes, radius * scale, sigma * scale, draws.uniform(low=-135, high=-45))
    whitened = torch.maximum(images, luma(as_colour(images)) * 1.5 + 0.5)
    return kept * images + (1 - kept) * whitened + flakes + flakes.flip(-2, -1)


def frost(images: Tensor, draws: ImageDraws, kept: float, strength: float) -> Tensor:
    """Lay ice over the image: bright ridges in a cloud.

    This is not comparable with the publisher's frost, which lays photographs of frozen windows over the image with
    these weights: we have no such photographs to hand on.
    """
    height, width = images.shape[-2:]
    ridges = 1 - (2 * plasma(draws, height, width, decay=1.5) - 1).abs()
    cloud = plasma(draws, height, width, decay=1.8)
    ice = (0.2 + 0.8 * ridges**2 * cloud.sqrt()) * constant(images, *ICE)
    return kept * images + strength * with_channels_of(images, ice)


def fog(images: Tensor, draws: ImageDraws, thickness: float, decay: float) -> Tensor:
    """Add clouds, and darken all so that the brightest pixel under the thickest cloud is as bright as before."""
    brightest = images.amax((1, 2, 3), keepdim=True)
    clouds = thickness * plasma(draws, images.shape[-2], images.shape[-1], decay)
    return (images + clouds) * (brightest / (brightest + thickness))


# --- clouds ---------------------------------------------------------------------------------------------------------


def plasma(draws: ImageDraws, height: int, width: int, decay: float) -> Tensor:
    """Draw fields (n, 1, h, w) stretched to [0, 1], the smoother the larger `decay`; each is cut out of one that tiles.

    As in the original the random part, and not its width, shrinks by decay squared from one octave to the next.
    """
    side = 1 << (max(height, width) - 1).bit_length()
    corners = draws.uniform(1, 1)  # any: the field is stretched in the end
    wobble = 1.0
    while corners.shape[-1] < side:
        corners = _refined(corners, draws, wobble)
        wobble /= decay**2
    low, high = corners.amin((1, 2), keepdim=True), corners.amax((1, 2), keepdim=True)
    return ((corners - low) / (high - low))[:, None, :height, :width]


def _refined(corners: Tensor, draws: ImageDraws, wobble: float) -> Tensor:
    """Double the side: between four known points lies their mean, moved by up to `wobble` either way."""
    side = corners.shape[-1]

    def moved(total: Tensor) -> Tensor:
        return total / 4 + draws.uniform(side, side, low=-wobble, high=wobble)

    pairs = corners + corners.roll(-1, 1)
    middles = moved(pairs + pairs.roll(-1, 2))
    tops = moved(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
    lefts = moved(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
    rows = torch.stack([torch.stack([corners, tops], 3), torch.stack([lefts, middles], 3)], 2)
    return rows.view(len(corners), 2 * side, 2 * side)


# --- strengths ------------------------------------------------------------------------------------------------------

CORRUPTIONS = {
    # mean and deviation of the noise, its enlargement, threshold of a flake, its streak's radius and sigma, image kept
    "snow": Corruption(
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    # image kept, ice added
    "frost": Corruption(frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    # thickness, smoothness
    "fog": Corruption(fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
}
