from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregate.figures.classes import class_scores, confusions, hardest, heat_maps, summed_confusion
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group

MakeRun = Callable[..., Path]


def scored(counts: Any, scores: dict[str, tuple[int, float]], accuracy: float = 0.9) -> dict[str, Any]:
    per_class = [{"class": name, "n": n, "f1_score": f1} for name, (n, f1) in scores.items()]
    return {"n": 360, "accuracy": accuracy, "per_class": per_class, "confusion_matrix": counts}


def read(*folders: Path) -> list[Method]:
    return group(collect(folders)[0])


def test_scores_and_counts_by_hand(make_run: MakeRun) -> None:
    one = scored([[3, 1], [0, 4]], {"cat": (4, 0.8), "dog": (4, 1.0), "emu": (0, 0.0)})
    other = scored([[1, 3], [2, 2]], {"cat": (4, 0.4), "dog": (4, 0.5), "emu": (0, 0.0)})
    (method,) = read(*(make_run(seed=seed, parts={"test": test}) for seed, test in enumerate((one, other))))
    assert class_scores(method) == pytest.approx({"cat": 0.6, "dog": 0.75}), "of no emu there is no F1"
    counts, names = summed_confusion(method)
    assert counts is not None
    assert counts.tolist() == [[4, 4], [2, 6]]
    assert names == ["0", "1"], "where the result does not name them"
    (confusion,) = confusions([method])
    assert "n = 16 answers of 2 runs" in str(confusion.figure.get_suptitle())
    (heat,) = heat_maps([method])
    written = [text.get_text() for text in heat.figure.axes[0].texts]
    assert written == ["60.0", "75.0"]
    heat.figure.draw_without_rendering()


@pytest.mark.parametrize("counts", [None, "x", [[1, 2, 3]], [], [[1, "x"], [2, 3]], [[[1, 0], [0, 1]]]])
def test_tables_that_are_none(counts: Any, make_run: MakeRun) -> None:
    (method,) = read(make_run(parts={"test": scored(counts, {})}))
    assert summed_confusion(method)[0] is None
    assert list(confusions([method])) == []
    assert list(heat_maps([method])) == []


def test_runs_of_other_classes_are_not_added(make_run: MakeRun) -> None:
    tables = ([[1, 2], [3, 4]], [[1]])
    (method,) = read(*(make_run(seed=n, parts={"test": scored(table, {})}) for n, table in enumerate(tables)))
    assert summed_confusion(method)[0] is None


def test_the_best_is_chosen_by_validation(make_run: MakeRun) -> None:
    folders = [
        make_run(
            recipe={"epochs": epochs}, parts={"test": scored([[1, 0], [0, 1]], {}, test), "val": {"accuracy": val}}
        )
        for epochs, test, val in ((2, 0.9, 0.6), (4, 0.8, 0.7))
    ]
    (picture,) = confusions(read(*folders))
    assert "recipe.epochs=4" in str(picture.figure.get_suptitle())


def test_of_many_classes_the_hardest() -> None:
    table = np.array([np.linspace(1, 0, 30), np.linspace(1, 0, 30)])
    kept, names, said = hardest(table, [f"c{number}" for number in range(30)])
    assert names == [f"c{number}" for number in range(29, 9, -1)]
    assert kept[0].tolist() == sorted(kept[0].tolist())
    assert said == "; the 20 hardest of 30 classes"
    assert hardest(table[:, :5], list("abcde"))[1:] == (list("abcde"), "")
