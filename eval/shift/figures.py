"""The figures of a test under shift are drawn here, in the style and colours of common/figures/predictions.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.figures.predictions import COLOURS, DASHES, legend_above, new_figure, save
from common.metrics.robustness_line import CIFAR10_1_LINES
from common.settings.shift import AVERAGED_FAMILIES, COMMON_CORRUPTIONS
from eval.shift.reliability import reliability_curves
from eval.shift.table import CLEAN, Measurement


def draw(
    folder: Path,
    measurements: Sequence[Measurement],
    bins: Sequence[dict[str, Any]],
    summary: Mapping[str, Any],
    title: str,
) -> list[str]:
    """Save the figures for which there are measurements, and return their names."""
    drawn: dict[str, Figure] = {}
    if bins:
        drawn["reliability.png"] = reliability_curves(bins, title)
    if summary["corrupted"]:
        drawn["severity.png"] = severity_curves(measurements, title)
        drawn["calibration.png"] = calibration_curves(measurements, title)
    if any(row["adaptation"] != "source" for row in summary["adaptations"]):
        drawn["adaptation.png"] = adaptation_bars(summary["adaptations"], title)
    if any("effective_robustness" in row for row in summary["sets"]):
        drawn["effective_robustness.png"] = robustness_line(summary, title)

    # All are saved after all are drawn: a figure that cannot be drawn leaves no half of a set.
    for name, figure in drawn.items():
        save(figure, folder / name)
    return list(drawn)


def severity_curves(measurements: Sequence[Measurement], title: str) -> Figure:
    """Draw accuracy against severity: a line for each family of corruptions, and their mean."""
    curves: dict[str, dict[int, float]] = {}  # corruption -> severity -> accuracy in %
    for measurement in _alone(measurements):
        curves.setdefault(measurement.corruption, {})[measurement.severity] = 100 * (measurement.accuracy or 0.0)
    clean = curves.pop(CLEAN, {}).get(0)

    # As in the averages of the result, a corruption counts if it was measured at every severity.
    severities = sorted({severity for curve in curves.values() for severity in curve})
    whole = {name: curve for name, curve in curves.items() if len(curve) == len(severities)}
    n = next(iter(measurements)).n
    figure = new_figure(6.4, 4.8, title, f"n = {n:,} test images, {len(whole)} corruptions; severity 0: none")
    axes = figure.subplots()

    # The mean is over corruptions, not over families, which differ in size.
    families = {family: [whole[name] for name in names if name in whole] for family, names in AVERAGED_FAMILIES.items()}
    lines = {f"{name} ({len(members)})": members for name, members in families.items() if members}
    lines["mean"] = [curve for members in families.values() for curve in members]
    for number, (name, members) in enumerate(lines.items()):
        heights = [mean(curve[severity] for curve in members) for severity in severities]
        style = {"color": "black", "linewidth": 2.2} if name == "mean" else {"color": COLOURS[number]}
        dash = "-" if name == "mean" else DASHES[number % len(DASHES)]
        places = severities if clean is None else [0, *severities]
        axes.plot(places, heights if clean is None else [clean, *heights], dash, marker="o", label=name, **style)

    axes.set(xlabel="Severity", ylabel="Accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.4)
    legend_above(axes)
    return figure


def calibration_curves(measurements: Sequence[Measurement], title: str) -> Figure:
    """Draw ECE against severity, as the model is and with the temperature that validation asks for."""
    before: dict[int, list[float]] = {}
    after: dict[int, list[float]] = {}
    for measurement in _alone(measurements):
        if measurement.ece is not None:
            before.setdefault(measurement.severity, []).append(100 * measurement.ece)
        if measurement.ece_cooled is not None:
            after.setdefault(measurement.severity, []).append(100 * measurement.ece_cooled)

    figure = new_figure(6.4, 4.2, title, "Calibration error (ECE, 15 bins), mean over corruptions")
    axes = figure.subplots()
    for name, values, colour, dash in (
        ("as it is", before, COLOURS[5], "-"),
        ("temperature from validation", after, COLOURS[0], "--"),
    ):
        # Without a temperature from validation there is no second curve.
        if not values:
            continue
        severities = sorted(values)
        axes.plot(severities, [mean(values[s]) for s in severities], dash, marker="o", color=colour, label=name)

    axes.set(xlabel="Severity", ylabel="ECE (%)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.4)
    legend_above(axes)
    return figure


def adaptation_bars(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw what each adaptation gains over the model as it is, clean and corrupted."""
    adapted = [row for row in rows if row["adaptation"] != "source"]
    names = list(dict.fromkeys((row["adaptation"], row["batch_size"]) for row in adapted))
    severities = sorted({row["severity"] for row in adapted})
    figure = new_figure(6.4, 4.6, title, "Gain of adaptation in accuracy, mean over corruptions")
    axes = figure.subplots()

    # The bars of an adaptation stand side by side around its tick, one for each severity.
    width = 0.8 / len(severities)
    for number, severity in enumerate(severities):
        gains = {(row["adaptation"], row["batch_size"]): row["gain"] for row in adapted if row["severity"] == severity}
        heights = [100 * gains.get(name, np.nan) for name in names]
        places = np.arange(len(names)) + (number - (len(severities) - 1) / 2) * width
        label = "clean" if severity == 0 else f"severity {severity}"
        axes.bar(places, heights, width, color=COLOURS[number], edgecolor="black", linewidth=0.6, label=label)
    axes.axhline(0, color="black", linewidth=0.8)

    # One size of batches for all is named once; several are named under each bar.
    sizes = {size for _, size in names}
    axes.set_xticks(range(len(names)), [name if len(sizes) == 1 else f"{name}\n{size}" for name, size in names])
    axes.set(
        ylabel="Points of accuracy", xlabel=f"Batches of {max(sizes)}" if len(sizes) == 1 else "Size of a batch below"
    )
    axes.grid(axis="y", alpha=0.4)
    legend_above(axes)
    return figure


