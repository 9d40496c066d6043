"""These figures show how far the predicted probabilities hold, and how well they rank.

Predictions are read only of the methods that are shown, one run at a time: those of ten thousand runs would take hours.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggregate.figures.style import (
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
from aggregate.inference.estimates import deviation
from aggregate.runs.collect import Run, read_arrays
from aggregate.runs.methods import Method, by_data, same, trained
from common.figures.roc import OneAgainstTheRest, mean_roc_curves, one_against_the_rest
from common.metrics import one_label, ranking, several_labels
from common.run.run_dir import RunDir

FEWEST = 10  # answers of a run in a bin that is drawn, on average
Bins = Sequence[Mapping[str, Any]]  # of scoring.reliability


def answers(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Read logits and labels of the test images."""
    arrays = read_arrays(RunDir(run.path).predictions("test"), ("logits", "labels"))
    return (arrays[0], arrays[1]) if arrays else None


# --- reliability ------------------------------------------------------------------------------------------------


def reliability_diagrams(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(trained(methods)).items():
        # Predictions may have been removed to save space: methods without any are not shown.
        leaders = leading(members)
        bins = {method.label: [run_bins for run in method.runs if (run_bins := bins_of(run))] for method in leaders}
        shown = [method for method in leaders if bins[method.label]]
        if not shown:
            continue

        title = f"Reliability on {data}"
        curves = {method.label: bins[method.label] for method in shown}
        figure = _reliability(curves, title, f"{runs_each(curves.values())}{of_how_many(shown, members)}", looks)
        caption = (
            "How often a method was right against how sure it was, on the test images: above the diagonal it was too "
            f"timid, below it too sure. {ranking.ECE_BINS} bins of equal width, the answers of all runs together; bins "
            f"of fewer than {FEWEST} answers of a run are not drawn on the left. ECE: mean ± standard deviation over "
            "runs."
        )
        yield Picture(f"reliability-{data}", title, caption, figure)


def bins_of(run: Run) -> Bins | None:
    """Return the reliability of a run's answers in bins; None if it has no answers."""
    arrays = answers(run)
    measure = several_labels.reliability if run.fact("data.task") == "multi-label" else one_label.reliability
    try:
        return measure(*arrays) if arrays else None
    except ValueError:  # logits and labels that do not fit each other
        return None


def pooled(runs: Sequence[Bins]) -> list[dict[str, Any]]:
    """Join the bins of several runs; each answer counts once."""
    return [_together(same_bin) for same_bin in zip(*runs, strict=True)]


def _together(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    filled = [run_bin for run_bin in bins if run_bin["n"]]
    n = sum(run_bin["n"] for run_bin in filled)
    means = {name: sum(run_bin["n"] * run_bin[name] for run_bin in filled) / n if n else None for name in MEANS}
    return {**bins[0], "n": n, **means}


MEANS = ("confidence", "accuracy")


def _reliability(runs: Mapping[str, Sequence[Bins]], title: str, facts: str, looks: Styles) -> Figure:
    """Draw the reliability, and beside it the number of answers: a bin of ten would look like one of ten thousand."""
    labels = [f"{label}: ECE {_error_text(bins)}" for label, bins in runs.items()]
    figure, (left, right) = panels(4.2, title, facts, labels, 2)
    left.plot([0, 100], [0, 100], ":", color="0.4", linewidth=1)
    for label, bins in runs.items():
        _draw_bins(left, right, pooled(bins), FEWEST * len(bins), looks[label])

    # Sure answers outnumber the others by far, so that a linear scale would show nothing else.
    left.set(xlim=(0, 101), ylim=(0, 101), xlabel="Predicted probability (%)", ylabel="Share that came true (%)")
    right.set(xlim=(0, 101), xlabel="Predicted probability (%)", ylabel="Share of answers (%)")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")

    legend_below(figure, [handle(looks[label]) for label in runs], labels)
    return figure


def _draw_bins(left: Axes, right: Axes, bins: Bins, fewest: int, style: Style) -> None:
    filled = [one_bin for one_bin in bins if one_bin["n"]]
    drawn = [one_bin for one_bin in filled if one_bin["n"] >= fewest]
    points = [[100 * one_bin[name] for one_bin in drawn] for name in MEANS]
    left.plot(points[0], points[1], **style.line(), linewidth=1.4)
    whole = sum(one_bin["n"] for one_bin in filled)
    middles = [50 * (one_bin["low"] + one_bin["high"]) for one_bin in filled]
    right.plot(middles, [100 * one_bin["n"] / whole for one_bin in filled], **style.line(), linewidth=1.4)


def _error_text(runs: Sequence[Bins]) -> str:
    errors = [ranking.calibration_error(list(map(dict, bins))) for bins in runs]
    spread = deviation(errors)
    return f"{100 * fmean(errors):.1f}" + (f" ± {100 * spread:.1f} %" if spread is not None else " %")


# --- ROC --------------------------------------------------------------------------------------------------------


def roc_diagrams(methods: Sequence[Method]) -> Iterator[Picture]:
    """Draw the ROC of each data set's best method; by validation, or it would be chosen by what is drawn."""
    for data, members in by_data(trained(methods)).items():
        best = leading(members, 1)[0]
        of_runs = [curves for run in best.runs if (curves := curves_of(run))]
        if not of_runs or same(_positives(curves) for curves in of_runs) is None:
            continue

        # A class without test images has no curve, yet its name stands in the list of the data set.
        names = class_names(best, len(of_runs[0].positives))
        title = f"ROC on {data}: {best.label}"
        caption = (
            "One class against the rest, on the test images, of the method of the highest validation accuracy: mean "
            "true positive rate over runs at each false positive rate, and mean AUC."
        )
        yield Picture(f"roc-{data}", f"ROC on {data}", caption, mean_roc_curves(of_runs, names, title))


def curves_of(run: Run) -> OneAgainstTheRest | None:
    arrays = answers(run)
    try:
        return one_against_the_rest(*arrays, str(run.fact("data.task"))) if arrays else None
    except ValueError:  # logits and labels that do not fit each other
        return None


def _positives(curves: OneAgainstTheRest) -> tuple[tuple[int, int], ...]:
    """Return how often each class is there: runs on other images have no common mean."""
    return tuple(curves.positives.items())


def class_names(method: Method, classes: int) -> list[str]:
    """Return the names of the classes, or numbers if the result does not name them all."""
    names = [str(name) for name in method.first.fact("data.classes") or ()]
    return names if len(names) == classes else [str(number) for number in range(classes)]
