"""This module draws figures of a set of predictions, with matplotlib only and without pyplot or global state.

Every figure has a title and says how many n it shows. Shades differ in lightness alone, and lines and bars have the
colours of Okabe and Ito, which the colour-blind can tell apart. For print in grey, lines also differ by dash and bars
by lightness. What nobody could read with 200 classes is left out, and the figure says so.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from common.files import atomic_write
from common.metrics.ranking import Floats

# Okabe and Ito 2008, without the yellow, which does not show on white as a line.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
DASHES = ("-", "--", "-.")  # neighbours in rank differ by dash too
BARS = {"precision": ("Precision", "#0072B2"), "recall": ("Recall", "#56B4E9"), "f1_score": ("F1", "#F0E442")}
LONGEST_NAME = 24
MOST_NUMBERED = 20  # classes of a confusion matrix that has a count in each cell
MOST_CURVES = 14
MOST_BARS = 20  # classes with bars of their own
CHARACTER_WIDTH = 0.6  # of the font size, on average
POINTS = 72  # per inch
DPI = 150
WIDEST = 1300  # pixels of a small picture, which is for screens
SMALLEST_TEXT, TITLE_SIZE = 6.0, 12.0  # points

# Without these, the same figure is the same file.
NO_DATES: dict[str, dict[str, None]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save(figure: Figure, path: Path, *, with_palette: bool = False) -> None:
    """Write the figure, whole or not at all, in the format of the suffix.

    A PNG with a palette is a third as large. Lines and text look the same with it; photographs would not.
    """
    suffix = path.suffix.removeprefix(".")
    if suffix not in NO_DATES:
        raise ValueError(f"{path.name}: given suffix {path.suffix!r}, allowed: .{', .'.join(NO_DATES)}")
    with atomic_write(path) as file, mpl.rc_context({"svg.hashsalt": path.stem}):
        if suffix == "png" and with_palette:
            file.write(_png_with_palette(figure))
        else:
            figure.savefig(file, format=suffix, dpi=DPI, metadata=NO_DATES[suffix])


def _png_with_palette(figure: Figure) -> bytes:
    whole, small = io.BytesIO(), io.BytesIO()
    dpi = min(DPI, WIDEST / figure.get_size_inches()[0])
    figure.savefig(whole, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    with Image.open(whole) as image:
        # This method of Pillow keeps rare colours, such as those of thin lines on white.
        reduced = image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        reduced.save(small, format="png", optimize=True, dpi=(dpi, dpi))
    return small.getvalue()


# --- confusion matrix -------------------------------------------------------------------------------------------


def confusion_matrix(counts: ArrayLike, class_names: Sequence[str], title: str, unit: str = "images") -> Figure:
    """Draw counts (classes, classes), row = label, shaded by their share of the row; empty rows are hatched.

    The unit is what is counted: images, or the answers of several runs to the same images.
    """
    table = np.asarray(counts)
    totals, names = table.sum(axis=1), short_names(class_names, len(table))
    numbered = len(names) <= MOST_NUMBERED

    # The matrix grows with its classes, and the names around it shrink with the cells. Both have limits.
    side = min(max(0.55 * len(names), 2.8), 10.0)
    cell = side * POINTS / len(names)
    size = min(max(0.8 * cell, SMALLEST_TEXT), 9.0)
    margin = max(map(len, names)) * size * CHARACTER_WIDTH / POINTS
    figure = new_figure(side + margin + 2.2, side + margin + 1.2, title, f"n = {totals.sum():,} {unit}")
    axes = figure.subplots()

    _shade(figure, axes, table, numbered)
    if numbered:
        _write_counts(axes, table, cell)

    # Of cells that are lower than a line of text, only some have names.
    step = int(np.ceil(1.1 * SMALLEST_TEXT / cell))
    named = range(0, len(names), step)
    upright = margin * POINTS > 0.9 * cell
    axes.set_xticks(named, [names[place] for place in named], fontsize=size, rotation=90 if upright else 0)
    axes.set_yticks(named, [f"{names[place]} ({totals[place]:,})" for place in named], fontsize=size)

    thinned = f", one in {step} named" if step > 1 else ""
    axes.set_xlabel(f"Predicted class{thinned}" + ("" if numbered else "\n\n" + _commonest_mistakes(table, names)))
    axes.set_ylabel(f"True class (n {unit}){thinned}" + ("" if totals.all() else "; hatched: no images"))
    return figure


def _shade(figure: Figure, axes: Axes, table: NDArray[Any], linear: bool) -> None:
    """Shade each cell by its share. Among many classes mistakes have small shares, which a square root scale shows."""
    absent = np.broadcast_to(table.sum(axis=1, keepdims=True) == 0, table.shape)
    shares = np.ma.masked_array(_shares(table), mask=absent)
    norm = PowerNorm(1.0 if linear else 0.5, vmin=0, vmax=1)
    axes.patch.set(hatch="////", edgecolor="0.7")  # seen where a share is masked
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1] if linear else [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}")
    bar.set_label("Share of the true class (%)" + ("" if linear else ", square root scale"))


def _shares(table: NDArray[Any]) -> Floats:
    """Return each cell's share of its row; 0 in a row without images."""
    return table / np.maximum(table.sum(axis=1, keepdims=True), 1)


