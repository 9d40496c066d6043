from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from aggregate.figures.points import adaptation_gains, cost_plots, forest, forests, pareto_front, turned
from aggregate.figures.style import Styles, styles
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from aggregate.tables.comparisons import comparisons
from aggregate.tables.table import Table

MakeRun = Callable[..., Path]
LOOKS = styles(("digits", name) for name in "abcdef")


def read(folders: Sequence[Path]) -> tuple[list[Method], Styles]:
    methods = group(collect(folders)[0])
    return methods, styles((method.data, method.label) for method in methods)


def pair(
    first: str, second: str, difference: float | None, half: float | None = 0.01, said: str = "≈"
) -> dict[str, Any]:
    low, high = (None, None) if half is None or difference is None else (difference - half, difference + half)
    ends = {"difference": difference, "difference_low": low, "difference_high": high}
    return {"data": "digits", "first": first, "second": second, "n": 3, "verdict": said, **ends}


# --- cost -------------------------------------------------------------------------------------------------------


def test_pareto_front_by_hand() -> None:
    points = [(10, 0.9), (5, 0.8), (20, 0.85), (5, 0.7), (30, 0.95), (40, 0.95)]
    assert pareto_front(points) == [1, 0, 4]
    assert pareto_front([(1, 0.5)]) == [0]
    assert pareto_front([(1, 0.5), (1, 0.5)]) == [0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_pareto_front_is_what_it_says(points: list[tuple[float, float]]) -> None:
    front = {points[place] for place in pareto_front(points)}
    for point in points:
        beaten = any(o != point and o[0] <= point[0] and o[1] >= point[1] for o in points)
        assert (point in front) == (not beaten)


def test_accuracy_against_cost(make_run: MakeRun) -> None:
    folders = [
        make_run(seed=seed, accuracy=accuracy + seed / 100, recipe={"epochs": epochs}, parts={"cost": cost})
        for epochs, accuracy, seconds in ((2, 0.9, 10.0), (4, 0.8, 20.0))
        for seed in (0, 1)
        for cost in ({"epochs": epochs, "train_seconds": seconds},)
    ]
    methods, looks = read(folders)
    (picture,) = cost_plots(methods, looks)
    (axes,) = picture.figure.axes
    assert axes.get_lines()[0].get_xydata() == pytest.approx(np.array([[10, 90.5]])), "the other is slower and worse"
    assert places_of(axes) == pytest.approx(np.array([(10, 90.5), (20, 80.5)]))
    picture.figure.draw_without_rendering()
    assert list(cost_plots(methods[:1], looks)) == [], "one method has nothing to be weighed against"


def places_of(axes: Axes) -> np.ndarray:
    return np.array([container.lines[0].get_xydata()[0] for container in axes.containers])


def test_one_weak_method_does_not_press_the_others_together(make_run: MakeRun) -> None:
    folders = [
        make_run(accuracy=a, recipe={"epochs": e}) for e, a in ((1, 0.3), (2, 0.98), (3, 0.99), (4, 0.995), (5, 1.0))
    ]
    (picture,) = cost_plots(*read(folders))
    (axes,) = picture.figure.axes
    assert axes.get_yscale() == "function"
    low, high = axes.get_ylim()
    assert low < 30
    assert 100 <= high < 100.2
    to_screen = axes.transData.transform
    assert to_screen((1, 100))[1] - to_screen((1, 98))[1] > 0.1 * axes.bbox.height
    picture.figure.draw_without_rendering()


# --- differences ------------------------------------------------------------------------------------------------


def test_a_pair_the_other_way_round() -> None:
    row = turned(pair("a", "b", 0.02, 0.05), "a")
    assert (row["first"], row["second"]) == ("b", "a")
    assert (row["difference"], row["difference_low"], row["difference_high"]) == pytest.approx((-0.02, -0.07, 0.03))
    assert turned(pair("a", "b", 0.02), "b") == pair("a", "b", 0.02)
    assert turned(pair("a", "b", 0.02, None), "a")["difference_low"] is None


def test_a_forest_by_hand() -> None:
    rows = [pair("a", "f", 0.02, 0.01, "better"), pair("b", "f", -0.01, 0.03), pair("c", "f", 0.0, None, "?")]
    figure = forest(rows, "title", LOOKS)
    (axes,) = figure.axes
    assert places_of(axes) == pytest.approx(np.array([(2, 0), (-1, 1), (0, 2)]))
    faces = [container.lines[0].get_markerfacecolor() for container in axes.containers]
    assert faces == [LOOKS["a"].colour, "white", "white"], "hollow where nothing is told apart"
    assert [bool(container.has_xerr) for container in axes.containers] == [True, True, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert figure.get_suptitle() == "title\nn = 3 common seeds"
    assert axes.get_xscale() == "linear"


def test_a_forest_of_other_numbers_of_seeds_names_them_all() -> None:
    figure = forest([pair("a", "f", 0.02), {**pair("b", "f", 0.02), "n": 5}], "title", LOOKS)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a (n=3)", "b (n=5)"]


def test_a_forest_with_one_far_away() -> None:
    rows = [pair(name, "f", size) for name, size in (("a", 0.005), ("b", -0.01), ("c", 0.008), ("d", -0.6))]
    figure = forest(rows, "title", LOOKS)
    (axes,) = figure.axes
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlabel() == "Difference in test accuracy (points; logarithmic beyond ±2)"
    low, high = axes.get_xlim()
    assert low < -61
    assert high < 10
    figure.draw_without_rendering()


def test_differences_are_from_the_best_by_validation(make_run: MakeRun) -> None:
    folders = [
        make_run(seed=seed, accuracy=a + seed / 1000, recipe={"epochs": e}, parts={"val": {"n": 9, "accuracy": v}})
        for e, a, v in ((2, 0.9, 0.7), (4, 0.8, 0.9), (6, 0.7, 0.8))
        for seed in (0, 1)
    ]
    methods, looks = read(folders)
    table = comparisons(methods)
    assert table
    (picture,) = forests([table], methods, looks)
    assert picture.name == "differences-digits"
    (axes,) = picture.figure.axes
    assert places_of(axes) == pytest.approx(np.array([(10, 0), (-10, 1)]))


def test_gains_without_a_student_alone_are_not_drawn(make_run: MakeRun) -> None:
    methods, looks = read([make_run()])
    rows = [pair("train_cnn adaptive_cnn", "", None)]
    assert list(forests([Table("distillation", "", "", [], rows)], methods, looks)) == []
    rows.append(pair("train_cnn adaptive_cnn", "a", 0.01))
    (picture,) = forests([Table("distillation", "", "", [], rows)], methods, looks)
    assert picture.name == "gain-digits"


# --- adaptation -------------------------------------------------------------------------------------------------


def adapted(method: str, adaptation: str, gain: float, batch: int = 200, low: float | None = None) -> dict[str, Any]:
    ends = {"gain_low": low, "gain_high": None if low is None else 2 * gain - low}
    names = {"data": "digits", "method": method, "adaptation": adaptation, "batch_size": batch, "severity": 5, "n": 3}
    return {**names, "gain_mean": gain, **ends}


@pytest.mark.parametrize("batches", [(200, 200), (200, 50)])
def test_gains_of_adaptation(batches: tuple[int, int]) -> None:
    rows = [adapted("a", "tent", 0.1, batches[0], 0.05), adapted("b", "lame", -0.02, batches[1])]
    (picture,) = adaptation_gains([Table("adaptation", "", "", [], rows)], LOOKS)
    (axes,) = picture.figure.axes
    assert places_of(axes) == pytest.approx(np.array([(-0.2, 10), (1.2, -2)]))
    alike = batches[0] == batches[1]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[0] == ("tent" if alike else "tent\nbatches of 200\nseverity 5")
    assert axes.get_xlabel() == ("Batches of 200, severity 5" if alike else "")
    picture.figure.draw_without_rendering()


def test_no_adaptation_no_figure() -> None:
    assert list(adaptation_gains([Table("shift", "", "", [], [])], LOOKS)) == []
