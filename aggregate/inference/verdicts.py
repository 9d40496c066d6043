"""This module tests whether two methods differ, and gives the verdict. Its functions are pure.

Numbers are paired if both sides have the same seeds (two methods), or the same test images (two trained networks).
Every p value is two-sided.
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
    """The difference between two methods, first less second, over the seeds that both have."""

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
    """Return the p value of the mean difference by Student's t.

    If all differences are equal, the t test would be certain; then the signs decide.
    """
    spread = statistics.stdev(differences)
    centre = statistics.fmean(differences)
    if spread <= ROUNDING * max(1.0, abs(centre)):
        return sign_flip(differences)
    return t_p_value(centre / (spread / math.sqrt(len(differences))), len(differences) - 1)


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Return the p value of the permutation test that swaps the two sides of each pair.

    It is exact for up to 20 pairs, and comes from 100,000 draws for more. It assumes no normal distribution. With n
    pairs it is never below 2 / 2^n: five seeds give 0.0625 at best.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) <= EXACT_TO:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(_as_far(sums, values)))

    # All draws at once would take over a gigabyte for a thousand pairs, so they come in a hundred parts.
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
    """Return the exact p value of two networks on the same images, from those that only one of them got right."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0

    return min(1.0, 2 * incomplete_beta(n - fewer, fewer + 1, 0.5))  # the binomial distribution's lower end


def combine_dependent(p_values: Sequence[float]) -> float:
    """Combine p values of tests on the same images into one, however the tests depend on each other (Rüger 1978).

    The probability that k of n are at most p is at most p n / k; k is the middle one.
    """
    middle = (len(p_values) + 1) // 2
    return min(1.0, sorted(p_values)[middle - 1] * len(p_values) / middle)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for all tests together (Holm 1979); what could not be tested is not counted."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = highest
    return adjusted


def verdict(difference: float, adjusted_p: float | None, *, higher_is_better: bool = True) -> str:
    """Judge the first method: better, worse, ≈ if this many seeds cannot tell, ? if there is no test."""
    if adjusted_p is None:
        return UNKNOWN
    if adjusted_p >= ALPHA:
        return ALIKE
    return BETTER if (difference > 0) == higher_is_better else WORSE


def more_seeds(n: int, difference: float, spread: float | None, level: float = ALPHA) -> int | None:
    """Return how many further pairs a t test at that level needs to see this difference in four of five experiments.

    Difference and spread are taken for the true ones. None means no spread to go by, no difference, or that more than
    1,000 pairs would be needed.
    """
    if spread is None or spread <= ROUNDING or abs(difference) <= ROUNDING:
        return None

    candidates = range(n, MOST_SEEDS + 1)
    place = bisect.bisect_left(candidates, True, key=lambda n: abs(difference) >= _smallest_seen(n, level) * spread)
    return place if place < len(candidates) else None


def _smallest_seen(n: int, level: float) -> float:
    """Return the smallest difference, in standard deviations, that n pairs show with POWER; it falls as n grows."""
    return (t_quantile(1 - level / 2, n - 1) + t_quantile(POWER, n - 1)) / math.sqrt(n)
