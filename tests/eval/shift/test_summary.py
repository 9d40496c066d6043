"""Averages worked by hand from a few cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from common.settings.shift import ShiftSettings
from eval.shift.summary import Baseline, open_baseline, summary
from eval.shift.table import Measurement

DIGITS = {"name": "digits", "digest": "0f3a"}


def cell(corruption: str = "clean", severity: int = 0, accuracy: float | None = None, **more: Any) -> Measurement:
    facts: dict[str, Any] = {"images": "test", "adaptation": "source", "batch_size": 0, "view": "none", "n": 100} | more
    error = None if accuracy is None else 0.03
    return Measurement(corruption=corruption, severity=severity, accuracy=accuracy, standard_error=error, **facts)


def summed(
    cells: Sequence[Measurement], data: dict[str, str] = DIGITS, baseline: Baseline | None = None
) -> dict[str, Any]:
    return summary(cells, ShiftSettings(severities=[5, 1]), data, baseline)


CLEAN = cell(accuracy=0.9)
NOISE = [cell("gaussian_noise", 1, 0.8), cell("gaussian_noise", 5, 0.4)]
FOG = [cell("fog", 1, 0.7), cell("fog", 5, 0.5)]
SPATTER = [cell("spatter", 1, 0.1), cell("spatter", 5, 0.1)]


def test_means_are_over_severities_then_corruptions() -> None:
    found = summed([CLEAN, *NOISE, *FOG])["corrupted"]
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["drop"] == pytest.approx(0.3)
    assert found["severities"] == [1, 5]
    assert found["accuracy_by_severity"] == pytest.approx({"1": 0.75, "5": 0.45})
    assert found["errors"] == {"gaussian_noise": pytest.approx([0.2, 0.6]), "fog": pytest.approx([0.3, 0.5])}


def test_the_extra_corruptions_are_kept_but_not_counted() -> None:
    found = summed([CLEAN, *NOISE, *SPATTER])["corrupted"]
    assert (found["corruptions"], found["accuracy"]) == (1, pytest.approx(0.6))
    assert found["errors"]["spatter"] == pytest.approx([0.9, 0.9])
    assert summed([CLEAN, *SPATTER])["corrupted"] is None


def test_a_corruption_without_all_its_severities_is_left_out() -> None:
    silent = cell("fog", 1, problem="no number")
    found = summed([CLEAN, *NOISE, silent, FOG[1]])["corrupted"]
    assert (found["corruptions"], list(found["errors"])) == (1, ["gaussian_noise"])
    assert summed([CLEAN, silent, FOG[1]])["corrupted"] is None
    assert summed([CLEAN])["corrupted"] is None


def test_adapted_and_averaged_answers_and_other_images_are_not_in_the_mean() -> None:
    others = [
        cell("fog", 1, 0.0, adaptation="tent", batch_size=64, gain=-0.7),
        cell("fog", 1, 0.0, view="flip"),
        cell("fog", 1, 0.0, images="cifar10_c"),
    ]
    assert summed([CLEAN, *FOG, *others])["corrupted"] == summed([CLEAN, *FOG])["corrupted"]


def test_without_a_clean_accuracy_there_is_no_drop() -> None:
    found = summed([cell(problem="no number"), *NOISE])
    assert found["clean"] == {"n": 100}
    assert found["corrupted"]["drop"] is None
    assert found["corrupted"]["accuracy"] == pytest.approx(0.6)


def test_a_problem_is_listed_once_with_its_cells() -> None:
    cells = [cell("fog", severity, problem="no norm", adaptation="tent") for severity in (1, 5)]
    cells += [cell("fog", 1, problem="no norm", adaptation="adabn"), cell("snow", 1, problem="no number")]
    assert summed([CLEAN, *cells])["problems"] == [
        {"problem": "no norm", "adaptation": "tent", "view": "none", "cells": 2},
        {"problem": "no norm", "adaptation": "adabn", "view": "none", "cells": 1},
        {"problem": "no number", "adaptation": "source", "view": "none", "cells": 1},
    ]


def test_gains_are_means_over_the_corruptions_of_a_severity() -> None:
    tent = [
        cell(name, 5, accuracy, adaptation="tent", batch_size=64, gain=gain)
        for name, accuracy, gain in (("gaussian_noise", 0.7, 0.3), ("fog", 0.6, 0.1), ("spatter", 0.9, 0.8))
    ]
    tent += [cell("snow", 5, adaptation="tent", batch_size=64, problem="no number")]
    rows = summed([CLEAN, *NOISE, *FOG, *tent])["adaptations"]
    assert [(row["adaptation"], row["severity"]) for row in rows] == [
        *(("source", 0), ("source", 1), ("source", 5), ("tent", 5))
    ]
    assert rows[-1] == {
        "adaptation": "tent",
        "batch_size": 64,
        "severity": 5,
        "corruptions": 2,
        "accuracy": pytest.approx(0.65),
        "gain": pytest.approx(0.2),
    }


# --- other sets -------------------------------------------------------------------------------------------------


def test_what_is_lost_on_another_set_has_the_error_of_both() -> None:
    (row,) = summed([CLEAN, cell(images="mine", accuracy=0.6)])["sets"]
    assert row["drop"] == pytest.approx(0.3)
    assert row["drop_standard_error"] == pytest.approx(0.03 * 2**0.5)
    assert summed([CLEAN, cell(images="mine", problem="foreign")])["sets"] == []


@pytest.mark.parametrize(
    ("images", "data", "clean", "has_line"),
    [
        ("cifar10_1_v6", "cifar10", 0.9, True),
        ("cifar10_1_v4", "cifar10", 0.9, True),
        ("v6", "cifar10", 0.9, False),  # a set of one's own
        ("cifar10_1_v6", "digits", 0.9, False),
        ("cifar10_1_v6", "cifar10", 1.0, False),  # of which there is no probit
    ],
)
def test_the_line_is_of_cifar10_alone(images: str, data: str, clean: float, has_line: bool) -> None:
    (row,) = summed([cell(accuracy=clean), cell(images=images, accuracy=0.8)], {"name": data})["sets"]
    assert ("effective_robustness" in row) is has_line


# --- a baseline -------------------------------------------------------------------------------------------------


def test_errors_in_proportion_to_a_baseline() -> None:
    base = Baseline("theirs", {"gaussian_noise": [0.4, 0.6], "fog": [0.5, 0.5], "snow": [0.9, 0.9]}, 0.2)
    found = summed([CLEAN, *NOISE, *FOG, *SPATTER], baseline=base)["corrupted"]["against_baseline"]
    assert found == {
        "baseline": "theirs",
        "mean_corruption_error": pytest.approx((0.8 / 1.0 + 0.8 / 1.0) / 2),
        "relative_mean_corruption_error": pytest.approx((0.6 / 0.6 + 0.6 / 0.6) / 2),
    }
    without_clean = summed([cell(problem="no number"), *NOISE], baseline=base)["corrupted"]["against_baseline"]
    assert set(without_clean) == {"baseline", "mean_corruption_error"}


def test_a_baseline_that_loses_nothing_is_no_failure() -> None:
    base = Baseline("theirs", {"fog": [0.1, 0.3]}, 0.2)
    found = summed([CLEAN, *FOG], baseline=base)["corrupted"]["against_baseline"]
    assert found["mean_corruption_error"] == pytest.approx(0.8 / 0.4)
    assert found["relative_mean_corruption_error"] is None
    assert found["relative_mean_corruption_error_problem"].startswith("baseline: fog adds ")


def test_none_is_asked_for() -> None:
    assert open_baseline(ShiftSettings(), DIGITS, Path("nowhere")) is None
