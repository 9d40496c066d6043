"""This table compares pairs of methods on the same images: over common seeds, and on the test images themselves."""

import functools
import hashlib
import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aggregate.inference.estimates import deviation
from aggregate.inference.verdicts import (
    ALPHA,
    MOST_SEEDS,
    combine_dependent,
    compare_paired,
    holm,
    mcnemar,
    more_seeds,
    verdict,
)
from aggregate.runs.collect import Run, read_arrays
from aggregate.runs.methods import Method, run_names, trained
from aggregate.runs.origins import differences, selection_sentence
from aggregate.tables.table import Column, Row, Table, number, p_value, percent, percent_interval, text
from common.run.run_dir import RunDir

MOST_PAIRS = 1_000
Pair = tuple[Method, Method]


def comparisons(methods: Sequence[Method]) -> Table | None:
    pairs, is_all = choose_pairs([method for method in trained(methods) if method.runs])
    if not pairs:
        return None
    rows = with_verdicts([pair_row(*pair) for pair in pairs])
    runs = [run for pair in pairs for method in pair for run in method.runs]
    which = "" if is_all else "Of many methods, each is compared with the one of the highest validation accuracy. "
    return Table("comparisons", "Comparisons", f"{which}{CAPTION} {selection_sentence(runs)}", COLUMNS, rows)


CAPTION = (
    "First less second method, test accuracy in points, over the n seeds that both have; 95 % interval by Student's "
    "t, not corrected. p: paired t test, corrected for all pairs of this table (Holm). The verdict is that of this "
    "test at 0.05; it is about seeds, on these test images. ≈: these seeds cannot tell. ?: no test without two common "
    "seeds. More seeds: how many would tell in four experiments of five if the difference is as seen. p, signs: exact "
    "sign-flip test, not corrected; with five seeds it cannot fall below 0.05. p, images: McNemar's exact test of the "
    "same seeds on the same test images, not corrected; several seeds are combined by Rüger's rule, which holds "
    "however they depend on each other."
)


def _more(row: Row) -> str:
    if row["verdict"] != "≈" or row["difference"] == 0:
        return "–"
    return f"> {MOST_SEEDS}" if row["more_seeds"] is None else str(row["more_seeds"])


COLUMNS = [
    text("data", "data"),
    text("first", "first"),
    text("second", "second"),
    number("n", "n", "d"),
    percent("difference", "difference"),
    percent_interval("95 % interval", "difference"),
    p_value("p", "p_holm"),
    p_value("p, signs", "p_signs"),
    p_value("p, images", "p_images"),
    text("verdict on the first", "verdict"),
    Column("more seeds", _more, key="more_seeds"),
    text("also differ in", "differ"),
]


def choose_pairs(methods: Sequence[Method]) -> tuple[list[Pair], bool]:
    """Return all pairs that were tested on the same images, and whether these are all.

    If there are too many, only those with the best method of each data set are kept. It is the best by validation: a
    method that was chosen by the test images would be flattered by them.
    """
    groups: dict[Any, list[Method]] = {}  # by what makes test images the same
    for method in methods:
        first = method.first
        groups.setdefault((method.data, first.fact("data.digest"), first.fact("test.n")), []).append(method)
    if sum(len(group) * (len(group) - 1) // 2 for group in groups.values()) <= MOST_PAIRS:
        return [pair for group in groups.values() for pair in itertools.combinations(group, 2)], True
    return [pair for group in groups.values() for pair in _with_best(group)], False


def _with_best(group: Sequence[Method]) -> Iterator[Pair]:
    best = max(group, key=lambda method: statistics.fmean(method.values("val.accuracy") or [0.0]))
    return ((best, method) for method in group if method is not best)


def pair_row(first: Method, second: Method) -> dict[str, Any]:
    """Return the row of two methods, without the verdict, which needs the whole table."""
    # Seed by seed, because runs of one seed see the images in the same order: some of the scatter cancels out.
    one, other = first.by_seed("test.accuracy"), second.by_seed("test.accuracy")
    seeds = sorted(one.keys() & other.keys())
    by_seed = [one[seed] - other[seed] for seed in seeds]
    paired = compare_paired(by_seed) if seeds else None
    low, high = (paired.interval if paired else None) or (None, None)

    return {
        "data": first.data,
        "first": first.label,
        "second": second.label,
        "n": len(seeds),
        "difference": paired.difference if paired else None,
        "difference_std": deviation(by_seed),
        "difference_low": low,
        "difference_high": high,
        "p_t": paired.p_t if paired else None,
        "p_signs": paired.p_signs if paired else None,
        "p_images": p_on_images(first, second, seeds),
        "differ": ", ".join(differences(first.runs, second.runs)),
        "runs": run_names([*first.runs, *second.runs]),
    }


def with_verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    adjusted = holm([row["p_t"] for row in rows])
    tests = sum(p is not None for p in adjusted)
    return [
        {
            **row,
            "p_holm": p,
            "verdict": verdict(row["difference"] or 0.0, p),
            "more_seeds": _seeds_to_come(row, p, tests),
        }
        for row, p in zip(rows, adjusted, strict=True)
    ]


def _seeds_to_come(row: Row, p: float | None, tests: int) -> int | None:
    """Estimate further seeds at Holm's strictest level, because what the other p values will be is not known."""
    if p is None or p < ALPHA:
        return None
    return more_seeds(row["n"], row["difference"], row["difference_std"], ALPHA / tests)


# --- on the test images -----------------------------------------------------------------------------------------


def p_on_images(first: Method, second: Method, seeds: Sequence[int]) -> float | None:
    """Return McNemar's p over the common seeds; None unless each has the predictions of both on the same images."""
    ones, others = ({run.seed: run for run in method.runs} for method in (first, second))
    if min(len(ones) - len(first.runs), len(others) - len(second.runs)) < 0:  # which of two runs to take?
        return None
    p_values = [_mcnemar(ones[seed], others[seed]) for seed in seeds]
    known = [p for p in p_values if p is not None]
    return combine_dependent(known) if known and len(known) == len(p_values) else None


def _mcnemar(one: Run, other: Run) -> float | None:
    left, right = right_answers(one.path), right_answers(other.path)
    if left is None or right is None or left[1] != right[1]:
        return None
    return mcnemar(int((left[0] & ~right[0]).sum()), int((right[0] & ~left[0]).sum()))


@functools.lru_cache(maxsize=10_000)
def right_answers(folder: Path) -> tuple[np.ndarray, bytes] | None:
    """Return which test images a run got right, and a fingerprint of their labels; None if there are no predictions.

    Images with several labels are neither right nor wrong as a whole, so that they give None too.
    """
    arrays = read_arrays(RunDir(folder).predictions("test"), ("logits", "labels"))
    if not arrays:
        return None
    logits, labels = arrays
    if labels.ndim != 1 or logits.shape[:1] != labels.shape or logits.ndim != 2:
        return None
    fingerprint = hashlib.sha256(np.ascontiguousarray(labels, dtype=np.int64).tobytes()).digest()
    return logits.argmax(axis=1) == labels, fingerprint
