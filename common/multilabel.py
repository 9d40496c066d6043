"""Metrics of images with several labels, as functions of (logits, labels), both (n, classes); labels are 0 or 1.

Every label is a decision of its own: a sigmoid, and a threshold on it. Macro averages give each label the same weight;
0/0 counts as 0; only AUC and average precision leave out labels that have no value. Needs numpy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

CALIBRATION_BINS = 15


def checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Counts]:
    """The same as float64 and int64, or a ValueError that says what is wrong with them."""
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or len(scores) == 0:
        raise ValueError(f"logits: given shape {scores.shape}, allowed: (n, classes) with 1 or more samples")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise ValueError(f"logits: given NaN or infinity in {bad} of {len(scores)} samples, allowed: finite numbers")
    if truth.shape != scores.shape:
        raise ValueError(f"labels: given shape {truth.shape}, allowed: {scores.shape}, as the logits")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels: given other values than 0 and 1, allowed: 0 and 1")
    return scores, truth.astype(np.int64)


def sigmoid(logits: ArrayLike) -> Floats:
    """1 / (1 + exp -z), without overflow on either side."""
    scores = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1, small) / (1 + small)


def counts(labels: ArrayLike, decided: ArrayLike) -> Counts:
    """(classes, 2, 2): for each label, how often [true, decided]."""
    truth, guess = np.asarray(labels, dtype=np.int64), np.asarray(decided, dtype=np.int64)
    cells = truth * 2 + guess
    return np.stack([np.bincount(column, minlength=4).reshape(2, 2) for column in cells.T])


def summarise(found: ArrayLike) -> dict[str, float]:
    """Of counts: the share of right decisions (MedMNIST's accuracy), and macro precision, recall and F1."""
    table = np.asarray(found)
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
        "precision": _ratio(hit, hit + false),
        "recall": _ratio(hit, hit + missed),
        "f1_score": _ratio(2 * hit, 2 * hit + missed + false),
    }


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, with 0/0 = 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def auc(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Per label, the chance that an image which has it scores above one which has not; NaN where one kind is absent."""
    scores, truth = checked(logits, labels)
    found = []
    for column, has in zip(scores.T, truth.T == 1, strict=True):
        positives, negatives = column[has], np.sort(column[~has])
        pairs = 2 * len(positives) * len(negatives)
        wins = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
        found.append(wins.sum() / pairs if pairs else np.nan)
    return np.array(found)


def average_precision(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Per label, sum over ranks of precision times gain in recall, ties taken together; NaN without positives."""
    scores, truth = checked(logits, labels)
    return np.array([_average_precision(*pair) for pair in zip(scores.T, truth.T, strict=True)])


def _average_precision(scores: Floats, truth: Counts) -> float:
    if truth.sum() == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, ends = np.cumsum(truth[order]), _ends_of_ties(scores[order])
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float((np.diff(recall, prepend=0) * precision).sum())


def _ends_of_ties(falling: Floats) -> Counts:
    """The last place of every run of equal values."""
    return np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)


def nll(logits: ArrayLike, labels: ArrayLike) -> float:
    """Binary cross entropy in nats: log(1 + exp z) - y z, mean over samples and labels."""
    scores, truth = checked(logits, labels)
    return float((np.logaddexp(0, scores) - truth * scores).mean())


def choose_thresholds(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Per label, the probability from which on to say yes: that of the highest F1 on these (validation) images.

    Between two neighbouring scores the middle is taken. A label without a positive image says nothing about it: 0.5.
    """
    scores, truth = checked(logits, labels)
    return np.array([_best_threshold(*pair) for pair in zip(sigmoid(scores).T, truth.T, strict=True)])


def _best_threshold(probabilities: Floats, truth: Counts) -> float:
    if truth.sum() == 0:
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    ends = _ends_of_ties(falling)
    f1 = 2 * np.cumsum(truth[order])[ends] / (ends + 1 + truth.sum())
    best = int(ends[f1.argmax()])
    below = falling[best + 1] if best + 1 < len(falling) else 0.0
    return float((falling[best] + below) / 2)


def ece(logits: ArrayLike, labels: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error over all decisions: |share of yes - mean probability| per bin, weighted by size."""
    scores, truth = checked(logits, labels)
    probabilities, yes = sigmoid(scores).ravel(), truth.ravel()
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities, side="left")
    sums = np.bincount(index, weights=probabilities - yes, minlength=bins)
    return float(np.abs(sums).sum() / len(yes))


def evaluate(
    logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], thresholds: ArrayLike | None = None
) -> dict[str, Any]:
    """Everything that is reported of a set of predictions, ready for JSON; thresholds are 0.5 if none are given."""
    scores, truth = checked(logits, labels)
    if len(class_names) != scores.shape[1]:
        raise ValueError(f"class_names: given {len(class_names)} names, allowed: {scores.shape[1]}, one per label")
    cut = np.full(scores.shape[1], 0.5) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    probabilities, aucs, precisions = sigmoid(scores), auc(scores, truth), average_precision(scores, truth)
    decided = probabilities >= cut
    found = {
        "n": len(scores),
        **_decisions(truth, decided),
        "macro_auc": _mean(aucs),
        "mean_average_precision": _mean(precisions),
        "nll": nll(scores, truth),
        "brier": float(((probabilities - truth) ** 2).mean()),
        "ece": ece(scores, truth),
        "thresholds": cut.tolist(),
        "per_class": _per_class(counts(truth, decided), cut, aucs, precisions, class_names),
    }
    return found if thresholds is None else {**found, "at_half": _decisions(truth, probabilities >= 0.5)}


def _decisions(truth: Counts, decided: NDArray[np.bool_]) -> dict[str, float]:
    table = counts(truth, decided)
    hit, missed, false = (int(table[:, row, column].sum()) for row, column in ((1, 1), (1, 0), (0, 1)))
    return {
        **summarise(table),
        "micro_f1_score": 2 * hit / (2 * hit + missed + false) if hit + missed + false else 0.0,
        "subset_accuracy": float((truth == decided).all(axis=1).mean()),
    }


def _mean(values: Floats) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _per_class(
    table: Counts, cut: Floats, aucs: Floats, precisions: Floats, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    rates = _rates(table)
    columns = {
        "class": list(class_names),
        "n": table[:, 1].sum(axis=1).tolist(),
        "threshold": cut.tolist(),
        **{name: values.tolist() for name, values in rates.items()},
        "auc": [None if np.isnan(value) else float(value) for value in aucs],
        "average_precision": [None if np.isnan(value) else float(value) for value in precisions],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
