"""These functions tell how much a model loses under shift, how far to trust its probabilities, and how sure both are.

They are pure, of logits and labels, or of accuracies and errors as shares from 0 to 1, and need numpy only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.metrics import one_label
from common.metrics.ranking import Counts, Floats

COOLEST, HOTTEST = 0.01, 100.0  # temperatures that are tried
HALVINGS = 100  # of that range, which is more than float64 can tell apart


# --- calibration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Temperature:
    value: float
    at_limit: bool  # NLL still falls there: every validation image is predicted right, or the logits say nothing


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Temperature:
    """Return the T for which logits / T have the lowest NLL (Guo et al. 2017); 1 if T makes no difference.

    Give it validation data, never the test set. NLL is convex in 1/T, so its derivative changes sign once, and halving
    the range of log T finds where.
    """
    scores, truth = one_label.checked(logits, labels)
    if not np.ptp(scores, axis=1).any():
        return Temperature(1.0, at_limit=False)

    # Without a change of sign inside the range, the lowest NLL lies at one of its ends.
    if _nll_slope(scores, truth, COOLEST) <= 0:
        return Temperature(COOLEST, at_limit=True)
    if _nll_slope(scores, truth, HOTTEST) >= 0:
        return Temperature(HOTTEST, at_limit=True)

    low, high = math.log(COOLEST), math.log(HOTTEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _nll_slope(scores, truth, math.exp(middle)) > 0:
            low = middle
        else:
            high = middle
    return Temperature(math.exp((low + high) / 2), at_limit=False)


def _nll_slope(scores: Floats, truth: Counts, temperature: float) -> float:
    """Return d NLL / d (1/T): the logit that is expected at temperature T, less the label's, mean over samples."""
    expected = (one_label.softmax(scores / temperature) * scores).sum(axis=1)
    return float((expected - scores[np.arange(len(truth)), truth]).mean())


def calibration(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> dict[str, float]:
    """Return NLL and ECE (15 bins of equal width) of logits / temperature."""
    if not temperature > 0:
        raise ValueError(f"temperature: given {temperature}, allowed: above 0")
    cooled = np.asarray(logits, dtype=np.float64) / temperature
    return {"nll": one_label.nll(cooled, labels), "ece": one_label.ece(cooled, labels)}


# --- sampling error of a test set -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number, and its standard error over the draw of test images: not over seeds, which it knows nothing of."""

    value: float
    standard_error: float


def accuracy(correct: ArrayLike) -> Estimate:
    """Return the share p of `correct` (n,), which says what images were predicted right.

    The error is the binomial's, sqrt(p (1-p) / n). It is 0 at p = 0 and 1, where it says nothing: use an interval of
    Wilson's there.
    """
    share = float(_checked_correct("correct", correct).mean())
    return Estimate(share, math.sqrt(share * (1 - share) / np.size(correct)))


def paired_difference(correct: ArrayLike, other: ArrayLike) -> Estimate:
    """Return accuracy less the other's, both on the same images in the same order.

    Only images on which they differ count. With b right alone here and c right alone there, the squared error is
    (b + c - (b - c)^2 / n) / n^2 (McNemar 1947).
    """
    one, two = _checked_correct("correct", correct), _checked_correct("other", other)
    if one.shape != two.shape:
        raise ValueError(f"other: given {len(two)} images, allowed: {len(one)}, the same images for both")
    gains = one - two
    return Estimate(float(gains.mean()), float(gains.std() / math.sqrt(len(gains))))


def drop(clean: Estimate, shifted: Estimate) -> Estimate:
    """Return clean less shifted accuracy on two sets of different images; for the same images: `paired_difference`."""
    both = math.hypot(clean.standard_error, shifted.standard_error)
    return Estimate(clean.value - shifted.value, both)


def _checked_correct(name: str, correct: ArrayLike) -> Floats:
    values = np.asarray(correct)
    if values.ndim != 1 or len(values) == 0 or values.dtype != np.bool_:
        raise ValueError(f"{name}: given {values.dtype} of shape {values.shape}, allowed: bool (n,), n of 1 or more")
    return values.astype(np.float64)


# --- corruptions ------------------------------------------------------------------------------------------------

Errors = Mapping[str, Sequence[float]]  # corruption -> error at each severity, mildest first


def mean_corruption_error(errors: Errors, baseline: Errors) -> float:
    """Return the mean over corruptions of sum_s error / sum_s baseline's error (Hendrycks and Dietterich 2019).

    1 is as bad as the baseline; the paper prints 100 times this, against AlexNet. State the baseline with the number.
    """
    _check_errors(errors, baseline)
    return _mean_ratio(errors, baseline, 0.0, 0.0)


def relative_mean_corruption_error(
    errors: Errors, baseline: Errors, *, clean_error: float, baseline_clean_error: float
) -> float:
    """Return the same of what is added to the clean error: sum_s (error - clean) / sum_s (baseline's - its clean)."""
    _check_errors(errors, baseline)
    for name, error in {"clean_error": clean_error, "baseline_clean_error": baseline_clean_error}.items():
        _check_share(name, error)
    return _mean_ratio(errors, baseline, clean_error, baseline_clean_error)


def _mean_ratio(errors: Errors, baseline: Errors, clean: float, baseline_clean: float) -> float:
    ratios = []
    for corruption, own in errors.items():
        added = sum(error - baseline_clean for error in baseline[corruption])
        if added <= 0:
            raise ValueError(f"baseline: {corruption} adds {added:g} to its error, allowed: more than 0")
        ratios.append(sum(error - clean for error in own) / added)
    return float(np.mean(ratios))


def _check_errors(errors: Errors, baseline: Errors) -> None:
    if not errors or errors.keys() != baseline.keys():
        raise ValueError(
            f"errors: given {', '.join(sorted(errors)) or 'none'}, "
            f"allowed: the corruptions of the baseline, {', '.join(sorted(baseline)) or 'of which there are none'}"
        )
    for corruption, own in errors.items():
        if len(own) != len(baseline[corruption]) or len(own) == 0:
            numbers = f"given {len(own)} severities, the baseline {len(baseline[corruption])}"
            raise ValueError(f"{corruption}: {numbers}; allowed: the same")
        for error in (*own, *baseline[corruption]):
            _check_share(corruption, error)


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: given {share}, allowed: a share from 0 to 1")
