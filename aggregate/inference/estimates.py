"""This module estimates centre, spread and intervals from a handful of numbers. Its functions are pure.

Student's t is computed here because the suite does not depend on scipy. Its distribution is a regularised incomplete
beta function, which is computed as a continued fraction (Abramowitz and Stegun 26.5.8, 26.7.1).
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

Interval = tuple[float, float]

CONVERGED = 1e-15  # relative change of the continued fraction
FRACTION_STEPS = 100_000  # at 10 million degrees of freedom it takes about 5,000
RESAMPLES = 10_000
ROUNDING = 1e-12  # differences of accuracies that should be equal are not always, in binary


# --- centre and spread ------------------------------------------------------------------------------------------


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample, with n - 1; a single value has none."""
    return statistics.stdev(values) if len(values) > 1 else None


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean without the lowest and the highest quarter (rounded down): one stray run does not move it."""
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


# --- intervals --------------------------------------------------------------------------------------------------


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Return the interval of the mean over all seeds, also those never run, if values are normal and independent.

    It is None if all values are equal: the test set is too coarse to tell them apart, and an interval of no width
    would claim more.
    """
    spread = deviation(values)
    if spread is None or spread <= ROUNDING:
        return None

    half = t_quantile((1 + level) / 2, len(values) - 1) * spread / math.sqrt(len(values))
    centre = statistics.fmean(values)
    return centre - half, centre + half


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[np.ndarray], np.ndarray],
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Return the percentile bootstrap interval of a statistic; it is too narrow for fewer than about ten values.

    `statistic` maps (resamples, n) to (resamples,).
    """
    if len(values) < 2:
        return None

    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(statistic(np.asarray(values)[draws]), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interquartile_means(rows: np.ndarray) -> np.ndarray:  # (resamples, n) -> (resamples,)
    cut = rows.shape[1] // 4
    means: np.ndarray = np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut].mean(axis=1)
    return means


def wilson_interval(share: float, n: int, level: float = 0.95) -> Interval:
    """Return the interval of an accuracy over other test images of the same kind (Wilson 1927).

    It also holds near 0 and 1, and for few images.
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def images_error(share: float, n: int) -> float:
    """Return the standard error that an accuracy has because there are only n test images."""
    return math.sqrt(share * (1 - share) / n)


# --- Student's t ------------------------------------------------------------------------------------------------


def t_p_value(t: float, freedom: float) -> float:
    """Return the probability of a t at least as far from 0, on either side."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@functools.lru_cache(maxsize=10_000)
def t_quantile(share: float, freedom: float) -> float:
    """Return the t below which this share of the distribution lies."""
    if not 0 < share < 1:
        raise ValueError(f"share: given {share}, allowed: above 0 and below 1")
    if share < 0.5:
        return -t_quantile(1 - share, freedom)

    outside = 2 * (1 - share)  # on both sides together
    low, high = 0.0, 1.0
    while t_p_value(high, freedom) > outside:
        low, high = high, 2 * high

    # Bisection is slower than Newton's method, but no start and no shape of the distribution can mislead it.
    while low < (middle := (low + high) / 2) < high:
        if t_p_value(middle, freedom) > outside:
            low = middle
        else:
            high = middle
    return middle


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the share of the beta distribution (a, b) below x."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # on the other side the fraction converges fast
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a * _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Evaluate 1 / (1 + d1 / (1 + d2 / (1 + ...))) from the front, until a step changes nothing (Lentz's method)."""
    value, below, above = 1.0, 0.0, 1.0
    for step in range(FRACTION_STEPS):
        term = _beta_term(a, b, x, step)
        below = 1 / (1 + term * below)
        above = 1 + term / above
        value *= below * above
        if step and abs(below * above - 1) < CONVERGED:
            return 1 / value
    raise ArithmeticError(f"no convergence for a={a}, b={b}, x={x}")


def _beta_term(a: float, b: float, x: float, step: int) -> float:
    """Return one of the numerators d1, d2, ... of Abramowitz and Stegun 26.5.8."""
    m, odd = divmod(step + 1, 2)
    if odd:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
