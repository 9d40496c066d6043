import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from aggregate.inference.estimates import (
    bootstrap_interval,
    deviation,
    images_error,
    incomplete_beta,
    interquartile_mean,
    interquartile_means,
    t_interval,
    t_p_value,
    t_quantile,
    wilson_interval,
)

VALUES = [0.71, 0.74, 0.69, 0.80, 0.72]
values = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(st.floats(0.2, 50), st.floats(0.2, 50), st.floats(0, 1))
def test_incomplete_beta_is_scipys(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(scipy.stats.beta.cdf(x, a, b), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 29, 199, 1e4, 1e6])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.975, 0.9999, 0.025])
def test_t_quantile_is_scipys(freedom: float, share: float) -> None:
    assert t_quantile(share, freedom) == pytest.approx(scipy.stats.t.ppf(share, freedom), rel=1e-8, abs=1e-8)


def test_t_quantile_of_every_textbook() -> None:
    assert [round(t_quantile(0.975, freedom), 3) for freedom in (1, 2, 4, 9)] == [12.706, 4.303, 2.776, 2.262]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_t_quantile_of_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="allowed: above 0 and below 1"):
        t_quantile(share, 3)


@given(st.floats(1e-3, 30) | st.floats(-30, -1e-3), st.floats(1, 300))
def test_t_p_value_is_scipys(t: float, freedom: float) -> None:
    assert t_p_value(t, freedom) == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom), rel=1e-8, abs=1e-14)


def test_t_interval_is_scipys() -> None:
    expected = scipy.stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=scipy.stats.sem(VALUES))
    assert t_interval(VALUES) == pytest.approx(expected)


def test_no_interval_without_spread() -> None:
    assert t_interval([0.9]) is None
    assert deviation([0.9]) is None
    assert t_interval([0.1 + 0.2, 0.3, 0.3]) is None


@pytest.mark.parametrize("n", [3, 5])
def test_t_intervals_hold_the_mean_as_often_as_they_say(n: int) -> None:
    draws = np.random.default_rng(0).normal(0.9, 0.02, size=(1000, n))
    intervals = [t_interval(list(row)) for row in draws]
    assert 0.93 <= np.mean([low <= 0.9 <= high for low, high in filter(None, intervals)]) <= 0.97


@given(values)
def test_interquartile_mean_is_scipys_trimmed_mean(sample: list[float]) -> None:
    assert interquartile_mean(sample) == pytest.approx(scipy.stats.trim_mean(sample, 0.25), rel=1e-9, abs=1e-9)
    assert interquartile_means(np.asarray([sample]))[0] == pytest.approx(interquartile_mean(sample), abs=1e-9)


def test_a_run_that_went_astray_does_not_move_the_interquartile_mean() -> None:
    assert interquartile_mean([0.9, 0.91, 0.92, 0.1]) == pytest.approx(0.905)


def test_bootstrap_interval_is_scipys() -> None:
    sample = list(np.random.default_rng(1).normal(0.8, 0.03, size=40))
    ours = bootstrap_interval(sample, lambda rows: rows.mean(axis=1))
    theirs = scipy.stats.bootstrap((sample,), np.mean, method="percentile", rng=2).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=1e-3)
    assert ours == bootstrap_interval(sample, lambda rows: rows.mean(axis=1)), "the same seed draws the same"
    assert bootstrap_interval([0.5], lambda rows: rows.mean(axis=1)) is None


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (7, 10), (9964, 10_000)])
def test_wilson_interval_is_scipys(right: int, n: int) -> None:
    expected = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson_interval(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_error_of_a_test_set() -> None:
    assert images_error(0.9, 100) == pytest.approx(0.03)
