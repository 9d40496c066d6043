"""This module draws ROC curves, each of one class against the rest, for one set of predictions or several runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from common.figures.predictions import COLOURS, DASHES, MOST_CURVES, new_figure, short_names
from common.metrics import one_label, ranking, several_labels
from common.metrics.ranking import Floats

WORST_CURVES = 6  # that are drawn where there are more classes than MOST_CURVES
GRID = np.linspace(0, 1, 501)  # false positive rates at which curves are averaged
CORNER = 10  # percent of each axis
IN_THE_CORNER = 0.95  # with no lower AUC, all there is to see is in the upper left corner
Curve = tuple[Floats, Floats]  # false and true positive rates


@dataclass(frozen=True)
class OneAgainstTheRest:
    """The ROC curves and AUCs of the classes that have one, by the number of the class."""

    curves: Mapping[int, Curve]
    aucs: Mapping[int, float]
    positives: Mapping[int, int]
    asked: int  # classes that could have one
    images: int


def roc_curves(logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], title: str, task: str) -> Figure:
    """Draw the curve of each of a few classes, or the mean, the spread and the worst of many."""
    curves = one_against_the_rest(logits, labels, task)
    return draw_roc(curves, class_names, title, f"n = {curves.images:,} images")


def mean_roc_curves(runs: Sequence[OneAgainstTheRest], class_names: Sequence[str], title: str) -> Figure:
    """Draw the same for several runs on the same images, as means over the runs at each false positive rate."""
    first = runs[0]
    counted = f"n = {first.images:,} images" + (f", means over {len(runs)} runs" if len(runs) > 1 else "")
    return draw_roc(mean_of_runs(runs), class_names, title, counted)


# --- what is drawn ----------------------------------------------------------------------------------------------


def one_against_the_rest(logits: ArrayLike, labels: ArrayLike, task: str) -> OneAgainstTheRest:
    """Return the curves of all classes, or of the second of two: the first would have its mirror image."""
    scores, truth = _yes_or_no(logits, labels, task)
    classes = scores.shape[1]
    asked = [1] if classes == 2 and task != "multi-label" else list(range(classes))
    known = [c for c in asked if 0 < truth[:, c].sum() < len(truth)]
    return OneAgainstTheRest(
        {c: ranking.roc_curve(scores[:, c], truth[:, c]) for c in known},
        {c: ranking.auc(scores[:, c], truth[:, c]) for c in known},
        {c: int(truth[:, c].sum()) for c in range(classes)},
        len(asked),
        len(truth),
    )


def _yes_or_no(logits: ArrayLike, labels: ArrayLike, task: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Return scores and truth (n, classes), which make each class a yes/no question."""
    if task == "multi-label":
        scores, has = several_labels.checked(logits, labels)
        return scores, has == 1
    scores, truth = one_label.checked(logits, labels)
    return one_label.softmax(scores), truth[:, None] == np.arange(scores.shape[1])


def mean_of_runs(runs: Sequence[OneAgainstTheRest]) -> OneAgainstTheRest:
    if len(runs) == 1:
        return runs[0]
    first = runs[0]
    return OneAgainstTheRest(
        {c: mean_curve([run.curves[c] for run in runs]) for c in first.curves},
        {c: fmean(run.aucs[c] for run in runs) for c in first.curves},
        first.positives,
        first.asked,
        first.images,
    )


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """Return the mean of the true positive rates at each false one, whose area is the mean of the areas."""
    rates = np.mean([np.interp(GRID, false, true) for false, true in curves], axis=0)
    return np.append(0, GRID), np.append(0, rates)


# --- drawing ----------------------------------------------------------------------------------------------------


def draw_roc(classes: OneAgainstTheRest, class_names: Sequence[str], title: str, counted: str) -> Figure:
    names = short_names(class_names, len(classes.positives))
    curves, aucs = classes.curves, classes.aucs

    # Of many classes only the worst are drawn one by one. The title says so, and how many have no curve.
    worst_first = sorted(aucs, key=lambda c: aucs[c])
    shown = worst_first[::-1] if len(curves) <= MOST_CURVES else worst_first[:WORST_CURVES]
    selection = f"; the {len(shown)} classes of lowest AUC, of {len(curves)}" if len(shown) < len(curves) else ""
    undefined = classes.asked - len(curves)
    without = f"; classes without curve (no image has them, or all): {undefined}" if undefined else ""
    figure = new_figure(8.6, 5.8, title, f"{counted}{selection}{without}")

    axes = figure.subplots()
    if len(curves) > 1:
        _draw_mean(axes, list(curves.values()), fmean(aucs.values()), len(shown) < len(curves))
    for place, c in enumerate(shown):
        colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        label = f"{aucs[c]:.3f}  {names[c]} ({classes.positives[c]:,})"
        axes.plot(*(100 * rates for rates in curves[c]), dashes, color=colour, linewidth=1.4, label=label)
    axes.plot([0, 100], [0, 100], ":", color="0.4", linewidth=1, label="0.500  chance")
    _finish(axes, aucs)
    return figure


def _draw_mean(axes: Axes, curves: Sequence[Curve], macro_auc: float, with_spread: bool) -> None:
    if with_spread:
        x = np.append(0, 100 * GRID)
        rates = [np.interp(GRID, false, true) for false, true in curves]
        low, high = (np.append(0, 100 * ends) for ends in np.percentile(rates, [10, 90], axis=0))
        axes.fill_between(x, low, high, color="0.85", linewidth=0, label="middle 80 % of classes")
    label = f"{macro_auc:.3f}  macro: mean of {len(curves)} classes"
    axes.plot(*(100 * rates for rates in mean_curve(curves)), color="black", linewidth=2.4, label=label)


def _finish(axes: Axes, aucs: Mapping[int, float]) -> None:
    axes.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal")
    axes.set(xlabel="False positive rate (%)", ylabel="True positive rate (%)")
    axes.grid(alpha=0.3)
    legend = {"title": "AUC, class (n positive)", "alignment": "left", "fontsize": 8}
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), **legend)
    if not aucs:
        axes.text(50, 60, "No class has both images of its own and others", ha="center")
    elif min(aucs.values()) > IN_THE_CORNER:
        _magnify_corner(axes)


def _magnify_corner(axes: Axes) -> None:
    """Draw the corner again, larger, below the curves: with areas this large, none of them comes there."""
    corner = axes.inset_axes((0.42, 0.11, 0.55, 0.55))
    for line in axes.get_lines():
        colour, dashes, width = line.get_color(), line.get_linestyle(), line.get_linewidth()
        corner.plot(*line.get_data(), color=colour, linestyle=dashes, linewidth=width)
    corner.set(xlim=(-CORNER / 100, CORNER), ylim=(100 - CORNER, 100 + CORNER / 100))
    corner.set_title("upper left corner", fontsize=8, pad=3, backgroundcolor="white")
    corner.tick_params(labelsize=7)
    corner.grid(alpha=0.3)