def _write_counts(axes: Axes, table: NDArray[Any], cell: float) -> None:
    """Write the counts into the cells, but no zeros: a good matrix is full of them, and they hide the rest."""
    shares = _shares(table)
    size = min(10.0, cell / (0.7 * max(len(f"{table.max():,}"), 2)))
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if shares[row, column] > 0.65 else "black"
        text = f"{table[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _commonest_mistakes(table: NDArray[Any], names: Sequence[str], most: int = 5) -> str:
    mistakes = table - np.diag(np.diag(table))
    places = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(names)) for place in places if mistakes.flat[place]]
    lines = [
        f"{names[true]}, taken for {names[guess]}: {table[true, guess]:,} of {table[true].sum():,}"
        for true, guess in pairs
    ]
    return "\n".join(["Commonest mistakes", *lines]) if lines else "No mistakes"


# --- reliability ------------------------------------------------------------------------------------------------


def reliability_diagram(
    bins: Sequence[Mapping[str, Any]], ece: float, n: int, title: str, unit: str = "images"
) -> Figure:
    """Draw what was predicted against what came true, per bin of `ranking.reliability`, and below it the n of bins.

    The unit is what n counts: images, or the decisions of a multi-label task.
    """
    figure = new_figure(6.4, 7.0, title, f"n = {n:,} {unit}, ECE = {100 * ece:.2f} % ({len(bins)} bins)")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = [group for group in bins if group["n"]]
    low, high, observed, predicted = (
        np.array([100 * group[key] for group in filled]) for key in ("low", "high", "accuracy", "confidence")
    )

    # The hatched gaps are the errors that the ECE averages.
    _bars(upper, low, high, observed, facecolor="#56B4E9", label="Observed")
    gap = {"bottom": np.minimum(observed, predicted), "facecolor": "none", "edgecolor": "#A03C00", "hatch": "////"}
    _bars(upper, low, high, np.abs(observed - predicted), **gap, label="Gap to the mean prediction")
    upper.plot([0, 100], [0, 100], "--", color="black", linewidth=1, label="Perfect")
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="Observed: share that came true (%)")
    legend_above(upper)

    n_of_bins = [group["n"] for group in filled]
    bars = _bars(lower, low, high, np.array(n_of_bins), facecolor="0.7")
    lower.bar_label(bars, [_compact(number) for number in n_of_bins], padding=2, fontsize=SMALLEST_TEXT)
    lower.margins(y=0.2)
    lower.set(xlabel="Predicted probability (%)", ylabel=f"n {unit}")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.yaxis.set_major_formatter(lambda number, _: _compact(number))
    return figure


def _bars(axes: Axes, low: Floats, high: Floats, heights: NDArray[Any], **style: Any) -> BarContainer:
    return axes.bar(low, heights, high - low, align="edge", **{"edgecolor": "black", "linewidth": 0.6, **style})


def _compact(number: float) -> str:
    return f"{number / 1e6:.4g}M" if number >= 1e6 else f"{number:,.0f}"


