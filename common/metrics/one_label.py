"""Metrics of images with one label are functions of (logits, labels).

Logits are finite numbers (n, classes) and labels whole numbers from 0 to classes - 1 (n,); anything else is refused
with a ValueError. All arithmetic is in float64, whatever precision the network computed in. The predicted class is
that of the largest logit. Among equal logits the lower class index wins, in accuracy and in top-k alike.

Macro averages give each class of the data set the same weight, whether or not it occurs. A class that is in neither
labels nor predictions counts with precision, recall and F1 of 0 (scikit-learn: labels=range(classes),
zero_division=0). Only the AUC leaves such classes out, because it has no value for them.

Login nodes import this module, so it needs numpy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.metrics import ranking, several_labels
from common.metrics.ranking import ECE_BINS, Counts, Floats, ratio

ONE_LABEL_TASKS = ("multi-class", "binary", "ordinal")


def checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Counts]:
    """Return logits as float64 and labels as int64, or raise a ValueError that says what is wrong with them."""
    scores = ranking.checked_logits(logits, fewest_classes=2)
    return scores, _checked_classes("labels", labels, len(scores), scores.shape[1])


def _checked_classes(name: str, values: ArrayLike, n: int, classes: int) -> Counts:
    indices = np.asarray(values)
    if indices.shape != (n,):
        raise ValueError(f"{name}: given shape {indices.shape}, allowed: ({n},), one per sample")
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"{name}: given {indices.dtype}, allowed: whole numbers")
    if n and (indices.min() < 0 or indices.max() >= classes):
        raise ValueError(f"{name}: given {indices.min()} to {indices.max()}, allowed: 0 to {classes - 1}")
    return indices.astype(np.int64, copy=False)


def log_softmax(logits: ArrayLike) -> Floats:
    """Return log p_c = z_c - log sum_k exp z_k per row, shifted by the row's maximum so that nothing overflows."""
    scores = np.asarray(logits, dtype=np.float64)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits: ArrayLike) -> Floats:
    """Return p_c = exp z_c / sum_k exp z_k per row."""
    return np.exp(log_softmax(logits))


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of samples whose predicted class is the label."""
    scores, truth = checked(logits, labels)
    return float((scores.argmax(axis=1) == truth).mean())


def top_k_accuracy(logits: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Return the share of samples whose label is among the k largest logits; 1.0 if there are at most k classes."""
    if k < 1:
        raise ValueError(f"k: given {k}, allowed: 1 or more")
    scores, truth = checked(logits, labels)
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    wins_ties = np.arange(scores.shape[1]) < truth[:, None]
    ahead = (scores > own) | ((scores == own) & wins_ties)
    return float((ahead.sum(axis=1) < k).mean())


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int) -> Counts:
    """Count samples in a table (classes, classes): row = label, column = prediction."""
    n = np.size(labels)
    truth = _checked_classes("labels", labels, n, classes)
    guess = _checked_classes("predicted", predicted, n, classes)
    return np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes)


def precision(confusion: NDArray[Any]) -> Floats:
    """Return TP / (TP + FP) per class; 0 for a class that is never predicted."""
    return ratio(np.diag(confusion), confusion.sum(axis=0))


def recall(confusion: NDArray[Any]) -> Floats:
    """Return TP / (TP + FN) per class; 0 for a class that has no samples."""
    return ratio(np.diag(confusion), confusion.sum(axis=1))


def f1_score(confusion: NDArray[Any]) -> Floats:
    """Return 2 TP / (2 TP + FP + FN) per class; 0 for a class that is neither present nor predicted."""
    return ratio(2 * np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1))


def summarise(confusion: ArrayLike) -> dict[str, float]:
    """Return accuracy and macro precision, recall and F1 of a confusion matrix (row = label, column = prediction).

    Macro F1 is the mean of the F1 of classes, not the F1 of macro precision and recall (Opitz and Burst 2019).
    """
    counts = _checked_confusion(confusion)
    return {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "precision": float(precision(counts).mean()),
        "recall": float(recall(counts).mean()),
        "f1_score": float(f1_score(counts).mean()),
    }


def _checked_confusion(confusion: ArrayLike) -> NDArray[Any]:
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"confusion matrix: given shape {counts.shape}, allowed: (classes, classes)")
    if counts.sum() == 0:
        raise ValueError("confusion matrix: given no samples at all, allowed: 1 or more")
    return counts


