from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from aggregate.runs.collect import collect
from aggregate.runs.methods import group
from aggregate.tables.embeddings import (
    MOST_IMAGES,
    between_share,
    cosine_distances,
    effective_rank,
    embeddings,
    neighbours_accuracy,
    silhouette,
)

MakeRun = Callable[..., Path]


def cloud(n: int = 60, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return 2 * np.eye(4)[labels] + generator.normal(0, spread, size=(n, 4)), labels


def keep(folder: Path, points: np.ndarray, labels: np.ndarray) -> Path:
    place = folder / "evaluation" / "explain"
    place.mkdir(parents=True)
    np.savez(place / "embeddings.npz", embeddings=points.astype(np.float32), labels=labels)
    return folder


# --- measures ---------------------------------------------------------------------------------------------------


def test_effective_rank_by_hand() -> None:
    assert effective_rank(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])) == pytest.approx(2.0)
    assert effective_rank(np.array([[1.0, 1], [2, 2], [3, 3]])) == pytest.approx(1.0)
    uneven = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])  # variances 9 to 1
    assert effective_rank(uneven) == pytest.approx(np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1))))
    assert effective_rank(np.ones((4, 2))) == 1.0


def test_effective_rank_of_no_preference_is_the_dimension() -> None:
    assert effective_rank(np.random.default_rng(1).normal(size=(20_000, 8))) == pytest.approx(8, abs=0.01)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_silhouette_and_neighbours_are_scikit_learns(spread: float) -> None:
    points, labels = cloud(spread=spread)
    distances = cosine_distances(points)
    assert distances == pytest.approx(pairwise_distances(points, metric="cosine"), abs=1e-12)
    assert silhouette(distances, labels) == pytest.approx(silhouette_score(points, labels, metric="cosine"))
    theirs = KNeighborsClassifier(5, metric="cosine", algorithm="brute")
    expected = cross_val_score(theirs, points, labels, cv=LeaveOneOut()).mean()
    assert neighbours_accuracy(distances, labels) == pytest.approx(expected)


def test_a_class_of_one_image_has_a_silhouette_of_0() -> None:
    points, labels = cloud(7)
    assert sum(labels == 2) == 2
    labels[labels == 2] = [2, 3]
    expected = silhouette_score(points, labels, metric="cosine")
    assert silhouette(cosine_distances(points), labels) == pytest.approx(expected)


def test_between_share_by_hand() -> None:
    """Means -2 and 2 around 0; each point 1 from its mean: 4 of 5 parts of the variance."""
    points, labels = np.array([[-3.0], [-1], [1], [3]]), np.array([0, 0, 1, 1])
    assert between_share(points, labels) == pytest.approx(0.8)
    assert between_share(points, np.array([0, 1, 1, 0])) == 0
    assert between_share(np.ones((4, 1)), labels) == 0


def test_points_that_do_not_differ_do_no_harm() -> None:
    points, labels = np.zeros((6, 2)), np.array([0, 0, 0, 1, 1, 1])
    assert silhouette(cosine_distances(points), labels) == 0


# --- the table --------------------------------------------------------------------------------------------------


def test_means_over_the_runs_that_have_them(make_run: MakeRun) -> None:
    points, labels = cloud()
    folders = [keep(make_run(seed=0), points, labels), keep(make_run(seed=1), 2 * points, labels), make_run(seed=2)]
    table = embeddings(group(collect(folders)[0]))
    assert table
    (row,) = table.rows
    assert (row["n"], row["images"], row["dimension"]) == (2, 60, 4)
    assert row["effective_rank_mean"] == pytest.approx(effective_rank(points), rel=1e-5)
    assert row["silhouette_std"] == pytest.approx(0, abs=1e-6)
    assert row["runs"] == " ".join(folder.name for folder in folders[:2])
    assert table.cells()


def test_of_very_many_images_a_part_is_drawn(make_run: MakeRun) -> None:
    points, labels = cloud(3 * MOST_IMAGES)
    table = embeddings(group(collect([keep(make_run(), points, labels)])[0]))
    assert table
    assert table.rows[0]["images"] == MOST_IMAGES
    whole = between_share(points, labels)
    assert table.rows[0]["between_share_mean"] == pytest.approx(whole, abs=0.02), "classes in turn do no harm"


POINTS, LABELS = cloud()
DAMAGED = {
    "several labels": (POINTS, np.eye(3)[LABELS]),
    "one class": (POINTS, np.zeros(60)),
    "other images": (POINTS, LABELS[:-1]),
    "not finite": (np.where(POINTS > 2, np.nan, POINTS), LABELS),
    "too few": (POINTS[:5], LABELS[:5]),
    "no dimension": (POINTS[:, :0], LABELS),
    "maps": (POINTS[:, :, None], LABELS),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_measured_has_no_row(name: str, make_run: MakeRun) -> None:
    assert embeddings(group(collect([keep(make_run(), *DAMAGED[name])])[0])) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"none"])
def test_a_damaged_file_has_no_row(content: bytes, make_run: MakeRun) -> None:
    folder = keep(make_run(), POINTS, LABELS)
    (folder / "evaluation" / "explain" / "embeddings.npz").write_bytes(content)
    assert embeddings(group(collect([folder])[0])) is None
