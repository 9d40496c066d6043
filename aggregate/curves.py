"""Lines over epochs and over severities: means of several runs, with a band for their scatter."""

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from aggregate.collect import Run
from aggregate.estimates import deviation
from aggregate.methods import Method
from aggregate.style import (
    Picture,
    Style,
    Styles,
    by_data,
    handle,
    leading,
    legend_below,
    of_how_many,
    panel,
    runs_each,
)
from aggregate.summarise import trained
from common.run_dir import RunDir

MARKS = 12  # along a line
Curve = Mapping[int, float]  # epoch or severity -> share
BAND = "Lines: means over runs; bands: ± one standard deviation, where there is more than one run."


# --- over epochs ------------------------------------------------------------------------------------------------


def learning_curves(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(trained(methods)).items():
        shown = leading(members)
        curves = {method.label: [history(run) for run in method.runs] for method in shown}
        found = {label: [curve for curve in each if curve] for label, each in curves.items()}
        drawn = [method for method in shown if found[method.label]]
        if drawn:
            caption = f"Validation accuracy after each epoch that all runs of a method reached. {BAND}"
            title = f"Learning curves on {data}"
            facts = f"{runs_each(drawn)}{of_how_many(shown, members)}"
            labels = [method.label for method in drawn]
            figure, axes = panel(4.2, title, facts, labels)
            for label in labels:
                draw_curves(axes, found[label], looks[label])
            axes.set(xlabel="Epoch", ylabel="Validation accuracy (%)")
            legend_below(figure, [handle(looks[label]) for label in labels], labels)
            yield Picture(f"learning-{data}", title, caption, figure)


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
        found = {method.label: [curve for run in method.runs if (curve := under_corruption(run))] for method in members}
        drawn = [method for method in members if found[method.label]]
        shown = drawn[: len(leading(drawn))]
        if not shown:
            continue
        labels = [method.label for method in shown]
        title = f"Under corruption: {data}"
        more = f"; {len(shown)} of {len(drawn)} methods" if len(shown) < len(drawn) else ""
        figure, axes = panel(4.2, title, f"{runs_each(shown)}{more}; severity 0: clean", labels)
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


def draw_curves(axes: Axes, curves: Sequence[Curve], style: Style) -> None:
    """Where runs ended at different places, as far as all of them went: a mean of the rest would be of other runs."""
    places = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not places:
        return
    columns = [[100 * curve[place] for curve in curves] for place in places]
    means = [statistics.fmean(column) for column in columns]
    axes.plot(places, means, **style.line(), linewidth=1.6, markevery=max(1, len(places) // MARKS))
    spreads = [deviation(column) for column in columns]
    known = [spread for spread in spreads if spread is not None]
    if known:
        low, high = (
            [mean + sign * spread for mean, spread in zip(means, known, strict=True)] for sign in (-1, 1)
        )
        axes.fill_between(places, low, high, color=style.colour, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
