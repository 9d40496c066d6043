import json
import subprocess
import sys
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike
from sklearn import metrics as sk

from common.metrics import one_label, several_labels


def drawn(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are right more often than not, every class present, no ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    logits = rng.normal(size=(n, classes)) * 2
    logits[np.arange(n), labels] += 3
    return logits.astype(np.float32), labels


def names(classes: int) -> list[str]:
    return [f"class {c}" for c in range(classes)]


# Against scikit-learn


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_labels_and_predictions_against_scikit_learn(classes: int) -> None:
    logits, labels = drawn(300, classes)
    predicted = logits.argmax(axis=1)
    result = one_label.evaluate(logits, labels, names(classes))

    assert result["n"] == 300
    assert result["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert 0.3 < result["accuracy"] < 0.95  # otherwise the comparisons would be about nothing
    assert result["confusion_matrix"] == sk.confusion_matrix(labels, predicted).tolist()
    by_class = sk.precision_recall_fscore_support(labels, predicted)
    for key, expected in zip(("precision", "recall", "f1_score", "n"), by_class, strict=True):
        assert [row[key] for row in result["per_class"]] == pytest.approx(expected.tolist())
    macro = sk.precision_recall_fscore_support(labels, predicted, average="macro")
    assert [result[key] for key in ("precision", "recall", "f1_score")] == pytest.approx(macro[:3])
    assert result["accuracy"] == one_label.accuracy(logits, labels)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_probabilities_against_scikit_learn(classes: int) -> None:
    logits, labels = drawn(300, classes, seed=1)
    probabilities = one_label.softmax(logits)
    result = one_label.evaluate(logits, labels, names(classes))

    assert result["nll"] == pytest.approx(sk.log_loss(labels, probabilities))
    assert result["brier"] == pytest.approx(
        sk.brier_score_loss(labels, probabilities, labels=range(classes), scale_by_half=False)
    )
    by_class = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in range(classes)]
    assert [row["auc"] for row in result["per_class"]] == pytest.approx(by_class)
    if classes == 2:
        assert result["macro_auc"] == pytest.approx(sk.roc_auc_score(labels, probabilities[:, 1]))
    else:
        assert result["macro_auc"] == pytest.approx(sk.roc_auc_score(labels, probabilities, multi_class="ovr"))


def test_top_k_accuracy_against_scikit_learn() -> None:
    logits, labels = drawn(300, 10, seed=2)
    expected = {k: sk.top_k_accuracy_score(labels, logits, k=k) for k in (1, 2, 3, 5, 9)}
    assert {k: one_label.top_k_accuracy(logits, labels, k) for k in expected} == pytest.approx(expected)
    result = one_label.evaluate(logits, labels, names(10))
    assert [result["top_3_accuracy"], result["top_5_accuracy"]] == pytest.approx([expected[3], expected[5]])


def test_auc_with_many_ties_against_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 200)
    logits = rng.integers(0, 3, (200, 4)).astype(float)
    probabilities = one_label.softmax(logits)
    assert len(np.unique(probabilities[:, 0])) < 50
    expected = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in range(4)]
    assert one_label.one_vs_rest_auc(logits, labels) == pytest.approx(expected)


