"""Grey levels: how fractions become the whole numbers that images are stored as."""

from torch import Tensor

HAIR = 1e-6
"""Added before a fraction of a level is cut off.

What is a whole number in theory, as the blur of a plain area is, comes out of floating point a little above it or
below, which depends on the device and may depend on the batch. With this it is the same number everywhere; float64
errors here are under 1e-9 levels.
"""


def cut_to_levels(fractions: Tensor) -> Tensor:
    """Fractions of the range, clipped and cut down to whole levels of 255, as the publisher's files are; float64."""
    return (fractions.clamp(0, 1) * 255 + HAIR).floor() / 255


def round_levels(levels: Tensor) -> Tensor:
    """The nearest whole numbers, halves away from zero."""
    return (levels.abs() + 0.5 + HAIR).floor().copysign(levels)
