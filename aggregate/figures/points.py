"""These figures draw points with intervals: accuracy against cost, differences of pairs, gains of adaptation."""

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from aggregate.figures.style import (
    WIDTH,
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
from aggregate.runs.methods import Method, by_data, estimate, mean_of, same, trained
from aggregate.tables.costs import pareto_front
from aggregate.tables.table import Row, Table
from common.figures.predictions import MOST_CURVES, literal, new_figure

MOST_ROWS = 40  # of a forest
FAR_BELOW = 4  # times the median error
FAR = 10  # times the median: a linear scale would press the others together
ROW_HEIGHT = 0.42  # inches
NAME_WIDTH = 44  # characters
INTERVAL = "Bars: 95 % interval by Student's t; none where n = 1, or where all runs are equal."
SETTLED = {"better", "worse"}


# --- accuracy against cost --------------------------------------------------------------------------------------


def cost_plots(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(trained(methods)).items():
        shown = leading([method for method in members if method.values("cost.train_seconds")])
        points = [_cost_point(method) for method in shown]
        if len(points) < 2:  # nothing to weigh
            continue

        labels = [method.label for method in shown]
        title = f"Accuracy against cost on {data}"
        head = f"{runs_each(method.runs for method in shown)}{of_how_many(shown, members)}"
        figure = _cost(points, labels, title, head, looks)
        caption = (
            "Mean test accuracy against mean training time, without that of a teacher. Times of different devices, and "
            f"of runs that shared one, do not compare. {INTERVAL}"
        )
        yield Picture(f"cost-{data}", title, caption, figure)


def _cost(points: Sequence[Row], labels: Sequence[str], title: str, head: str, looks: Styles) -> Figure:
    entries = ["Pareto front: none is both faster and better", *labels]
    figure, (axes,) = panels(4.2, title, head, entries)
    front = pareto_front([(point["seconds"], point["accuracy_mean"]) for point in points])
    _draw_front(axes, [(points[place]["seconds"], 100 * points[place]["accuracy_mean"]) for place in front])
    for label, point in zip(labels, points, strict=True):
        _draw_point(axes, point["seconds"], point, "accuracy", looks[label], upright=True)

    # Times may span decades; ticks at 1, 2 and 5 keep numbers on the axis if they do not.
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    bent = _stretch_top(axes, [100 * (1 - point["accuracy_mean"]) for point in points])
    axes.set(xlabel="Training time of a run (s)", ylabel=f"Test accuracy (%){bent}")

    front_handle = Line2D([], [], color="0.55", linewidth=1, marker="o", markersize=12, markerfacecolor="none")
    legend_below(figure, [front_handle, *(handle(looks[label], with_line=False) for label in labels)], entries)
    return figure


def _stretch_top(axes: Axes, errors: Sequence[float]) -> str:
    """Scale by the square root of the error if one method is far below the others, to show what is between these."""
    if max(errors) <= FAR_BELOW * statistics.median(errors):
        return ""
    axes.set_yscale("function", functions=(_root_of_error, _from_root))
    limits = axes.get_ylim()
    axes.set_yticks([0, 20, 40, 60, 70, 80, 90, 95, 98, 99, 100])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(limits[0], min(limits[1], 100.1))
    return "\nsquare root scale of the error"


def _root_of_error(percent: Any) -> Any:
    error = 100 - np.asarray(percent, dtype=float)
    return -np.sign(error) * np.sqrt(np.abs(error))


def _from_root(root: Any) -> Any:
    root = np.asarray(root, dtype=float)
    return 100 + root * np.abs(root)


def _cost_point(method: Method) -> dict[str, Any]:
    return {
        "seconds": mean_of(method.values("cost.train_seconds")),
        **estimate("accuracy", method.values("test.accuracy"), bounded=True),
    }


def _draw_front(axes: Axes, corners: Sequence[tuple[float, float]]) -> None:
    seconds, shares = zip(*corners, strict=True)
    axes.plot(seconds, shares, color="0.55", linewidth=1, drawstyle="steps-post", zorder=1)
    axes.scatter(seconds, shares, s=190, facecolors="none", edgecolors="0.55", linewidths=1, zorder=1)


# --- differences of pairs ---------------------------------------------------------------------------------------


def forests(tables: Sequence[Table], methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    rows = {table.name: table.rows for table in tables}
    for data, members in by_data(trained(methods)).items():
        best = leading(members, 1)[0].label
        gains = _known(rows.get("distillation", ()), data)
        if gains:
            title = f"Gain of students over the same student alone, on {data}"
            yield Picture(f"gain-{data}", title, f"{DIFFERENCES} {INTERVAL}", forest(gains, title, looks))

        # All pairs would be too many: the differences from the best method are those that are asked for first.
        against = [turned(row, best) for row in _known(rows.get("comparisons", ()), data) if best in _names(row)]
        if against:
            title = f"Test accuracy on {data}, less that of {best}"
            caption = f"{best} has the highest validation accuracy on {data}. {DIFFERENCES} {INTERVAL}"
            yield Picture(f"differences-{data}", f"Differences on {data}", caption, forest(against, title, looks))


DIFFERENCES = (
    "Paired differences of test accuracy over n common seeds, in points. Filled: told apart from 0 by the corrected "
    "test of the table; hollow: not. The bars are not corrected, so that one may miss 0 and still be hollow."
)


def _known(rows: Sequence[Row], data: str) -> list[Row]:
    return [row for row in rows if row["data"] == data and row["difference"] is not None]


def _names(row: Row) -> tuple[str, str]:
    return row["first"], row["second"]


def turned(row: Row, second: str) -> Row:
    """Return the same pair with this method as the second, the one that is subtracted."""
    if row["second"] == second:
        return row
    ends = {"difference": "difference", "difference_low": "difference_high", "difference_high": "difference_low"}
    minus = {name: None if row[other] is None else -row[other] for name, other in ends.items()}
    return {**row, **minus, "first": row["second"], "second": second}


def forest(rows: Sequence[Row], title: str, looks: Styles) -> Figure:
    shown = rows[:MOST_ROWS]
    more = f"; the first {len(shown)} of {len(rows)}" if len(shown) < len(rows) else ""
    n = same(row["n"] for row in shown)
    facts = f"n: common seeds of both{more}" if n is None else f"n = {n} common {'seed' if n == 1 else 'seeds'}{more}"

    figure = new_figure(WIDTH, ROW_HEIGHT * len(shown) + 1.7, title, facts)
    axes = figure.subplots()
    for place, row in enumerate(shown):
        look = looks[row["first"]]
        _draw_point(axes, place, row, "difference", look, upright=False, filled=row["verdict"] in SETTLED)

    # The first row is at the top, as in the table.
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [_name(row, with_n=n is None) for row in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"Difference in test accuracy (points{_bend(axes, [100 * row['difference'] for row in shown])})")
    return figure


def _name(row: Row, *, with_n: bool) -> str:
    n = f" (n={row['n']})" if with_n else ""
    return "\n".join(textwrap.wrap(literal(f"{row['first']}{n}"), NAME_WIDTH))


def _bend(axes: Axes, centres: Sequence[float]) -> str:
    """Scale logarithmically beyond a middle that holds most differences, if one is far from the others."""
    sizes = [abs(centre) for centre in centres]
    middle = max(statistics.median(sizes), 0.1)
    if max(sizes) <= FAR * middle:
        return ""

    # Differences have both signs: around 0 the scale stays linear, up to a round number that can stand on the axis.
    middle = float(f"{2 * middle:.1g}")
    axes.set_xscale("symlog", linthresh=middle)
    limits = axes.get_xlim()
    ticks = [middle * factor for factor in (0.5, 1, 2, 5, 10, 20, 50, 100)]
    axes.set_xticks([*(-tick for tick in reversed(ticks)), 0, *ticks])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(*limits)
    axes.minorticks_off()
    return f"; logarithmic beyond ±{middle:g}"


# --- adaptation -------------------------------------------------------------------------------------------------


def adaptation_gains(tables: Sequence[Table], looks: Styles) -> Iterator[Picture]:
    """Draw the table of adaptations, a figure for each data set."""
    rows = [row for table in tables if table.name == "adaptation" for row in table.rows]
    for data in dict.fromkeys(row["data"] for row in rows):
        yield _gains_of(data, [row for row in rows if row["data"] == data], looks)


def _gains_of(data: str, rows: Sequence[Row], looks: Styles) -> Picture:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    labels = methods[:MOST_CURVES]
    kinds = list(dict.fromkeys((row["adaptation"], row["batch_size"], row["severity"]) for row in rows))

    title = f"Gain of adaptation on {data}"
    counts = " or ".join(map(str, sorted({row["n"] for row in rows})))
    more = f"; the first {len(labels)} of {len(methods)} methods" if len(labels) < len(methods) else ""
    figure, (axes,) = panels(4.0, title, f"n = {counts} runs{more}", labels)

    # The methods stand side by side around the place of their adaptation.
    step = 0.8 / len(labels)
    for row in rows:
        if row["method"] in labels:
            kind = kinds.index((row["adaptation"], row["batch_size"], row["severity"]))
            at = kind + (labels.index(row["method"]) - (len(labels) - 1) / 2) * step
            _draw_point(axes, at, row, "gain", looks[row["method"]], upright=True)

    axes.axhline(0, color="black", linewidth=1)
    _name_kinds(axes, kinds)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("Gain over the source model (points)")
    legend_below(figure, [handle(looks[label], with_line=False) for label in labels], labels)
    caption = f"Accuracy on corrupted test images after adapting to them, less that before, in points. {INTERVAL}"
    return Picture(f"adaptation-{data}", title, caption, figure)


def _name_kinds(axes: Axes, kinds: Sequence[tuple[Any, Any, Any]]) -> None:
    """Write batch size and severity at each adaptation, or once if they are the same for all."""
    settings = [f"batches of {size}, severity {severity}" for _, size, severity in kinds]
    alike = len(set(settings)) == 1
    names = [
        name if alike else f"{name}\n{setting.replace(', ', chr(10))}"
        for (name, *_), setting in zip(kinds, settings, strict=True)
    ]
    axes.set_xticks(range(len(kinds)), names, fontsize=9)
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set_xlabel(settings[0].capitalize() if alike else "")
    for place in range(1, len(kinds)):
        axes.axvline(place - 0.5, color="0.8", linewidth=0.8)


# --- drawing ----------------------------------------------------------------------------------------------------


def _draw_point(
    axes: Axes, at: float, row: Row, name: str, style: Style, *, upright: bool, filled: bool = True
) -> None:
    """Draw a mean (<name>_mean or <name>) and its interval (<name>_low to <name>_high) along the other axis."""
    centre = row.get(f"{name}_mean", row.get(name))
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    bars = None if low is None else [[100 * (centre - low)], [100 * (high - centre)]]
    look = {**style.point(), "capsize": 3, "elinewidth": 1.4, "zorder": 3, **({} if filled else {"mfc": "white"})}
    if upright:
        axes.errorbar([at], [100 * centre], yerr=bars, **look)
    else:
        axes.errorbar([100 * centre], [at], xerr=bars, **look)
