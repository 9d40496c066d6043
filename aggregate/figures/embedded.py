"""These figures show where a network puts the test images, from what eval/explain.py has kept of a run."""

from collections.abc import Iterator, Sequence

import numpy as np

from aggregate.figures.answers import class_names
from aggregate.figures.style import Picture, leading
from aggregate.runs.collect import Run, read_arrays
from aggregate.runs.methods import Method, by_data, by_validation, trained
from common.figures.embedding import planes
from common.figures.predictions import literal, short_names
from common.run.run_dir import RunDir

PLANES = ("embeddings", "labels", "principal", "neighbours")


def embedding_planes(methods: Sequence[Method]) -> Iterator[Picture]:
    """Draw the embeddings of each data set's best method by validation, among those with an explained run."""
    for data, members in by_data(trained(methods)).items():
        for method in by_validation(leading(members)):
            pictures = (picture for run in method.runs if (picture := _picture(method, run, data)))
            if picture := next(pictures, None):
                yield picture
                break


def _picture(method: Method, run: Run, data: str) -> Picture | None:
    arrays = embeddings_of(run)
    if not arrays:
        return None

    # One run, not a mean: the directions of two networks have nothing to do with each other.
    points, labels, principal, neighbours = arrays
    names = class_names(method, _classes(method, labels))
    heading = f"{literal(method.label)} on {literal(data)}, seed {run.seed}\nn = {len(labels):,} test images"
    caption = (
        f"What the classifier reads of each test image, {points.shape[1]} numbers, in two planes: that of the greatest "
        "variance, and that of t-SNE, where near points were near, but distances between groups mean nothing."
    )

    shares = variance_shares(points, principal)
    figure = planes(principal, shares, neighbours, labels, short_names(names, len(names)), heading)
    return Picture(f"embeddings-{data}", f"Embeddings on {data}", caption, figure)


def embeddings_of(run: Run) -> list[np.ndarray] | None:
    """Read points, labels and both planes; None if they are not of the same images, or images have several labels."""
    arrays = read_arrays(RunDir(run.path).evaluation("explain") / "embeddings.npz", PLANES)
    if not arrays:
        return None
    points, labels, *both = arrays
    n = len(labels) if labels.ndim == 1 and labels.dtype.kind in "iu" else 0
    fit = points.ndim == 2 and len(points) == n and all(plane.shape == (n, 2) for plane in both)
    if n < 2 or not fit or labels.min() < 0 or not all(np.isfinite(array).all() for array in (points, *both)):
        return None
    return arrays


def _classes(method: Method, labels: np.ndarray) -> int:
    names = method.first.fact("data.classes")
    return max(len(names) if isinstance(names, list) else 0, int(labels.max()) + 1)


def variance_shares(points: np.ndarray, principal: np.ndarray) -> list[float]:
    """Return the shares of the two directions in the variance of all."""
    whole = float(np.var(points.astype(np.float64), axis=0).sum())
    return [float(np.var(column)) / whole if whole else 0.0 for column in principal.T.astype(np.float64)]
