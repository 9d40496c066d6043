import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike
from sklearn import metrics as sk

from common.metrics import several_labels


def drawn(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels from common to rare, logits that know something of them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < np.linspace(0.6, 0.1, classes)).astype(np.int64)
    return (rng.normal(size=(n, classes)) * 1.5 + 2 * labels - 1).astype(np.float32), labels


def names(classes: int) -> list[str]:
    return [f"finding {c}" for c in range(classes)]


# --- against scikit-learn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 14])
def test_decisions_against_scikit_learn(classes: int) -> None:
    logits, labels = drawn(300, classes)
    decided = logits > 0
    result = several_labels.evaluate(logits, labels, names(classes))

    by_label = [sk.accuracy_score(labels[:, c], decided[:, c]) for c in range(classes)]
    assert result["accuracy"] == pytest.approx(np.mean(by_label))
    assert 0.6 < result["accuracy"] < 0.95  # otherwise the comparisons would be about nothing
    scores = [
        sk.precision_recall_fscore_support(labels[:, c], decided[:, c], average="binary")[:3] for c in range(classes)
    ]
    for key, values in zip(("precision", "recall", "f1_score"), zip(*scores, strict=True), strict=True):
        assert [row[key] for row in result["per_class"]] == pytest.approx(list(values))
        assert result[key] == pytest.approx(np.mean(values))
    assert [row["n"] for row in result["per_class"]] == labels.sum(axis=0).tolist()
    assert result["subset_accuracy"] == pytest.approx((decided == labels).all(axis=1).mean())
    assert result["micro_f1_score"] == pytest.approx(sk.f1_score(labels.ravel(), decided.ravel()))
    if classes > 1:
        assert result["subset_accuracy"] == pytest.approx(sk.accuracy_score(labels, decided))
        assert result["micro_f1_score"] == pytest.approx(sk.f1_score(labels, decided, average="micro"))


def test_counts_against_scikit_learn() -> None:
    logits, labels = drawn(200, 5, seed=1)
    assert (
        several_labels.counts(labels, logits > 0).tolist()
        == sk.multilabel_confusion_matrix(labels, logits > 0).tolist()
    )


def test_probabilities_and_rankings_against_scikit_learn() -> None:
    logits, labels = drawn(300, 6, seed=2)
    result = several_labels.evaluate(logits, labels, names(6))
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))

    assert result["nll"] == pytest.approx(sk.log_loss(labels.ravel(), probabilities.ravel()))
    assert result["brier"] == pytest.approx(sk.brier_score_loss(labels.ravel(), probabilities.ravel()))
    assert result["macro_auc"] == pytest.approx(sk.roc_auc_score(labels, logits, average="macro"))
    assert [row["auc"] for row in result["per_class"]] == pytest.approx(sk.roc_auc_score(labels, logits, average=None))
    expected = sk.average_precision_score(labels, logits, average=None)
    assert [row["average_precision"] for row in result["per_class"]] == pytest.approx(expected)
    assert result["mean_average_precision"] == pytest.approx(np.mean(expected))


def test_ece_against_an_independent_count_over_fifteen_bins() -> None:
    logits, labels = drawn(300, 6, seed=3)
    logits = logits * 1.5  # too sure in some bins and too timid in others, so that the number of bins matters
    probabilities, truth = several_labels.sigmoid(logits).ravel(), labels.ravel()
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (probabilities > low) & (probabilities <= low + 1 / 15)
        expected += inside.mean() * abs(truth[inside].mean() - probabilities[inside].mean())
    assert several_labels.ece(logits, labels) == pytest.approx(expected)
    assert several_labels.ece(logits, labels, bins=10) != pytest.approx(expected, rel=0.001)


# --- by hand ----------------------------------------------------------------------------------------------------

# Label 0 is decided right, wrong (missed), right; label 1 right, right, wrong (false alarm).
HAND_LOGITS = np.array([[2.0, -1.0], [-1.0, 3.0], [-2.0, 1.0]])
HAND_LABELS = np.array([[1, 0], [1, 1], [0, 0]])


