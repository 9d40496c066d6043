import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from aggregate.inference.verdicts import (
    combine_dependent,
    compare_paired,
    holm,
    mcnemar,
    more_seeds,
    paired_t,
    sign_flip,
    verdict,
)

ONE = [0.71, 0.74, 0.69, 0.80, 0.72, 0.75]
OTHER = [0.70, 0.70, 0.70, 0.74, 0.71, 0.70]
DIFFERENCES = [a - b for a, b in zip(ONE, OTHER, strict=True)]


def test_paired_t_is_scipys() -> None:
    assert paired_t(DIFFERENCES) == pytest.approx(scipy.stats.ttest_rel(ONE, OTHER).pvalue)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_sign_flip_is_scipys_permutation_test(n: int) -> None:
    done = scipy.stats.permutation_test(
        (ONE[:n], OTHER[:n]), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip(DIFFERENCES[:n]) == pytest.approx(done.pvalue)


def test_sign_flip_by_hand() -> None:
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip([1.0, 2.0, -3.0]) == 1.0
    assert sign_flip([0.1] * 20) == 2 / 2**20


def test_sign_flip_of_more_pairs_draws() -> None:
    differences = list(np.random.default_rng(3).normal(0.3, 1, size=25))
    exact_enough = paired_t(differences)
    assert sign_flip(differences) == pytest.approx(exact_enough, abs=0.02)
    assert sign_flip(differences) == sign_flip(differences)
    assert sign_flip([1.0] * 40) == pytest.approx(1 / 100_001), "never 0"


def test_equal_differences_prove_less_than_a_t_test_would_say() -> None:
    assert paired_t([0.1] * 3) == 2 / 8
    assert paired_t([0.0] * 3) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(one: int, other: int) -> None:
    expected = scipy.stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected, rel=1e-8)


def test_mcnemar_of_large_sets() -> None:
    assert mcnemar(5000, 4800) == pytest.approx(scipy.stats.binomtest(4800, 9800).pvalue, rel=1e-8)


def test_rueger_takes_the_middle_one_and_pays_for_the_choice() -> None:
    assert combine_dependent([0.03]) == 0.03
    assert combine_dependent([0.9, 0.01, 0.03]) == pytest.approx(0.03 * 3 / 2)
    assert combine_dependent([0.01, 0.5]) == 0.02
    assert combine_dependent([0.9, 0.8, 0.7]) == 1.0


def test_ruegers_rule_holds_for_the_same_p_seen_five_times() -> None:
    shares = np.random.default_rng(4).uniform(size=1000)
    assert np.mean([combine_dependent([p] * 5) < 0.05 for p in shares]) <= 0.05


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_corrects_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    adjusted = [p for p in holm(p_values) if p is not None]
    assert all(p <= q <= min(1.0, p * len(p_values)) + 1e-12 for p, q in zip(p_values, adjusted, strict=True))


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.05, "≈"), (0.1, None, "?")],
)
def test_verdicts(difference: float, p: float | None, expected: str) -> None:
    assert verdict(difference, p) == expected


def test_of_a_loss_less_is_better() -> None:
    assert verdict(-0.1, 0.01, higher_is_better=False) == "better"


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("images", [None, 360])
def test_identical_methods_are_seldom_called_different(n: int, images: int | None) -> None:
    """Accuracies of a small test set are coarse, which a t test does not know of."""
    generator = np.random.default_rng(5)
    if images:
        draws = generator.binomial(images, 0.98, size=(1000, 2, n)) / images
    else:
        draws = generator.normal(0.9, 0.02, size=(1000, 2, n))
    found = [verdict(float(np.mean(d)), compare_paired(list(d)).p_t) for d in draws[:, 0] - draws[:, 1]]
    assert found.count("better") / 1000 <= 0.05
    assert 0.005 < (found.count("better") + found.count("worse")) / 1000 <= 0.065


def test_real_differences_are_found() -> None:
    draws = np.random.default_rng(6).normal(0.05, 0.02, size=(200, 5))
    found = [verdict(float(np.mean(d)), compare_paired(list(d)).p_t) for d in draws]
    assert found.count("better") > 150
    assert found.count("worse") == 0


def test_one_pair_is_no_test() -> None:
    found = compare_paired([0.1])
    assert (found.p_t, found.p_signs, found.interval) == (None, None, None)


def test_more_seeds_reach_the_power_that_was_asked_for() -> None:
    further = more_seeds(5, 0.5, 1.0)
    assert further is not None
    n = 5 + further
    shift = 0.5 * math.sqrt(n)
    power = scipy.stats.nct.sf(scipy.stats.t.ppf(0.975, n - 1), n - 1, shift)
    assert power == pytest.approx(0.8, abs=0.02)


def test_more_seeds_where_none_help() -> None:
    assert more_seeds(5, 0.0, 1.0) is None
    assert more_seeds(5, 0.1, 0.0) is None
    assert more_seeds(5, 0.1, None) is None
    assert more_seeds(5, 0.001, 1.0) is None, "more than a thousand"
    assert more_seeds(5, 10.0, 1.0) == 0
    stricter = more_seeds(5, 0.5, 1.0, 0.001)
    assert stricter is not None
    assert stricter > (more_seeds(5, 0.5, 1.0) or 0)
