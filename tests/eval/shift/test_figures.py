"""Every figure can be drawn from all there is, from the least there is, and where all went wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from common.settings.shift import ADAPTATIONS, ALL_CORRUPTIONS, AVERAGED_FAMILIES, COMMON_CORRUPTIONS, ShiftSettings
from eval.shift.figures import adaptation_bars, calibration_curves, draw, severity_curves
from eval.shift.summary import summary
from eval.shift.table import Measurement

TITLE = "cifar10-adaptive_cnn-s0-832f4bfbfe"


def cell(corruption: str = "clean", severity: int = 0, accuracy: float | None = None, **more: Any) -> Measurement:
    facts: dict[str, Any] = {"images": "test", "adaptation": "source", "batch_size": 0, "view": "none", "n": 10_000}
    if accuracy is not None:
        facts |= {"standard_error": 0.004, "nll": 1.0, "ece": 0.05 + severity / 50, "ece_cooled": 0.02 + severity / 60}
    return Measurement(corruption=corruption, severity=severity, accuracy=accuracy, **facts | more)


def full() -> list[Measurement]:
    cells = [cell(accuracy=0.92)]
    for place, corruption in enumerate(ALL_CORRUPTIONS):
        cells += [cell(corruption, s, 0.9 - s * (0.02 + place / 200)) for s in (1, 2, 3, 4, 5)]
        for size in (200, 16):
            cells += [
                cell(corruption, s, 0.7, adaptation=name, batch_size=size, gain=0.03 * number - 0.04 + s / 100)
                for number, name in enumerate(ADAPTATIONS[1:])
                for s in (3, 5)
            ]
    cells += [cell(accuracy=0.8, adaptation=name, batch_size=200, gain=-0.02) for name in ADAPTATIONS[1:]]
    return [*cells, *(cell(images=f"cifar10_1_{version}", accuracy=0.83, n=2000) for version in ("v4", "v6"))]


def drawn(folder: Path, cells: Sequence[Measurement]) -> set[str]:
    severities = sorted({each.severity for each in cells if each.severity})
    found = summary(cells, ShiftSettings(severities=severities), {"name": "cifar10"})
    names = draw(folder, cells, [], found, TITLE)
    assert {path.name for path in folder.glob("*")} == set(names)
    for name in names:
        with Image.open(folder / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 400
            assert len(set(image.convert("L").resize((50, 50)).tobytes())) > 10  # not empty
    return set(names)


def test_the_families_are_the_papers_fifteen() -> None:
    assert sorted(name for members in AVERAGED_FAMILIES.values() for name in members) == sorted(COMMON_CORRUPTIONS)


def test_all_there_is(tmp_path: Path) -> None:
    every = {"severity.png", "calibration.png", "adaptation.png", "effective_robustness.png"}
    assert drawn(tmp_path, full()) == every


SILENT = cell(problem="no number")
LEAST: dict[str, tuple[list[Measurement], set[str]]] = {
    "clean alone": ([cell(accuracy=0.9)], set()),
    "one corruption": ([cell(accuracy=0.9), cell("fog", 5, 0.5)], {"severity.png", "calibration.png"}),
    "extra corruptions alone": ([cell(accuracy=0.9), cell("spatter", 5, 0.5)], set()),
    "no temperature": (
        [cell(accuracy=0.9), cell("fog", 5, 0.5, ece_cooled=None)],
        {"severity.png", "calibration.png"},
    ),
    "clean failed": ([SILENT, cell("fog", 5, 0.5)], {"severity.png", "calibration.png"}),
    "clean failed, and of a family every corruption somewhere": (
        [
            *(SILENT, cell("shot_noise", 1, 0.5), cell("shot_noise", 5, 0.4)),
            *(cell("fog", 1, 0.6), cell("fog", 5, problem="no number")),
            *(cell("snow", 1, problem="no number"), cell("snow", 5, 0.6)),
        ],
        {"severity.png", "calibration.png"},
    ),
    "one adaptation on clean images": (
        [cell(accuracy=0.9), cell(accuracy=0.8, adaptation="tent", batch_size=64, gain=-0.1)],
        {"adaptation.png"},
    ),
    "another set": ([cell(accuracy=0.5), cell(images="cifar10_1_v6", accuracy=0.3)], {"effective_robustness.png"}),
    "problems alone": (
        [
            *(SILENT, cell("fog", 5, problem="no number"), cell("fog", 5, adaptation="tent", problem="no norm")),
            cell(images="cifar10_1_v6", problem="shape"),
        ],
        set(),
    ),
}


@pytest.mark.parametrize("name", LEAST)
def test_the_least_there_is(name: str, tmp_path: Path) -> None:
    cells, expected = LEAST[name]
    assert drawn(tmp_path, cells) == expected


def lines_of(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    (axes,) = figure.axes
    return {
        str(line.get_label()): ([*map(float, line.get_xdata())], [*map(float, line.get_ydata())])  # type: ignore[arg-type]
        for line in axes.lines
    }


def test_curves_are_means_in_percent_and_start_at_the_clean_images() -> None:
    cells = [cell(accuracy=0.9), cell("fog", 1, 0.8), cell("fog", 5, 0.4), cell("snow", 1, 0.6), cell("snow", 5, 0.2)]
    cells += [cell("contrast", 1, 0.7), cell("contrast", 5, 0.0), cell("spatter", 1, 0.1), cell("spatter", 5, 0.1)]
    cells += [cell("frost", 1, 0.0), cell("frost", 5, problem="no number")]  # not whole: in no curve
    lines = lines_of(severity_curves(cells, TITLE))
    assert list(lines) == ["weather (2)", "digital (1)", "mean"]
    assert lines["weather (2)"] == ([0, 1, 5], pytest.approx([90, 70, 30]))
    assert lines["mean"] == ([0, 1, 5], pytest.approx([90, 70, 20]))  # spatter is outside
    assert lines_of(calibration_curves(cells, TITLE))["as it is"] == ([0, 1, 5], pytest.approx([5, 7, 15]))


def test_bars_are_gains_in_points() -> None:
    rows: list[dict[str, Any]] = [
        {"adaptation": "source", "batch_size": None, "severity": 5, "gain": 0.0},
        {"adaptation": "tent", "batch_size": 64, "severity": 0, "gain": -0.02},
        {"adaptation": "tent", "batch_size": 64, "severity": 5, "gain": 0.1},
        {"adaptation": "lame", "batch_size": 64, "severity": 5, "gain": 0.3},
    ]
    (axes,) = adaptation_bars(rows, TITLE).axes
    heights = {str(bars.get_label()): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights["severity 5"] == pytest.approx([10, 30])
    assert heights["clean"][0] == pytest.approx(-2)
    assert heights["clean"][1] != heights["clean"][1]  # not tried: no bar, and not one of height 0
