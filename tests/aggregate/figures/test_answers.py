"""Against scikit-learn and by hand: what is drawn are the numbers of the prediction files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aggregate.figures import answers as module
from aggregate.figures.answers import answers, bins_of, pooled, reliability_diagrams, roc_diagrams
from aggregate.figures.style import Picture, styles
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from common.metrics import one_label

MakeRun = Callable[..., Path]
RANDOM = np.random.default_rng(0)
THREE = {"data": {"digest": "d1", "task": "multi-class", "classes": ["cat", "dog", "emu"]}}


def answered(folder: Path, logits: Any, labels: Any) -> Path:
    (folder / "predictions").mkdir(exist_ok=True)
    np.savez(folder / "predictions" / "test.npz", logits=logits, labels=labels)
    return folder


def drawn(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 3
    return np.eye(3)[labels] + RANDOM.normal(size=(n, 3)), labels


def read(*folders: Path) -> list[Method]:
    return group(collect(folders)[0])


def reliability(methods: list[Method]) -> list[Picture]:
    return list(reliability_diagrams(methods, styles((method.data, method.label) for method in methods)))


def legend_of(picture: Picture) -> list[str]:
    return [text.get_text() for text in picture.figure.legends[0].get_texts()]


# --- reliability ------------------------------------------------------------------------------------------------


def test_bins_of_two_runs_together_by_hand() -> None:
    empty = {"low": 0.5, "high": 1.0, "n": 0, "confidence": None, "accuracy": None}
    one = [{"low": 0.0, "high": 0.5, "n": 1, "confidence": 0.1, "accuracy": 1.0}, empty]
    other = [{"low": 0.0, "high": 0.5, "n": 3, "confidence": 0.3, "accuracy": 0.0}, empty]
    assert pooled([one, other]) == [
        {"low": 0.0, "high": 0.5, "n": 4, "confidence": pytest.approx(0.25), "accuracy": 0.25},
        empty,
    ]


def test_what_is_drawn_are_the_bins_of_all_answers(make_run: MakeRun) -> None:
    runs = [drawn() for _ in range(3)]
    folders = [answered(make_run(seed=seed, parts=THREE), *run) for seed, run in enumerate(runs)]
    (picture,) = reliability(read(*folders))
    together = one_label.reliability(*(np.concatenate(parts) for parts in zip(*runs, strict=True)))
    left, right = picture.figure.axes
    line = left.get_lines()[1].get_xydata()
    filled = [each for each in together if each["n"] >= 30]
    assert line == pytest.approx(np.array([[100 * each["confidence"], 100 * each["accuracy"]] for each in filled]))
    assert sum(right.get_lines()[0].get_ydata()) == pytest.approx(100)
    errors = [100 * one_label.ece(*run) for run in runs]
    said = f"ECE {np.mean(errors):.1f} ± {np.std(errors, ddof=1):.1f} %"
    assert legend_of(picture) == [f"train_cnn adaptive_cnn: {said}"]
    picture.figure.draw_without_rendering()


def test_one_run_has_no_deviation(make_run: MakeRun) -> None:
    run = drawn()
    (picture,) = reliability(read(answered(make_run(parts=THREE), *run)))
    assert legend_of(picture) == [f"train_cnn adaptive_cnn: ECE {100 * one_label.ece(*run):.1f} %"]


def test_several_labels_of_an_image_are_decisions_of_their_own(make_run: MakeRun) -> None:
    logits, labels = RANDOM.normal(size=(40, 3)), RANDOM.integers(0, 2, (40, 3))
    folder = answered(make_run(parts={"data": {"digest": "d1", "task": "multi-label"}}), logits, labels)
    bins = bins_of(read(folder)[0].first)
    assert bins
    assert sum(each["n"] for each in bins) == 120


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.eye(3), np.arange(2)),
        (np.eye(3), np.array([0, 1, 3])),
        (np.eye(3), np.array([0.0, 1.0, 2.0])),
        (np.full((3, 3), np.nan), np.arange(3)),
        (np.zeros((0, 3)), np.zeros(0, dtype=int)),
        (np.float64(1), np.int64(1)),
    ],
)
def test_answers_that_do_not_fit_are_not_drawn(logits: Any, labels: Any, make_run: MakeRun) -> None:
    methods = read(answered(make_run(), logits, labels))
    assert answers(methods[0].first) is not None
    assert reliability(methods) == []
    assert list(roc_diagrams(methods)) == []


def test_without_answers_nothing_is_drawn(make_run: MakeRun) -> None:
    methods = read(make_run(), answered(make_run(seed=1), *drawn()))
    (picture,) = reliability(methods)
    assert "±" not in legend_of(picture)[0]
    assert "n = 1 run of each method" in picture.figure.get_suptitle(), "the other run tells no answers"
    (folder,) = (run.path for run in methods[0].runs if run.seed == 1)
    (folder / "predictions" / "test.npz").write_bytes(b"PK")
    assert reliability(methods) == []
    assert list(roc_diagrams(methods)) == []
    assert reliability([]) == []


def test_only_answers_of_what_is_shown_are_read(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def note(path: Path, _: Any) -> None:
        asked.append(path)

    monkeypatch.setattr(module, "read_arrays", note)
    methods = read(*(make_run(recipe={"epochs": epochs}) for epochs in range(1, 21)))
    assert reliability(methods) == []
    assert len(asked) == 14
    asked.clear()
    assert list(roc_diagrams(methods)) == []
    assert len(asked) == 1


# --- ROC --------------------------------------------------------------------------------------------------------


def test_areas_are_those_of_scikit_learn(make_run: MakeRun) -> None:
    runs = [drawn() for _ in range(2)]
    folders = [answered(make_run(seed=seed, parts=THREE), *run) for seed, run in enumerate(runs)]
    (picture,) = roc_diagrams(read(*folders))
    per_run = [roc_auc_score(np.eye(3)[y], one_label.softmax(x), average=None) for x, y in runs]
    aucs = dict(zip(("cat", "dog", "emu"), np.mean(per_run, axis=0), strict=True))
    said = [text.get_text() for text in picture.figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert said[0] == f"{np.mean(list(aucs.values())):.3f}  macro: mean of 3 classes"
    for name, auc in aucs.items():
        assert any(line.startswith(f"{auc:.3f}  {name} (6") for line in said)
    assert "n = 200 images, means over 2 runs" in picture.figure.get_suptitle()


def test_the_best_is_chosen_by_validation(make_run: MakeRun) -> None:
    folders = [
        answered(make_run(recipe={"epochs": epochs}, accuracy=1 - val, parts={"val": {"accuracy": val}}), *drawn())
        for epochs, val in ((2, 0.6), (4, 0.7))
    ]
    (picture,) = roc_diagrams(read(*folders))
    assert "recipe.epochs=4" in picture.figure.get_suptitle()


def test_runs_on_other_images_have_no_mean(make_run: MakeRun) -> None:
    logits, labels = drawn()
    others = np.where(labels == 2, 0, labels)
    folders = [answered(make_run(seed=seed), logits, each) for seed, each in enumerate((labels, others))]
    assert list(roc_diagrams(read(*folders))) == []
