"""This table measures how networks embed the test images: along how many directions, and how far apart classes lie.

It has only runs whose embeddings eval/explain.py has kept, and only leading methods: one run takes up to a second.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aggregate.runs.collect import Run, read_arrays
from aggregate.runs.methods import Method, estimate, run_names
from aggregate.runs.origins import selection_sentence
from aggregate.tables.classes import MOST_METHODS, leaders
from aggregate.tables.table import Column, Row, Table, number, percent_spread, shown, text
from common.run.run_dir import RunDir

MOST_IMAGES = 2000  # of each run; distances are between all pairs
NEIGHBOURS = 5
MEASURES = ("effective_rank", "silhouette", "neighbours_accuracy", "between_share")


def embeddings(methods: Sequence[Method]) -> Table | None:
    shown = [method for members in leaders(methods).values() for method in members]
    rows = [row for method in shown if (row := _row(method))]
    if not rows:
        return None

    # The caption defines each measure, since all of them have other definitions too.
    caption = (
        "Test images as the network embeds them before its classifier, mean ± standard deviation over the n runs whose "
        "embeddings were kept. Effective rank: exponential of the entropy of the covariance's eigenvalues: the "
        "directions that are used. Silhouette: by cosine distance, from -1 to 1. Neighbours: share of images in % "
        f"whose {NEIGHBOURS} nearest others by cosine distance vote for their class. Between: share of the variance "
        f"in % that lies between the classes' means. Of the {MOST_METHODS} methods of the highest validation accuracy "
        f"on each data set, and of at most {MOST_IMAGES:,} images. "
        f"{selection_sentence(run for method in shown for run in method.runs)}"
    )

    columns = [
        *(text("data", "data"), text("method", "method"), number("n", "n", "d"), number("images", "images", "d")),
        number("dimension", "dimension", "d"),
        Column("effective rank", lambda row: _spread(row, "effective_rank", ".1f"), key="effective_rank_mean"),
        Column("silhouette", lambda row: _spread(row, "silhouette", ".3f"), key="silhouette_mean"),
        percent_spread("neighbours", "neighbours_accuracy"),
        percent_spread("between", "between_share"),
    ]
    return Table("embeddings", "Embeddings", caption, columns, rows)


def _spread(row: Row, name: str, form: str) -> str:
    spread = row[f"{name}_std"]
    return shown(row[f"{name}_mean"], form) + ("" if spread is None else f" ± {shown(spread, form)}")


def _row(method: Method) -> dict[str, Any] | None:
    kept = [(run, *embedded) for run in method.runs if (embedded := read_embeddings(run))]
    if not kept:
        return None

    # A run is measured by itself: networks of different seeds use different directions.
    measured = [measures(points, labels) for _, points, labels in kept]
    row = {
        "data": method.data,
        "method": method.label,
        "n": len(kept),
        "images": max(len(points) for _, points, _ in kept),
        "dimension": kept[0][1].shape[1],
    }
    for name in MEASURES:
        row |= estimate(name, [values[name] for values in measured])
    return {**row, "runs": run_names(run for run, _, _ in kept)}


def read_embeddings(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Read embeddings (n, dim) and labels (n,); None if they are absent, damaged, or of images with several labels."""
    arrays = read_arrays(RunDir(run.path).evaluation("explain") / "embeddings.npz", ("embeddings", "labels"))
    if not arrays:
        return None

    points, labels = arrays[0].astype(np.float64), arrays[1]
    if points.ndim != 2 or labels.ndim != 1 or len(points) != len(labels) or len(points) <= NEIGHBOURS:
        return None

    # Images are drawn by lot: every third could be of one class.
    if len(points) > MOST_IMAGES:
        drawn = np.random.default_rng(0).choice(len(points), MOST_IMAGES, replace=False)
        points, labels = points[drawn], labels[drawn]
    usable = points.shape[1] > 0 and np.isfinite(points).all() and len(np.unique(labels)) > 1
    return (points, labels) if usable else None


# --- measures: pure functions of points (n, dim) and labels (n,) ------------------------------------------------


def measures(points: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    distances = cosine_distances(points)
    return {
        "effective_rank": effective_rank(points),
        "silhouette": silhouette(distances, labels),
        "neighbours_accuracy": neighbours_accuracy(distances, labels),
        "between_share": between_share(points, labels),
    }


def effective_rank(points: np.ndarray) -> float:
    """Return exp of the entropy of the covariance's eigenvalues as shares (Roy and Vetterli 2007).

    It is 1 if all points are equal.
    """
    variances = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) ** 2
    if not variances.sum():
        return 1.0
    shares = variances / variances.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def cosine_distances(points: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    directions = points / np.where(lengths > 0, lengths, 1.0)
    distances: np.ndarray = np.clip(1 - directions @ directions.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over points of (b - a) / max(a, b) (Rousseeuw 1987).

    a is a point's mean distance to the others of its class, b that to the nearest other class. A point that is alone
    in its class counts as 0.
    """
    classes, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sums = distances @ np.eye(len(classes))[own]  # (n, classes)
    rows = np.arange(len(labels))
    inside = sums[rows, own] / np.maximum(sizes[own] - 1, 1)

    # Infinity keeps a point's own class from being its nearest other one.
    means = sums / sizes
    means[rows, own] = np.inf
    outside = means.min(axis=1)

    widest = np.maximum(inside, outside)
    scores = np.divide(outside - inside, widest, out=np.zeros(len(labels)), where=(widest > 0) & (sizes[own] > 1))
    return float(scores.mean())


def neighbours_accuracy(distances: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of points whose neighbours vote for their class, each point being left out of its own vote.

    Of classes with equally many votes the first in order wins, as in scikit-learn.
    """
    _, own = np.unique(labels, return_inverse=True)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    nearest = np.argpartition(others, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    votes = np.eye(own.max() + 1)[own[nearest]].sum(axis=1)
    return float((votes.argmax(axis=1) == own).mean())


def between_share(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the variance of the classes' means, weighted by their sizes, over the whole variance; 0 if that is 0."""
    _, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), points.shape[1]))
    np.add.at(sums, own, points)
    centre = points.mean(axis=0)
    between = (sizes[:, None] * (sums / sizes[:, None] - centre) ** 2).sum()
    whole = ((points - centre) ** 2).sum()
    return float(between / whole) if whole else 0.0
