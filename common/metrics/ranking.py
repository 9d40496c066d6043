"""This module has what both kinds of metrics share: checks of logits, and metrics of scores (n,) and a truth (n,).

The truth is yes or no for each sample. Login nodes import this module, so it needs numpy only.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Truth = NDArray[np.bool_]

ECE_BINS = 15  # as in Guo et al. 2017, and in most tables since


def checked_logits(logits: ArrayLike, fewest_classes: int) -> Floats:
    """Return the logits as float64, or raise a ValueError that says what is wrong with them."""
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < fewest_classes:
        allowed = f"(n, classes) with {fewest_classes} or more classes"
        raise ValueError(f"logits: given shape {scores.shape}, allowed: {allowed}")
    if len(scores) == 0:
        raise ValueError("logits: given an empty set, allowed: 1 or more samples")

    # The number and the first of the bad samples tell one broken image from a broken network.
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise ValueError(
            f"logits: given NaN or infinity in {len(bad)} of {len(scores)} samples (first: sample {bad[0]}), "
            "allowed: finite numbers"
        )
    return scores


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Return part / whole, with 0/0 = 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def mean_of_defined(values: Floats) -> float | None:
    """Return the mean of the values that are not NaN; None if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


# --- ranking ----------------------------------------------------------------------------------------------------


def auc(scores: Floats, truth: Truth) -> float:
    """Return the chance that a positive scores above a negative, a tie counting one half; NaN if one kind is absent.

    This is the Mann-Whitney statistic divided by the number of pairs, and the area under `roc_curve` (Hanley and McNeil
    1982).
    """
    positives, negatives = scores[truth], np.sort(scores[~truth])
    if len(positives) == 0 or len(negatives) == 0:
        return float("nan")
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


def roc_curve(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    """Return the false and the true positive rates from (0, 0) to (1, 1), as the threshold falls from score to score.

    Equal scores are one step. Points in the middle of a straight line are dropped, which leaves the curve as it is.
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    if values.ndim != 1 or values.shape != positive.shape:
        raise ValueError(f"scores and truth: given shapes {values.shape} and {positive.shape}, allowed: (n,) both")
    if positive.all() or not positive.any():
        raise ValueError(f"truth: given {positive.sum()} positives of {len(positive)}, allowed: both kinds")

    _, said_yes, hits = _tally(values, positive)
    points = np.stack([np.append(0, said_yes - hits), np.append(0, hits)])

    # A point is kept where the direction changes: where the cross product of two neighbouring steps is not 0.
    steps = np.diff(points)
    turns = steps[0, :-1] * steps[1, 1:] != steps[0, 1:] * steps[1, :-1]
    false, true = points[:, np.concatenate([[True], turns, [True]])]
    return false / false[-1], true / true[-1]


def average_precision(scores: Floats, truth: Truth) -> float:
    """Return the sum over thresholds of precision times gain in recall; NaN without positives.

    Equal scores are one step. Nothing is interpolated, because the area under the interpolated precision-recall curve
    is too optimistic.
    """
    if not truth.any():
        return float("nan")
    _, said_yes, hits = _tally(scores, truth)
    return float((np.diff(hits, prepend=0) * hits / said_yes).sum() / hits[-1])


def _tally(scores: Floats, truth: Truth) -> tuple[Floats, Counts, Counts]:
    """Return the different scores, falling, with the number of samples and of positives of that score or more."""
    order = np.argsort(-scores)
    falling = scores[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    return falling[ends], ends + 1, np.cumsum(truth[order])[ends]


def choose_threshold(probabilities: Floats, truth: Truth) -> float:
    """Return the threshold of highest F1, above which a probability is a yes; all thresholds in [0, 1) are tried.

    It is 0.5 if no other does better; without positives, for example, every F1 is 0. Otherwise it is the middle
    between two neighbouring probabilities, and of several such middles the one nearest to 0.5.
    """
    upper, said_yes, hits = _tally(probabilities, truth)
    lower = np.append(upper[1:], 0.0)
    f1 = np.where(upper > 0, 2 * hits / (said_yes + truth.sum()), 0)  # no threshold lies below a probability of 0
    best = f1 == f1.max()

    if f1.max() == 0 or (best & (lower <= 0.5) & (upper > 0.5)).any():
        return 0.5

    middles = (lower + upper) / 2
    middles = np.where(middles < upper, middles, lower)[best]  # between two neighbouring floats there is no middle
    return float(middles[np.abs(middles - 0.5).argmin()])


# --- calibration ------------------------------------------------------------------------------------------------


def reliability(probabilities: Floats, truth: Truth, bins: int = ECE_BINS) -> list[dict[str, Any]]:
    """Group samples by probability, and return one {low, high, n, confidence, accuracy} per bin.

    The bins have equal width and hold their upper edge: [0, 1/bins], (1/bins, 2/bins], ..., (1 - 1/bins, 1].
    Confidence (the mean probability) and accuracy (the share that is true) are None in an empty bin.
    """
    if bins < 1:
        raise ValueError(f"bins: given {bins}, allowed: 1 or more")

    # Only the inner edges are compared, because rounding can lift a probability a little above 1.
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], probabilities, side="left")
    n = np.bincount(index, minlength=bins)
    confident = np.bincount(index, weights=probabilities, minlength=bins)
    correct = np.bincount(index, weights=truth, minlength=bins)

    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "n": int(n[i]),
            "confidence": float(confident[i] / n[i]) if n[i] else None,
            "accuracy": float(correct[i] / n[i]) if n[i] else None,
        }
        for i in range(bins)
    ]


def calibration_error(groups: list[dict[str, Any]]) -> float:
    """Return |accuracy - confidence| of the bins, weighted by their shares of n (Guo et al. 2017, eq. 3)."""
    filled = [group for group in groups if group["n"]]
    gaps = sum(group["n"] * abs(group["accuracy"] - group["confidence"]) for group in filled)
    return float(gaps / sum(group["n"] for group in filled))