def test_macro_runs_over_all_classes_of_the_data_set_present_or_not() -> None:
    """Five classes: 3 is only predicted, 4 is neither labelled nor predicted."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 3, 1, 1, 0, 2])
    result = one_label.evaluate(np.eye(5)[predicted], labels, names(5))
    expected = sk.precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=0)
    for key, values in zip(("precision", "recall", "f1_score", "n"), expected, strict=True):
        assert [row[key] for row in result["per_class"]] == pytest.approx(values.tolist())
    macro = sk.precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=0, average="macro")
    assert [result[key] for key in ("precision", "recall", "f1_score")] == pytest.approx(macro[:3])
    assert [row["auc"] is None for row in result["per_class"]] == [False, False, False, True, True]
    assert result["macro_auc"] == pytest.approx(np.mean([row["auc"] for row in result["per_class"][:3]]))


# By hand


def test_auc_by_hand() -> None:
    """Class 1 has p = .5, .9; the others .1, .5. Four pairs: three won, one tied."""
    logits = np.log([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1], [0.5, 0.5]])
    assert one_label.one_vs_rest_auc(logits, [1, 1, 0, 0]).tolist() == [3.5 / 4, 3.5 / 4]


def test_auc_compares_probabilities_not_logits_between_samples() -> None:
    logits = np.array([[0.0, 1.0], [9.0, 5.0]])  # the second is of class 0 in spite of its larger logit for 1
    assert one_label.one_vs_rest_auc(logits, [1, 0]).tolist() == [1.0, 1.0]


def test_auc_is_null_where_one_class_is_all_there_is() -> None:
    result = one_label.evaluate([[1.0, 0.0], [0.0, 1.0]], [1, 1], names(2))
    assert result["macro_auc"] is None
    assert [row["auc"] for row in result["per_class"]] == [None, None]


def test_tied_logits_go_to_the_lower_class_everywhere() -> None:
    logits = np.zeros((4, 4))
    labels = np.arange(4)
    assert one_label.accuracy(logits, labels) == 0.25
    assert [one_label.top_k_accuracy(logits, labels, k) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]


def test_top_k_of_no_more_than_k_classes_is_one() -> None:
    assert one_label.top_k_accuracy([[5.0, 0.0, 0.0]], [2], 3) == 1.0
    assert one_label.top_k_accuracy([[5.0, 0.0, 0.0]], [2], 5) == 1.0
    with pytest.raises(ValueError, match="k: given 0, allowed: 1 or more"):
        one_label.top_k_accuracy([[5.0, 0.0]], [1], 0)


def test_brier_by_hand() -> None:
    """(.7-1)^2 + .2^2 + .1^2 = .14 and .5^2 + .3^2 + (.2-1)^2 = .98."""
    logits = np.log([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    assert one_label.brier(logits, [0, 2]) == pytest.approx((0.14 + 0.98) / 2)


def test_nll_by_hand() -> None:
    logits = np.log([[0.5, 0.5], [0.25, 0.75]])
    assert one_label.nll(logits, [0, 0]) == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_ece_and_reliability_by_hand() -> None:
    """Five bins. .55 right and .57 wrong share (.4, .6]; .9, .9, .9, .95 are all right in (.8, 1]."""
    confidence = np.array([0.55, 0.57, 0.9, 0.9, 0.9, 0.95])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    labels = [0, 1, 0, 0, 0, 0]
    groups = one_label.reliability(logits, labels, bins=5)
    assert [group["n"] for group in groups] == [0, 0, 2, 0, 4]
    assert groups[2] == pytest.approx({"low": 0.4, "high": 0.6, "n": 2, "confidence": 0.56, "accuracy": 0.5})
    assert groups[4] == pytest.approx({"low": 0.8, "high": 1.0, "n": 4, "confidence": 0.9125, "accuracy": 1.0})
    assert groups[3] == {"low": pytest.approx(0.6), "high": pytest.approx(0.8), "n": 0} | dict.fromkeys(
        ("confidence", "accuracy")
    )
    assert one_label.ece(logits, labels, bins=5) == pytest.approx((2 * 0.06 + 4 * 0.0875) / 6)


def test_a_bin_holds_its_upper_edge() -> None:
    groups = one_label.reliability([[0.0, 0.0]], [0], bins=2)  # a top probability of exactly .5
    assert [group["n"] for group in groups] == [1, 0]


def test_ece_against_an_independent_count_over_fifteen_bins() -> None:
    logits, labels = drawn(500, 3, seed=4)
    logits = logits * 0.8  # too timid in some bins and too sure in others, so that the number of bins matters
    probabilities = one_label.softmax(logits)
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (top > low) & (top <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert one_label.ece(logits, labels) == pytest.approx(expected)
    assert one_label.ece(logits, labels, bins=10) != pytest.approx(expected, rel=0.01)
    assert one_label.evaluate(logits, labels, names(3))["ece"] == pytest.approx(expected)


def test_summarise_by_hand() -> None:
    """Precision 3/4, 1/2; recall 3/5, 2/3; macro F1 is the mean of 2/3 and 4/7, not the F1 of the means."""
    assert one_label.summarise([[3, 2], [1, 2]]) == pytest.approx(
        {"accuracy": 5 / 8, "precision": 5 / 8, "recall": 19 / 30, "f1_score": 13 / 21}
    )


def test_summarise_is_what_evaluate_reports() -> None:
    logits, labels = drawn(100, 4)
    result = one_label.evaluate(logits, labels, names(4))
    summary = one_label.summarise(result["confusion_matrix"])
    assert list(summary) == ["accuracy", "precision", "recall", "f1_score"]
    assert summary == {key: result[key] for key in summary}


# Classes that are steps of a scale, and other tasks


@pytest.mark.parametrize("classes", [2, 5])
def test_an_ordinal_task_also_has_the_distance_and_kappa_of_scikit_learn(classes: int) -> None:
    logits, labels = drawn(200, classes, seed=5)
    predicted = logits.argmax(axis=1)
    result = one_label.evaluate(logits, labels, names(classes), "ordinal")
    assert result.pop("mean_absolute_error") == pytest.approx(sk.mean_absolute_error(labels, predicted))
    expected = sk.cohen_kappa_score(labels, predicted, weights="quadratic")
    assert 0.2 < expected < 0.95
    assert result.pop("quadratic_weighted_kappa") == pytest.approx(expected)
    assert result == one_label.evaluate(logits, labels, names(classes), "multi-class")


def test_kappa_and_distance_by_hand() -> None:
    """Labels 0, 1, 2, 2; predicted 0, 1, 2, 0: squared distances 4 in all; 26/4 if they were independent."""
    logits = np.eye(3)[[0, 1, 2, 0]]
    confusion = one_label.confusion_matrix([0, 1, 2, 2], [0, 1, 2, 0], 3)
    assert one_label.quadratic_weighted_kappa(confusion) == pytest.approx(1 - 4 / 6.5)
    assert one_label.mean_absolute_error(logits, [0, 1, 2, 2]) == 2 / 4


def test_kappa_weighs_the_square_of_the_distance() -> None:
    near, far = (one_label.confusion_matrix([0, 1, 2, 3], [guess, 1, 2, 3], 4) for guess in (1, 3))
    assert one_label.quadratic_weighted_kappa(near) == pytest.approx(1 - 1 / 8)  # 32/4 if independent
    assert one_label.quadratic_weighted_kappa(far) == pytest.approx(
        sk.cohen_kappa_score([0, 1, 2, 3], [3, 1, 2, 3], weights="quadratic")
    )


def test_kappa_of_complete_reversal_is_minus_one_and_of_one_class_alone_is_null() -> None:
    assert one_label.quadratic_weighted_kappa([[0, 3], [3, 0]]) == pytest.approx(-1)
    assert one_label.quadratic_weighted_kappa([[5, 0], [0, 0]]) is None
    result = one_label.evaluate([[1.0, 0.0]], [0], names(2), "ordinal")
    assert result["quadratic_weighted_kappa"] is None


def test_a_multi_label_task_has_metrics_of_its_own() -> None:
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(size=(20, 3)), rng.integers(0, 2, (20, 3))
    for thresholds in (None, [0.3, 0.5, 0.7]):
        expected = several_labels.evaluate(logits, labels, names(3), thresholds)
        assert one_label.evaluate(logits, labels, names(3), "multi-label", thresholds) == expected


def test_unknown_tasks_and_thresholds_of_no_use_are_refused() -> None:
    with pytest.raises(
        ValueError, match="task: given 'multilabel', allowed: multi-class, binary, ordinal, multi-label"
    ):
        one_label.evaluate([[0.0, 1.0]], [1], names(2), "multilabel")
    with pytest.raises(ValueError, match="thresholds: given some, allowed: None, because a binary task"):
        one_label.evaluate([[0.0, 1.0]], [1], names(2), "binary", [0.5, 0.5])


# Limits and properties


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_perfect_and_confident_logits(dtype: type) -> None:
    labels = np.arange(12) % 6
    result = one_label.evaluate(np.eye(6, dtype=dtype)[labels] * 100, labels, names(6))
    assert [result[key] for key in ("nll", "brier", "ece")] == pytest.approx([0, 0, 0], abs=1e-12)
    best = ("accuracy", "precision", "recall", "f1_score", "macro_auc", "top_3_accuracy", "top_5_accuracy")
    assert [result[key] for key in best] == [1.0] * len(best)


def test_always_wrong_and_confident_logits() -> None:
    labels = np.arange(4) % 2
    result = one_label.evaluate(np.eye(2)[1 - labels] * 100, labels, names(2))
    assert [result[key] for key in ("accuracy", "f1_score", "macro_auc")] == [0.0, 0.0, 0.0]
    assert [result[key] for key in ("nll", "brier", "ece")] == pytest.approx([100, 2, 1])


def test_logits_far_beyond_the_range_of_exp() -> None:
    logits = np.array([[3e38, -3e38, 0.0]], dtype=np.float32)
    assert one_label.softmax(logits).tolist() == [[1.0, 0.0, 0.0]]
    assert one_label.nll(logits, [1]) == pytest.approx(6e38)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits in steps of 1/8, so that adding a whole number is exact; ties and missing classes are common."""
    n, classes = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    eighths = draw(arrays(np.int64, (n, classes), elements=st.integers(-40, 40)))
    return eighths / 8, draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))


