"""These are the corruptions of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261) for any set of images.

A corrupted image is a function of (corruption, severity, seed, place of the image in its set), whatever the batch and
the device. Severities are independent draws, as the publisher's are.

Formulas and strengths are those with which the authors made CIFAR-10-C (make_cifar_c.py in
https://github.com/hendrycks/robustness); each function says where ours does otherwise. Lengths are in pixels of an
image 32 wide and grow with the shorter side, so that CIFAR's images enlarged to 224 look as corrupted as the small
ones; below 32 pixels they stay. Shares, factors and JPEG's quality are the same at every size, and noise is in single
pixels. Strengths are never those of ImageNet-C, which has its own. The results are alike in kind and strength, not
pixel by pixel: put no number got from them beside one from the publisher's files. Frost is not even alike.

Each module has the functions of its kind and, in its CORRUPTIONS, their strengths; common/settings/shift.py lists the
names, in their order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.settings.messages import unknown
from common.settings.shift import ALL_CORRUPTIONS, SEVERITIES
from eval.corruptions import blur, colour, digital, drops, jpeg, noise, weather
from eval.corruptions.draws import ImageDraws
from eval.corruptions.filters import cut_to_levels

SMALLEST_SIDE = 8
_DEFINED = {
    **noise.CORRUPTIONS, **blur.CORRUPTIONS, **weather.CORRUPTIONS, **colour.CORRUPTIONS, **digital.CORRUPTIONS,
    **jpeg.CORRUPTIONS, **drops.CORRUPTIONS,
}  # fmt: skip
CORRUPTIONS = {name: _DEFINED[name] for name in ALL_CORRUPTIONS}


@torch.no_grad()
def corrupted(images: Tensor, index: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Corrupt images (n, channels, h, w) of one or three channels, which are uint8 or fractions in [0, 1].

    index: (n,) the place of each image in its set. Fractions are rounded to levels of 255 first, and come back as such.
    Results are cut down to whole levels, not rounded, as the publisher's are: so noise darkens by half a level.
    """
    _check(images, index, name, severity)
    change, strengths = CORRUPTIONS[name]
    fractional = images.is_floating_point()
    levels = (images.double() * 255).round() if fractional else images.double()
    draws = ImageDraws(seed, name, severity, index.to(images.device))
    result = cut_to_levels(change(levels / 255, draws, *strengths[severity - 1]))
    return result.to(images.dtype) if fractional else (result * 255).round().to(torch.uint8)


def corruptible(shape: Sequence[int]) -> bool:
    """Say whether images of these channels, height and width can be corrupted."""
    return shape[0] in {1, 3} and min(shape[1:]) >= SMALLEST_SIDE


def _check(images: Tensor, index: Tensor, name: str, severity: int) -> None:
    if name not in CORRUPTIONS:
        raise ValueError(unknown("corruption", name, CORRUPTIONS))
    if severity not in range(1, SEVERITIES + 1):
        raise ValueError(unknown("severity", severity, map(str, range(1, SEVERITIES + 1))))
    if images.ndim != 4 or not corruptible(images.shape[1:]):
        raise ValueError(
            f"images: given {tuple(images.shape)}, expected (n, 1 or 3, height, width), {SMALLEST_SIDE} pixels or more"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images: given {images.dtype}, expected uint8, or fractions in [0, 1]")

    # The place of an image in its set is what makes its draws independent of the batch.
    if index.shape != images.shape[:1]:
        raise ValueError(f"index: given {tuple(index.shape)}, expected one place for each of {len(images)} images")
