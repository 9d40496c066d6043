"""These figures draw accuracy under shift against that on clean images: robustness is what lies beyond the usual drop.

If a line of published models is known (CIFAR-10.1), it is drawn, and how far each method is above it.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from aggregate.figures.style import Picture, Style, Styles, handle, legend_below, panels, runs_each
from aggregate.inference.estimates import t_interval
from aggregate.runs.collect import Run
from aggregate.runs.methods import Method, by_data
from common.figures.predictions import MOST_CURVES
from common.metrics.robustness_line import Line, published_line

CORRUPTION = "corruption"
FEWEST_METHODS = 3  # two points say nothing of how the drop goes with the accuracy
NORMAL_95 = NormalDist().inv_cdf(0.975)
TICKS = [1, 5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 97, 98, 99, 99.5]
INTERVAL = (
    "Bars: 95 % interval over runs by Student's t; none where n = 1. They do not include the choice of test images."
)


@dataclass(frozen=True)
class Pairs:
    """The accuracies of a method's runs: for each run that on the clean images and that on the shifted ones."""

    method: Method
    clean: Sequence[float]
    shifted: Sequence[float]

    @property
    def drops(self) -> list[float]:
        return [clean - shifted for clean, shifted in zip(self.clean, self.shifted, strict=True)]

    def above(self, line: Line) -> list[float]:
        return [shifted - line.expected(clean) for clean, shifted in zip(self.clean, self.shifted, strict=True)]


def shift_lines(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(method for method in methods if method.entry == "eval_shift").items():
        for images, known in by_images(members).items():
            shown = known[:MOST_CURVES]
            line = published_line(data, images)
            facts = runs_each(pairs.clean for pairs in shown)
            facts += f"; the first {len(shown)} of {len(known)} methods" if len(shown) < len(known) else ""
            name = f"shift-{data}-{re.sub(r'[^a-zA-Z0-9_.]', '_', images)}"
            if line:
                yield _beside_line(name, data, images, shown, line, facts, looks)
            elif len(shown) >= FEWEST_METHODS:
                yield _drops(name, data, images, shown, facts, looks)


# --- what was found ---------------------------------------------------------------------------------------------


def by_images(methods: Sequence[Method]) -> dict[str, list[Pairs]]:
    """Return for each set, and for the corruptions as one, the accuracies of the methods that were tested on it."""
    of_images: dict[str, list[Pairs]] = {}
    for method in methods:
        tested = [(run.fact("shift.clean.accuracy"), shifted_accuracies(run)) for run in method.runs]
        usable = [(clean, sets) for clean, sets in tested if isinstance(clean, int | float) and 0 < clean < 1]

        # A run may lack a set that others of its method have: it is left out of that set's points alone.
        for images in dict.fromkeys(name for _, sets in usable for name in sets):
            clean = [share for share, sets in usable if images in sets]
            shifted = [sets[images] for _, sets in usable if images in sets]
            of_images.setdefault(images, []).append(Pairs(method, clean, shifted))
    return of_images


def shifted_accuracies(run: Run) -> dict[str, float]:
    """Return the accuracy on each set, and on the corruptions as one.

    A set that was corrupted itself is left out: it would have to be compared with that set as it is.
    """
    shares = {CORRUPTION: run.fact("shift.corrupted.accuracy")}
    sets = run.fact("shift.sets")
    for row in sets if isinstance(sets, list) else ():
        if isinstance(row, Mapping) and not row.get("severity"):
            shares[str(row.get("images"))] = row.get("accuracy")
    return {name: float(share) for name, share in shares.items() if isinstance(share, int | float) and 0 <= share <= 1}


# --- beside the line --------------------------------------------------------------------------------------------


def _beside_line(
    name: str, data: str, images: str, shown: Sequence[Pairs], line: Line, facts: str, looks: Styles
) -> Picture:
    """Draw the whole line on the left, and on the right the distance from it, where methods can be told apart."""
    title = f"From {data} to {images}"
    line_legend = _line_legend(line)
    labels = [*line_legend.values(), *(pairs.method.label for pairs in shown)]
    figure, (left, right) = panels(4.4, title, facts, labels, 2)

    # The axis must hold all methods and the whole range of the published models.
    clean = [share for pairs in shown for share in pairs.clean]
    for pairs in shown:
        look = looks[pairs.method.label]
        _draw_cross(left, pairs.clean, pairs.shifted, look)
        _draw_cross(right, pairs.clean, pairs.above(line), look)
    _draw_line(left, line, min(line.lowest, *clean) - 0.02, max(line.highest, *clean))
    _finish_left(left, data, images)
    _finish_right(right, data, line)

    handles = [*line_legend, *(handle(looks[pairs.method.label], with_line=False) for pairs in shown)]
    legend_below(figure, handles, labels)

    caption = (
        f"Accuracy on {images} against that on {data}, on probit scales, beside the line that was fitted to published "
        "models; on the right, points of accuracy above that line (effective robustness). Outside the range of the "
        f"published models the line is an extrapolation. {INTERVAL}"
    )
    return Picture(name, title, caption, figure)


def _line_legend(line: Line) -> dict[Any, str]:
    solid, dotted = Line2D([], [], color="black"), Line2D([], [], color="0.5", linestyle=":")
    parts: dict[Any, str] = {solid: "Line of published models (dashed: extrapolated)"}
    if line.residual_sd is not None:
        wide = f"± {100 * NORMAL_95 * line.residual_sd:.1f} points"
        parts[Patch(color="0.85")] = f"95 % of published models: {wide}"
    within = f"{100 * line.lowest:.0f} to {100 * line.highest:.0f} %"
    outside = Patch(facecolor="none", edgecolor="0.8", hatch="////")
    return {**parts, outside: f"Outside their range, {within}", dotted: "No drop"}


def _draw_line(axes: Axes, line: Line, lowest: float, highest: float) -> None:
    grid = np.linspace(max(lowest, 0.005), min(highest + 0.01, 0.995), 400)
    expected = np.array([line.expected(clean) for clean in grid])
    inside = (grid >= line.lowest) & (grid <= line.highest)

    # Beyond the published models nobody has seen that the line holds, hence the dashes.
    for part, dash in ((grid <= line.lowest, "--"), (inside, "-"), (grid >= line.highest, "--")):
        axes.plot(100 * grid[part], 100 * expected[part], dash, color="black", linewidth=1.2, zorder=2)
    if line.residual_sd is not None:
        half = NORMAL_95 * line.residual_sd
        low, high = (np.clip(100 * (expected + sign * half), 0.1, 99.9) for sign in (-1, 1))
        axes.fill_between(100 * grid, low, high, color="0.85", linewidth=0, zorder=1)
    axes.plot(100 * grid, 100 * grid, ":", color="0.5", linewidth=1, zorder=1)

    axes.set_xscale("function", functions=(_probit, _from_probit))
    axes.set_yscale("function", functions=(_probit, _from_probit))
    axes.set_xlim(100 * grid[0], 100 * grid[-1])
    _hatch_outside(axes, line)


def _probit(percent: Any) -> Any:
    return _INV_CDF(np.clip(np.asarray(percent, dtype=float) / 100, 1e-4, 1 - 1e-4))


def _from_probit(z: Any) -> Any:
    return 100 * _CDF(np.asarray(z, dtype=float))


_INV_CDF = np.vectorize(NormalDist().inv_cdf, otypes=[float])
_CDF = np.vectorize(NormalDist().cdf, otypes=[float])


def _hatch_outside(axes: Axes, line: Line) -> None:
    low, high = axes.get_xlim()
    for start, end in ((low, 100 * line.lowest), (100 * line.highest, high)):
        if start < end:
            axes.axvspan(start, end, facecolor="none", edgecolor="0.85", hatch="////", linewidth=0, zorder=1.5)
    axes.set_xlim(low, high)


def _finish_left(axes: Axes, data: str, images: str) -> None:
    for limits, set_ticks in ((axes.get_xlim(), axes.set_xticks), (axes.get_ylim(), axes.set_yticks)):
        set_ticks([tick for tick in TICKS if limits[0] <= tick <= limits[1]])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set(xlabel=f"Accuracy on {data} (%)", ylabel=f"Accuracy on {images} (%)")


def _finish_right(axes: Axes, data: str, line: Line) -> None:
    axes.axhline(0, color="black", linewidth=1.2, zorder=2)
    if line.residual_sd is not None:
        half = 100 * NORMAL_95 * line.residual_sd
        axes.axhspan(-half, half, color="0.85", linewidth=0, zorder=1)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 1, min(high + 1, 100))
    _hatch_outside(axes, line)
    axes.set(xlabel=f"Accuracy on {data} (%)", ylabel="Above the line (points)")


