"""Whether two methods differ: tests of paired numbers, and the verdict. Pure functions.

Paired means: the same seeds on both sides (what a method does over seeds), or the same test images (what two trained
networks do on them). Every p value is two-sided.
"""

import bisect
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aggregate.inference.estimates import ROUNDING, Interval, incomplete_beta, t_interval, t_p_value, t_quantile

ALPHA = 0.05
EXACT_TO = 20  # pairs; 2^20 sums of signs take 20 milliseconds
DRAWS = 100_000
POWER = 0.8
MOST_SEEDS = 1_000

BETTER, WORSE, ALIKE, UNKNOWN = "better", "worse", "≈", "?"


@dataclass(frozen=True)
class Paired:
    """A method less another, over the seeds that both have."""

    n: int
    difference: float
    interval: Interval | None  # 95 %, not corrected for the number of comparisons
    p_t: float | None
    p_signs: float | None


def compare_paired(differences: Sequence[float], seed: int = 0) -> Paired:
    n = len(differences)
    return Paired(
        n,
        statistics.fmean(differences),
        t_interval(differences),
        paired_t(differences) if n > 1 else None,
        sign_flip(differences, seed) if n > 1 else None,
    )


def paired_t(differences: Sequence[float]) -> float:
    """p of the mean difference. Where all differences are equal the t test would be certain: the signs decide."""
    spread = statistics.stdev(differences)
    centre = statistics.fmean(differences)
    if spread <= ROUNDING * max(1.0, abs(centre)):
        return sign_flip(differences)
    return t_p_value(centre / (spread / math.sqrt(len(differences))), len(differences) - 1)


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """p of the permutation test that swaps the two sides of each pair: exact to 20 pairs, then of 100,000 draws.

    It asks for no normal distribution. With n pairs it never falls below 2 / 2^n: five seeds give 0.0625 at best.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) <= EXACT_TO:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(_as_far(sums, values)))
    generator = np.random.default_rng(seed)
    hits = sum(
        int(_as_far(generator.choice([-1.0, 1.0], size=(DRAWS // 100, len(values))) @ values, values).sum())
        for _ in range(100)
    )
    return (hits + 1) / (DRAWS + 1)  # the order that was seen counts as a draw: p is never 0


def _as_far(sums: np.ndarray, values: np.ndarray) -> np.ndarray:
    far: np.ndarray = np.abs(sums) >= abs(values.sum()) - ROUNDING * max(1.0, float(np.abs(values).sum()))
    return far


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact p of two networks on the same images, from those that only one of them got right."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    return min(1.0, 2 * incomplete_beta(n - fewer, fewer + 1, 0.5))  # the binomial distribution's lower end


def combine_dependent(p_values: Sequence[float]) -> float:
    """One p of several that were found on the same images, however they depend on each other (Rüger 1978).

    Where k of n are at most p, that has a probability of at most p n / k; k is the middle one.
    """
    middle = (len(p_values) + 1) // 2
    return min(1.0, sorted(p_values)[middle - 1] * len(p_values) / middle)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted for all tests together (Holm 1979); what could not be tested is not counted."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = highest
    return adjusted


def verdict(difference: float, adjusted_p: float | None, *, higher_is_better: bool = True) -> str:
    """Of the first method: better, worse, or ≈ where this many seeds cannot tell; ? where there is no test."""
    if adjusted_p is None:
        return UNKNOWN
    if adjusted_p >= ALPHA:
        return ALIKE
    return BETTER if (difference > 0) == higher_is_better else WORSE


def more_seeds(n: int, difference: float, spread: float | None, level: float = ALPHA) -> int | None:
    """Further pairs that a t test at that level would need to see this difference in four experiments of five.

    As if difference and spread were the true ones. None: no spread to go by, no difference, or more than 1,000.
    """
    if spread is None or spread <= ROUNDING or abs(difference) <= ROUNDING:
        return None
    candidates = range(n, MOST_SEEDS + 1)
    place = bisect.bisect_left(candidates, True, key=lambda n: abs(difference) >= _smallest_seen(n, level) * spread)
    return place if place < len(candidates) else None


def _smallest_seen(n: int, level: float) -> float:
    """The difference, in standard deviations, that n pairs show with that power; it falls as n grows."""
    return (t_quantile(1 - level / 2, n - 1) + t_quantile(POWER, n - 1)) / math.sqrt(n)
