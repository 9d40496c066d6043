"""JPEG's losses are computed for a whole batch: all that an encoder and a decoder do to pixels, but no packing.

The code follows ITU T.81 with its example tables (annex K) and libjpeg, which Pillow uses: how quality scales the
tables, chroma at half resolution, and the smooth enlargement of it. Images are float64 (n, c, h, w) from 0 to 1.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from eval.corruptions.draws import Corruption, ImageDraws
from eval.corruptions.filters import HAIR, along_both, round_levels

BLOCK = 8
LUMINANCE_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = (  # JFIF 1.02: BT.601 weights over the whole range
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)


def jpeg_compression(images: Tensor, _draws: ImageDraws, quality: int) -> Tensor:
    levels = (images * 255).round()
    if levels.shape[1] == 1:
        return coded(levels, LUMINANCE_STEPS, quality) / 255
    planes = round_levels(_mixed(levels, torch.tensor(TO_YCBCR)) + _chroma_offset(levels))
    luminance = coded(planes[:, :1], LUMINANCE_STEPS, quality)
    height, width = levels.shape[-2:]
    chroma = coded(_halved(planes[:, 1:]), CHROMINANCE_STEPS, quality)[..., : (width + 1) // 2]
    planes = torch.cat([luminance, _doubled(chroma)[..., :height, :width]], 1)
    colours = _mixed(planes - _chroma_offset(levels), torch.tensor(TO_YCBCR, dtype=torch.float64).inverse())
    return round_levels(colours.clamp(0, 255)) / 255


def coded(planes: Tensor, steps: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Return levels (n, c, h, w) after their 8 x 8 cosine transform is rounded to multiples of `steps` at a quality."""
    height, width = planes.shape[-2:]
    padded = F.pad(planes, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    down, across = (_cosines(side // BLOCK) for side in padded.shape[-2:])
    step = steps_at(steps, quality).to(planes.device).repeat(len(down) // BLOCK, len(across) // BLOCK)
    coefficients = round_levels(along_both(padded - 128, down, across) / step) * step
    restored = round_levels(along_both(coefficients, down.T, across.T) + 128).clamp(0, 255)
    return restored[..., :height, :width]


def steps_at(steps: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Scale a table as libjpeg does: 50 leaves it as it is, 100 makes every step one."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(steps) * percent + 50) // 100).clamp(1, 255).double()


@cache
def _cosines(blocks: int) -> Tensor:
    """Return the orthonormal cosine transform of each block along one side, as one matrix."""
    place = torch.arange(BLOCK).double()
    matrix = torch.cos(math.pi / BLOCK * place[:, None] * (place + 0.5)) * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return torch.kron(torch.eye(blocks, dtype=torch.float64), matrix)


def _mixed(planes: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("oc,nchw->nohw", weights.double().to(planes.device), planes)


def _chroma_offset(planes: Tensor) -> Tensor:
    return torch.tensor([0.0, 128, 128], dtype=torch.float64, device=planes.device)[:, None, None]


def _halved(planes: Tensor) -> Tensor:
    """Average 2 x 2 pixels; halves go up in every second column and down in the others, lest colours drift.

    The result is whole blocks wide: libjpeg repeats the last column before it halves, and rows after that.
    """
    padded = F.pad(planes, (0, -planes.shape[3] % (2 * BLOCK), 0, planes.shape[2] % 2), mode="replicate")
    sums = F.avg_pool2d(padded, 2, divisor_override=1)
    bias = 1 + torch.arange(sums.shape[3], device=sums.device) % 2
    return ((sums + bias) / 4 + HAIR).floor()


def _doubled(planes: Tensor) -> Tensor:
    """Double both sides: each new pixel is three quarters of the nearest and one quarter of the next."""
    down, across = (_doubling(side) for side in planes.shape[-2:])
    return round_levels(along_both(planes, down, across))


@cache
def _doubling(side: int) -> Tensor:
    place = torch.arange(2 * side)
    nearest = place // 2
    other = (nearest + place % 2 * 2 - 1).clamp(0, side - 1)
    quarters = 0.25 * torch.eye(side, dtype=torch.float64)
    return 3 * quarters[nearest] + quarters[other]


CORRUPTIONS = {
    # quality
    "jpeg_compression": Corruption(jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
}
