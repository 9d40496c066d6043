"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261) for any set of images.

A corrupted image is a function of (corruption, severity, seed, place of the image in its set), whatever the batch and
the device. Severities are independent draws, as the publisher's are.

Formulas and strengths are those with which the authors made CIFAR-10-C (make_cifar_c.py in
https://github.com/hendrycks/robustness); each function says where ours does otherwise. Lengths are in pixels of an
image 32 wide and grow with the shorter side, so that CIFAR's images enlarged to 224 look as corrupted as the small
ones; below 32 pixels they stay. Shares, factors and JPEG's quality are the same at every size, and noise is in single
pixels. Strengths are never those of ImageNet-C, which has its own. The results are alike in
kind and strength, not pixel by pixel: put no number got from them beside one from the publisher's files. Frost is not
even alike.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.wording import unknown
from eval.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from eval.corruptions.colour import brightness, contrast, saturate
from eval.corruptions.digital import elastic_transform, pixelate
from eval.corruptions.draws import ImageDraws
from eval.corruptions.drops import spatter
from eval.corruptions.jpeg import jpeg_compression
from eval.corruptions.levels import cut_to_levels
from eval.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from eval.corruptions.weather import fog, frost, snow

SMALLEST_SIDE = 8


class Corruption(NamedTuple):
    change: Callable[..., Tensor]  # (float64 images from 0 to 1, draws, *strength) -> images, not clipped
    strengths: tuple[tuple[float, ...], ...]  # one for each severity, mildest first


CORRUPTIONS = {
    # standard deviation, of a range of 1
    "gaussian_noise": Corruption(gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    # photons in a white pixel
    "shot_noise": Corruption(shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    # share of the values replaced
    "impulse_noise": Corruption(impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    # radius of the disk, softness of its edge
    "defocus_blur": Corruption(defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    # sigma of the blurs, reach of a move, how often
    "glass_blur": Corruption(glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    # half the length of the kernel, its sigma
    "motion_blur": Corruption(motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    # enlargements by 1 % more each
    "zoom_blur": Corruption(zoom_blur, ((6,), (11,), (15,), (20,), (25,))),
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
    # added to the strongest channel
    "brightness": Corruption(brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    # distance from the mean kept
    "contrast": Corruption(contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    # strength and sigma of the shifts, movement of the corners: shares of the side
    "elastic_transform": Corruption(
        elastic_transform, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    ),
    # pixels kept along a side, but at least so many fewer, which matters below 20 pixels only
    "pixelate": Corruption(pixelate, ((0.95, 1), (0.9, 2), (0.85, 3), (0.75, 4), (0.65, 5))),
    # quality
    "jpeg_compression": Corruption(jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
    # The paper's extra four, outside its averages: standard deviation, in proportion to the value
    "speckle_noise": Corruption(speckle_noise, ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,))),
    # sigma
    "gaussian_blur": Corruption(gaussian_blur, ((0.4,), (0.6,), (0.7,), (0.8,), (1,))),
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
    # saturation times, plus: less colour first, then more
    "saturate": Corruption(saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}
SEVERITIES = 5


@torch.no_grad()
def corrupted(images: Tensor, index: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Images (n, channels, h, w) of one or three channels, uint8 or fractions in [0, 1], as they come out of it.

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
    """Whether images of these channels, height and width can be corrupted."""
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
    if index.shape != images.shape[:1]:
        raise ValueError(f"index: given {tuple(index.shape)}, expected one place for each of {len(images)} images")
