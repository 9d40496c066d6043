"""Blurs average near pixels. Images are float64 (n, c, h, w) from 0 to 1; lengths are pixels of an image 32 wide."""

import torch
from torch import Tensor

from eval.corruptions.draws import Corruption, ImageDraws
from eval.corruptions.filters import (
    REFERENCE_SIDE,
    blurred,
    cut_to_levels,
    enlarging_matrix,
    filtered,
    pixel_scale,
    streaked,
)


def gaussian_blur(images: Tensor, _draws: ImageDraws, sigma: float) -> Tensor:
    return blurred(images, sigma * pixel_scale(images))


def defocus_blur(images: Tensor, _draws: ImageDraws, radius: float, softness: float) -> Tensor:
    """Take the mean over a disk whose edge is softened by a Gaussian that is cut off one pixel away."""
    scale = pixel_scale(images)
    return filtered(images, soft_disk(radius * scale, softness * scale, round(scale)))


def soft_disk(radius: float, sigma: float, reach: int) -> Tensor:
    half = int(radius)
    steps = torch.arange(-half - reach, half + reach + 1).double()
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).double()
    edge = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / sigma) ** 2)
    kernel = torch.conv2d(disk[None, None], torch.outer(edge, edge)[None, None], padding=reach)[0, 0]
    return kernel / kernel.sum()


def glass_blur(images: Tensor, draws: ImageDraws, sigma: float, reach: int, times: int) -> Tensor:
    """Blur, replace every pixel by a near one above it and to its left, and blur again.

    The original walks over the pixels from the last to the first and means to swap each with its partner, but what it
    runs copies the partner and leaves that as it was. At a reach of one pixel no partner has been walked over before,
    so all copies of a round can be made at once, with the same outcome. At a larger reach some have: there ours are
    copies of what was before the round, and the original's of what it made so far.
    """
    scale = pixel_scale(images)
    reach = round(reach * scale)
    height, width = images.shape[-2:]
    shuffled = cut_to_levels(blurred(images, sigma * scale))
    rows, columns = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    moving = _far_from_edges(rows, reach) & _far_from_edges(columns, reach)
    for _ in range(times):
        across, down = (draws.integers(-reach, reach, height, width) * moving for _ in range(2))
        sources = ((rows + down) * width + columns + across).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        shuffled = shuffled.flatten(2).gather(2, sources).view(images.shape)
    return blurred(shuffled, sigma * scale)


def _far_from_edges(places: Tensor, reach: int) -> Tensor:
    return (places > reach) & (places <= places.numel() - reach)


def motion_blur(images: Tensor, draws: ImageDraws, radius: float, sigma: float) -> Tensor:
    """Smear along a line at most 45 degrees from the horizontal."""
    scale = pixel_scale(images)
    return streaked(images, radius * scale, sigma * scale, draws.uniform(low=-45, high=45))


def zoom_blur(images: Tensor, _draws: ImageDraws, steps: int) -> Tensor:
    """Take the mean of the image twice and of its enlargements by 1.01, 1.02, and so on.

    Below 32 pixels the enlargements are larger, so that the edges move by as many pixels as they do there.
    """
    per_step = (1.01 - 1) * max(1.0, REFERENCE_SIDE / min(images.shape[-2:]))  # numpy.arange's, to the last bit
    total = 2 * images
    for step in range(1, steps + 1):
        rows, columns = (enlarging_matrix(side, 1 + step * per_step).to(images.device) for side in images.shape[-2:])
        total += rows @ images @ columns.T
    return total / (steps + 2)


CORRUPTIONS = {
    # radius of the disk, softness of its edge
    "defocus_blur": Corruption(defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    # sigma of the blurs, reach of a move, how often
    "glass_blur": Corruption(glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    # half the length of the kernel, its sigma
    "motion_blur": Corruption(motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    # enlargements by 1 % more each
    "zoom_blur": Corruption(zoom_blur, ((6,), (11,), (15,), (20,), (25,))),
    # sigma
    "gaussian_blur": Corruption(gaussian_blur, ((0.4,), (0.6,), (0.7,), (0.8,), (1,))),
}
