"""Metrics of images with several labels are functions of (logits, labels), both (n, classes), labels 0 or 1.

Every label is a decision of its own: yes if the sigmoid of its logit is above its threshold. Anything but finite
logits and whole labels of 0 and 1 is refused with a ValueError. All arithmetic is in float64.

Macro averages give each label the same weight, and 0/0 counts as 0. So a label that no image has, and that is never
predicted, counts with precision, recall and F1 of 0. Only AUC and average precision leave out labels for which they
have no value. This module needs numpy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.metrics import ranking
from common.metrics.ranking import ECE_BINS, Counts, Floats, ratio


def checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Counts]:
    """Return logits as float64 and labels as int64, or raise a ValueError that says what is wrong with them."""
    scores = ranking.checked_logits(logits, fewest_classes=1)
    return scores, _checked_decisions("labels", labels, scores.shape)


def _checked_decisions(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Counts:
    decisions = np.asarray(values)
    if decisions.shape != shape:
        raise ValueError(f"{name}: given shape {decisions.shape}, allowed: {shape}, one per sample and label")
    if not (np.issubdtype(decisions.dtype, np.integer) or decisions.dtype == np.bool_):
        raise ValueError(f"{name}: given {decisions.dtype}, allowed: whole numbers")
    if decisions.size and (decisions.min() < 0 or decisions.max() > 1):
        raise ValueError(f"{name}: given {decisions.min()} to {decisions.max()}, allowed: 0 and 1")
    return decisions.astype(np.int64, copy=False)


def sigmoid(logits: ArrayLike) -> Floats:
    """Return 1 / (1 + exp -z), without overflow on either side."""
    scores = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1, small) / (1 + small)


# --- decisions --------------------------------------------------------------------------------------------------


def counts(labels: ArrayLike, decided: ArrayLike) -> Counts:
    """Count, in a table (classes, 2, 2), how often each label has [true, decided]."""
    shape = np.shape(labels)
    if len(shape) != 2:
        raise ValueError(f"labels: given shape {shape}, allowed: (n, classes)")
    truth, guess = _checked_decisions("labels", labels, shape), _checked_decisions("decided", decided, shape)
    cells = 4 * np.arange(shape[1]) + 2 * truth + guess
    return np.bincount(cells.ravel(), minlength=4 * shape[1]).reshape(-1, 2, 2)


def summarise(counted: ArrayLike) -> dict[str, float]:
    """Return, from counts, the share of right decisions (MedMNIST's accuracy) and macro precision, recall and F1."""
    table = np.asarray(counted)
    if table.ndim != 3 or table.shape[1:] != (2, 2):
        raise ValueError(f"counts: given shape {table.shape}, allowed: (classes, 2, 2)")
    if table.sum() == 0:
        raise ValueError("counts: given no samples at all, allowed: 1 or more")
    right = table[:, 0, 0] + table[:, 1, 1]
    return {
        "accuracy": float((right / table.sum(axis=(1, 2))).mean()),
        **{name: float(values.mean()) for name, values in _rates(table).items()},
    }


def _rates(table: NDArray[Any]) -> dict[str, Floats]:
    hit, missed, false = table[:, 1, 1], table[:, 1, 0], table[:, 0, 1]
    return {
        "precision": ratio(hit, hit + false),
        "recall": ratio(hit, hit + missed),
        "f1_score": ratio(2 * hit, 2 * hit + missed + false),
    }


def micro_f1_score(counted: ArrayLike) -> float:
    """Return, from counts, the F1 of all decisions together, in which frequent labels weigh more."""
    return float(_rates(np.asarray(counted).sum(axis=0, keepdims=True))["f1_score"][0])


def subset_accuracy(labels: ArrayLike, decided: ArrayLike) -> float:
    """Return the share of samples of which every label is decided right."""
    return float((np.asarray(labels) == np.asarray(decided)).all(axis=1).mean())


def choose_thresholds(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Return the threshold of each label, that of the highest F1 on these (validation) samples.

    It is 0.5 if no other does better, as for labels without positives: see `ranking.choose_threshold`.
    """
    scores, truth = checked(logits, labels)
    columns = zip(sigmoid(scores).T, truth.T == 1, strict=True)
    return np.array([ranking.choose_threshold(probabilities, has) for probabilities, has in columns])


# --- ranking ----------------------------------------------------------------------------------------------------


def auc(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Return, per label, the chance that a sample with it scores above one without; NaN if one kind is absent."""
    scores, truth = checked(logits, labels)
    return np.array([ranking.auc(column, has) for column, has in zip(scores.T, truth.T == 1, strict=True)])


def average_precision(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Return `ranking.average_precision` per label; NaN for a label without positives."""
    scores, truth = checked(logits, labels)
    columns = zip(scores.T, truth.T == 1, strict=True)
    return np.array([ranking.average_precision(column, has) for column, has in columns])


# --- probabilities ----------------------------------------------------------------------------------------------


def nll(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the binary cross entropy in nats: log(1 + exp z) - y z, mean over samples and labels."""
    scores, truth = checked(logits, labels)
    return float(np.logaddexp(0, np.where(truth == 1, -scores, scores)).mean())


def brier(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return (p - y)^2, mean over samples and labels: 0 is best, 1 is worst."""
    scores, truth = checked(logits, labels)
    return float(((sigmoid(scores) - truth) ** 2).mean())


def reliability(logits: ArrayLike, labels: ArrayLike, bins: int = ECE_BINS) -> list[dict[str, Any]]:
    """Group all n x classes decisions by the probability of yes; the accuracy of a bin is its share of yes labels."""
    scores, truth = checked(logits, labels)
    return ranking.reliability(sigmoid(scores).ravel(), truth.ravel() == 1, bins)


def ece(logits: ArrayLike, labels: ArrayLike, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error over all decisions of `reliability`.

    If most labels are a sure no, those decisions dominate it. Do not compare it with that of a multi-class task.
    """
    return ranking.calibration_error(reliability(logits, labels, bins))


# --- everything -------------------------------------------------------------------------------------------------


def evaluate(
    logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], thresholds: ArrayLike | None = None
) -> dict[str, Any]:
    """Return all that is reported about a set of predictions, ready for JSON: plain numbers, None if undefined.

    Thresholds are one probability per label. Without them, every label is decided at 0.5; with them, `at_half` has
    what 0.5 would have given.
    """
    scores, truth = checked(logits, labels)
    n, classes = scores.shape
    if len(class_names) != classes:
        raise ValueError(f"class_names: given {len(class_names)} names, allowed: {classes}, one per column of logits")

    cut = _checked_thresholds(thresholds, classes)
    probabilities, aucs, precisions = sigmoid(scores), auc(scores, truth), average_precision(scores, truth)
    decided = probabilities > cut
    metrics = {
        "n": n,
        **_decisions(truth, decided),
        "macro_auc": ranking.mean_of_defined(aucs),
        "mean_average_precision": ranking.mean_of_defined(precisions),
        "nll": nll(scores, truth),
        "brier": brier(scores, truth),
        "ece": ece(scores, truth),
        "thresholds": cut.tolist(),
        "per_class": _per_class(counts(truth, decided), cut, aucs, precisions, class_names),
    }

    # MedMNIST's published results are decided at 0.5, so only those at half can be compared with them.
    return metrics if thresholds is None else {**metrics, "at_half": _decisions(truth, probabilities > 0.5)}


def _checked_thresholds(thresholds: ArrayLike | None, classes: int) -> Floats:
    if thresholds is None:
        return np.full(classes, 0.5)
    cut = np.asarray(thresholds, dtype=np.float64)
    if cut.shape != (classes,):
        raise ValueError(f"thresholds: given shape {cut.shape}, allowed: ({classes},), one per label")
    if not ((cut >= 0) & (cut <= 1)).all():
        raise ValueError(f"thresholds: given {cut.tolist()}, allowed: probabilities from 0 to 1")
    return cut


def _decisions(truth: Counts, decided: NDArray[np.bool_]) -> dict[str, float]:
    table = counts(truth, decided)
    return {
        **summarise(table),
        "micro_f1_score": micro_f1_score(table),
        "subset_accuracy": subset_accuracy(truth, decided),
    }


def _per_class(
    table: Counts, cut: Floats, aucs: Floats, precisions: Floats, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    columns = {
        "class": list(class_names),
        "n": table[:, 1].sum(axis=1).tolist(),
        "threshold": cut.tolist(),
        **{name: values.tolist() for name, values in _rates(table).items()},
        "auc": [None if np.isnan(value) else float(value) for value in aucs],
        "average_precision": [None if np.isnan(value) else float(value) for value in precisions],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
