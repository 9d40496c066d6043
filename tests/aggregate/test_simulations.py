"""What tables and intervals promise, tried on experiments whose truth is known.

Single pairs and t intervals are tried in test_verdicts.py and test_estimates.py, further runs in test_claims.py.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from aggregate.inference.estimates import bootstrap_interval, interquartile_means, wilson_interval
from aggregate.runs.collect import Run
from aggregate.runs.methods import Method
from aggregate.tables.claims import expected_interval
from aggregate.tables.comparisons import comparisons
from aggregate.tables.results import FEWEST_FOR_BOOTSTRAP

DRAWS = 1000
SEEDS = 5
IMAGES = 1000


def standard_error(share: float) -> float:
    return math.sqrt(share * (1 - share) / DRAWS)


# --- whole tables -----------------------------------------------------------------------------------------------


def method(name: str, accuracies: np.ndarray) -> Method:
    result = {"data": {"digest": "d"}, "selection": {"rule": "last epoch"}}
    runs = [
        Run(Path("nowhere") / name / str(seed), "train_cnn", seed, {"data.name": "digits"}, facts, {})
        for seed, accuracy in enumerate(accuracies.tolist())
        for facts in ({**result, "test": {"n": IMAGES, "accuracy": accuracy}},)
    ]
    return Method(name, "train_cnn", "digits", tuple(runs))


def is_any_settled(accuracies: np.ndarray) -> bool:  # (methods, seeds)
    table = comparisons([method(name, row) for name, row in zip("abcd", accuracies, strict=False)])
    assert table
    assert len(table.rows) == len(list(itertools.combinations(accuracies, 2)))
    return any(row["verdict"] in {"better", "worse"} for row in table.rows)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.02], ids=["independent", "seeds have an effect of their own"])
def test_tables_of_identical_methods_seldom_tell_any_two_apart(shared: float) -> None:
    """Four methods, six pairs, five seeds: of 1,000 tables at most 5 % and two standard errors, which is 6.4 %."""
    generator = np.random.default_rng(11)
    effects = generator.normal(0.9, shared, size=(DRAWS, 1, SEEDS))
    truth = np.clip(effects + generator.normal(0, 0.01, size=(DRAWS, 4, SEEDS)), 0, 1)
    accuracies = generator.binomial(IMAGES, truth) / IMAGES
    wrong = np.mean([is_any_settled(draw) for draw in accuracies])
    assert 0.01 < wrong <= 0.05 + 2 * standard_error(0.05)


@pytest.mark.slow
def test_a_method_that_is_better_is_found_in_such_a_table() -> None:
    generator = np.random.default_rng(12)
    accuracies = generator.normal(0.9, 0.005, size=(100, 4, SEEDS)) + np.array([[0.03], [0], [0], [0]])
    assert np.mean([is_any_settled(draw) for draw in accuracies]) > 0.9


# --- intervals --------------------------------------------------------------------------------------------------


def bootstrap_coverage(n: int) -> float:
    draws = np.random.default_rng(13).normal(0.9, 0.02, size=(DRAWS, n))
    found = [bootstrap_interval(list(draw), interquartile_means) or (1, 0) for draw in draws]
    return float(np.mean([low <= 0.9 <= high for low, high in found]))


@pytest.mark.slow
def test_the_bootstrap_is_printed_only_where_it_holds_what_it_says() -> None:
    assert 0.93 <= bootstrap_coverage(FEWEST_FOR_BOOTSTRAP) <= 0.97
    assert bootstrap_coverage(SEEDS) < 0.92, "five seeds are too few, which is why they have none"


@pytest.mark.parametrize("images", [100, 360, 10_000])
def test_wilson_intervals_hold_the_share_as_often_as_they_say(images: int) -> None:
    """Not by draws: the probability of every count of right answers is known."""
    counts = np.arange(images + 1)
    low, high = np.array([wilson_interval(count / images, images) for count in counts]).T
    shares = np.linspace(0.5, 0.99, 99)
    held = [scipy.stats.binom.pmf(counts, images, share)[(low <= share) & (share <= high)].sum() for share in shares]
    assert 0.945 <= np.mean(held) <= 0.96
    assert min(held) > 0.91, "counts are whole numbers: no interval of any kind holds the same everywhere"


@pytest.mark.parametrize(("ours", "theirs"), [(3, 1), (5, 5), (10, 3)])
def test_the_mean_of_further_runs_falls_where_it_is_expected(ours: int, theirs: int) -> None:
    draws = np.random.default_rng(14).normal(0.5, 0.01, size=(2 * DRAWS, ours + theirs))
    intervals = [expected_interval(draw[:ours].tolist(), theirs) or (1, 0) for draw in draws]
    inside = [low <= draw[ours:].mean() <= high for (low, high), draw in zip(intervals, draws, strict=True)]
    assert 0.93 <= np.mean(inside) <= 0.97
