"""Methods -> what they reach: one row each."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from aggregate.estimates import (
    bootstrap_interval,
    deviation,
    images_error,
    interquartile_mean,
    interquartile_means,
    t_interval,
    wilson_interval,
)
from aggregate.methods import Method
from aggregate.origins import between, row_notes, selection_sentence
from aggregate.tables import (
    Column,
    Table,
    footnotes,
    number,
    percent,
    percent_interval,
    percent_spread,
    text,
)

SCORES = ("precision", "recall", "f1_score", "macro_auc", "nll", "brier", "ece")
FEWEST_FOR_BOOTSTRAP = 15  # from there on 94 of 100 such intervals hold the mean they are of; of five values, 90


def trained(methods: Iterable[Method]) -> list[Method]:
    return [method for method in methods if method.is_training]


def by_data(methods: Iterable[Method]) -> dict[str, list[Method]]:
    """Those with runs."""
    rooms: dict[str, list[Method]] = {}
    for method in methods:
        if method.runs:
            rooms.setdefault(method.data, []).append(method)
    return rooms


def by_validation(methods: Iterable[Method]) -> list[Method]:
    """The best first: by test images, they would be chosen by what is shown."""
    return sorted(methods, key=lambda method: -(mean_of(method.values("val.accuracy")) or 0.0))


def estimate(name: str, values: Sequence[float], *, bounded: bool = False) -> dict[str, Any]:
    """Columns <name>_mean, _std, _low and _high (95 % t interval over seeds); a share is not below 0 or above 1."""
    interval = t_interval(values)
    low, high = interval or (None, None)
    if interval and bounded:
        low, high = max(0.0, interval[0]), min(1.0, interval[1])
    mean = statistics.fmean(values) if values else None
    return {f"{name}_mean": mean, f"{name}_std": deviation(values), f"{name}_low": low, f"{name}_high": high}


def mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def same(values: Iterable[Any]) -> Any:
    """What all have in common, else None."""
    found = list(dict.fromkeys(values))
    return found[0] if len(found) == 1 else None


def unfinished_text(method: Method) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(method.unfinished.items()))


# --- what they reach --------------------------------------------------------------------------------------------


def summary(methods: Sequence[Method]) -> Table | None:
    chosen = trained(methods)
    if not chosen:
        return None
    runs = [method.runs for method in chosen]
    marks, notes = footnotes(row_notes(runs))
    rows = [{**_summary_row(method), "notes": mark} for method, mark in zip(chosen, marks, strict=True)]
    everything = [run for each in runs for run in each]
    caption = (
        "Test accuracy in %: mean ± standard deviation over n runs that differ in their seed, and the 95 % interval "
        "of that mean by Student's t (none for n = 1, or where all runs are equal). "
        f"{selection_sentence(everything)} "
        "Test-set error: what the number of test images alone leaves open, one standard error; the interval does not "
        "hold it. Precision, recall, F1 and AUC are means over classes; NLL in nats."
    )
    return Table("summary", "Results", caption, _summary_columns(rows), rows, [*notes, *between(runs)])


def _summary_row(method: Method) -> dict[str, Any]:
    accuracies = method.values("test.accuracy")
    images = same(run.fact("test.n") for run in method.runs)
    mean = mean_of(accuracies)
    plain = mean is not None and images and same(run.fact("data.task") for run in method.runs) != "multi-label"
    wilson = wilson_interval(mean, images) if plain and mean is not None else (None, None)
    return {
        "data": method.data,
        "method": method.label,
        "n": len(method.runs),
        "unfinished": unfinished_text(method),
        **estimate("accuracy", accuracies, bounded=True),
        "accuracy_min": min(accuracies, default=None),
        "accuracy_max": max(accuracies, default=None),
        **_robust(accuracies),
        "test_images": images,
        "test_set_error": images_error(mean, images) if plain and mean is not None else None,
        "test_set_low": wilson[0],
        "test_set_high": wilson[1],
        "val_accuracy": mean_of(method.values("val.accuracy")),
        **{name: mean_of(method.values(f"test.{name}")) for name in SCORES},
        "parameters": same(run.fact("model.parameters") for run in method.runs),
        "seeds": " ".join(str(run.seed) for run in method.runs),
        "runs": method.run_names,
    }


def _robust(values: Sequence[float]) -> dict[str, float | None]:
    """Mean of the middle half, with its bootstrap interval where there are values enough to draw from."""
    enough = len(values) >= FEWEST_FOR_BOOTSTRAP
    low, high = (bootstrap_interval(values, interquartile_means) if enough else None) or (None, None)
    return {"iqm": interquartile_mean(values) if values else None, "iqm_low": low, "iqm_high": high}


def _summary_columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    return [
        text("data", "data"),
        text("method", "method"),
        number("n", "n", "d"),
        *([text("not finished", "unfinished")] if any(row["unfinished"] for row in rows) else []),
        percent_spread("test accuracy", "accuracy"),
        percent_interval("95 % interval", "accuracy"),
        percent("test-set error", "test_set_error"),
        percent("F1", "f1_score"),
        number("AUC", "macro_auc", ".4f"),
        number("NLL", "nll"),
        number("ECE", "ece"),
        *([text("notes", "notes")] if any(row["notes"] for row in rows) else []),
    ]
