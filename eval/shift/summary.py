"""What the measurements of a test under shift come to: averages, losses against the clean images, and what failed.

Averages over corruptions are over the paper's fifteen, never its extra four. Torch-free.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from common.cli.references import open_shift_run
from common.failures import Refused
from common.metrics.robustness_line import effective_robustness, published_line
from common.settings.shift import COMMON_CORRUPTIONS, ShiftSettings
from eval.shift.robustness import Estimate, drop, mean_corruption_error, relative_mean_corruption_error

if TYPE_CHECKING:
    from eval.shift.measure import Measurement

CLEAN = "clean"


@dataclass(frozen=True)
class Baseline:
    """Errors of another run, to which those of this one are set in proportion."""

    name: str
    errors: Mapping[str, Sequence[float]]  # corruption -> error at each severity, mildest first
    clean_error: float


def open_baseline(shift: ShiftSettings, data: Mapping[str, Any], root: Path) -> Baseline | None:
    """Refused where it was tested otherwise. Ask before the work: after it, a refusal would cost all measurements."""
    if shift.baseline is None:
        return None
    path, result = open_shift_run(shift.baseline, root)
    theirs, clean = result["shift"]["corrupted"] or {}, result["shift"]["clean"].get("accuracy")
    if result["data"]["digest"] != data["digest"]:
        there = f"{result['data']['name']} ({result['data']['digest']})"
        raise Refused([f"shift.baseline: {path.name} was tested on {there}, not on {data['name']} ({data['digest']})"])
    asked = {name for name in shift.corruptions if name in COMMON_CORRUPTIONS}
    if theirs.get("severities") != sorted(shift.severities) or not asked <= theirs["errors"].keys():
        raise Refused([f"shift.baseline: {path.name} was tested on other corruptions or severities; allowed: the same"])
    if clean is None:
        raise Refused([f"shift.baseline: {path.name} has no accuracy on its clean images"])
    return Baseline(path.name, theirs["errors"], 1 - clean)


def summary(
    measurements: Sequence["Measurement"],
    shift: ShiftSettings,
    data: Mapping[str, Any],
    baseline: Baseline | None = None,
) -> dict[str, Any]:
    """For result.json. Accuracies are shares from 0 to 1."""
    alone = [
        measurement for measurement in measurements if measurement.adaptation == "source" and measurement.view == "none"
    ]
    clean = next(measurement for measurement in alone if measurement.images == "test" and measurement.severity == 0)
    return {
        "clean": _numbers(clean),
        "corrupted": _corrupted(alone, clean, shift, baseline),
        "sets": [
            _set(measurement, clean, data)
            for measurement in alone
            if measurement.images != "test" and not measurement.problem
        ],
        "adaptations": _adaptations(measurements),
        "views": [
            {"images": measurement.images, "view": measurement.view, **_numbers(measurement)}
            for measurement in measurements
            if measurement.view != "none" and not measurement.problem
        ],
        "problems": _problems(measurements),
    }


NUMBERS = (
    *("n", "accuracy", "standard_error", "nll", "ece", "nll_cooled", "ece_cooled"),
    *("gain", "gain_standard_error"),
)


def _numbers(measurement: "Measurement") -> dict[str, Any]:
    facts = asdict(measurement)
    return {name: facts[name] for name in NUMBERS if facts[name] is not None}


def _corrupted(
    alone: Iterable["Measurement"], clean: "Measurement", shift: ShiftSettings, baseline: Baseline | None
) -> dict[str, Any] | None:
    errors: dict[str, list[float]] = {}  # at each severity, mildest first
    for measurement in alone:
        if measurement.images == "test" and measurement.severity and measurement.accuracy is not None:
            errors.setdefault(measurement.corruption, []).append(1 - measurement.accuracy)
    whole = {name: found for name, found in errors.items() if len(found) == len(shift.severities)}
    counted = {name: found for name, found in whole.items() if name in COMMON_CORRUPTIONS}
    if not counted:
        return None
    at = sorted(shift.severities)
    error = mean(mean(found) for found in counted.values())
    return {
        "corruptions": len(counted),
        "severities": at,
        "accuracy": 1 - error,
        "accuracy_by_severity": {str(s): 1 - mean(found[i] for found in counted.values()) for i, s in enumerate(at)},
        "drop": None if clean.accuracy is None else clean.accuracy - (1 - error),
        "errors": whole,
        "against_baseline": _against(counted, clean, baseline) if baseline else None,
    }


def _against(errors: Mapping[str, list[float]], clean: "Measurement", baseline: Baseline) -> dict[str, Any]:
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
        except ValueError as error:  # the baseline loses nothing to a corruption: there is no ratio to it
            facts |= {name: None, f"{name}_problem": str(error)}
    return facts


def _set(measurement: "Measurement", clean: "Measurement", data: Mapping[str, Any]) -> dict[str, Any]:
    facts = {
        "images": measurement.images,
        "corruption": measurement.corruption,
        "severity": measurement.severity,
        **_numbers(measurement),
    }
    if clean.accuracy is None or measurement.accuracy is None:
        return facts
    here = Estimate(measurement.accuracy, measurement.standard_error or 0.0)
    lost = drop(Estimate(clean.accuracy, clean.standard_error or 0.0), here)
    facts |= {"drop": lost.value, "drop_standard_error": lost.standard_error}
    line = published_line(data["name"], measurement.images)
    if line and 0 < clean.accuracy < 1:
        facts["effective_robustness"] = asdict(effective_robustness(clean.accuracy, measurement.accuracy, line))
    return facts


def _adaptations(measurements: Sequence["Measurement"]) -> list[dict[str, Any]]:
    """Of each adaptation, batch size and severity: accuracy and gain on the run's own images, mean over corruptions."""
    groups: dict[tuple[str, int, int], list[Measurement]] = {}
    for measurement in measurements:
        counted = measurement.corruption in (CLEAN, *COMMON_CORRUPTIONS)
        if measurement.images == "test" and measurement.view == "none" and counted and not measurement.problem:
            groups.setdefault((measurement.adaptation, measurement.batch_size, measurement.severity), []).append(
                measurement
            )
    return [
        {
            "adaptation": adaptation,
            "batch_size": size or None,
            "severity": severity,
            "corruptions": len(found),
            "accuracy": mean(measurement.accuracy or 0.0 for measurement in found),
            "gain": mean(measurement.gain or 0.0 for measurement in found),
        }
        for (adaptation, size, severity), found in groups.items()
    ]


def _problems(measurements: Iterable["Measurement"]) -> list[dict[str, Any]]:
    """Each once, with the measurements that have it."""
    found: dict[tuple[str, str, str], int] = {}
    for measurement in measurements:
        if measurement.problem:
            place = (measurement.problem, measurement.adaptation, measurement.view)
            found[place] = found.get(place, 0) + 1
    return [
        {"problem": problem, "adaptation": adaptation, "view": view, "cells": count}
        for (problem, adaptation, view), count in found.items()
    ]
