"""Several corruptions share these filters: blurs, enlargements, streaks, sampling, and rounding to grey levels.

Images are float64 (n, c, h, w). What works along rows and columns separately is a matrix for each, borders included.
"""

import math
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]  # aaa|abcd|ddd, cba|abcd|dcb, dcb|abcd|cba: scipy.ndimage's names

REFERENCE_SIDE = 32
FAINTEST = 1e-5  # weights below this share of all move no pixel by a grey level


def pixel_scale(images: Tensor) -> float:
    """Return how many pixels of these images one of CIFAR's is.

    It is never below one: half a pixel's blur is none, and at 8 x 8 the severities would all be the same.
    """
    return max(1.0, min(images.shape[-2:]) / REFERENCE_SIDE)


def inside(places: Tensor, size: int, border: Border) -> Tensor:
    """Replace whole places, which may lie outside [0, size), by those whose values stand there."""
    if border == "nearest":
        return places.clamp(0, size - 1)
    period = 2 * size if border == "reflect" else 2 * size - 2
    places = places.remainder(period)
    return torch.minimum(places, (period - 1 if border == "reflect" else period) - places)


def along_both(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix (new height, h) to every column of pixels, and one (new width, w) to every row."""
    return rows.to(images.device) @ images @ columns.to(images.device).T


# --- blurs --------------------------------------------------------------------------------------------------------


def blurred(images: Tensor, sigma: float, *, truncate: float = 4.0, border: Border = "nearest") -> Tensor:
    """Blur as scipy.ndimage.gaussian_filter does each channel; the defaults are those of skimage.filters.gaussian."""
    rows, columns = (gaussian_matrix(side, sigma, truncate, border) for side in images.shape[-2:])
    return along_both(images, rows, columns)


@cache
def gaussian_matrix(side: int, sigma: float, truncate: float, border: Border) -> Tensor:
    radius = int(truncate * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (steps.double() / max(sigma, 1e-9)) ** 2)
    sources = inside(torch.arange(side)[:, None] + steps, side, border)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(
        1, sources, (weights / weights.sum()).expand(side, -1)
    )


def filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlate with a kernel of odd sides (a, b); borders mirror the image, as in OpenCV by default."""
    down, across = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = F.pad(images, (across, across, down, down), mode="reflect")
    spectrum = torch.fft.rfft2(kernel.to(images.device), s=padded.shape[-2:]).conj()
    filtered_wide = torch.fft.irfft2(torch.fft.rfft2(padded) * spectrum, s=padded.shape[-2:])
    return filtered_wide[..., : images.shape[-2], : images.shape[-1]]


def streaked(images: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Smear every pixel to one side along a line, in the direction of its image: ImageMagick's motion blur.

    The kernel is half a Gaussian of 2 radius + 1 steps, each rounded to a whole pixel; borders repeat the edge.
    """
    weights = torch.exp(-0.5 * (torch.arange(2 * math.ceil(radius) + 1).double() / sigma) ** 2)
    weights /= weights.sum()
    weights = weights[weights >= FAINTEST]
    reach = len(weights) - 1

    # Each step adds the image, shifted along its own direction: a window of the padded image.
    height, width = images.shape[-2:]
    windows = F.pad(images, [reach] * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    image, cosine, sine = torch.arange(len(images), device=images.device), *_direction(degrees)
    result = torch.zeros_like(images)
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        across, down = ((step * part - 0.5).ceil().long() + reach for part in (cosine, sine))
        result.add_(windows[image, :, down, across], alpha=weight)
    return result


def _direction(degrees: Tensor) -> tuple[Tensor, Tensor]:
    radians = degrees * (math.pi / 180)
    return radians.cos(), radians.sin()


# --- sampling -----------------------------------------------------------------------------------------------------


def enlarged(images: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of every image to the whole, by bilinear interpolation."""
    rows, columns = (enlarging_matrix(side, factor) for side in images.shape[-2:])
    return along_both(images, rows, columns)


@cache
def enlarging_matrix(side: int, factor: float) -> Tensor:
    """Make the original's `clipped_zoom` along one side a matrix: cut out, scipy.ndimage.zoom of order 1, trim.

    Both sizes are whole pixels, so factors very near to one change nothing.
    """
    cut = math.ceil(side / factor)
    grown = round(cut * factor)
    first = (side - cut) // 2
    places = (torch.arange(side) + (grown - side) // 2).double() * ((cut - 1) / max(grown - 1, 1))
    left = places.floor().clamp(max=max(cut - 2, 0))
    share = (places - left)[:, None]
    left = left.long()[:, None] + first
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, left, 1 - share).scatter_add_(1, (left + 1).clamp(max=side - 1), share)


def sampled(images: Tensor, down: Tensor, across: Tensor, border: Border) -> Tensor:
    """Sample bilinearly at places (n, h, w) of the images' own, in pixels from the first pixel's centre."""
    height, width = images.shape[-2:]
    top, left = down.floor(), across.floor()
    share_down, share_across = (down - top)[:, None], (across - left)[:, None]
    flat = images.flatten(2)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        places = inside(row.long(), height, border) * width + inside(column.long(), width, border)
        values = flat.gather(2, places.flatten(1)[:, None].expand(-1, flat.shape[1], -1))
        return values.view(*values.shape[:2], *down.shape[1:])

    # Between the four pixels around a place: first across, then down.
    above = torch.lerp(corner(top, left), corner(top, left + 1), share_across)
    below = torch.lerp(corner(top + 1, left), corner(top + 1, left + 1), share_across)
    return torch.lerp(above, below, share_down)


# --- grey levels ----------------------------------------------------------------------------------------------------

# Added before a fraction of a level is cut off. What is a whole number in theory, as the blur of a plain area is, comes
# out of floating point a little above it or below, which depends on the device and may depend on the batch. With this
# it is the same number everywhere; float64 errors here are under 1e-9 levels.
HAIR = 1e-6


def cut_to_levels(fractions: Tensor) -> Tensor:
    """Clip fractions of the range and cut them down to whole levels of 255, as the publisher's files are; float64."""
    return (fractions.clamp(0, 1) * 255 + HAIR).floor() / 255


def round_levels(levels: Tensor) -> Tensor:
    """Return the nearest whole numbers, halves away from zero."""
    return (levels.abs() + 0.5 + HAIR).floor().copysign(levels)
