"""Reliability compares how sure the model is with how often it is right, on its own test images.

reliability.csv has fifteen bins for the clean images and for each corruption, as the model is and with the temperature
of validation.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.figures.predictions import COLOURS, legend_above, new_figure
from common.files import atomic_write
from common.metrics import one_label
from common.metrics.ranking import ECE_BINS
from common.settings.shift import COMMON_CORRUPTIONS
from eval.shift.checked_rows import read_rows, table_text

COLUMNS = ("corruption", "severity", "temperature", "low", "high", "n", "confidence", "accuracy")
AS_IT_IS = 1.0
WEIGHTED = ("confidence", "accuracy")  # means over images
FEWEST = 10  # images of a bin that is drawn
KINDS = (("as it is", COLOURS[5], "-"), ("temperature from validation", COLOURS[0], "--"))


class BinTable:
    """The file is written whole each time, and read when a test goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, int, float, float], dict[str, Any]] = {}
        for row in read_rows(path, COLUMNS, _read):
            self._keep(row)

    def _keep(self, row: dict[str, Any]) -> None:
        self.rows[row["corruption"], row["severity"], row["temperature"], row["low"]] = row

    def lacks(self, corruption: str, severity: int, temperature: float | None) -> bool:
        """Say whether some of the bins that `add` has written for this set of images are not here any more."""
        kept = [row["temperature"] == AS_IT_IS for row in self._rows_of(corruption, severity)]
        cooled = temperature not in (None, AS_IT_IS)
        return kept.count(True) != ECE_BINS or (cooled and kept.count(False) != ECE_BINS)

    def add(
        self, corruption: str, severity: int, logits: np.ndarray, labels: np.ndarray, temperature: float | None
    ) -> None:
        divisors = [divisor for divisor in (AS_IT_IS, temperature) if divisor is not None]
        for row in self._rows_of(corruption, severity):
            if row["temperature"] not in divisors:
                self.rows.pop((corruption, severity, row["temperature"], row["low"]))  # another attempt's temperature

        for divisor in divisors:
            for row in one_label.reliability(logits / divisor, labels):
                self._keep({"corruption": corruption, "severity": severity, "temperature": divisor, **row})
        with atomic_write(self.path) as file:
            file.write(table_text(COLUMNS, self.rows.values()))

    def _rows_of(self, corruption: str, severity: int) -> list[dict[str, Any]]:
        return [row for row in self.rows.values() if (row["corruption"], row["severity"]) == (corruption, severity)]


def _read(row: dict[str, str]) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: int(row[name]) for name in ("severity", "n")}
    means = {name: float(row[name]) if row[name] or row["n"] != "0" else None for name in WEIGHTED}  # of no images
    bounds = {name: float(row[name]) for name in ("temperature", "low", "high")}
    values = {"corruption": row["corruption"], **numbers, **means, **bounds}
    return {name: values[name] for name in COLUMNS}


def pooled(rows: Iterable[dict[str, Any]], severity: int, cooled: bool) -> list[dict[str, Any]]:
    """Join the filled bins of all corruptions of a severity; each image counts once."""
    bins: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        counted = row["corruption"] in COMMON_CORRUPTIONS or severity == 0
        if row["severity"] == severity and counted and row["n"] and (row["temperature"] != AS_IT_IS) == cooled:
            bins.setdefault(row["low"], []).append(row)

    # Weighted by images: a mean of the bins' means would favour corruptions with few images in a bin.
    joined = []
    for low, parts in sorted(bins.items()):
        n = sum(row["n"] for row in parts)
        means = {name: sum(row["n"] * row[name] for row in parts) / n for name in WEIGHTED}
        joined.append({"low": low, "n": n, **means})
    return joined


def reliability_curves(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Draw accuracy against confidence, clean and at the highest severity, before and after the temperature."""
    severities = sorted({row["severity"] for row in rows})
    shown = list(dict.fromkeys([severities[0], severities[-1]]))
    figure = new_figure(5.0 * len(shown), 4.6, title, "Reliability, bins of 10 images or more; marks grow with them")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]

    for axes, severity in zip(panels, shown, strict=True):
        for cooled, (label, colour, dash) in enumerate(KINDS):
            bins = [row for row in pooled(rows, severity, bool(cooled)) if row["n"] >= FEWEST]
            if not bins:
                continue  # validation tells no temperature
            confidence, accuracy, n = (np.array([row[name] for row in bins]) for name in (*WEIGHTED, "n"))
            axes.plot(100 * confidence, 100 * accuracy, dash, color=colour, label=label)
            axes.scatter(100 * confidence, 100 * accuracy, 12 + 200 * n / n.sum(), color=colour, alpha=0.6)

        # On the dotted line a model is right as often as it says.
        axes.plot([0, 100], [0, 100], ":", color="black", linewidth=1)
        axes.set(xlim=(0, 102), ylim=(0, 102), xlabel="Mean confidence (%)")
        axes.set_title("clean" if severity == 0 else f"severity {severity}", loc="right", fontsize=10)
        axes.grid(alpha=0.4)

    panels[0].set_ylabel("Accuracy (%)")
    legend_above(panels[0])
    return figure