def robustness_line(summary: Mapping[str, Any], title: str) -> Figure:
    """Draw accuracy on CIFAR-10.1 against that on CIFAR-10, over the line of published models."""
    rows = [row for row in summary["sets"] if "effective_robustness" in row]
    clean = summary["clean"]["accuracy"]
    figure = new_figure(6.4, 4.8, title, "Effective robustness: height above the line")
    axes = figure.subplots()
    grid = np.linspace(min(0.75, clean) - 0.02, 0.99, 100)
    for number, row in enumerate(rows):
        colour = COLOURS[number]

        # The line is solid where there are published models, and dotted where it is extrapolated.
        line = CIFAR10_1_LINES[row["images"].removeprefix("cifar10_1_")]
        expected = np.array([100 * line.expected(x) for x in grid])
        inside = (grid >= line.lowest) & (grid <= line.highest)
        axes.plot(100 * grid, expected, ":", color=colour, linewidth=1)
        label = f"{row['images']}: published models"
        axes.plot(100 * grid[inside], expected[inside], "-", color=colour, label=label)

        error = [196 * row["standard_error"]]  # in %
        label = "this run, ± 1.96 SE"
        axes.errorbar([100 * clean], [100 * row["accuracy"]], error, fmt="o", color=colour, capsize=3, label=label)

    axes.set(xlabel="Accuracy on CIFAR-10 (%)", ylabel="Accuracy on CIFAR-10.1 (%)")
    axes.grid(alpha=0.4)
    legend_above(axes)
    return figure


def _alone(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Select the model as it is, on its own test images: clean, and under the corruptions that count."""
    return [
        measurement
        for measurement in measurements
        if measurement.images == "test"
        and measurement.adaptation == "source"
        and measurement.view == "none"
        and measurement.corruption in (CLEAN, *COMMON_CORRUPTIONS)
        and not measurement.problem
    ]
