from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aggregate.runs.collect import collect
from aggregate.runs.methods import group
from aggregate.tables.overfitting import overfitting
from aggregate.tables.table import Table

MakeRun = Callable[..., Path]
TURNS = (2.0, 1.5, 1.0, 0.8, 0.9, 1.0, 1.1)
FOLLOWS = (2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8)
LEVEL = (2.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0)


def run_of(make_run: MakeRun, seed: int, val: Sequence[float], **given: Any) -> Path:
    folder = make_run(seed=seed, parts={"cost": {"epochs": len(val), "train_seconds": 9.0}}, **given)
    rows = [f"{epoch},{2 - epoch / 10},0.5,{loss},0.6" for epoch, loss in enumerate(val, start=1)]
    (folder / "history.csv").write_text(
        "\n".join(["epoch,train_loss,train_accuracy,val_loss,val_accuracy", *rows]) + "\n"
    )
    return folder


def table_of(*folders: Path) -> Table:
    table = overfitting(group(collect(folders)[0]))
    assert table
    return table


def printed(table: Table) -> dict[str, str]:
    return dict(zip([column.heading for column in table.columns], table.cells()[0], strict=True))


def test_by_hand(make_run: MakeRun) -> None:
    (row,) = table_of(make_run(seed=0), make_run(seed=1)).rows
    assert (row["best_epoch"], row["epochs"], row["n"], row["test_nll"]) == (2, 4, 2, 0.1)
    assert row["gap"] == pytest.approx(0.1)
    assert (row["train_loss"], row["val_loss"], row["test_accuracy"]) == (1.0, 1.1, 0.9)
    assert (row["turning_point"], row["pattern"]) == (None, None), "two epochs tell neither"


def test_best_and_last_epoch(make_run: MakeRun) -> None:
    table = table_of(run_of(make_run, 0, TURNS))
    (row,) = table.rows
    assert (row["val_loss"], row["last_val_loss"], row["best_epoch"]) == (1.5, 1.1, 2)
    cells = printed(table)
    assert (cells["turning point"], cells["pattern"], cells["best epoch"]) == ("4", "diverging", "2 of 7")


@pytest.mark.parametrize(
    ("histories", "point", "pattern"),
    [
        ((TURNS, TURNS, TURNS), "4.0", "diverging"),
        ((TURNS, TURNS, LEVEL), "4.0 (2 of 3)", "diverging"),
        ((TURNS, FOLLOWS, LEVEL), "4 (1 of 3)", "mixed"),
        ((FOLLOWS, FOLLOWS, LEVEL), "-1", "falling"),
        ((TURNS, LEVEL), "4 (1 of 2)", "mixed"),
        (((1.0,),), "–", "–"),
    ],
)
def test_of_several_runs(histories: Sequence[Sequence[float]], point: str, pattern: str, make_run: MakeRun) -> None:
    cells = printed(table_of(*(run_of(make_run, seed, val) for seed, val in enumerate(histories))))
    assert (cells["turning point"], cells["pattern"]) == (point, pattern)


def test_runs_without_a_history_are_not_counted(make_run: MakeRun) -> None:
    told, lost = run_of(make_run, 0, TURNS), make_run(seed=1, accuracy=0.1)
    (lost / "history.csv").unlink()
    (row,) = table_of(told, lost).rows
    assert (row["n"], row["test_accuracy"], row["runs"]) == (1, 0.9, told.name)
    assert overfitting(group(collect([lost])[0])) is None
