"""Points with intervals: accuracy against cost, differences of pairs, gains of adaptation."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
from aggregate.summarise import estimate, mean_of, trained
from aggregate.tables import Row, Table
from common.figures import literal, new_figure

MOST_ROWS = 40  # of a forest
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
        figure, axes = panel(4.2, title, f"{runs_each(shown)}{of_how_many(shown, members)}", [*labels, "front"])
        front = pareto_front([(point["seconds"], point["accuracy_mean"]) for point in points])
        _draw_front(axes, [(points[place]["seconds"], 100 * points[place]["accuracy_mean"]) for place in front])
        for label, point in zip(labels, points, strict=True):
            _draw_point(axes, point["seconds"], point, "accuracy", looks[label], upright=True)
        axes.set(xscale="log", xlabel="Training time of a run (s)", ylabel="Test accuracy (%)")
        handles = [*axes.get_lines()[:1], *(handle(looks[label], with_line=False) for label in labels)]
        legend_below(figure, handles, ["Pareto front: none is both faster and better", *labels])
        caption = (
            "Mean test accuracy against mean training time, without that of a teacher. Times of different devices, and "
            f"of runs that shared one, do not compare. {INTERVAL}"
        )
        yield Picture(f"cost-{data}", title, caption, figure)


def _cost_point(method: Method) -> dict[str, Any]:
    return {
        "seconds": mean_of(method.values("cost.train_seconds")),
        **estimate("accuracy", method.values("test.accuracy"), bounded=True),
    }


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of those that no other beats in (cost, gain), the cheapest first; of equal ones the first."""
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def _draw_front(axes: Axes, corners: Sequence[tuple[float, float]]) -> None:
    seconds, shares = zip(*corners, strict=True)
    axes.plot(seconds, shares, color="0.55", linewidth=1, drawstyle="steps-post", zorder=1)
    axes.scatter(seconds, shares, s=190, facecolors="none", edgecolors="0.55", linewidths=1, zorder=1)


# --- differences of pairs ---------------------------------------------------------------------------------------


def forests(tables: Sequence[Table], methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    rows = {table.name: table.rows for table in tables}
    if gains := [row for row in rows.get("distillation", ()) if row["difference"] is not None]:
        title = "Gain of students over the same student alone"
        yield Picture("gain", title, f"{_HOLM} {INTERVAL}", forest(gains, title, looks))
    if against := against_best(rows.get("comparisons", ()), methods):
        title = "Differences from the method of the highest validation accuracy"
        yield Picture("differences", title, f"{_HOLM} {INTERVAL}", forest(against, title, looks))


_HOLM = (
    "Paired differences of test accuracy over common seeds, in points. Filled: told apart from 0 by the corrected test of "
    "the table; hollow: not. The bars are not corrected, so that one may miss 0 and still be hollow."
)


def against_best(rows: Sequence[Row], methods: Sequence[Method]) -> list[Row]:
    """Of all pairs those with the best of their data set by validation, which is put second."""
    best = {data: leading(members, 1)[0].label for data, members in by_data(trained(methods)).items()}
    chosen = [row if row["second"] == best.get(row["data"]) else _turned(row) for row in rows if _has(row, best)]
    return [row for row in chosen if row["difference"] is not None]


def _has(row: Row, best: dict[str, str]) -> bool:
    return best.get(row["data"]) in (row["first"], row["second"])


def _turned(row: Row) -> Row:
    def minus(name: str) -> float | None:
        return None if row[name] is None else -row[name]

    return {
        **row,
        "first": row["second"],
        "second": row["first"],
        "difference": minus("difference"),
        "difference_low": minus("difference_high"),
        "difference_high": minus("difference_low"),
    }


def forest(rows: Sequence[Row], title: str, looks: Styles) -> Figure:
    shown = rows[:MOST_ROWS]
    more = f"the first {len(shown)} of {len(rows)}" if len(shown) < len(rows) else "first less second method"
    figure = new_figure(9.0, ROW_HEIGHT * len(shown) + 1.6, title, f"{more}; n common seeds of each pair at its name")
    axes = figure.subplots()
    for place, row in enumerate(shown):
        look = looks[row["first"]]
        _draw_point(axes, place, row, "difference", look, upright=False, filled=row["verdict"] in SETTLED)
    axes.axvline(0, color="black", linewidth=1)
    names = [_name(row) for row in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("Difference in test accuracy (points)")
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    return figure


def _name(row: Row) -> str:
    return "\n".join(textwrap.wrap(literal(f"{row['data']}: {row['first']} (n = {row['n']})"), NAME_WIDTH))


# --- adaptation -------------------------------------------------------------------------------------------------


def adaptation_gains(tables: Sequence[Table], looks: Styles) -> Iterator[Picture]:
    """From the table of adaptations."""
    rows = [row for table in tables if table.name == "adaptation" for row in table.rows]
    for data in dict.fromkeys(row["data"] for row in rows):
        yield _gains_of(data, [row for row in rows if row["data"] == data], looks)


def _gains_of(data: str, rows: Sequence[Row], looks: Styles) -> Picture:
    labels = list(dict.fromkeys(row["method"] for row in rows))
    kinds = list(dict.fromkeys((row["adaptation"], row["batch_size"], row["severity"]) for row in rows))
    title = f"Gain of adaptation on {data}"
    counts = sorted({row["n"] for row in rows})
    figure, axes = panel(4.0, title, f"n = {' to '.join(map(str, counts[:: max(1, len(counts) - 1)]))} runs", labels)
    step = 0.8 / len(labels)
    for row in rows:
        kind = kinds.index((row["adaptation"], row["batch_size"], row["severity"]))
        at = kind + (labels.index(row["method"]) - (len(labels) - 1) / 2) * step
        _draw_point(axes, at, row, "gain", looks[row["method"]], upright=True)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xticks(range(len(kinds)), [f"{name}\nbatch {size}\nseverity {severity}" for name, size, severity in kinds])
    axes.set_ylabel("Gain over the source model (points)")
    legend_below(figure, [handle(looks[label], with_line=False) for label in labels], labels)
    caption = f"Accuracy on corrupted test images after adapting to them, less that before, in points. {INTERVAL}"
    return Picture(f"adaptation-{data}", title, caption, figure)


# --- drawing ----------------------------------------------------------------------------------------------------


def _draw_point(
    axes: Axes, at: float, row: Row, name: str, style: Style, *, upright: bool, filled: bool = True
) -> None:
    """The mean, <name>_mean or <name>, and its interval, from <name>_low to <name>_high, along the other axis."""
    centre = row.get(f"{name}_mean", row.get(name))
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    bars = None if low is None else [[100 * (centre - low)], [100 * (high - centre)]]
    look = {**style.point(), "capsize": 3, "elinewidth": 1.4, "zorder": 3, **({} if filled else {"mfc": "white"})}
    if upright:
        axes.errorbar([at], [100 * centre], yerr=bars, **look)
    else:
        axes.errorbar([100 * centre], [at], xerr=bars, **look)
