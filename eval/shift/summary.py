"""The summary of a test under shift has averages, losses against the clean images, and what failed.

Averages over corruptions are over the paper's fifteen, never its extra four. No torch is needed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from common.cli.references import open_shift_run
from common.failures import Refused
from common.metrics.robustness_line import effective_robustness, published_line
from common.settings.shift import COMMON_CORRUPTIONS, ShiftSettings
from eval.shift.robustness import Estimate, drop, mean_corruption_error, relative_mean_corruption_error
from eval.shift.table import CLEAN, Measurement


@dataclass(frozen=True)
class Baseline:
    """Another run, by whose errors those of this one are divided."""

    name: str
    errors: Mapping[str, Sequence[float]]  # corruption -> error at each severity, mildest first
    clean_error: float


def open_baseline(shift: ShiftSettings, data: Mapping[str, Any], root: Path) -> Baseline | None:
    """Open the run that errors are compared with, if one is named; refuse one that was tested otherwise.

    Call it before the work: after it, a refusal would cost all measurements.
    """
    if shift.baseline is None:
        return None

    path, result = open_shift_run(shift.baseline, root)
    theirs, clean = result["shift"]["corrupted"] or {}, result["shift"]["clean"].get("accuracy")
    if result["data"]["digest"] != data["digest"]:
        there = f"{result['data']['name']} ({result['data']['digest']})"
        raise Refused([f"shift.baseline: {path.name} was tested on {there}, not on {data['name']} ({data['digest']})"])

    # The baseline may have more corruptions than are asked for; severities are averaged over, so they must agree.
    asked = {name for name in shift.corruptions if name in COMMON_CORRUPTIONS}
    if theirs.get("severities") != sorted(shift.severities) or not asked <= theirs["errors"].keys():
        raise Refused([f"shift.baseline: {path.name} was tested on other corruptions or severities; allowed: the same"])
    if clean is None:
        raise Refused([f"shift.baseline: {path.name} has no accuracy on its clean images"])
    return Baseline(path.name, theirs["errors"], 1 - clean)


def summary(
    measurements: Sequence[Measurement],
    shift: ShiftSettings,
    data: Mapping[str, Any],
    baseline: Baseline | None = None,
) -> dict[str, Any]:
    """Sum a test up for result.json. Accuracies are shares from 0 to 1."""
    alone = [
        measurement for measurement in measurements if measurement.adaptation == "source" and measurement.view == "none"
    ]
    clean = next(measurement for measurement in alone if measurement.images == "test" and measurement.severity == 0)
    others = [measurement for measurement in alone if measurement.images != "test" and not measurement.problem]
    views = [measurement for measurement in measurements if measurement.view != "none" and not measurement.problem]

    return {
        "clean": _numbers(clean),
        "corrupted": _corrupted(alone, clean, shift, baseline),
        "sets": [_set(measurement, clean, data) for measurement in others],
        "adaptations": _adaptations(measurements),
        "views": [{"images": row.images, "view": row.view, **_numbers(row)} for row in views],
        "problems": _problems(measurements),
    }


NUMBERS = (
    *("n", "accuracy", "standard_error", "nll", "ece", "nll_cooled", "ece_cooled"),
    *("gain", "gain_standard_error"),
)


def _numbers(measurement: Measurement) -> dict[str, Any]:
    facts = asdict(measurement)
    return {name: facts[name] for name in NUMBERS if facts[name] is not None}


def _corrupted(
    alone: Iterable[Measurement], clean: Measurement, shift: ShiftSettings, baseline: Baseline | None
) -> dict[str, Any] | None:
    errors: dict[str, list[float]] = {}  # at each severity, mildest first
    for measurement in alone:
        if measurement.images == "test" and measurement.severity and measurement.accuracy is not None:
            errors.setdefault(measurement.corruption, []).append(1 - measurement.accuracy)

    # A corruption that lacks a severity would make a mean better or worse than it is: it counts in none.
    whole = {name: levels for name, levels in errors.items() if len(levels) == len(shift.severities)}
    counted = {name: levels for name, levels in whole.items() if name in COMMON_CORRUPTIONS}
    if not counted:
        return None

    at = sorted(shift.severities)
    error = mean(mean(levels) for levels in counted.values())
    by_severity = {
        str(severity): 1 - mean(levels[place] for levels in counted.values()) for place, severity in enumerate(at)
    }
    return {
        "corruptions": len(counted),
        "severities": at,
        "accuracy": 1 - error,
        "accuracy_by_severity": by_severity,
        "drop": None if clean.accuracy is None else clean.accuracy - (1 - error),
        "errors": whole,
        "against_baseline": _against(counted, clean, baseline) if baseline else None,
    }


def _against(errors: Mapping[str, list[float]], clean: Measurement, baseline: Baseline) -> dict[str, Any]:
    base = {corruption: baseline.errors[corruption] for corruption in errors}
    measures = {"mean_corruption_error": lambda: mean_corruption_error(errors, base)}
    if clean.accuracy is not None:
        clean_errors = {"clean_error": 1 - clean.accuracy, "baseline_clean_error": baseline.clean_error}
        measures["relative_mean_corruption_error"] = lambda: relative_mean_corruption_error(
            errors, base, **clean_errors
        )

    facts: dict[str, Any] = {"baseline": baseline.name}
    for name, measure in measures.items():
        try:
            facts[name] = measure()
        except ValueError as error:
            # The baseline may lose nothing to a corruption, and there is no ratio to nothing.
            facts |= {name: None, f"{name}_problem": str(error)}
    return facts


def _set(measurement: Measurement, clean: Measurement, data: Mapping[str, Any]) -> dict[str, Any]:
    facts = {
        "images": measurement.images,
        "corruption": measurement.corruption,
        "severity": measurement.severity,
        **_numbers(measurement),
    }
    if clean.accuracy is None or measurement.accuracy is None:
        return facts

    # The set has other images than the clean ones, so both draws add to the error of the difference.
    here = Estimate(measurement.accuracy, measurement.standard_error or 0.0)
    lost = drop(Estimate(clean.accuracy, clean.standard_error or 0.0), here)
    facts |= {"drop": lost.value, "drop_standard_error": lost.standard_error}

    # The line leads through probits, which accuracies of 0 and 1 have not.
    line = published_line(data["name"], measurement.images)
    if line and 0 < clean.accuracy < 1:
        facts["effective_robustness"] = asdict(effective_robustness(clean.accuracy, measurement.accuracy, line))
    return facts


def _adaptations(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return accuracy and gain of each adaptation, batch size and severity, on the run's own images.

    Both are means over corruptions.
    """
    groups: dict[tuple[str, int, int], list[Measurement]] = {}
    for measurement in measurements:
        counted = measurement.corruption in (CLEAN, *COMMON_CORRUPTIONS)
        if measurement.images == "test" and measurement.view == "none" and counted and not measurement.problem:
            key = (measurement.adaptation, measurement.batch_size, measurement.severity)
            groups.setdefault(key, []).append(measurement)

    # The number of corruptions is told beside each mean: where a method failed, fewer are in it.
    return [
        {
            "adaptation": adaptation,
            "batch_size": size or None,
            "severity": severity,
            "corruptions": len(group),
            "accuracy": mean(measurement.accuracy or 0.0 for measurement in group),
            "gain": mean(measurement.gain or 0.0 for measurement in group),
        }
        for (adaptation, size, severity), group in groups.items()
    ]


def _problems(measurements: Iterable[Measurement]) -> list[dict[str, Any]]:
    """List each problem once, with the number of measurements that have it."""
    problems = [(row.problem, row.adaptation, row.view) for row in measurements if row.problem]
    return [
        {"problem": problem, "adaptation": adaptation, "view": view, "cells": count}
        for (problem, adaptation, view), count in Counter(problems).items()
    ]
