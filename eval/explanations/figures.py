"""The figures of eval/explain.py are drawn here, by matplotlib alone, without torch.

Heat is drawn in viridis, which grows lighter with the value, so that it can be read in grey and by the colour-blind.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from common.figures.predictions import COLOURS

HEAT = "viridis"
CELL = 1.4  # inches; side of a small picture
PAIRS_PER_ROW, FILTERS_PER_ROW, MOST_FILTERS = 4, 16, 64
GAP = 0.06  # between an image and its overlay, as a share of its width


def overlays(images: np.ndarray, maps: np.ndarray, titles: Sequence[str], heading: str, unit: str) -> Figure:
    """Draw each image, and beside it the same under its map (rows, columns), scaled from 0 to its greatest value."""
    per_row = min(PAIRS_PER_ROW, len(images))
    lines = max(title.count("\n") for title in titles) + 1
    figure, cells = _cells(
        -(-len(images) // per_row), per_row, heading, cell=(2.1 * CELL, CELL), gap=(0.2, 0.15 * lines + 0.2), right=1.0
    )
    for cell in cells.ravel():
        cell.set_axis_off()

    # An image and its overlay share one cell, as two extents of the same axes.
    for cell, image, heat, title in zip(cells.ravel(), images, maps, titles, strict=False):
        _, height, width = image.shape
        beside = (width * (1 + GAP), width * (2 + GAP), height, 0)
        cell.imshow(
            _pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=(0, width, height, 0)
        )
        cell.imshow(_faint(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=beside)
        cell.imshow(
            heat / (heat.max() or 1), cmap=HEAT, vmin=0, vmax=1, alpha=0.65, interpolation="bilinear", extent=beside
        )
        cell.set_xlim(0, beside[1])
        cell.set_title(title, fontsize=8, loc="left")

    # One scale for all, at the right edge, and no taller than can be read.
    wide, high = figure.get_size_inches()
    bar_height = min(high - 1.3, 3.0)
    place = figure.add_axes((cells[0, -1].get_position().x1 + 0.15 / wide, 0.1 / high, 0.12 / wide, bar_height / high))
    _draw_bar(figure, place, 1.0, unit)
    return figure


def head_maps(images: np.ndarray, heads: np.ndarray, titles: Sequence[str], heading: str, unit: str) -> Figure:
    """Draw a row per image: the image, then what every head reads (n, heads, rows, columns).

    A head has one scale for all images, from 0 to its greatest value: a bar below its column.
    """
    figure, cells = _cells(
        len(images), 1 + heads.shape[1], heading, gap=(0.15, 0.08), left=1.6, right=0.25, top=0.15, bottom=0.7
    )
    for row, image, title in zip(cells, images, titles, strict=True):
        _show_image(row[0], image, title)

    high = figure.get_size_inches()[1]
    for number, column in enumerate(cells.T[1:]):
        greatest = float(heads[:, number].max()) or 1.0
        for cell, heat in zip(column, heads[:, number], strict=True):
            cell.imshow(heat, cmap=HEAT, vmin=0, vmax=greatest)
        column[0].set_title(f"head {number}", fontsize=8, pad=3)

        left, bottom, width, _ = column[-1].get_position().bounds
        place = figure.add_axes((left, bottom - 0.2 / high, width, 0.12 / high))
        _draw_bar(figure, place, greatest, unit if number == 0 else "", orientation="horizontal")
        place.set_xticks([0, greatest], ["0", f"{greatest:.2g}"])
        zero, most = place.get_xticklabels()  # inside the bar's ends: those of two bars would touch
        zero.set_horizontalalignment("left")
        most.set_horizontalalignment("right")
    return figure


def channel_maps(
    images: np.ndarray, maps: np.ndarray, channels: np.ndarray, titles: Sequence[str], heading: str
) -> Figure:
    """Draw a row per image: the image, then channels of its maps (n, channels, rows, columns), scaled by channel."""
    figure, cells = _cells(len(images), 1 + len(channels), heading, gap=(0.08, 0.08), left=1.6, top=0.3)
    for row, image, title in zip(cells, images, titles, strict=True):
        _show_image(row[0], image, title)
    for column, channel in enumerate(channels, 1):
        low, high = float(maps[:, channel].min()), float(maps[:, channel].max())
        for cell, heat in zip(cells[:, column], maps[:, channel], strict=True):
            cell.imshow(heat, cmap=HEAT, vmin=low, vmax=high)
        cells[0, column].set_title(f"channel {channel}\n{low:.2g} to {high:.2g}", fontsize=8)
    return figure


def filter_grid(weights: np.ndarray, heading: str) -> Figure:
    """Draw the first kernels (out, in, height, width): those of one or three input channels whole, of others channel 0.

    Medium grey is zero; the greatest absolute weight of all is black or white (of colours, 0 or full).
    """
    weights = weights[:MOST_FILTERS]
    reach = np.abs(weights).max() or 1.0
    pictures = (weights if weights.shape[1] == 3 else weights[:, :1]) / reach / 2 + 0.5

    per_row = min(FILTERS_PER_ROW, len(pictures))
    rows = -(-len(pictures) // per_row)
    figure, cells = _cells(rows, per_row, heading, cell=(0.55, 0.55), gap=(0.06, 0.18), left=0.1)

    # The last row may not be full.
    for cell in cells.ravel()[len(pictures) :]:
        cell.set_axis_off()
    for number, (cell, picture) in enumerate(zip(cells.ravel(), pictures, strict=False)):
        cell.imshow(_pixels(picture), cmap="gray", vmin=0, vmax=1)
        cell.set_title(str(number), fontsize=6, pad=2)
    return figure


def gradient_bars(layers: Sequence[str], means: Sequence[float], largest: Sequence[float], heading: str) -> Figure:
    """Draw a line per layer, the input at the top: the mean as a bar, the greatest as a mark, on a logarithmic axis."""
    figure = Figure(figsize=(9, max(len(layers) * 0.17 + 1.2, 2.5)), layout="constrained")
    figure.suptitle(heading, fontsize=10)
    axes = figure.subplots()

    # A logarithmic axis has no zero: bars begin at a third of the smallest mean, and what has no gradient is named.
    places = range(len(layers))
    floor = min([mean for mean in means if mean > 0], default=1.0) / 3
    axes.barh(places, [max(mean - floor, 0) for mean in means], left=floor, height=0.7, color=COLOURS[4], label="mean")
    seen = [place for place in places if largest[place] > 0]
    axes.plot([largest[place] for place in seen], seen, "|", color="black", markersize=7, label="greatest")
    for place in set(places) - set(seen):
        axes.text(floor, place, " none: not used for the answer", va="center", fontsize=7)

    axes.set_xscale("log")
    axes.set_xlim(left=floor)
    axes.set_yticks(places, layers, fontsize=7)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlabel("absolute gradient of the loss, per weight")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    return figure


# --- small pictures ---------------------------------------------------------------------------------------------


def _cells(
    rows: int,
    columns: int,
    heading: str,
    *,
    cell: tuple[float, float] = (CELL, CELL),
    gap: tuple[float, float],
    left: float = 0.15,
    right: float = 0.1,
    top: float = 0.0,
    bottom: float = 0.1,
) -> tuple[Figure, np.ndarray]:
    """Make a figure and its axes (rows, columns) without ticks; all sizes are in inches, (horizontal, vertical)."""
    # Measured here, because matplotlib's own layout takes seconds for so many axes.
    above = top + gap[1] + 0.17 * (heading.count("\n") + 1) + 0.1
    wide = max(left + columns * cell[0] + (columns - 1) * gap[0] + right, 0.075 * max(map(len, heading.split("\n"))))
    high = above + rows * cell[1] + (rows - 1) * gap[1] + bottom
    figure = Figure(figsize=(wide, high))
    figure.suptitle(heading, fontsize=10, y=1 - 0.05 / high, va="top")

    cells = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        x, y = left + column * (cell[0] + gap[0]), high - above - (row + 1) * cell[1] - row * gap[1]
        axes = figure.add_axes((x / wide, y / high, cell[0] / wide, cell[1] / high))
        axes.set_xticks([])
        axes.set_yticks([])
        cells[row, column] = axes
    return figure, cells


def _draw_bar(
    figure: Figure, place: Axes, greatest: float, unit: str, orientation: Literal["vertical", "horizontal"] = "vertical"
) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(0, greatest), HEAT), cax=place, orientation=orientation)
    bar.set_label(unit, fontsize=7)
    place.tick_params(labelsize=7)


def _show_image(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(_pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_ylabel(title, fontsize=7, rotation=0, ha="right", va="center")


def _pixels(image: np.ndarray) -> np.ndarray:
    """Turn (channels, height, width) of 1 or 3 channels into what matplotlib takes."""
    return image.transpose(1, 2, 0)


def _faint(image: np.ndarray) -> np.ndarray:
    """Make an image grey and of little contrast, so that heat over it keeps its own lightness."""
    return 90 + 0.4 * _pixels(image).mean(axis=2)