@settings(max_examples=60, deadline=None)
@given(predictions(), st.data())
def test_a_constant_added_to_a_samples_logits_changes_nothing(
    sample: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    logits, labels = sample
    shift = data.draw(arrays(np.int64, len(labels), elements=st.integers(-1000, 1000)))
    classes = names(logits.shape[1])
    shifted = one_label.evaluate(logits + shift[:, None], labels, classes)
    assert shifted == one_label.evaluate(logits, labels, classes)


@settings(max_examples=60, deadline=None)
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(sample: tuple[np.ndarray, np.ndarray], random: Random) -> None:
    logits, labels = sample
    order = random.sample(range(len(labels)), len(labels))
    classes = names(logits.shape[1])
    once, again = one_label.evaluate(logits, labels, classes), one_label.evaluate(logits[order], labels[order], classes)
    sums = ("nll", "brier", "ece")  # rounded differently in another order
    assert [again.pop(key) for key in sums] == pytest.approx([once.pop(key) for key in sums], abs=1e-12)
    assert again == once


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_every_number_stays_in_its_range_and_is_plain_json(sample: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = sample
    result = one_label.evaluate(logits, labels, names(logits.shape[1]))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert 0 <= result["accuracy"] <= result["top_3_accuracy"] <= result["top_5_accuracy"] <= 1
    assert all(0 <= result[key] <= 1 for key in ("precision", "recall", "f1_score", "ece"))
    assert result["accuracy"] == one_label.accuracy(logits, labels) == one_label.top_k_accuracy(logits, labels, 1)
    assert 0 <= result["brier"] <= 2
    assert result["nll"] >= 0
    assert np.sum(result["confusion_matrix"]) == result["n"] == sum(row["n"] for row in result["per_class"])


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_auc_of_the_negated_log_odds_is_the_complement(sample: tuple[np.ndarray, np.ndarray]) -> None:
    """With two classes, swapping the columns turns every won pair into a lost one and leaves the ties."""
    logits, labels = sample[0][:, :2], np.minimum(sample[1], 1)
    straight = one_label.one_vs_rest_auc(logits, labels)
    assert one_label.one_vs_rest_auc(logits[:, ::-1], labels) == pytest.approx(1 - straight, nan_ok=True)


# Refusals


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros(3), [0, 0, 0], r"logits: given shape \(3,\), allowed: \(n, classes\)"),
        (np.zeros((3, 1)), [0, 0, 0], r"logits: given shape \(3, 1\), allowed: .* 2 or more classes"),
        (np.zeros((0, 3)), np.zeros(0, int), "logits: given an empty set"),
        (
            [[0.0, 1.0], [np.nan, 0.0], [0.0, -np.inf]],
            [0, 0, 0],
            r"NaN or infinity in 2 of 3 samples \(first: sample 1",
        ),
        (np.zeros((3, 2)), [0, 1], r"labels: given shape \(2,\), allowed: \(3,\)"),
        (np.zeros((3, 2)), [[0], [1], [0]], r"labels: given shape \(3, 1\), allowed: \(3,\)"),
        (np.zeros((3, 2)), [0.0, 1.0, 1.0], "labels: given float64, allowed: whole numbers"),
        (np.zeros((3, 2)), [0, 1, 2], "labels: given 0 to 2, allowed: 0 to 1"),
        (np.zeros((3, 2)), [-1, 1, 1], "labels: given -1 to 1, allowed: 0 to 1"),
    ],
)
@pytest.mark.parametrize(
    "metric",
    [
        one_label.accuracy,
        lambda logits, labels: one_label.top_k_accuracy(logits, labels, 3),
        one_label.one_vs_rest_auc,
        one_label.nll,
        one_label.brier,
        one_label.ece,
        lambda logits, labels: one_label.evaluate(logits, labels, names(2)),
    ],
    ids=["accuracy", "top_k_accuracy", "one_vs_rest_auc", "nll", "brier", "ece", "evaluate"],
)
def test_every_metric_refuses_what_it_cannot_measure(
    metric: Callable[..., object], logits: ArrayLike, labels: ArrayLike, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(logits, labels)


def test_class_names_must_match_the_columns() -> None:
    with pytest.raises(ValueError, match="class_names: given 3 names, allowed: 2"):
        one_label.evaluate([[0.0, 1.0]], [1], names(3))


def test_confusion_matrix_refuses_predictions_out_of_range() -> None:
    with pytest.raises(ValueError, match="predicted: given 0 to 2, allowed: 0 to 1"):
        one_label.confusion_matrix([0, 1], [0, 2], 2)


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        (np.zeros((2, 3)), r"confusion matrix: given shape \(2, 3\), allowed: \(classes, classes\)"),
        (np.zeros((2, 2)), "confusion matrix: given no samples at all"),
    ],
)
@pytest.mark.parametrize("metric", [one_label.summarise, one_label.quadratic_weighted_kappa])
def test_a_confusion_matrix_is_refused(metric: Callable[..., object], confusion: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(confusion)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="bins: given 0, allowed: 1 or more"):
        one_label.ece([[0.0, 1.0]], [1], bins=0)


def test_importing_it_loads_none_of_the_heavy_libraries() -> None:
    heavy = {"torch", "sklearn", "scipy", "pandas", "matplotlib"}
    code = f"import sys, common.metrics.one_label; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