def test_decisions_by_hand() -> None:
    result = several_labels.evaluate(HAND_LOGITS, HAND_LABELS, names(2))
    assert several_labels.counts(HAND_LABELS, HAND_LOGITS > 0).tolist() == [[[1, 0], [1, 1]], [[1, 1], [0, 1]]]
    assert result["accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert result["precision"] == pytest.approx((1 + 1 / 2) / 2)
    assert result["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["f1_score"] == pytest.approx(2 / 3)
    assert result["micro_f1_score"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert result["subset_accuracy"] == pytest.approx(1 / 3)


def test_macro_and_micro_differ_where_labels_are_unequally_common() -> None:
    """A common label always found (3 of 3), a rare one never: F1 1 and 0; together 3 hits, 1 missed."""
    labels = np.array([[1, 0], [1, 0], [1, 1]])
    table = several_labels.counts(labels, np.array([[1, 0], [1, 0], [1, 0]]))
    assert several_labels.summarise(table)["f1_score"] == 0.5
    assert several_labels.micro_f1_score(table) == pytest.approx(6 / 7)


def test_nll_and_brier_by_hand() -> None:
    logits = np.log([[3.0, 1 / 4]])  # probabilities 3/4 and 1/5
    assert several_labels.nll(logits, [[1, 1]]) == pytest.approx((np.log(4 / 3) + np.log(5)) / 2)
    assert several_labels.brier(logits, [[1, 1]]) == pytest.approx((1 / 16 + 16 / 25) / 2)


def test_ece_and_reliability_by_hand() -> None:
    """Two bins. .2 and .4 (no, yes) share the lower, .9 (yes) is alone in the upper; .5 (no) belongs to the lower."""
    probabilities = np.array([[0.2, 0.4], [0.9, 0.5]])
    logits, labels = np.log(probabilities / (1 - probabilities)), [[0, 1], [1, 0]]
    lower, upper = several_labels.reliability(logits, labels, bins=2)
    assert lower == pytest.approx({"low": 0, "high": 0.5, "n": 3, "confidence": 1.1 / 3, "accuracy": 1 / 3})
    assert upper == pytest.approx({"low": 0.5, "high": 1, "n": 1, "confidence": 0.9, "accuracy": 1})
    assert several_labels.ece(logits, labels, bins=2) == pytest.approx((3 * 0.1 / 3 + 0.1) / 4)


def test_labels_without_a_value_are_left_out_of_auc_and_average_precision_alone() -> None:
    """Label 0 ranks well, label 1 is nobody's, label 2 everybody's."""
    logits = np.array([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    result = several_labels.evaluate(logits, labels, names(3))
    assert [row["auc"] for row in result["per_class"]] == [1.0, None, None]
    assert result["macro_auc"] == 1.0
    assert [row["average_precision"] for row in result["per_class"]] == [1.0, None, 1.0]
    assert result["mean_average_precision"] == 1.0
    assert [row["f1_score"] for row in result["per_class"]] == [1.0, 0.0, 1.0]
    assert result["f1_score"] == pytest.approx(2 / 3)


def test_null_where_no_label_has_a_value() -> None:
    result = several_labels.evaluate([[1.0, 2.0]], [[0, 0]], names(2))
    assert result["macro_auc"] is None
    assert result["mean_average_precision"] is None


# --- thresholds -------------------------------------------------------------------------------------------------


def test_chosen_thresholds_are_as_good_as_any_tried_one_by_one() -> None:
    logits, labels = drawn(150, 4, seed=4)
    logits -= 1.5  # so that 0.5 is too high
    chosen = several_labels.choose_thresholds(logits, labels)
    probabilities = several_labels.sigmoid(logits)
    for c in range(4):
        tried = [sk.f1_score(labels[:, c], probabilities[:, c] > t) for t in np.unique(probabilities[:, c])[:-1]]
        assert sk.f1_score(labels[:, c], probabilities[:, c] > chosen[c]) == pytest.approx(max(tried))
    assert (chosen < 0.5).all()


def test_evaluate_decides_at_the_thresholds_and_tells_what_half_would_give() -> None:
    thresholds = [0.2, 0.9]
    plain = several_labels.evaluate(HAND_LOGITS, HAND_LABELS, names(2))
    result = several_labels.evaluate(HAND_LOGITS, HAND_LABELS, names(2), thresholds)
    assert result["accuracy"] == 1.0  # .27 is above .2, and .73 below .9
    assert result["subset_accuracy"] == 1.0
    assert result["thresholds"] == thresholds == [row["threshold"] for row in result["per_class"]]
    assert result["at_half"] == {
        key: plain[key] for key in ("accuracy", "precision", "recall", "f1_score", "micro_f1_score", "subset_accuracy")
    }
    assert plain["thresholds"] == [0.5, 0.5]
    assert "at_half" not in plain
    assert result["nll"] == plain["nll"]


def test_a_probability_at_the_threshold_is_a_no() -> None:
    assert several_labels.evaluate([[0.0]], [[0]], names(1))["accuracy"] == 1.0


def test_thresholds_for_as_many_images_as_chestmnist_validates_on_take_no_time() -> None:
    logits, labels = drawn(11_219, 14)
    start = time.perf_counter()
    several_labels.choose_thresholds(logits, labels)
    assert time.perf_counter() - start < 2


# --- limits and properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_perfect_and_confident_logits(dtype: type) -> None:
    labels = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    result = several_labels.evaluate((200 * labels - 100).astype(dtype), labels, names(3))
    assert [result[key] for key in ("nll", "brier", "ece")] == pytest.approx([0, 0, 0], abs=1e-12)
    best = ("accuracy", "precision", "recall", "f1_score", "micro_f1_score", "subset_accuracy")
    best += ("macro_auc", "mean_average_precision")
    assert [result[key] for key in best] == [1.0] * len(best)


def test_always_wrong_and_confident_logits() -> None:
    labels = np.array([[1, 0], [0, 1]])
    result = several_labels.evaluate(100.0 - 200 * labels, labels, names(2))
    assert [result[key] for key in ("accuracy", "f1_score", "micro_f1_score", "subset_accuracy", "macro_auc")] == [
        0
    ] * 5
    assert [result[key] for key in ("nll", "brier", "ece")] == pytest.approx([100, 1, 1])


def test_logits_far_beyond_the_range_of_exp() -> None:
    logits = np.array([[3e38, -3e38, 800.0]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert several_labels.sigmoid(logits).tolist() == [[1.0, 0.0, 1.0]]
        assert several_labels.nll(logits, [[1, 0, 0]]) == pytest.approx(800 / 3)


def test_the_likelihood_of_what_is_almost_sure_is_not_rounded_to_nothing() -> None:
    assert several_labels.nll([[40.0, -40.0]], [[1, 0]]) == pytest.approx(np.exp(-40), rel=1e-9)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, classes = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    eighths = draw(arrays(np.int64, (n, classes), elements=st.integers(-40, 40)))
    return eighths / 8, draw(arrays(np.int64, (n, classes), elements=st.integers(0, 1)))


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_every_number_stays_in_its_range_and_is_plain_json(sample: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = sample
    classes = labels.shape[1]
    thresholds = several_labels.choose_thresholds(logits, labels)
    result = several_labels.evaluate(logits, labels, names(classes), thresholds)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    shares = ("accuracy", "precision", "recall", "f1_score", "micro_f1_score", "subset_accuracy", "brier", "ece")
    assert all(0 <= result[key] <= 1 for key in shares)
    assert result["subset_accuracy"] <= result["accuracy"]
    assert result["f1_score"] >= result["at_half"]["f1_score"] - 1e-12  # chosen on these very images
    assert result["nll"] >= 0


@settings(max_examples=60, deadline=None)
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_samples_and_of_labels_does_not_matter(
    sample: tuple[np.ndarray, np.ndarray], random: Random
) -> None:
    logits, labels = sample
    rows = random.sample(range(len(labels)), len(labels))
    columns = random.sample(range(labels.shape[1]), labels.shape[1])
    once = several_labels.evaluate(logits, labels, names(len(columns)))
    again = several_labels.evaluate(
        logits[rows][:, columns], labels[rows][:, columns], [names(len(columns))[c] for c in columns]
    )
    in_order = {row["class"]: row for row in again.pop("per_class")}
    for row in once.pop("per_class"):
        assert in_order[row["class"]] == pytest.approx(row)
    del once["thresholds"], again["thresholds"]
    assert again == pytest.approx(once, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_negated_logits_and_swapped_labels_turn_every_decision_around(sample: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = sample
    assert several_labels.nll(-logits, 1 - labels) == pytest.approx(several_labels.nll(logits, labels))
    assert several_labels.brier(-logits, 1 - labels) == pytest.approx(several_labels.brier(logits, labels))
    assert several_labels.auc(-logits, 1 - labels) == pytest.approx(several_labels.auc(logits, labels), nan_ok=True)


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros(3), np.zeros(3, int), r"logits: given shape \(3,\), allowed: \(n, classes\) with 1 or more classes"),
        (np.zeros((3, 0)), np.zeros((3, 0), int), r"logits: given shape \(3, 0\), allowed: .* 1 or more classes"),
        (np.zeros((0, 3)), np.zeros((0, 3), int), "logits: given an empty set, allowed: 1 or more samples"),
        ([[0.0, 1.0], [np.nan, 0.0]], [[0, 1], [0, 1]], r"NaN or infinity in 1 of 2 samples \(first: sample 1\)"),
        (np.zeros((3, 2)), [0, 1, 1], r"labels: given shape \(3,\), allowed: \(3, 2\)"),
        (np.zeros((1, 2)), [[0.0, 1.0]], "labels: given float64, allowed: whole numbers"),
        (np.zeros((1, 2)), [[0, 2]], "labels: given 0 to 2, allowed: 0 and 1"),
        (np.zeros((1, 2)), [[-1, 1]], "labels: given -1 to 1, allowed: 0 and 1"),
    ],
)
@pytest.mark.parametrize(
    "metric",
    [
        several_labels.auc,
        several_labels.average_precision,
        several_labels.nll,
        several_labels.brier,
        several_labels.ece,
        several_labels.reliability,
        several_labels.choose_thresholds,
        lambda logits, labels: several_labels.evaluate(logits, labels, names(2)),
    ],
    ids=["auc", "average_precision", "nll", "brier", "ece", "reliability", "choose_thresholds", "evaluate"],
)
def test_every_metric_refuses_what_it_cannot_measure(
    metric: Callable[..., object], logits: ArrayLike, labels: ArrayLike, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(logits, labels)


@pytest.mark.parametrize(
    ("labels", "decided", "message"),
    [
        ([0, 1], [0, 1], r"labels: given shape \(2,\), allowed: \(n, classes\)"),
        ([[0, 1]], [[0, 1], [0, 1]], r"decided: given shape \(2, 2\), allowed: \(1, 2\)"),
        ([[0, 1]], [[0, 3]], "decided: given 0 to 3, allowed: 0 and 1"),
    ],
)
def test_counts_refuses(labels: ArrayLike, decided: ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        several_labels.counts(labels, decided)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((2, 2)), r"counts: given shape \(2, 2\), allowed: \(classes, 2, 2\)"),
        (np.zeros((3, 2, 2)), "counts: given no samples at all"),
    ],
)
def test_summarise_refuses(table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        several_labels.summarise(table)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.5], r"thresholds: given shape \(1,\), allowed: \(2,\)"),
        ([0.5, 1.5], "thresholds: given .*1.5.*, allowed: probabilities from 0 to 1"),
        ([0.5, np.nan], "thresholds: given .*nan.*, allowed: probabilities from 0 to 1"),
    ],
)
def test_evaluate_refuses_thresholds(thresholds: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        several_labels.evaluate(HAND_LOGITS, HAND_LABELS, names(2), thresholds)


def test_class_names_must_match_the_columns() -> None:
    with pytest.raises(ValueError, match="class_names: given 3 names, allowed: 2"):
        several_labels.evaluate(HAND_LOGITS, HAND_LABELS, names(3))


def test_importing_it_loads_none_of_the_heavy_libraries() -> None:
    heavy = {"torch", "sklearn", "scipy", "pandas", "matplotlib"}
    code = f"import sys, common.metrics.several_labels; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
