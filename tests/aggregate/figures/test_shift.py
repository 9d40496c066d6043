from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from scipy.stats import norm

from aggregate.figures.shift import CORRUPTION, by_images, shift_lines, shifted_accuracies
from aggregate.figures.style import Picture, styles
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group

MakeRun = Callable[..., Path]
V6 = "cifar10_1_v6"


def on_set(images: str, accuracy: Any, severity: int = 0) -> dict[str, Any]:
    return {"images": images, "corruption": "fog" if severity else "clean", "severity": severity, "accuracy": accuracy}


def shifted_run(
    make_run: MakeRun, clean: float, sets: Any = (), corrupted: Any = None, epochs: int = 4, seed: int = 0
) -> list[Path]:
    """A run and its test under shift."""
    cifar = {"name": "cifar10"}
    subject = make_run(seed=seed, data=cifar, recipe={"epochs": epochs})
    digest = f"w-{subject.name}"
    found = {"clean": {"accuracy": clean}, "corrupted": {"accuracy": corrupted}, "sets": sets}
    parts = {"subject": {"digest": digest}, "shift": found}
    run = {"run": subject.name, "digest": digest}
    return [subject, make_run(entry="eval_shift", seed=seed, data=cifar, run=run, parts=parts)]


def read(folders: Sequence[Path]) -> list[Method]:
    return group(collect(folders)[0])


def pictures(folders: Sequence[Path]) -> dict[str, Picture]:
    methods = read(folders)
    looks = styles((method.data, method.label) for method in methods)
    return {picture.name: picture for picture in shift_lines(methods, looks)}


def crosses(axes: Axes) -> np.ndarray:
    return np.array([container.lines[0].get_xydata()[0] for container in axes.containers])


def expected(clean: float) -> float:
    return float(norm.cdf(0.9496 * norm.ppf(clean) - 0.3811))


# --- beside the line --------------------------------------------------------------------------------------------


def test_points_beside_the_line_and_above_it(make_run: MakeRun) -> None:
    folders = [
        path
        for seed, (clean, shifted) in enumerate(((0.90, 0.82), (0.92, 0.84)))
        for path in shifted_run(make_run, clean, [on_set(V6, shifted)], seed=seed)
    ]
    (picture,) = pictures(folders).values()
    assert picture.name == f"shift-cifar10-{V6}"
    left, right = picture.figure.axes
    assert crosses(left) == pytest.approx(np.array([[91, 83]]))
    above = np.mean([0.82 - expected(0.90), 0.84 - expected(0.92)])
    assert crosses(right) == pytest.approx(np.array([[91, 100 * above]]))
    assert all(container.has_xerr and container.has_yerr for axes in (left, right) for container in axes.containers)
    assert "n = 2 runs of each method" in picture.figure.get_suptitle()
    picture.figure.draw_without_rendering()


def test_the_line_is_straight_on_its_scales_and_dashed_where_nobody_was(make_run: MakeRun) -> None:
    (picture,) = pictures(shifted_run(make_run, 0.70, [on_set(V6, 0.55)])).values()
    left, right = picture.figure.axes
    below, within, beyond, diagonal = (line for line in left.get_lines() if len(line.get_xydata()) > 1)
    assert [line.get_linestyle() for line in (below, within, beyond, diagonal)] == ["--", "-", "--", ":"]
    for line in (below, within):
        x, y = line.get_data()
        assert norm.ppf(np.asarray(y) / 100) == pytest.approx(0.9496 * norm.ppf(np.asarray(x) / 100) - 0.3811)
    assert max(below.get_xdata()) <= 82 <= min(within.get_xdata())
    assert min(below.get_xdata()) <= 68
    on_screen = left.transScale.transform(np.concatenate([below.get_xydata(), within.get_xydata()]))
    assert np.ptp(np.diff(on_screen[:, 1]) / np.diff(on_screen[:, 0])) < 1e-6, "a straight line"
    (band,) = left.collections
    x, y = band.get_paths()[0].vertices.T
    at = np.abs(x - within.get_xdata()[0]) < 1e-9
    assert np.ptp(y[at]) == pytest.approx(2 * 1.959964 * 0.80, abs=1e-4)
    hatched = [patch for patch in (*left.patches, *right.patches) if patch.get_hatch()]
    assert {isinstance(patch, Rectangle | Polygon) for patch in hatched} == {True}
    assert {round(patch.get_x() + patch.get_width()) for patch in hatched if patch.get_x() < 75} == {82}
    legend = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert "Outside their range, 82 to 97 %" in legend
    assert "95 % of published models: ± 1.6 points" in legend


