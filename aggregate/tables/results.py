"""The table of results: a row for each method, its scores with their spread and interval."""

from collections.abc import Sequence
from typing import Any

from aggregate.inference.estimates import (
    bootstrap_interval,
    images_error,
    interquartile_mean,
    interquartile_means,
    wilson_interval,
)
from aggregate.runs.methods import Method, estimate, mean_of, same, trained
from aggregate.runs.origins import between, row_notes, selection_sentence
from aggregate.tables.runs import unfinished_text
from aggregate.tables.table import Column, Table, footnotes, number, percent, percent_interval, percent_spread, text

SCORES = ("precision", "recall", "f1_score", "macro_auc", "nll", "brier", "ece")
FEWEST_FOR_BOOTSTRAP = 15  # from there on 94 of 100 such intervals hold the mean they are of; of five values, 90


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
