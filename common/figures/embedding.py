"""This figure shows embeddings of images in two planes, by class. It needs matplotlib only.

Classes are groups that differ by colour and by marker, and have their names where they lie.
"""

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

# Okabe and Ito's colours, which the colour-blind can tell apart (yellow darkened for white paper), then three of Tol's.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B58900", "#000000", "#882255", "#999999", "#332288",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")  # as many as share no divisor with the colours
MOST_IN_LEGEND = 20
SCALE = "viridis"  # of more groups than have colours of their own
NAME_ROOM = np.array([0.13, 0.035])  # that the name of a group takes, as shares of a plane


def planes(
    principal: np.ndarray,
    shares: Sequence[float],
    neighbours: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    heading: str,
) -> Figure:
    """Draw points by PCA and by t-SNE, side by side, in the colours and markers of their groups."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    figure.suptitle(heading, fontsize=10)
    left, right = figure.subplots(1, 2)

    without_names = _scatter(left, principal, groups, names)
    left.set_title("principal components" + without_names, fontsize=10)
    left.set_xlabel(f"component 1: {shares[0]:.1%} of the variance")
    left.set_ylabel(f"component 2: {shares[1]:.1%} of the variance")

    # Distances in a t-SNE have no unit, so its axes have no numbers.
    without_names = _scatter(right, neighbours, groups, names)
    right.set_title("t-SNE: only what is near means something" + without_names, fontsize=10)
    right.set_xlabel("no unit")
    right.set_yticks([])
    right.set_xticks([])

    if len(names) <= MOST_IN_LEGEND:
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=8, markerscale=1.6, frameon=False)
    return figure


def _scatter(axes: Axes, points: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> str:
    """Draw points and the names of their groups; return a line that says how many names had no room.

    The colours of many groups follow their numbers, so that only the names tell them apart.
    """
    few = len(names) <= MOST_IN_LEGEND
    scale = colormaps[SCALE](np.linspace(0, 0.95, len(names)))
    colours = list(islice(cycle(COLOURS), len(names))) if few else scale.tolist()
    for group, name in enumerate(names):
        mine = points[groups == group]
        if not len(mine):
            continue
        marker, label = MARKERS[group % len(MARKERS)], f"{name} ({len(mine)})"
        axes.scatter(
            mine[:, 0], mine[:, 1], s=12, c=[colours[group]], marker=marker, alpha=0.6, linewidths=0, label=label
        )

    # A name stands at the median of its group, which a few far points do not move.
    present = [group for group in range(len(names)) if (groups == group).any()]
    middles = np.array([np.median(points[groups == group], axis=0) for group in present])
    places = (_apart if few else _free)(middles, np.ptp(points, axis=0) * NAME_ROOM)
    for group, place in zip(present, places, strict=True):
        if place is not None:
            text = axes.annotate(names[group], (place[0], place[1]), ha="center", va="center", fontsize=8 if few else 6)
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])

    left_out = sum(place is None for place in places)
    return f"\nno room for the names of {left_out} of {len(present)} classes" if left_out else ""


def _apart(places: np.ndarray, room: np.ndarray) -> list[np.ndarray | None]:
    """Return places for names, each of which takes some room: their own, or above if another name is there."""
    moved: dict[int, np.ndarray] = {}
    for index in np.argsort(places[:, 1]).tolist():
        place = places[index].copy()
        for other in sorted(moved.values(), key=lambda name: name[1]):  # from the lowest up, so one pass is enough
            if (np.abs(place - other) < room).all():
                place[1] = other[1] + room[1]
        moved[index] = place
    return [moved[index] for index in range(len(places))]


def _free(places: np.ndarray, room: np.ndarray) -> list[np.ndarray | None]:
    """Return places for more names than can be moved apart; None for a name whose place is taken."""
    kept: list[np.ndarray | None] = []
    for place in places:
        taken = any(other is not None and (np.abs(place - other) < room).all() for other in kept)
        kept.append(None if taken else place)
    return kept
