"""These figures draw lines over epochs and over severities: means of several runs, with a band for their scatter."""

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aggregate.figures.style import (
    Picture,
    Style,
    Styles,
    handle,
    leading,
    legend_below,
    of_how_many,
    panels,
    runs_each,
)
from aggregate.inference.estimates import deviation
from aggregate.runs.collect import Run
from aggregate.runs.methods import Method, by_data, trained
from common.figures.predictions import MOST_CURVES
from common.run.run_dir import RunDir
from common.settings.shift import ALL_CORRUPTIONS

MARKS = 12  # along a line
FEWEST_FOR_HALF = 6  # epochs
MULTIPLES_PER_ROW = 5
Curve = Mapping[int, float]  # epoch or severity -> share
BAND = "Lines: means over runs; bands: ± one standard deviation, where there is more than one run."


# --- over epochs ------------------------------------------------------------------------------------------------


def learning_curves(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(trained(methods)).items():
        leaders = leading(members)
        histories = {method.label: [curve for run in method.runs if (curve := history(run))] for method in leaders}
        shown = [method for method in leaders if histories[method.label]]
        if shown:
            title = f"Learning curves on {data}"
            caption = f"Validation accuracy after each epoch that all runs of a method reached. {BAND}"
            curves = {method.label: histories[method.label] for method in shown}
            facts = f"{runs_each(curves.values())}{of_how_many(shown, members)}"
            yield Picture(f"learning-{data}", title, caption, _learning(curves, title, facts, looks))


def _learning(curves: Mapping[str, Sequence[Curve]], title: str, facts: str, looks: Styles) -> Figure:
    """Draw all epochs, and beside them the second half, where the lines are close."""
    last = max(epoch for of_runs in curves.values() for curve in of_runs for epoch in curve)
    starts = [0, last // 2] if last >= FEWEST_FOR_HALF else [0]
    figure, fields = panels(4.2, title, facts, list(curves), len(starts))
    for axes, start in zip(fields, starts, strict=True):
        for label, of_runs in curves.items():
            draw_curves(axes, of_runs, looks[label], start)
        axes.set_xlabel("Epoch" if start == 0 else "Epoch, second half on a scale of its own")
    fields[0].set_ylabel("Validation accuracy (%)")
    legend_below(figure, [handle(looks[label]) for label in curves], list(curves))
    return figure


def history(run: Run) -> dict[int, float]:
    """Read validation accuracy by epoch; it is empty if history.csv does not tell."""
    shares = {}
    try:
        with RunDir(run.path).history.open(newline="") as file:
            for row in csv.DictReader(file):
                share = float(row["val_accuracy"])
                if math.isfinite(share):
                    shares[int(row["epoch"])] = share
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return shares


# --- over severities --------------------------------------------------------------------------------------------


def severity_curves(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(method for method in methods if method.entry == "eval_shift").items():
        # Tests under shift have no validation to choose by, so that of too many methods the first are shown.
        curves = {one.label: [curve for run in one.runs if (curve := under_corruption(run))] for one in members}
        drawn = [method for method in members if curves[method.label]]
        shown = drawn[:MOST_CURVES]
        if not shown:
            continue

        labels = [method.label for method in shown]
        title = f"Under corruption: {data}"
        facts = f"{runs_each(curves[label] for label in labels)}{_first_of(shown, drawn)}; severity 0: clean"
        figure, (axes,) = panels(4.2, title, facts, labels)
        for label in labels:
            draw_curves(axes, curves[label], looks[label])
        axes.set(xlabel="Severity", ylabel="Accuracy (%), mean over corruptions")
        legend_below(figure, [handle(looks[label]) for label in labels], labels)
        yield Picture(f"severity-{data}", title, f"Test accuracy at each severity of corruption. {BAND}", figure)


def under_corruption(run: Run) -> dict[int, float]:
    """Return severity -> accuracy, with the clean images at 0; it is empty if no severity was tested."""
    shares = run.fact("shift.corrupted.accuracy_by_severity")
    if not isinstance(shares, Mapping):
        return {}
    curve = {int(severity): float(share) for severity, share in shares.items() if isinstance(share, int | float)}
    clean = run.fact("shift.clean.accuracy")
    return {**({0: float(clean)} if curve and isinstance(clean, int | float) else {}), **curve}


# --- over severities, of each corruption ------------------------------------------------------------------------


def corruption_curves(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(method for method in methods if method.entry == "eval_shift").items():
        of_runs = {one.label: [curves for run in one.runs if (curves := by_corruption(run))] for one in members}
        drawn = [method for method in members if of_runs[method.label]]
        shown = drawn[:MOST_CURVES]
        by_label = {method.label: of_runs[method.label] for method in shown}

        # Of one corruption alone, the figure of means over corruptions shows all there is.
        tested = {name for runs in by_label.values() for corruptions in runs for name in corruptions}
        names = [name for name in ALL_CORRUPTIONS if name in tested]
        if len(names) < 2:
            continue

        title = f"Under each corruption: {data}"
        facts = f"{runs_each(by_label.values())}{_first_of(shown, drawn)}; severity 0: clean"
        caption = f"Test accuracy at each severity of each corruption. {BAND}"
        yield Picture(f"corruptions-{data}", title, caption, _multiples(by_label, names, title, facts, looks))


def _multiples(
    curves: Mapping[str, Sequence[Mapping[str, Curve]]], names: Sequence[str], title: str, facts: str, looks: Styles
) -> Figure:
    columns = min(MULTIPLES_PER_ROW, len(names))
    rows = -(-len(names) // columns)
    figure, fields = panels(1.8 * rows + 0.8, title, facts, list(curves), columns, rows)
    for axes, name in zip(fields, names, strict=False):
        for label, runs in curves.items():
            draw_curves(axes, [corruptions[name] for corruptions in runs if name in corruptions], looks[label])
        axes.set_title(name.replace("_", " "), fontsize=9, pad=3)

    # The last row may be short: then the lowest field of a column carries the axis, wherever it is.
    for axes in fields[len(names) :]:
        axes.remove()
    for place in range(len(names)):
        if place + columns >= len(names):
            fields[place].set_xlabel("Severity")
            fields[place].tick_params(labelbottom=True)
        if place % columns == 0:
            fields[place].set_ylabel("Accuracy (%)")

    legend_below(figure, [handle(looks[label]) for label in curves], list(curves))
    return figure


def by_corruption(run: Run) -> dict[str, dict[int, float]]:
    """Return corruption -> severity -> accuracy, with the clean images at 0."""
    errors, severities = (run.fact(f"shift.corrupted.{name}") for name in ("errors", "severities"))
    if not isinstance(errors, Mapping) or not isinstance(severities, list):
        return {}
    clean = run.fact("shift.clean.accuracy")
    start = {0: float(clean)} if isinstance(clean, int | float) else {}

    curves = {}
    for name, values in errors.items():
        if isinstance(values, list) and len(values) == len(severities) and _are_numbers([*values, *severities]):
            shares = {int(severity): 1 - error for severity, error in zip(severities, values, strict=True)}
            curves[name] = {**start, **shares}
    return curves


def _are_numbers(values: Sequence[object]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _first_of(shown: Sequence[Method], drawn: Sequence[Method]) -> str:
    return f"; the first {len(shown)} of {len(drawn)} methods" if len(shown) < len(drawn) else ""


# --- drawing ----------------------------------------------------------------------------------------------------


def draw_curves(axes: Axes, curves: Sequence[Curve], style: Style, start: int = 0) -> None:
    """Draw the mean and its band as far as all runs went: beyond that, the mean would be of other runs."""
    places = [place for place in sorted(set.intersection(*(set(curve) for curve in curves))) if place >= start]
    if not places:
        return

    columns = [[100 * curve[place] for curve in curves] for place in places]
    means = [statistics.fmean(column) for column in columns]
    axes.plot(places, means, **style.line(), linewidth=1.6, markevery=max(1, len(places) // MARKS))

    # A single run has no deviation, and so no band; shares do not leave 0 to 100 %.
    spreads = [deviation(column) for column in columns]
    known = [spread for spread in spreads if spread is not None]
    if known:
        low = [max(0.0, mean - spread) for mean, spread in zip(means, known, strict=True)]
        high = [min(100.0, mean + spread) for mean, spread in zip(means, known, strict=True)]
        axes.fill_between(places, low, high, color=style.colour, alpha=0.18, linewidth=0)

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