def one_vs_rest_auc(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Return, per class c, the chance that a sample of c gets a higher probability of c than one of another class.

    A tie counts one half. Samples are ranked by softmax probability, because their logits alone cannot be compared.
    The value is NaN for a class that has no samples, or all of them.
    """
    scores, truth = checked(logits, labels)
    probabilities = softmax(scores).T  # (classes, n)
    return np.array([ranking.auc(row, truth == label) for label, row in enumerate(probabilities)])


def macro_auc(per_class: Floats) -> float | None:
    """Return the mean of the per-class AUCs that exist; None if none does."""
    return ranking.mean_of_defined(per_class)


def nll(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the negative log likelihood: -log p of the label in nats, mean over samples."""
    scores, truth = checked(logits, labels)
    return float(-np.take_along_axis(log_softmax(scores), truth[:, None], axis=1).mean())


def brier(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return sum_c (p_c - [c is the label])^2, mean over samples: 0 is best, 2 is worst.

    This is the original definition of Brier (1950). With two classes it is twice the one-column variant.
    """
    scores, truth = checked(logits, labels)
    errors = softmax(scores)
    errors[np.arange(len(truth)), truth] -= 1
    return float((errors**2).sum(axis=1).mean())


def reliability(logits: ArrayLike, labels: ArrayLike, bins: int = ECE_BINS) -> list[dict[str, Any]]:
    """Group samples by the probability of the predicted class; the accuracy of a bin is the share predicted right.

    Each bin is a {low, high, n, confidence, accuracy} of `ranking.reliability`.
    """
    scores, truth = checked(logits, labels)
    return ranking.reliability(softmax(scores).max(axis=1), scores.argmax(axis=1) == truth, bins)


def ece(logits: ArrayLike, labels: ArrayLike, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error: |accuracy - confidence| of each bin, weighted by its share of n.

    It depends on the bins and is biased upwards for small n: compare only values of equal bins and n.
    """
    return ranking.calibration_error(reliability(logits, labels, bins))


def mean_absolute_error(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return |predicted class - label| in class numbers, mean over samples, for classes that are steps of a scale."""
    scores, truth = checked(logits, labels)
    return float(np.abs(scores.argmax(axis=1) - truth).mean())


def quadratic_weighted_kappa(confusion: ArrayLike) -> float | None:
    """Return 1 - observed / expected squared distance in class numbers (Cohen 1968): 1 is agreement, 0 is chance.

    Expected is the distance if the same labels and predictions were independent. If it is 0, because only one class is
    labelled and predicted, the result is None.
    """
    counts = _checked_confusion(confusion).astype(np.float64)
    steps = np.arange(len(counts))
    distance = (steps[:, None] - steps) ** 2
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    by_chance = float((distance * expected).sum())
    return 1 - float((distance * counts).sum()) / by_chance if by_chance else None


def evaluate(
    logits: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    task: str = "multi-class",
    thresholds: ArrayLike | None = None,
) -> dict[str, Any]:
    """Return all that is reported about a set of predictions, ready for JSON: plain numbers, None if undefined.

    A multi-label task has metrics and thresholds of its own, those of `several_labels.evaluate`.
    """
    if task == "multi-label":
        return several_labels.evaluate(logits, labels, class_names, thresholds)
    if task not in ONE_LABEL_TASKS:
        raise ValueError(f"task: given {task!r}, allowed: {', '.join(ONE_LABEL_TASKS)}, multi-label")
    if thresholds is not None:
        raise ValueError(f"thresholds: given some, allowed: None, because a {task} task takes the largest logit")

    scores, truth = checked(logits, labels)
    n, classes = scores.shape
    if len(class_names) != classes:
        raise ValueError(f"class_names: given {len(class_names)} names, allowed: {classes}, one per column of logits")

    # Both are reported twice, as means over classes and class by class.
    confusion = confusion_matrix(truth, scores.argmax(axis=1), classes)
    aucs = one_vs_rest_auc(scores, truth)
    return {
        "n": n,
        **summarise(confusion),
        "top_3_accuracy": top_k_accuracy(scores, truth, 3),
        "top_5_accuracy": top_k_accuracy(scores, truth, 5),
        "macro_auc": macro_auc(aucs),
        "nll": nll(scores, truth),
        "brier": brier(scores, truth),
        "ece": ece(scores, truth),
        **(_of_a_scale(scores, truth, confusion) if task == "ordinal" else {}),
        "per_class": _per_class(confusion, aucs, class_names),
        "confusion_matrix": confusion.tolist(),
    }


def _of_a_scale(scores: Floats, truth: Counts, confusion: Counts) -> dict[str, float | None]:
    return {
        "mean_absolute_error": mean_absolute_error(scores, truth),
        "quadratic_weighted_kappa": quadratic_weighted_kappa(confusion),
    }


def _per_class(confusion: Counts, aucs: Floats, class_names: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(
        class_names,
        confusion.sum(axis=1).tolist(),
        precision(confusion).tolist(),
        recall(confusion).tolist(),
        f1_score(confusion).tolist(),
        [None if np.isnan(auc) else float(auc) for auc in aucs],
        strict=True,
    )
    return [dict(zip(("class", "n", "precision", "recall", "f1_score", "auc"), row, strict=True)) for row in rows]
