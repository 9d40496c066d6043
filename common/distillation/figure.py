"""The figure of a distillation shows the losses, the agreement with the teacher, and the spread of tokens."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.figures.predictions import COLOURS, DASHES, legend_above, new_figure, save
from common.run.run_dir import RunDir

STYLES = [*zip(COLOURS, (*DASHES, ":"), "os^D", strict=False)]  # the last is that of the axis on the right
MOST_MARKERS = 12  # on a course

log = logging.getLogger("stillhouse")


def draw_distillation(run: RunDir, agreement: Mapping[str, Any] | None) -> None:
    """Draw figures/distillation.png of a run folder. A failure only warns: a training is worth more than its figure."""
    try:
        save(distillation(run.read_history(), agreement, run.path.name), run.figures / "distillation.png")
    except Exception as error:  # noqa: BLE001 - whatever it is, the folder has the numbers
        log.warning("distillation.png could not be drawn: %s", error)


def distillation(history: Sequence[Mapping[str, Any]], agreement: Mapping[str, Any] | None, title: str) -> Figure:
    """Draw the losses over the epochs, the agreement with the teacher if it was measured, and the spread of tokens."""
    tokens = "token_loss" in history[0]
    facts = f"n = {agreement['decisions']:,} decisions on validation" if agreement else "agreement not measured"
    panels = 1 + bool(agreement) + tokens
    figure = new_figure(5.2 * panels, 4.4, title, f"{facts}; epochs: {len(history)}")
    left, *more = figure.subplots(1, panels, squeeze=False)[0]

    # Losses are drawn without their weights, so that runs with other weights can be compared.
    names = ["label_loss", "token_loss", "relation_loss"] if tokens else ["label_loss", "kd_loss"]
    _draw_courses(left, history, names, "Mean over the epoch, unweighted")
    legend_above(left)
    if "alpha" in history[0]:
        _draw_beside(left, history, "alpha", "Alpha: share of the teacher").set_ylim(0, 1.02)

    if agreement:
        _draw_agreement(more[0], agreement)
    if tokens:
        _draw_courses(more[-1], history, ["token_deviation"], "Mean standard deviation")
        _draw_beside(more[-1], history, "token_directions", "Directions filled (participation ratio)")
    return figure


def _draw_beside(axes: Axes, history: Sequence[Mapping[str, Any]], name: str, label: str) -> Axes:
    other = axes.twinx()
    _draw_courses(other, history, [name], label, STYLES[-1:])
    other.grid(visible=False)
    legend_above(axes, other)
    return other


def _draw_courses(
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    label: str,
    styles: Sequence[tuple[str, str, str]] = STYLES,
) -> None:
    epochs = [int(row["epoch"]) for row in history]
    every = -(-len(epochs) // MOST_MARKERS)
    for name, (colour, dashes, marker) in zip(names, styles, strict=False):
        values = [float(row[name]) for row in history]
        axes.plot(epochs, values, dashes, color=colour, marker=marker, markersize=4, markevery=every, label=name)
    axes.set(xlabel="Epoch", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_agreement(axes: Axes, agreement: Mapping[str, Any]) -> None:
    total, wrong = agreement["decisions"], agreement["teacher_wrong"]
    bars = {
        f"all\n({total:,})": agreement["all"],
        f"teacher right\n({total - wrong:,})": agreement["where_teacher_right"],
        f"teacher wrong\n({wrong:,})": agreement["where_teacher_wrong"],
    }
    colours = ["0.6", "#56B4E9", "#D55E00"]
    drawn = axes.bar(list(bars), [100 * (share or 0) for share in bars.values()], color=colours, edgecolor="black")
    axes.bar_label(drawn, ["none" if share is None else f"{100 * share:.1f} %" for share in bars.values()], padding=2)
    axes.set(ylim=(0, 108), xlabel="Decisions (n)", ylabel="Student decides as its teacher (%)")
