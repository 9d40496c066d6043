"""This table shows how methods learn: where validation turned, and what the best and the last epoch are worth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aggregate.runs.histories import MIXED, NO_TURN, RULE, Learning
from aggregate.runs.methods import Method, mean_of, trained
from aggregate.runs.origins import selection_sentence
from aggregate.tables.table import NOTHING, Column, Row, Table, number, percent, shown, text

CAPTION = (
    "Means over n runs. Best: the epoch whose weights were kept; last: the last one that was trained. Test loss and "
    "accuracy: of the kept weights. Gap: training less validation accuracy in the best epoch, in points; training "
    "accuracy is measured on augmented images while the weights move, so that a gap below 0 is usual with strong "
    f"augmentation. Losses in nats. {RULE}"
)


def overfitting(methods: Sequence[Method]) -> Table | None:
    recorded = [method for method in map(_with_history, trained(methods)) if method.runs]
    if not recorded:
        return None
    rows = [_row(method) for method in recorded]
    runs = [run for method in recorded for run in method.runs]
    return Table("overfitting", "Overfitting", f"{CAPTION} {selection_sentence(runs)}", COLUMNS, rows)


def _turning_point(row: Row) -> str:
    """Show the mean over the runs that have one, and their number unless all have."""
    point = row["turning_point"]
    if point is None or point == NO_TURN:
        return NOTHING if point is None else str(NO_TURN)
    of = "" if row["turned"] == row["n"] else f" ({row['turned']} of {row['n']})"
    return f"{point:.0f}{of}" if row["turned"] == 1 else f"{point:.1f}{of}"


def _epoch(mean: float | None) -> str:
    return shown(mean, ".1f").removesuffix(".0")


COLUMNS = [
    text("data", "data"),
    text("method", "method"),
    number("n", "n", "d"),
    Column("turning point", _turning_point, key="turning_point"),
    Column(
        "best epoch",
        lambda row: f"{_epoch(row['best_epoch'])} of {_epoch(row['epochs'])}",
        key="best_epoch",
    ),
    number("val loss, last", "last_val_loss", ".4f"),
    number("val loss, best", "val_loss", ".4f"),
    percent("val accuracy, last", "last_val_accuracy"),
    percent("val accuracy, best", "val_accuracy"),
    number("test loss", "test_nll", ".4f"),
    percent("test accuracy", "test_accuracy"),
    percent("gap", "gap"),
    text("pattern", "pattern"),
]


def _with_history(method: Method) -> Method:
    return replace(method, runs=tuple(run for run in method.runs if run.learning.last))


def _row(method: Method) -> dict[str, Any]:
    histories = [run.learning for run in method.runs]
    best = [history.chosen for history in histories]
    last = [history.last for history in histories]
    measured = [epoch for epoch in best if {"train_accuracy", "val_accuracy"} <= epoch.keys()]

    # Short runs count neither as turned nor as not turned.
    points = [history.turning_point for history in histories if history.turning_point is not None]
    turned = [point for point in points if point != NO_TURN]

    return {
        "data": method.data,
        "method": method.label,
        "n": len(histories),
        "turning_point": mean_of(turned) if turned else (NO_TURN if points else None),
        "turned": len(turned),
        "best_epoch": mean_of(method.values("selection.epoch")),
        "epochs": mean_of(method.values("cost.epochs")),
        **{f"last_{name}": _mean(last, name) for name in ("val_loss", "val_accuracy")},
        **{name: _mean(best, name) for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")},
        "gap": mean_of([epoch["train_accuracy"] - epoch["val_accuracy"] for epoch in measured]),
        "test_nll": mean_of(method.values("test.nll")),
        "test_accuracy": mean_of(method.values("test.accuracy")),
        "pattern": _pattern(histories),
        "runs": method.run_names,
    }


def _mean(epochs: Sequence[Mapping[str, float]], name: str) -> float | None:
    return mean_of([epoch.get(name) for epoch in epochs])


def _pattern(histories: Sequence[Learning]) -> str | None:
    """Return the pattern of more than half of the runs whose pattern is known, else MIXED."""
    known = Counter(history.pattern for history in histories if history.pattern)
    return next((name for name, count in known.items() if 2 * count > known.total()), MIXED if known else None)
