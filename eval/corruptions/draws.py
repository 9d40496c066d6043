"""Each image of a batch has random numbers of its own, which depend on neither the batch nor the device.

Every image has a stream of its own, which starts where a hash of (seed, corruption, severity, index) says. Streams are
those of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195): the number at place k is a hash of
start + k * GAMMA, so whole batches are drawn at once. It is integer arithmetic modulo 2^64, the same on every device.
"""

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
FIRST_FACTOR, SECOND_FACTOR = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Corruption(NamedTuple):
    change: Callable[..., Tensor]  # (float64 images from 0 to 1, draws, *strength) -> images, not clipped
    strengths: tuple[tuple[float, ...], ...]  # one for each severity, mildest first


class ImageDraws:
    """The draws for n images come (n, *shape) at a time, in float64; each call goes on where the one before ended."""

    def __init__(self, seed: int, name: str, severity: int, index: Tensor) -> None:
        key = 0
        for part in (seed, zlib.crc32(name.encode()), severity):
            key = int(hashed(torch.tensor(_signed(key + part * GAMMA)))) + part
        self._start = hashed(index.long() * _signed(GAMMA) + _signed(key))
        self._used = 0

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw uniform numbers from [low, high)."""
        return self._fractions(math.prod(shape)).mul_(high - low).add_(low).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Draw normal numbers of mean 0 and variance 1, two from every two uniform ones (Box and Muller 1958)."""
        size = math.prod(shape)
        pairs = -(-size // 2)
        radius = self._fractions(pairs).neg_().log1p_().mul_(-2).sqrt_()
        angle = self._fractions(pairs).mul_(2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :size].reshape(-1, *shape)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw whole numbers from low to high - 1."""
        return self.uniform(*shape, low=low, high=high).floor_().long()

    def _fractions(self, count: int) -> Tensor:
        places = torch.arange(self._used + 1, self._used + count + 1, device=self._start.device)
        self._used += count
        bits = hashed(self._start[:, None] + places * _signed(GAMMA))
        return _shifted(bits, 11).double().mul_(2.0**-53)


def hashed(values: Tensor) -> Tensor:
    """Mix 64 bits as SplitMix64 does; they are held in int64, whose products wrap around as unsigned ones do."""
    values = (values ^ _shifted(values, 30)).mul_(_signed(FIRST_FACTOR))
    values = values.bitwise_xor_(_shifted(values, 27)).mul_(_signed(SECOND_FACTOR))
    return values.bitwise_xor_(_shifted(values, 31))


def _shifted(values: Tensor, places: int) -> Tensor:
    """Shift to the right with zeros coming in, as for unsigned numbers."""
    return (values >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """Return the int64 with the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63
