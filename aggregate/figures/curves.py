"""Lines over epochs and over severities: means of several runs, with a band for their scatter."""

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aggregate.collect import Run
from aggregate.estimates import deviation
from aggregate.figures.style import (
    Picture,
    Style,
    Styles,
    by_data,
    handle,
    leading,
    legend_below,
    of_how_many,
    panels,
    runs_each,
)
from aggregate.methods import Method
from aggregate.summarise import trained
from common.figures import MOST_CURVES
from common.run_dir import RunDir

MARKS = 12  # along a line
FEWEST_FOR_HALF = 6  # epochs
Curve = Mapping[int, float]  # epoch or severity -> share
BAND = "Lines: means over runs; bands: ± one standard deviation, where there is more than one run."


# --- over epochs ------------------------------------------------------------------------------------------------


def learning_curves(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(trained(methods)).items():
        leaders = leading(members)
        found = {method.label: [curve for run in method.runs if (curve := history(run))] for method in leaders}
        shown = [method for method in leaders if found[method.label]]
        if shown:
            title = f"Learning curves on {data}"
            caption = f"Validation accuracy after each epoch that all runs of a method reached. {BAND}"
            facts = f"{runs_each(shown)}{of_how_many(shown, members)}"
            curves = {method.label: found[method.label] for method in shown}
            yield Picture(f"learning-{data}", title, caption, _learning(curves, title, facts, looks))


def _learning(curves: Mapping[str, Sequence[Curve]], title: str, facts: str, looks: Styles) -> Figure:
    """All epochs, and beside them the second half, where the lines are close."""
    last = max(epoch for each in curves.values() for curve in each for epoch in curve)
    starts = [0, last // 2] if last >= FEWEST_FOR_HALF else [0]
    figure, fields = panels(4.2, title, facts, list(curves), len(starts))
    for axes, start in zip(fields, starts, strict=True):
        for label, each in curves.items():
            draw_curves(axes, each, looks[label], start)
        axes.set_xlabel("Epoch" if start == 0 else "Epoch, second half on a scale of its own")
    fields[0].set_ylabel("Validation accuracy (%)")
    legend_below(figure, [handle(looks[label]) for label in curves], list(curves))
    return figure


def history(run: Run) -> dict[int, float]:
    """Validation accuracy by epoch; empty where history.csv does not tell."""
    found = {}
    try:
        with RunDir(run.path).history.open(newline="") as file:
            for row in csv.DictReader(file):
                share = float(row["val_accuracy"])
                if math.isfinite(share):
                    found[int(row["epoch"])] = share
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return found


# --- over severities --------------------------------------------------------------------------------------------


def severity_curves(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(each for each in methods if each.entry == "eval_shift").items():
        found = {each.label: [curve for run in each.runs if (curve := under_corruption(run))] for each in members}
        drawn = [method for method in members if found[method.label]]
        shown = drawn[:MOST_CURVES]
        if not shown:
            continue
        labels = [method.label for method in shown]
        title = f"Under corruption: {data}"
        more = f"; the first {len(shown)} of {len(drawn)} methods" if len(shown) < len(drawn) else ""
        figure, (axes,) = panels(4.2, title, f"{runs_each(shown)}{more}; severity 0: clean", labels)
        for label in labels:
            draw_curves(axes, found[label], looks[label])
        axes.set(xlabel="Severity", ylabel="Accuracy (%), mean over corruptions")
        legend_below(figure, [handle(looks[label]) for label in labels], labels)
        yield Picture(f"severity-{data}", title, f"Test accuracy at each severity of corruption. {BAND}", figure)


def under_corruption(run: Run) -> dict[int, float]:
    """Severity -> accuracy, with the clean images at 0; empty where it was tested at no severity."""
    told = run.fact("shift.corrupted.accuracy_by_severity")
    if not isinstance(told, Mapping):
        return {}
    curve = {int(severity): float(share) for severity, share in told.items() if isinstance(share, int | float)}
    clean = run.fact("shift.clean.accuracy")
    return {**({0: float(clean)} if curve and isinstance(clean, int | float) else {}), **curve}


# --- drawing ----------------------------------------------------------------------------------------------------


def draw_curves(axes: Axes, curves: Sequence[Curve], style: Style, start: int = 0) -> None:
    """Where runs ended at different places, as far as all of them went: a mean of the rest would be of other runs."""
    places = [place for place in sorted(set.intersection(*(set(curve) for curve in curves))) if place >= start]
    if not places:
        return
    columns = [[100 * curve[place] for curve in curves] for place in places]
    means = [statistics.fmean(column) for column in columns]
    axes.plot(places, means, **style.line(), linewidth=1.6, markevery=max(1, len(places) // MARKS))
    spreads = [deviation(column) for column in columns]
    known = [spread for spread in spreads if spread is not None]
    if known:
        low = [max(0.0, mean - spread) for mean, spread in zip(means, known, strict=True)]
        high = [min(100.0, mean + spread) for mean, spread in zip(means, known, strict=True)]
        axes.fill_between(places, low, high, color=style.colour, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
