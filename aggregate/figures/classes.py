"""These figures are about classes: the F1 of each, and which are taken for which."""

import statistics
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from aggregate.figures.style import Picture, leading, of_how_many, runs_each
from aggregate.runs.methods import Method, by_data, trained
from aggregate.tables.classes import class_scores as scores_by_class
from aggregate.tables.classes import confusion_counts
from common.figures.predictions import MOST_BARS, confusion_matrix, literal, new_figure, short_names

NAME_WIDTH = 40  # characters
SHORT_NAME = 5
CELL = 0.55  # inches
Rows = np.ndarray  # (methods, classes), NaN where a class has no images


# --- heat map ---------------------------------------------------------------------------------------------------


def heat_maps(methods: Sequence[Method]) -> Iterator[Picture]:
    for data, members in by_data(trained(methods)).items():
        leaders = leading(members)
        scores = {method.label: class_scores(method) for method in leaders}
        shown = [method for method in leaders if scores[method.label]]
        names = list(dict.fromkeys(name for method in shown for name in scores[method.label]))
        if not names:
            continue

        # Methods may have met different classes, since a class without images has no F1; its place stays empty.
        table = np.array([[scores[method.label].get(name, np.nan) for name in names] for method in shown])
        table, names, which = hardest(table, names)

        title = f"F1 of each class on {data}"
        facts = f"{runs_each(method.runs for method in shown)}{of_how_many(shown, members)}{which}"
        figure = new_figure(4.6 + CELL * len(names), 1.9 + CELL * len(shown), title, facts)
        axes = figure.subplots()
        _shade(axes, 100 * table)
        upright = 90 if max(map(len, names)) > SHORT_NAME else 0
        axes.set_xticks(range(len(names)), short_names(names, len(names)), rotation=upright, fontsize=8)
        axes.set_yticks(range(len(shown)), [_wrapped(method.label) for method in shown], fontsize=8)

        caption = "F1 on the test images in %, mean over runs; the darker, the better."
        yield Picture(f"classes-{data}", title, caption, figure)


def class_scores(method: Method) -> dict[str, float]:
    """Return the mean F1 of each class over runs; classes without images have none."""
    return {
        name: statistics.fmean(score["f1_score"] for _, score in scores)
        for name, scores in scores_by_class(method).items()
    }


def hardest(table: Rows, names: Sequence[str]) -> tuple[Rows, list[str], str]:
    """Keep at most MOST_BARS classes; of more, those of the lowest mean over methods, the lowest first."""
    if len(names) <= MOST_BARS:
        return table, list(names), ""
    places = np.argsort(np.nanmean(table, axis=0), kind="stable")[:MOST_BARS]
    return table[:, places], [names[place] for place in places], f"; the {MOST_BARS} hardest of {len(names)} classes"


def _shade(axes: Axes, table: Rows) -> None:
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    low = min(low, high - 1.0)  # or rounding would be drawn as contrast
    axes.imshow(table, cmap="Blues", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if (value - low) / (high - low) > 0.6 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(literal(label), NAME_WIDTH))


# --- confusion --------------------------------------------------------------------------------------------------


def confusions(methods: Sequence[Method]) -> Iterator[Picture]:
    """Draw the confusion of each data set's best method; by validation, or it would be chosen by what is drawn."""
    for data, members in by_data(trained(methods)).items():
        best = leading(members, 1)[0]
        counts, names = summed_confusion(best)
        if counts is None:
            continue

        # The sum over runs counts an image once a run: the figure must not call these counts images.
        unit = "images" if len(best.runs) == 1 else f"answers of {len(best.runs)} runs"
        figure = confusion_matrix(counts, names, f"Confusion on {data}: {best.label}", unit)
        caption = (
            "Confusion on the test images, of the method of the highest validation accuracy. All its runs together: "
            "each image counts once for each run, and shares are means over runs."
        )
        yield Picture(f"confusion-{data}", f"Confusion on {data}", caption, figure)


def summed_confusion(method: Method) -> tuple[np.ndarray | None, list[str]]:
    """Return counts (classes, classes) and names; None if a run has no counts, or those of other classes."""
    counts, names = confusion_counts(method)
    return (None if counts is None else counts.sum(axis=0)), names
