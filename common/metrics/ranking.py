"""What metrics.py and multilabel.py share: checked logits, and scores (n,) held against a yes/no truth (n,).

Needs numpy only.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Truth = NDArray[np.bool_]

ECE_BINS = 15  # as in Guo et al. 2017, and in most tables since


def checked_logits(logits: ArrayLike, fewest_classes: int) -> Floats:
    """The same as float64, or a ValueError that says what is wrong with them."""
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < fewest_classes:
        allowed = f"(n, classes) with {fewest_classes} or more classes"
        raise ValueError(f"logits: given shape {scores.shape}, allowed: {allowed}")
    if len(scores) == 0:
        raise ValueError("logits: given an empty set, allowed: 1 or more samples")
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise ValueError(
            f"logits: given NaN or infinity in {len(bad)} of {len(scores)} samples (first: sample {bad[0]}), "
            "allowed: finite numbers"
        )
    return scores


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, with 0/0 = 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def mean_of_defined(values: Floats) -> float | None:
    """Mean of the values that are not NaN; None when all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


# --- ranking ----------------------------------------------------------------------------------------------------


def auc(scores: Floats, truth: Truth) -> float:
    """The chance that a positive scores above a negative, a tie counting one half; NaN where one kind is absent.

    The Mann-Whitney statistic over the number of pairs, which is the area under `roc_curve` (Hanley and McNeil 1982).
    """
    positives, negatives = scores[truth], np.sort(scores[~truth])
    if len(positives) == 0 or len(negatives) == 0:
        return float("nan")
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


def roc_curve(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1), as the threshold falls from score to score.

    Equal scores are one step. Points in the middle of a straight line are dropped, which draws the same curve.
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    if values.ndim != 1 or values.shape != positive.shape:
        raise ValueError(f"scores and truth: given shapes {values.shape} and {positive.shape}, allowed: (n,) both")
    if positive.all() or not positive.any():
        raise ValueError(f"truth: given {positive.sum()} positives of {len(positive)}, allowed: both kinds")
    _, said_yes, hits = _tally(values, positive)
    points = np.stack([np.append(0, said_yes - hits), np.append(0, hits)])
    steps = np.diff(points)
    turns = steps[0, :-1] * steps[1, 1:] != steps[0, 1:] * steps[1, :-1]
    false, true = points[:, np.concatenate([[True], turns, [True]])]
    return false / false[-1], true / true[-1]


def average_precision(scores: Floats, truth: Truth) -> float:
    """Sum over thresholds of precision times gain in recall, equal scores being one step; NaN without positives.

    Not interpolated: the area under the interpolated precision-recall curve is an optimistic number.
    """
    if not truth.any():
        return float("nan")
    _, said_yes, hits = _tally(scores, truth)
    return float((np.diff(hits, prepend=0) * hits / said_yes).sum() / hits[-1])


def _tally(scores: Floats, truth: Truth) -> tuple[Floats, Counts, Counts]:
    """The different scores, falling, and how many samples, and how many positives, have that score or more."""
    order = np.argsort(-scores)
    falling = scores[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    return falling[ends], ends + 1, np.cumsum(truth[order])[ends]


def choose_threshold(probabilities: Floats, truth: Truth) -> float:
    """Above which probability to say yes for the highest F1; every threshold in [0, 1) is tried.

    0.5 wherever nothing does better: without positives every F1 is 0, and a tie is no reason to leave the middle.
    Between two neighbouring probabilities the middle is taken, of several such gaps the one nearest to 0.5.
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
    """Samples grouped by probability: one {low, high, n, confidence, accuracy} per bin.

    The bins have equal width and hold their upper edge: [0, 1/bins], (1/bins, 2/bins], ..., (1 - 1/bins, 1].
    Confidence (the mean probability) and accuracy (the share that is true) are None in an empty bin.
    """
    if bins < 1:
        raise ValueError(f"bins: given {bins}, allowed: 1 or more")
    edges = np.linspace(0, 1, bins + 1)
    # Rounding can lift a probability a hair above 1, hence only the inner edges.
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
    """|accuracy - confidence| of each bin of `reliability`, weighted by its share of n (Guo et al. 2017, eq. 3)."""
    filled = [group for group in groups if group["n"]]
    gaps = sum(group["n"] * abs(group["accuracy"] - group["confidence"]) for group in filled)
    return float(gaps / sum(group["n"] for group in filled))
