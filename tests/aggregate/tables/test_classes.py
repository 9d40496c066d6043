from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from aggregate.tables.classes import MOST_CLASSES, MOST_METHODS, confusion, leaders, per_class
from aggregate.tables.table import Table

MakeRun = Callable[..., Path]
Score = tuple[int, float, float, float]  # images, precision, recall, F1


def told_of_test(scores: dict[str, Score] | None = None, counts: Any = None) -> dict[str, Any]:
    told = [
        {"class": name, "n": n, "precision": precision, "recall": recall, "f1_score": f1}
        for name, (n, precision, recall, f1) in (scores or {}).items()
    ]
    return {"test": {"n": 360, "accuracy": 0.9, "per_class": told, "confusion_matrix": counts}}


def read(*folders: Path) -> list[Method]:
    return group(collect(folders)[0])


def table_of(make: Callable[..., Table | None], *folders: Path) -> Table:
    table = make(read(*folders))
    assert table
    assert table.cells()
    return table


# --- each class -------------------------------------------------------------------------------------------------


def test_classes_by_hand(make_run: MakeRun) -> None:
    one = told_of_test({"cat": (4, 0.8, 0.6, 0.7), "emu": (0, 0.0, 0.0, 0.0)})
    other = told_of_test({"cat": (4, 0.6, 0.8, 0.8), "emu": (0, 0.0, 0.0, 0.0)})
    folders = [make_run(seed=seed, parts=parts) for seed, parts in enumerate((one, other))]
    (row,) = table_of(per_class, *folders).rows
    assert (row["class"], row["images"], row["n"]) == ("cat", 4, 2), "of no emu nothing is known"
    assert (row["precision_mean"], row["recall_mean"], row["f1_score_mean"]) == pytest.approx((0.7, 0.7, 0.75))
    assert row["f1_score_std"] == pytest.approx(np.std([0.7, 0.8], ddof=1))
    assert row["runs"] == " ".join(folder.name for folder in folders)


def test_the_best_by_validation_is_printed_and_csv_has_the_others(make_run: MakeRun) -> None:
    scores: dict[str, Score] = {"cat": (4, 0.8, 0.6, 0.7), "dog": (4, 0.8, 0.6, 0.9)}
    folders = [
        make_run(recipe={"epochs": epochs}, parts={**told_of_test(scores), "val": {"accuracy": val}})
        for epochs, val in ((2, 0.6), (4, 0.7))
    ]
    table = table_of(per_class, *folders)
    assert [cells[1].rpartition("=")[2] for cells in table.cells()] == ["4", "4"]
    assert len(table.rows) == 4
    assert table.remarks() == ["and 2 more, which per_class.csv lists"]


def test_of_many_classes_the_hardest_are_printed_in_their_order(make_run: MakeRun) -> None:
    scores = {f"c{place}": (4, 0.5, 0.5, 1 - place / 100) for place in range(MOST_CLASSES + 5)}
    table = table_of(per_class, make_run(parts=told_of_test(scores)))
    assert [cells[2] for cells in table.cells()] == [f"c{place}" for place in range(5, MOST_CLASSES + 5)]
    assert len(table.rows) == MOST_CLASSES + 5


def test_of_many_methods_the_leaders_alone_are_read(make_run: MakeRun) -> None:
    folders = [
        make_run(recipe={"epochs": 2 + place}, parts={"val": {"accuracy": place / 100}})
        for place in range(MOST_METHODS + 2)
    ]
    (found,) = leaders(read(*folders)).values()
    assert [method.values("val.accuracy")[0] for method in found] == [
        place / 100 for place in range(MOST_METHODS + 1, 1, -1)
    ]


@pytest.mark.parametrize("told", [None, "x", [1], [{"class": "a"}], [{"class": "a", "n": "4", "f1_score": 1.0}]])
def test_scores_that_are_none(told: Any, make_run: MakeRun) -> None:
    test = {"n": 360, "accuracy": 0.9, "per_class": told}
    assert per_class(read(make_run(parts={"test": test}))) is None


# --- confusions -------------------------------------------------------------------------------------------------


def test_confusions_by_hand(make_run: MakeRun) -> None:
    """Of 4 cats 1 and 3 are taken for dogs; of 10 dogs 2 and none for cats."""
    tables = ([[3, 1, 0], [2, 8, 0], [0, 0, 0]], [[1, 3, 0], [0, 10, 0], [0, 0, 0]])
    data = {"data": {"name": "digits", "digest": "d1", "task": "multi-class", "classes": ["cat", "dog", "emu"]}}
    folders = [make_run(seed=seed, parts={**told_of_test(counts=each), **data}) for seed, each in enumerate(tables)]
    first, second = table_of(confusion, *folders).rows
    assert (first["true"], first["predicted"], first["n"], first["images_mean"]) == ("cat", "dog", 2, 2.0)
    assert (first["share_mean"], first["share_std"]) == pytest.approx((0.5, np.std([0.25, 0.75], ddof=1)))
    assert (second["true"], second["predicted"], second["share_mean"]) == ("dog", "cat", pytest.approx(0.1))


def test_ten_of_many_confusions_are_printed(make_run: MakeRun) -> None:
    counts = np.full((5, 5), 1) + np.diag([9] * 5)
    table = table_of(confusion, make_run(parts=told_of_test(counts=counts.tolist())))
    assert (len(table.cells()), len(table.rows)) == (10, 20)


@pytest.mark.parametrize(
    "counts",
    [None, "x", [[1, 2, 3]], [], [[1, "x"], [2, 3]], [[-1, 2], [3, 4]], [[10**30, 0], [0, 1]], [[5, 0], [0, 5]]],
)
def test_no_table_of_no_confusions(counts: Any, make_run: MakeRun) -> None:
    assert confusion(read(make_run(parts=told_of_test(counts=counts)))) is None
