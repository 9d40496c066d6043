"""Rankings and thresholds of one yes/no question; calibration is tested where it is used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from common.metrics import ranking


@st.composite
def questions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties and the truth about them, both kinds of which occur."""
    n = draw(st.integers(2, 30))
    scores = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    truth = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda drawn: len(set(drawn)) == 2))
    return np.array(scores) / 12, np.array(truth)


# --- ROC --------------------------------------------------------------------------------------------------------


def test_roc_curve_by_hand() -> None:
    """From the top: a positive, a tie of one of each, a negative and then two positives, one by one."""
    false, true = ranking.roc_curve([0.9, 0.7, 0.7, 0.5, 0.3, 0.2], [1, 1, 0, 0, 1, 1])
    assert false.tolist() == [0, 0, 0.5, 1, 1]
    assert true.tolist() == [0, 0.25, 0.5, 0.5, 1]


def on_the_path(x: float, y: float, false: np.ndarray, true: np.ndarray) -> bool:
    return any(
        abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) < 1e-9
        and x0 - 1e-9 <= x <= x1 + 1e-9
        and y0 - 1e-9 <= y <= y1 + 1e-9
        for x0, x1, y0, y1 in zip(false[:-1], false[1:], true[:-1], true[1:], strict=True)
    )


@settings(max_examples=100, deadline=None)
@given(questions())
def test_roc_curve_is_that_of_scikit_learn_without_points_in_the_middle_of_a_line(
    question: tuple[np.ndarray, np.ndarray],
) -> None:
    false, true = ranking.roc_curve(*question)
    expected = list(zip(*sk.roc_curve(question[1], question[0], drop_intermediate=False)[:2], strict=True))
    assert all(on_the_path(x, y, false, true) for x, y in expected)
    assert all(any(np.allclose(point, each) for each in expected) for point in zip(false, true, strict=True))
    directions = np.arctan2(np.diff(true), np.diff(false))
    assert (np.abs(np.diff(directions)) > 1e-9).all()
    assert np.trapezoid(true, false) == pytest.approx(ranking.auc(*question))
    assert ranking.auc(*question) == pytest.approx(sk.roc_auc_score(question[1], question[0]))


@settings(max_examples=100, deadline=None)
@given(questions())
def test_average_precision_is_that_of_scikit_learn(question: tuple[np.ndarray, np.ndarray]) -> None:
    expected = sk.average_precision_score(question[1], question[0])
    assert ranking.average_precision(*question) == pytest.approx(expected)


def test_average_precision_by_hand() -> None:
    """Recall 1/2 at precision 1/1, then recall 1 at precision 2/3."""
    found = ranking.average_precision(np.array([0.9, 0.5, 0.1]), np.array([True, False, True]))
    assert found == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([0.1, 0.2], [1, 1], "truth: given 2 positives of 2, allowed: both kinds"),
        ([0.1, 0.2], [0, 0], "truth: given 0 positives of 2, allowed: both kinds"),
        ([0.1, 0.2], [0], r"given shapes \(2,\) and \(1,\), allowed: \(n,\) both"),
        ([[0.1, 0.2]], [[0, 1]], r"given shapes \(1, 2\) and \(1, 2\), allowed: \(n,\) both"),
    ],
)
def test_there_is_no_roc_curve_of(scores: list, truth: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking.roc_curve(scores, truth)


# --- thresholds -------------------------------------------------------------------------------------------------


def f1_at(threshold: float, probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float(sk.f1_score(truth, probabilities > threshold, zero_division=0))


@settings(max_examples=100, deadline=None)
@given(questions())
def test_no_other_threshold_has_a_higher_f1(question: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, truth = question
    chosen = ranking.choose_threshold(probabilities, truth)
    others = [f1_at(threshold, probabilities, truth) for threshold in [*np.unique(probabilities), 0, 0.5]]
    assert 0 <= chosen < 1
    assert f1_at(chosen, probabilities, truth) == pytest.approx(max(others))
    if f1_at(0.5, probabilities, truth) == max(others):
        assert chosen == 0.5


@pytest.mark.parametrize(
    ("probabilities", "truth", "expected", "reason"),
    [
        ([0.9, 0.8, 0.2], [1, 1, 0], 0.5, "as good as any other between .2 and .8"),
        ([0.4, 0.3, 0.1], [1, 1, 0], 0.2, "the middle between .1 and .3"),
        ([0.9, 0.8, 0.6, 0.1], [1, 0, 0, 0], 0.85, "the middle between .8 and .9"),
        ([0.9, 0.2], [0, 0], 0.5, "no positives"),
        ([0.4, 0.2], [1, 1], 0.1, "all positive: the middle between 0 and .2"),
        ([0.0, 0.0], [1, 0], 0.5, "no threshold says yes"),
        # F1 is 2/3 above .3 (1 of 1 found, 2 positives) and above .1 (2 hits of 4): .35 is nearer to the middle
        ([0.4, 0.3, 0.2, 0.15], [1, 0, 0, 1], 0.35, "a tie of two gaps"),
    ],
)
def test_thresholds_by_hand(probabilities: list[float], truth: list[int], expected: float, reason: str) -> None:
    found = ranking.choose_threshold(np.array(probabilities), np.array(truth) == 1)
    assert found == pytest.approx(expected), reason


def test_a_threshold_between_neighbouring_floats_still_parts_them() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    probabilities = np.array([high, low])
    threshold = ranking.choose_threshold(probabilities, np.array([True, False]))
    assert (probabilities > threshold).tolist() == [True, False]
