"""These corruptions leave fewer pixels, or move them. Images are float64 (n, c, h, w) from 0 to 1."""

from functools import cache

import torch
from torch import Tensor

from eval.corruptions.draws import Corruption, ImageDraws
from eval.corruptions.filters import blurred, round_levels, sampled


def pixelate(images: Tensor, _draws: ImageDraws, share: float, fewer: int) -> Tensor:
    """Shrink each side to `share` of its pixels, at least `fewer` less, and back, by Pillow's box filter both ways."""
    levels = images * 255
    for dim in (3, 2):  # Pillow rounds in between
        side = images.shape[dim]
        fewest = min(int(side * share), side - fewer)
        levels = _along(levels, dim, box_matrix(side, fewest))
    for dim in (3, 2):
        levels = _along(levels, dim, box_matrix(levels.shape[dim], images.shape[dim]))
    return levels / 255


def _along(levels: Tensor, dim: int, matrix: Tensor) -> Tensor:
    matrix = matrix.to(levels.device)
    return round_levels(levels @ matrix.T if dim == 3 else matrix @ levels)


@cache
def box_matrix(old: int, new: int) -> Tensor:
    """Average all old pixels whose centres lie in a new one, or take the nearest if there are more new ones."""
    scale = max(1.0, old / new)
    centres = (torch.arange(new).double()[:, None] + 0.5) * (old / new)
    distance = (torch.arange(old) + 0.5 - centres) / scale
    chosen = ((distance > -0.5) & (distance <= 0.5)).double()
    return chosen / chosen.sum(1, keepdim=True)


def elastic_transform(images: Tensor, draws: ImageDraws, strength: float, sigma: float, jitter: float) -> Tensor:
    """Map the image affinely at random, then shift each pixel smoothly; parameters are shares of the shorter side."""
    height, width = images.shape[-2:]
    side = min(height, width)
    rows, columns = _grid(images)
    images = sampled(images, *_affine_sources(draws, jitter * side, rows, columns), "mirror")

    def shift() -> Tensor:
        noise = draws.uniform(1, height, width, low=-1, high=1)
        return strength * side * blurred(noise, sigma * side, truncate=3.0, border="reflect")[:, 0]

    across, down = shift(), shift()
    return sampled(images, rows + down, columns + across, "reflect")


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device, dtype=torch.float64)[:, None]
    columns = torch.arange(width, device=images.device, dtype=torch.float64)[None]
    return rows, columns


def _affine_sources(draws: ImageDraws, jitter: float, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Say where each pixel comes from when three corners of the middle third are moved by up to `jitter` pixels."""
    x, y = columns.shape[1] // 2, rows.shape[0] // 2
    third = min(columns.shape[1], rows.shape[0]) // 3
    corners = torch.tensor([[x + third, y + third], [x + third, y - third], [x - third, y - third]])
    corners = corners.double().to(rows.device)
    moved = corners + draws.uniform(3, 2, low=-jitter, high=jitter)
    back = torch.linalg.solve(torch.cat([moved, torch.ones_like(moved[..., :1])], 2), corners)  # (n, x|y|1, x|y)
    across, down = (
        (back[:, 0, axis, None, None] * columns + back[:, 1, axis, None, None] * rows + back[:, 2, axis, None, None])
        for axis in range(2)
    )
    return down, across


CORRUPTIONS = {
    # strength and sigma of the shifts, movement of the corners: shares of the side
    "elastic_transform": Corruption(
        elastic_transform, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    ),
    # pixels kept along a side, but at least so many fewer, which matters below 20 pixels only
    "pixelate": Corruption(pixelate, ((0.95, 1), (0.9, 2), (0.85, 3), (0.75, 4), (0.65, 5))),
}
