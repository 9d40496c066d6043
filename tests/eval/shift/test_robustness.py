"""Calibration against scipy's search, and errors against simulation and hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from eval.shift.robustness import (
    Estimate,
    accuracy,
    calibration,
    drop,
    fit_temperature,
    mean_corruption_error,
    paired_difference,
    relative_mean_corruption_error,
)


def overconfident(scale: float, n: int = 400, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(logits), and the logits times `scale`."""
    random = np.random.RandomState(0)
    logits = random.randn(n, classes)
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return scale * logits, labels


# --- calibration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_minimum_that_scipy_finds(scale: float) -> None:
    logits, labels = overconfident(scale)

    def nll(log_temperature: float) -> float:
        return float(-log_softmax(logits / math.exp(log_temperature), axis=1)[np.arange(len(labels)), labels].mean())

    best = minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    found = fit_temperature(logits, labels)
    assert found.value == pytest.approx(math.exp(best.x), rel=1e-5)
    assert not found.at_limit
    assert calibration(logits, labels, found.value)["nll"] == pytest.approx(best.fun, rel=1e-12)


def test_a_temperature_worked_by_hand() -> None:
    # One of four wrong at logits (2, 0): NLL is lowest where sigmoid(2 / T) = 3/4, so T = 2 / ln 3.
    found = fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 1])
    assert found.value == pytest.approx(2 / math.log(3), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 5))
def test_the_temperature_undoes_a_scale(scale: float) -> None:
    logits, labels = overconfident(1.0, n=100)
    assert fit_temperature(scale * logits, labels).value == pytest.approx(
        scale * fit_temperature(logits, labels).value, rel=1e-9
    )


def test_temperatures_without_a_minimum_say_so() -> None:
    always_right, always_wrong = [[3.0, 0.0], [0.0, 3.0]], [[0.0, 3.0], [3.0, 0.0]]
    assert (fit_temperature(always_right, [0, 1]).value, fit_temperature(always_right, [0, 1]).at_limit) == (0.01, True)
    assert (fit_temperature(always_wrong, [0, 1]).value, fit_temperature(always_wrong, [0, 1]).at_limit) == (100, True)
    flat = fit_temperature([[1.0, 1.0], [-2.0, -2.0]], [0, 1])
    assert (flat.value, flat.at_limit) == (1.0, False)


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="given NaN or infinity in 1 of 2 samples"):
        fit_temperature([[0.0, float("nan")], [1.0, 0.0]], [0, 1])


def test_calibration_worked_by_hand() -> None:
    # Logits ln 9 and 0: probability 0.9 of class 0; three of four are. At T = 2: sqrt(9) = 3, probability 3/4.
    logits, labels = [[math.log(9), 0.0]] * 4, [0, 0, 0, 1]
    hot = -(3 * math.log(0.9) + math.log(0.1)) / 4
    assert calibration(logits, labels) == pytest.approx({"nll": hot, "ece": 0.15})
    mild = -(3 * math.log(0.75) + math.log(0.25)) / 4
    assert calibration(logits, labels, 2.0) == pytest.approx({"nll": mild, "ece": 0.0})
    with pytest.raises(ValueError, match="temperature: given 0, allowed: above 0"):
        calibration(logits, labels, 0)


# --- standard errors --------------------------------------------------------------------------------------------


def test_the_error_of_an_accuracy_by_hand() -> None:
    correct = np.arange(400) < 320
    assert accuracy(correct).value == 0.8
    assert accuracy(correct).standard_error == pytest.approx(0.02)  # sqrt(.8 * .2 / 400)


def test_the_error_of_a_paired_difference_by_hand() -> None:
    both, mine, theirs, none = 60, 15, 5, 20
    correct = np.repeat([True, True, False, False], [both, mine, theirs, none])
    other = np.repeat([True, False, True, False], [both, mine, theirs, none])
    found = paired_difference(correct, other)
    assert found.value == pytest.approx(0.10)
    assert found.standard_error == pytest.approx(math.sqrt(20 - 10**2 / 100) / 100)


