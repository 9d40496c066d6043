from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from aggregate.figures.embedded import embedding_planes, variance_shares
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group

MakeRun = Callable[..., Path]
POINTS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
LABELS = np.arange(12) % 2


def explained(folder: Path, **changed: Any) -> Path:
    place = folder / "evaluation" / "explain"
    place.mkdir(parents=True)
    plane = PCA(2).fit_transform(POINTS)
    arrays = {"embeddings": POINTS, "labels": LABELS, "principal": plane, "neighbours": plane[::-1], **changed}
    np.savez(place / "embeddings.npz", **arrays)
    return folder


def read(*folders: Path) -> list[Method]:
    return group(collect(folders)[0])


def test_shares_of_the_variance_are_those_of_scikit_learn() -> None:
    pca = PCA(2)
    plane = pca.fit_transform(POINTS.astype(np.float64))
    assert variance_shares(POINTS, plane) == pytest.approx(pca.explained_variance_ratio_, rel=1e-6)
    assert variance_shares(np.ones((3, 4)), np.zeros((3, 2))) == [0, 0]


def test_both_planes_are_drawn_with_named_classes(make_run: MakeRun) -> None:
    parts = {"data": {"digest": "d1", "task": "multi-class", "classes": ["c$t", "dog", "emu"]}}
    folder = explained(make_run(seed=3, parts=parts))
    (picture,) = embedding_planes(read(make_run(seed=1, parts=parts), folder))
    assert picture.name == "embeddings-digits"
    assert "train_cnn adaptive_cnn on digits, seed 3\nn = 12 test images" in picture.figure.get_suptitle()
    left, right = picture.figure.axes
    plane = PCA(2).fit_transform(POINTS)
    for axes, points in ((left, plane), (right, plane[::-1])):
        for label, drawn in enumerate(axes.collections):
            assert np.asarray(drawn.get_offsets()) == pytest.approx(points[label == LABELS])
    legend = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert legend == [r"c\$t (6)", "dog (6)"], "no image is of the third"
    picture.figure.draw_without_rendering()


def test_the_best_by_validation_of_those_explained(make_run: MakeRun) -> None:
    folders = [
        make_run(recipe={"epochs": epochs}, accuracy=1 - val, parts={"val": {"accuracy": val}})
        for epochs, val in ((2, 0.6), (4, 0.7), (6, 0.8))
    ]
    for folder in folders[:2]:
        explained(folder)
    (picture,) = embedding_planes(read(*folders))
    assert "recipe.epochs=4" in picture.figure.get_suptitle()


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": np.arange(11)},
        {"labels": np.eye(12)},
        {"labels": LABELS - 1},
        {"labels": LABELS + 0.5},
        {"principal": POINTS},
        {"neighbours": np.full((12, 2), np.nan)},
        {"embeddings": POINTS[0]},
        {"embeddings": POINTS[:1], "labels": LABELS[:1], "principal": np.eye(2)[:1], "neighbours": np.eye(2)[:1]},
    ],
)
def test_arrays_that_do_not_fit_are_not_drawn(changed: dict[str, Any], make_run: MakeRun) -> None:
    assert list(embedding_planes(read(explained(make_run(), **changed)))) == []


def test_runs_that_nobody_explained(make_run: MakeRun) -> None:
    assert list(embedding_planes(read(make_run()))) == []
    assert list(embedding_planes([])) == []
