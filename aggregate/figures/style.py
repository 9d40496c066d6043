"""This module gives each method one look in all figures of a report, and holds what the figures share."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aggregate.runs.methods import Method, by_validation
from common.figures.predictions import COLOURS, DASHES, MOST_CURVES, literal, new_figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
WIDTH, LEGEND_WIDTH = 7.2, 90  # inches; characters of a legend's line
LINE_HEIGHT = 0.19  # inches, of a legend; as the next two
HANDLE_WIDTH, LETTER_WIDTH = 0.95, 0.066
MOST_COLUMNS = 3


@dataclass(frozen=True)
class Style:
    """The look of one method."""

    colour: str
    dash: str
    marker: str

    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker, "markersize": 5}

    def point(self) -> dict[str, Any]:
        return {"color": self.colour, "marker": self.marker, "linestyle": "none", "markersize": 7}


Styles = Mapping[str, Style]


@dataclass(frozen=True)
class Picture:
    """A figure of the report, with what is written around it."""

    name: str  # of its files
    title: str
    caption: str
    figure: Figure


def styles(methods: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """Give each label a look, the same on all data sets, from (data, label) in their order.

    On one data set no two of the first 168 labels look alike, and no two of the first 7 have the same colour, unless
    their looks were given on another data set before.
    """
    places: dict[str, int] = {}
    labels_of: dict[str, list[str]] = {}
    for data, label in methods:
        labels_of.setdefault(data, []).append(label)

    # A label that another data set has too keeps its look; the others take the looks that are left.
    for labels in labels_of.values():
        taken = {places[label] for label in labels if label in places}
        free = (place for place in itertools.count() if place not in taken)
        for label in dict.fromkeys(labels):
            if label not in places:
                places[label] = next(free)

    return {label: _style(place) for label, place in places.items()}


def _style(place: int) -> Style:
    """Combine 7 colours, 3 dashes and 8 markers: without a common divisor, neighbours differ in all three."""
    return Style(*(kinds[place % len(kinds)] for kinds in (COLOURS, DASHES, MARKERS)))


def leading(methods: Sequence[Method], most: int = MOST_CURVES) -> list[Method]:
    """Keep the methods of the highest validation accuracy if there are too many; their order stays."""
    kept = set(map(id, by_validation(methods)[:most]))
    return [method for method in methods if id(method) in kept]


def of_how_many(shown: Sequence[Method], methods: Sequence[Method]) -> str:
    if len(shown) == len(methods):
        return ""
    return f"; the {len(shown)} methods of highest validation accuracy, of {len(methods)}"


def runs_each(runs: Iterable[Sequence[Any]]) -> str:
    """Say in a figure's head how many runs each method has; runs that told nothing are not among them."""
    counts = [len(of_method) for of_method in runs]
    low, high = min(counts), max(counts)
    return f"n = {low if low == high else f'{low} to {high}'} {'run' if high == 1 else 'runs'} of each method"


def legend_height(labels: Sequence[str], width: float) -> float:
    lines = [legend_label(label).count("\n") + 1 for label in labels]
    per_column = -(-len(lines) // legend_columns(labels, width))
    return LINE_HEIGHT * max(sum(lines[start : start + per_column]) for start in range(0, len(lines), per_column))


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many columns of the legend fit side by side."""
    longest = max(len(line) for label in labels for line in legend_label(label).splitlines())
    fit = int(width / (HANDLE_WIDTH + LETTER_WIDTH * longest))
    return max(1, min(fit, MOST_COLUMNS, -(-len(labels) // 2)))


def legend_label(label: str) -> str:
    return "\n".join(textwrap.wrap(literal(label), LEGEND_WIDTH))


def panels(
    height: float, title: str, facts: str, labels: Sequence[str], columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Make fields side by side, with room below them for a legend of these labels, which may be long.

    More than two fields share their scales.
    """
    width = WIDTH if columns == 1 else 1.4 * WIDTH
    figure = new_figure(width, height + legend_height(labels, width), title, facts)
    shared = columns * rows > 2
    fields = list(figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).flat)
    for axes in fields:
        axes.grid(alpha=0.4)
        axes.set_axisbelow(True)
    return figure, fields


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    wrapped = [legend_label(label) for label in labels]
    columns = legend_columns(labels, figure.get_size_inches()[0])
    look = {"frameon": False, "fontsize": 9, "handlelength": 4}
    figure.legend(handles, wrapped, loc="outside lower left", ncols=columns, **look)


def handle(style: Style, *, with_line: bool = True) -> Line2D:
    return Line2D([], [], **(style.line() if with_line else style.point()))