def test_a_paired_error_is_the_spread_over_redrawn_test_sets() -> None:
    random = np.random.RandomState(0)
    hard = random.rand(500)
    correct, other = hard < 0.8, hard + 0.1 * random.randn(500) < 0.75
    rows = random.randint(500, size=(4000, 500))
    redrawn = correct[rows].mean(axis=1) - other[rows].mean(axis=1)
    assert paired_difference(correct, other).standard_error == pytest.approx(redrawn.std(), rel=0.05)
    apart = math.hypot(accuracy(correct).standard_error, accuracy(other).standard_error)
    assert redrawn.std() < 0.7 * apart  # what pairing is for


def test_a_model_does_not_differ_from_itself() -> None:
    assert paired_difference([True, False, True], [True, False, True]) == Estimate(0.0, 0.0)


def test_a_drop_adds_the_errors_of_both_sets() -> None:
    found = drop(Estimate(0.9, 0.003), Estimate(0.8, 0.004))
    assert (found.value, found.standard_error) == (pytest.approx(0.1), pytest.approx(0.005))


def test_other_images_and_what_is_not_yes_or_no_are_refused() -> None:
    with pytest.raises(ValueError, match="other: given 1 images, allowed: 2"):
        paired_difference([True, False], [True])
    with pytest.raises(ValueError, match=r"correct: given int64 of shape \(2,\), allowed: bool"):
        accuracy(np.array([3, 4]))
    with pytest.raises(ValueError, match=r"correct: given bool of shape \(0,\), allowed: bool"):
        accuracy(np.array([], dtype=bool))


# --- corruptions ------------------------------------------------------------------------------------------------

FOUND = {"fog": [0.1, 0.3], "snow": [0.2, 0.2]}
BASELINE = {"snow": [0.3, 0.5], "fog": [0.4, 0.4]}


def test_mean_corruption_errors_by_hand() -> None:
    assert mean_corruption_error(FOUND, BASELINE) == pytest.approx((0.4 / 0.8 + 0.4 / 0.8) / 2)
    # fog (.05 + .25) / (.2 + .2), snow (.15 + .15) / (.1 + .3)
    relative = relative_mean_corruption_error(FOUND, BASELINE, clean_error=0.05, baseline_clean_error=0.2)
    assert relative == pytest.approx(0.75)


def test_corruptions_are_averaged_as_ratios_and_not_as_sums() -> None:
    errors, baseline = {"fog": [0.1], "snow": [0.6]}, {"fog": [0.1], "snow": [0.9]}
    assert mean_corruption_error(errors, baseline) == pytest.approx((1 + 2 / 3) / 2)  # of the sums it would be .7


def test_the_baseline_is_one() -> None:
    assert mean_corruption_error(BASELINE, BASELINE) == 1
    relative = relative_mean_corruption_error(BASELINE, BASELINE, clean_error=0.1, baseline_clean_error=0.1)
    assert relative == pytest.approx(1)


@pytest.mark.parametrize(
    ("errors", "baseline", "message"),
    [
        ({"fog": [0.1]}, BASELINE, "errors: given fog, allowed: the corruptions of the baseline, fog, snow"),
        ({}, {}, "errors: given none"),
        ({"fog": [0.1]}, {"fog": [0.1, 0.2]}, "fog: given 1 severities, the baseline 2"),
        ({"fog": [40.0]}, {"fog": [50.0]}, "fog: given 40.0, allowed: a share"),
        ({"fog": [float("nan")]}, {"fog": [0.5]}, "fog: given nan, allowed: a share"),
        ({"fog": [0.1]}, {"fog": [0.0]}, "baseline: fog adds 0 to its error"),
    ],
)
def test_errors_that_cannot_be_compared_are_refused(errors, baseline, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_corruption_error(errors, baseline)


def test_a_baseline_that_a_corruption_does_not_hurt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"baseline: fog adds -0\.1 to its error"):
        relative_mean_corruption_error({"fog": [0.2]}, {"fog": [0.2]}, clean_error=0.1, baseline_clean_error=0.3)


def test_login_nodes_can_import_it() -> None:
    code = "import sys, eval.shift.robustness; print({'torch', 'sklearn', 'scipy', 'pandas'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
