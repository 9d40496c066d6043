"""These corruptions change brightness and colour. Images are float64 (n, c, h, w) from 0 to 1; results are unclipped.

An image of one channel is one of three equal channels, and what is kept of the outcome is its brightness.
"""

import torch
from torch import Tensor

from eval.corruptions.draws import Corruption, ImageDraws

LUMA = (0.299, 0.587, 0.114)


def as_colour(images: Tensor) -> Tensor:
    return images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)


def luma(colours: Tensor) -> Tensor:
    """Return how bright colours look, (n, 1, h, w)."""
    red, green, blue = colours.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def with_channels_of(images: Tensor, colours: Tensor) -> Tensor:
    """Return colours as files like these images store them, which may have one channel only."""
    return colours if images.shape[1] == 3 else luma(colours)


def constant(images: Tensor, *colour: float) -> Tensor:
    """Put one colour (3, 1, 1) on the device of the images."""
    return torch.tensor(colour, dtype=torch.float64, device=images.device)[:, None, None]


def contrast(images: Tensor, _draws: ImageDraws, factor: float) -> Tensor:
    """Draw values towards the mean of their channel over the image."""
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * factor + means


def brightness(images: Tensor, _draws: ImageDraws, added: float) -> Tensor:
    """Add to HSV's value, which is the strongest channel; hue and saturation stay. Black becomes grey."""
    value = images.amax(1, keepdim=True)
    brighter = (value + added).clamp(max=1)
    return torch.where(value > 0, images * (brighter / value.clamp(min=1e-9)), brighter)


def saturate(images: Tensor, _draws: ImageDraws, factor: float, added: float) -> Tensor:
    """Multiply HSV's saturation by `factor`, and add `added`. What has no hue counts as red, as in scikit-image."""
    colours = as_colour(images)
    value = colours.amax(1, keepdim=True)
    chroma = value - colours.amin(1, keepdim=True)
    saturation = chroma / value.clamp(min=1e-9)
    lacking = torch.where(chroma > 0, (value - colours) / chroma.clamp(min=1e-9), constant(images, 0, 1, 1))
    changed = (saturation * factor + added).clamp(0, 1)
    return with_channels_of(images, value * (1 - changed * lacking))


CORRUPTIONS = {
    # added to the strongest channel
    "brightness": Corruption(brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    # distance from the mean kept
    "contrast": Corruption(contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    # saturation times, plus: less colour first, then more
    "saturate": Corruption(saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}
