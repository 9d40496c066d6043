"""Clouds by the diamond-square algorithm (Fournier, Fussell and Carpenter 1982), one field for each image."""

import torch
from torch import Tensor

from eval.corruptions.draws import ImageDraws


def plasma(draws: ImageDraws, height: int, width: int, decay: float) -> Tensor:
    """Fields (n, 1, h, w) stretched to [0, 1], the smoother the larger `decay`; cut out of ones that tile the plane.

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
    """Twice the side: between four known points lies their mean, moved by up to `wobble` either way."""
    side = corners.shape[-1]

    def moved(total: Tensor) -> Tensor:
        return total / 4 + draws.uniform(side, side, low=-wobble, high=wobble)

    pairs = corners + corners.roll(-1, 1)
    middles = moved(pairs + pairs.roll(-1, 2))
    tops = moved(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
    lefts = moved(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
    rows = torch.stack([torch.stack([corners, tops], 3), torch.stack([lefts, middles], 3)], 2)
    return rows.view(len(corners), 2 * side, 2 * side)