# --- without a line ---------------------------------------------------------------------------------------------


def _drops(name: str, data: str, images: str, shown: Sequence[Pairs], facts: str, looks: Styles) -> Picture:
    under = f"under {CORRUPTION}" if images == CORRUPTION else f"on {images}"
    title = f"Drop {under} against accuracy on {data}"
    labels = [pairs.method.label for pairs in shown]

    figure, (axes,) = panels(4.2, title, facts, labels)
    for pairs in shown:
        _draw_cross(axes, pairs.clean, pairs.drops, looks[pairs.method.label])
    axes.set(xlabel=f"Accuracy on the clean test images of {data} (%)", ylabel="Drop (points)")
    legend_below(figure, [handle(looks[label], with_line=False) for label in labels], labels)

    which = ", mean over corruptions and severities" if images == CORRUPTION else ""
    caption = f"Accuracy on clean test images, and how much lower it is {under}{which}: low is robust. {INTERVAL}"
    return Picture(name, title, caption, figure)


def _draw_cross(axes: Axes, across: Sequence[float], up: Sequence[float], style: Style) -> None:
    """Draw the means, and the interval of each; those across are shares, from 0 to 1."""
    look = {**style.point(), "capsize": 2, "elinewidth": 1.2, "zorder": 3}
    x, y = (100 * fmean(values) for values in (across, up))
    axes.errorbar([x], [y], xerr=_arms(across, 0, 1), yerr=_arms(up, -math.inf, math.inf), **look)


def _arms(values: Sequence[float], lowest: float, highest: float) -> list[list[float]] | None:
    """Return an interval as errorbar takes it: the lengths of its two arms, in points."""
    ends, centre = t_interval(values), fmean(values)
    if ends is None:
        return None
    return [[100 * (centre - max(ends[0], lowest))], [100 * (min(ends[1], highest) - centre)]]
