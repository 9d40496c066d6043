"""The table of results has a row for each method: its scores, with their spread and interval."""

from collections.abc import Iterable, Sequence
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
from aggregate.tables.table import (
    Column,
    Row,
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


def summary(methods: Sequence[Method]) -> Table | None:
    chosen = trained(methods)
    if not chosen:
        return None

    runs = [method.runs for method in chosen]
    marks, notes = footnotes(row_notes(runs))
    rows = [{**_summary_row(method), "notes": mark} for method, mark in zip(chosen, marks, strict=True)]

    # Tables are copied without their page: what the numbers are of, and by which rule, goes with them.
    everything = [run for method in chosen for run in method.runs]
    caption = (
        "Test accuracy in %: mean ± standard deviation over n runs that differ in their seed, and the 95 % interval "
        "of that mean by Student's t (none for n = 1, or where all runs are equal). "
        f"{selection_sentence(everything)} "
        "Test-set error: one standard error of the accuracy that comes from the number of test images alone; the "
        "interval does not include it. Precision, recall, F1 and AUC are means over classes; NLL in nats."
    )
    return Table("summary", "Results", caption, _summary_columns(rows), rows, [*notes, *between(runs)])


def _summary_row(method: Method) -> dict[str, Any]:
    accuracies = method.values("test.accuracy")
    images = same(run.fact("test.n") for run in method.runs)
    mean = mean_of(accuracies)

    # An accuracy over several labels of an image is no share of images, so the binomial error does not hold for it.
    is_share = mean is not None and images and same(run.fact("data.task") for run in method.runs) != "multi-label"
    error = images_error(mean, images) if is_share and mean is not None else None
    low, high = wilson_interval(mean, images) if is_share and mean is not None else (None, None)

    return {
        "data": method.data,
        "method": method.label,
        "network": network_of(method),
        "n": len(method.runs),
        "unfinished": unfinished_text(method),
        **estimate("accuracy", accuracies, bounded=True),
        "accuracy_min": min(accuracies, default=None),
        "accuracy_max": max(accuracies, default=None),
        **_robust(accuracies),
        "test_images": images,
        "test_set_error": error,
        "test_set_low": low,
        "test_set_high": high,
        "val_accuracy": mean_of(method.values("val.accuracy")),
        **{name: mean_of(method.values(f"test.{name}")) for name in SCORES},
        "parameters": same(map(int, method.values("model.parameters"))),
        "seeds": " ".join(str(run.seed) for run in method.runs),
        "runs": method.run_names,
    }


def network_of(method: Method) -> str:
    return str(method.first.fact("model.name")).removeprefix("timm/") if method.runs else ""


def network_column(rows: Iterable[Row]) -> list[Column]:
    """Return the column of networks, unless the labels name them: a sweep calls its stages as it likes."""
    is_news = any(row["network"] not in row["method"] for row in rows)
    return [text("network", "network")] if is_news else []


def _robust(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean of the middle half, with its bootstrap interval if there are enough values to draw from."""
    enough = len(values) >= FEWEST_FOR_BOOTSTRAP
    low, high = (bootstrap_interval(values, interquartile_means) if enough else None) or (None, None)
    return {"iqm": interquartile_mean(values) if values else None, "iqm_low": low, "iqm_high": high}


def _summary_columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    unfinished = [text("not finished", "unfinished")] if any(row["unfinished"] for row in rows) else []
    notes = [text("notes", "notes")] if any(row["notes"] for row in rows) else []
    return [
        *(text("data", "data"), text("method", "method"), *network_column(rows), number("n", "n", "d")),
        *unfinished,
        percent_spread("test accuracy", "accuracy"),
        percent_interval("95 % interval", "accuracy"),
        percent("test-set error", "test_set_error"),
        percent("F1", "f1_score"),
        number("AUC", "macro_auc", ".4f"),
        number("NLL", "nll"),
        number("ECE", "ece"),
        *notes,
    ]