def test_a_line_of_unknown_scatter_has_no_band(make_run: MakeRun) -> None:
    (picture,) = pictures(shifted_run(make_run, 0.9, [on_set("cifar10_1_v4", 0.8)])).values()
    assert not picture.figure.axes[0].collections
    assert not any("95 %" in text.get_text() for text in picture.figure.legends[0].get_texts())
    assert not any(c.has_xerr or c.has_yerr for axes in picture.figure.axes for c in axes.containers), "n = 1"


@pytest.mark.parametrize("clean", [0.01, 0.5, 0.999])
def test_odd_accuracies_are_drawn(clean: float, make_run: MakeRun) -> None:
    for picture in pictures(shifted_run(make_run, clean, [on_set(V6, 1.0)])).values():
        picture.figure.draw_without_rendering()


# --- without a line ---------------------------------------------------------------------------------------------


def test_drops_of_three_methods_or_more(make_run: MakeRun) -> None:
    shares = ((0.90, 0.70), (0.80, 0.65), (0.85, 0.55))
    folders = [
        path
        for epochs, (clean, shifted) in enumerate(shares, 1)
        for path in shifted_run(make_run, clean, [on_set("../mine", shifted)], shifted - 0.1, epochs)
    ]
    found = pictures(folders)
    assert list(found) == ["shift-cifar10-corruption", "shift-cifar10-.._mine"], "no name leads out of the folder"
    (axes,) = found["shift-cifar10-corruption"].figure.axes
    assert crosses(axes) == pytest.approx(np.array([(90, 30), (80, 25), (85, 40)]))
    (axes,) = found["shift-cifar10-.._mine"].figure.axes
    assert crosses(axes) == pytest.approx(np.array([(90, 20), (80, 15), (85, 30)]))
    assert "mean over corruptions" in found["shift-cifar10-corruption"].caption
    assert "mean over corruptions" not in found["shift-cifar10-.._mine"].caption
    assert pictures(folders[:4]) == {}, "two methods say nothing of how the drop goes with the accuracy"


# --- what is read -----------------------------------------------------------------------------------------------


def test_accuracies_of_sets_as_they_are(make_run: MakeRun) -> None:
    sets = [on_set(V6, 0.8), on_set("mine", 0.7, severity=3), on_set("other", None), on_set("wrong", 2.0), "x"]
    (method,) = (each for each in read(shifted_run(make_run, 0.9, sets, 0.6)) if each.entry == "eval_shift")
    assert shifted_accuracies(method.first) == {CORRUPTION: 0.6, V6: 0.8}


@pytest.mark.parametrize(("clean", "sets"), [(1.0, [on_set(V6, 0.9)]), (0.9, None), (0.9, "x"), (0.9, [])])
def test_nothing_to_draw(clean: float, sets: Any, make_run: MakeRun) -> None:
    assert pictures(shifted_run(make_run, clean, sets)) == {}


def test_each_run_with_what_it_was_tested_on(make_run: MakeRun) -> None:
    folders = [*shifted_run(make_run, 0.9, [on_set(V6, 0.8)], seed=0), *shifted_run(make_run, 0.8, [], 0.5, seed=1)]
    shifted = [method for method in read(folders) if method.entry == "eval_shift"]
    found = by_images(shifted)
    assert {name: [(each.clean, each.shifted) for each in pairs] for name, pairs in found.items()} == {
        V6: [([0.9], [0.8])],
        CORRUPTION: [([0.8], [0.5])],
    }