# --- bars -------------------------------------------------------------------------------------------------------


def per_class_bars(per_class: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw precision, recall and F1 of each class, or of the worst of many classes, beside the F1 of all."""
    names = short_names([row["class"] for row in per_class], len(per_class))
    facts = f"n = {sum(row['n'] for row in per_class):,} labels"
    if len(names) <= MOST_BARS:
        figure = new_figure(7.5, 0.42 * len(names) + 1.9, title, facts)
        _draw_bars(figure.subplots(), per_class, names)
        return figure

    # With more classes than fit, readers want the ones that fail, and where those lie among all.
    worst_first = sorted(range(len(names)), key=lambda place: per_class[place]["f1_score"])
    worst = worst_first[:MOST_BARS]
    facts += f"; the {MOST_BARS} classes of lowest F1, of {len(names)}"

    figure = new_figure(10.5, 0.42 * MOST_BARS + 1.9, title, facts)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_bars(left, [per_class[place] for place in worst], [names[place] for place in worst])
    _draw_sorted(right, np.array([per_class[place]["f1_score"] for place in worst_first]))
    return figure


def _draw_bars(axes: Axes, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    thickness = 0.8 / len(BARS)
    places = np.arange(len(rows))
    for offset, (key, (label, colour)) in enumerate(BARS.items()):
        at = places + (offset - (len(BARS) - 1) / 2) * thickness
        lengths = [100 * row[key] for row in rows]
        axes.barh(at, lengths, thickness, color=colour, edgecolor="black", linewidth=0.5, label=label)

    # The first class is at the top, as in a table.
    axes.set_yticks(places, [f"{name} ({row['n']:,})" for name, row in zip(names, rows, strict=True)], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlim=(0, 100), xlabel="Score (%)", ylabel="Class (n)")
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    legend_above(axes)


def _draw_sorted(axes: Axes, rising: Floats) -> None:
    axes.plot(np.arange(1, len(rising) + 1), 100 * rising, color="#0072B2", drawstyle="steps-mid")
    axes.axvspan(0.5, MOST_BARS + 0.5, color="0.88", label="shown on the left")
    axes.axhline(100 * rising.mean(), color="black", linestyle="--", label=f"macro F1: {100 * rising.mean():.1f} %")
    axes.set(xlim=(0.5, len(rising) + 0.5), ylim=(0, 100), xlabel="Classes, from lowest F1 to highest", ylabel="F1 (%)")
    axes.grid(alpha=0.4)
    axes.legend(loc="lower right", fontsize=9)


# --- shared -----------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float, title: str, facts: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="compressed")
    characters = int(width * POINTS / (TITLE_SIZE * CHARACTER_WIDTH))
    lines = [*textwrap.wrap(literal(title), characters), *textwrap.wrap(facts, characters)]
    figure.suptitle("\n".join(lines), fontsize=TITLE_SIZE)
    return figure


def legend_above(*shared: Axes) -> None:
    """Put one legend above the axes, with the handles of all that share their place."""
    handles = [handle for axes in shared for handle in axes.get_legend_handles_labels()[0]]
    shared[0].legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9)


def short_names(class_names: Sequence[str], classes: int) -> list[str]:
    """Cut names that are too long in the middle, because their beginnings and ends tell them apart."""
    if len(class_names) != classes:
        raise ValueError(f"class_names: given {len(class_names)} names, allowed: {classes}, one per class")
    return [_short_name(" ".join(name.split()), index) for index, name in enumerate(class_names)]


def _short_name(name: str, index: int) -> str:
    if not name or not all(map(_in_font, name)):
        return f"class {index}"
    if len(name) > LONGEST_NAME:
        half = LONGEST_NAME // 2
        name = name[:half].rstrip() + "…" + name[half + 1 - LONGEST_NAME :].lstrip()
    return literal(name)


def literal(text: str) -> str:
    """Replace characters that the font lacks by question marks; escape the dollar, which would begin a formula."""
    return "".join(character if _in_font(character) else "?" for character in text).replace("$", r"\$")


@cache
def _in_font(character: str) -> bool:
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return bool(font.get_char_index(ord(character)))
