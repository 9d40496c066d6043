"""What runs answered on each test image: how far their probabilities hold, and how well they rank.

Predictions are read of the methods that are shown alone, one run at a time: all of ten thousand runs would take hours.
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
    """Logits and labels of the test images."""
    found = read_arrays(RunDir(run.path).predictions("test"), ("logits", "labels"))
    return (found[0], found[1]) if found else None


# --- reliability ------------------------------------------------------------------------------------------------


def reliability_diagrams(methods: Sequence[Method], looks: Styles) -> Iterator[Picture]:
    for data, members in by_data(trained(methods)).items():
        leaders = leading(members)
        found = {method.label: [bins for run in method.runs if (bins := bins_of(run))] for method in leaders}
        shown = [method for method in leaders if found[method.label]]
        if not shown:
            continue
        title = f"Reliability on {data}"
        curves = {method.label: found[method.label] for method in shown}
        figure = _reliability(curves, title, f"{runs_each(curves.values())}{of_how_many(shown, members)}", looks)
        caption = (
            "How often it was right against how sure it was, on the test images: above the diagonal too timid, below "
            f"it too sure. {ranking.ECE_BINS} bins of equal width, the answers of all runs together; bins of fewer "
            f"than {FEWEST} answers of a run are not drawn on the left. ECE: mean ± standard deviation over runs."
        )
        yield Picture(f"reliability-{data}", title, caption, figure)


def bins_of(run: Run) -> Bins | None:
    """None where the run does not tell its answers."""
    found = answers(run)
    measure = several_labels.reliability if run.fact("data.task") == "multi-label" else one_label.reliability
    try:
        return measure(*found) if found else None
    except ValueError:  # logits and labels that do not fit each other
        return None


def pooled(runs: Sequence[Bins]) -> list[dict[str, Any]]:
    """The bins of several runs together, each answer counting once."""
    return [_together(same_bin) for same_bin in zip(*runs, strict=True)]


def _together(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    filled = [each for each in bins if each["n"]]
    n = sum(each["n"] for each in filled)
    means = {name: sum(each["n"] * each[name] for each in filled) / n if n else None for name in MEANS}
    return {**bins[0], "n": n, **means}


MEANS = ("confidence", "accuracy")


def _reliability(runs: Mapping[str, Sequence[Bins]], title: str, facts: str, looks: Styles) -> Figure:
    """Beside it how many answers are how sure: without it, a bin of ten looks like one of ten thousand."""
    labels = [f"{label}: ECE {_error_text(each)}" for label, each in runs.items()]
    figure, (left, right) = panels(4.2, title, facts, labels, 2)
    left.plot([0, 100], [0, 100], ":", color="0.4", linewidth=1)
    for label, each in runs.items():
        _draw_bins(left, right, pooled(each), FEWEST * len(each), looks[label])
    left.set(xlim=(0, 101), ylim=(0, 101), xlabel="Predicted probability (%)", ylabel="Share that came true (%)")
    right.set(xlim=(0, 101), xlabel="Predicted probability (%)", ylabel="Share of answers (%)")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    legend_below(figure, [handle(looks[label]) for label in runs], labels)
    return figure


def _draw_bins(left: Axes, right: Axes, bins: Bins, fewest: int, style: Style) -> None:
    filled = [each for each in bins if each["n"]]
    drawn = [each for each in filled if each["n"] >= fewest]
    points = [[100 * each[name] for each in drawn] for name in MEANS]
    left.plot(points[0], points[1], **style.line(), linewidth=1.4)
    whole = sum(each["n"] for each in filled)
    middles = [50 * (each["low"] + each["high"]) for each in filled]
    right.plot(middles, [100 * each["n"] / whole for each in filled], **style.line(), linewidth=1.4)


def _error_text(runs: Sequence[Bins]) -> str:
    errors = [ranking.calibration_error(list(map(dict, bins))) for bins in runs]
    spread = deviation(errors)
    return f"{100 * fmean(errors):.1f}" + (f" ± {100 * spread:.1f} %" if spread is not None else " %")


# --- ROC --------------------------------------------------------------------------------------------------------


def roc_diagrams(methods: Sequence[Method]) -> Iterator[Picture]:
    """Of each data set's best method by validation: by the test images, it would be chosen by what is drawn."""
    for data, members in by_data(trained(methods)).items():
        best = leading(members, 1)[0]
        found = [curves for run in best.runs if (curves := curves_of(run))]
        names = class_names(best, len(found[0].positives)) if found else []
        if not found or same(_asked(curves) for curves in found) is None:
            continue
        title = f"ROC on {data}: {best.label}"
        caption = (
            "One class against the rest, on the test images, of the method of the highest validation accuracy: mean "
            "true positive rate over runs at each false positive rate, and mean AUC."
        )
        yield Picture(f"roc-{data}", f"ROC on {data}", caption, mean_roc_curves(found, names, title))


def curves_of(run: Run) -> OneAgainstTheRest | None:
    found = answers(run)
    try:
        return one_against_the_rest(*found, str(run.fact("data.task"))) if found else None
    except ValueError:  # logits and labels that do not fit each other
        return None


def _asked(curves: OneAgainstTheRest) -> tuple[tuple[int, int], ...]:
    """How often each class is there: runs on other images have no common mean."""
    return tuple(curves.positives.items())


def class_names(method: Method, classes: int) -> list[str]:
    """Numbers where the result does not name them all."""
    names = [str(name) for name in method.first.fact("data.classes") or ()]
    return names if len(names) == classes else [str(number) for number in range(classes)]
