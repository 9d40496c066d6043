"""Figures of a set of predictions: matplotlib alone, drawn onto a Figure of its own, without pyplot or global state.

Every figure says how many n it is about. Shades are cividis and lines Okabe and Ito's colours, which the colour-blind
tell apart; lines also differ by dash and bars by lightness, for print in grey. What does not fit beside 200 classes is
left out, and the figure says so.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from common import metrics, multilabel, scoring
from common.run_dir import atomic_write

# Okabe and Ito 2008, without the yellow that does not show on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
DASHES = ("-", "--")
BARS = {"f1_score": ("F1", "#000000"), "precision": ("Precision", "#0072B2"), "recall": ("Recall", "#F0E442")}
LONGEST_NAME = 24
MOST_NUMBERED = 20  # classes of a confusion matrix with a count in each cell
MOST_CURVES = len(COLOURS) * len(DASHES)
WORST_CURVES = 6  # of more classes than that
MOST_BARS = 20
POINTS_PER_INCH = 72

# What would make two files of the same figure differ is left out.
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


def save(figure: Figure, path: Path) -> None:
    """Write the figure whole or not at all; the suffix is the format."""
    suffix = path.suffix.removeprefix(".")
    if suffix not in METADATA:
        raise ValueError(f"{path.name}: allowed: a name that ends in .{', .'.join(METADATA)}")
    with atomic_write(path) as file, matplotlib.rc_context({"svg.hashsalt": "stillhouse"}):
        figure.savefig(file, format=suffix, dpi=150, metadata=METADATA[suffix])


# --- confusion matrix -------------------------------------------------------------------------------------------


def confusion_matrix(counts: ArrayLike, class_names: Sequence[str], title: str) -> Figure:
    """Counts (classes, classes), row = label: shaded by the share of the row, rows without samples in grey."""
    table = np.asarray(counts)
    classes, totals = len(table), table.sum(axis=1)
    numbered = classes <= MOST_NUMBERED
    side = min(max(0.62 * classes, 3.2), 10.5) if numbered else 10.5
    mistakes = "" if numbered else _commonest_mistakes(table, class_names)
    figure = _figure(side + 2.6, side + 1.9, f"{title}\nn = {totals.sum():,} images" + mistakes)
    axes = figure.subplots()
    shares = np.ma.masked_invalid(np.where(totals[:, None] > 0, table / np.maximum(totals, 1)[:, None], np.nan))
    shades = matplotlib.colormaps["cividis"].with_extremes(bad="0.8")
    # Mistakes among many classes are small shares: the square root lets them be seen.
    norm = PowerNorm(1 if numbered else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap=shades, norm=norm, interpolation="nearest")
    if numbered:
        _write_counts(axes, table, shares, side / classes)
    _name_classes(axes, class_names, totals, side)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class (n images)" + ("" if totals.all() else "; grey: no images"))
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, format=_percent)
    bar.set_label("Share of the true class (%)" + ("" if numbered else ", square-root scale"))
    return figure
