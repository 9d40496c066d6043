from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from aggregate.figures.style import (
    LINE_HEIGHT,
    handle,
    leading,
    legend_below,
    legend_columns,
    legend_height,
    legend_label,
    panels,
    runs_each,
    styles,
)
from aggregate.runs.collect import collect
from aggregate.runs.methods import group

MakeRun = Callable[..., Path]


def test_a_method_looks_the_same_on_all_data_sets() -> None:
    looks = styles([("digits", "a"), ("digits", "b"), ("mnist", "c"), ("mnist", "b"), ("mnist", "d")])
    assert looks["b"].colour not in {looks["c"].colour, looks["d"].colour}, "they meet on mnist"
    assert looks["a"].colour == looks["c"].colour, "they never meet"
    assert looks == styles([("digits", "a"), ("digits", "b"), ("mnist", "c"), ("mnist", "b"), ("mnist", "d")])


def test_looks_differ_as_long_as_they_can() -> None:
    looks = list(styles(("digits", f"m{number}") for number in range(168)).values())
    assert len(set(looks)) == 168
    assert len({look.colour for look in looks[:7]}) == 7
    assert all(one.dash != other.dash and one.marker != other.marker for one, other in pairwise(looks)), "in grey"
    assert styles(("digits", f"m{number}") for number in range(169))["m168"] == looks[0]


def test_of_too_many_the_best_by_validation_stay_in_order(make_run: MakeRun) -> None:
    """Test accuracy would choose otherwise."""
    folders = [
        make_run(recipe={"epochs": epochs}, accuracy=1 - val, parts={"val": {"n": 9, "accuracy": val}})
        for epochs, val in ((1, 0.7), (2, 0.9), (3, 0.8))
    ]
    methods = group(collect(folders)[0])
    assert [method.label[-1] for method in leading(methods, 2)] == ["2", "3"]
    assert leading(methods) == methods


def test_facts_of_a_head(make_run: MakeRun) -> None:
    one = group(collect([make_run(seed=0)])[0])
    both = group(collect([*(make_run(seed=s) for s in (1, 2)), make_run(recipe={"epochs": 9})])[0])
    assert runs_each(method.runs for method in one) == "n = 1 run of each method"
    assert runs_each(method.runs for method in both) == "n = 1 to 2 runs of each method"


def test_no_label_is_a_formula_or_without_end() -> None:
    assert legend_label("a$b$") == r"a\$b\$"
    assert max(map(len, legend_label("word " * 60).splitlines())) <= 90


def test_short_labels_stand_side_by_side_and_long_ones_do_not() -> None:
    short, long = ["ab"] * 6, ["word " * 16] * 6
    assert legend_columns(short, 7.2) == 3
    assert legend_columns(["ab"], 7.2) == 1
    assert legend_columns(long, 7.2) == 1
    assert legend_height(short, 7.2) == pytest.approx(2 * LINE_HEIGHT)
    assert legend_height(long, 7.2) == pytest.approx(6 * LINE_HEIGHT)


@pytest.mark.parametrize("letters", [2, 10, 20, 39, 41, 60, 63, 89, 200])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_legend_lies_in_its_room(letters: int, columns: int) -> None:
    label = ("distill_kd vit ← train_cnn adaptive_cnn recipe.epochs=30, model.width=192 " * 3)[:letters]
    figure, fields = panels(4.0, "title", "facts", [label] * 8, columns)
    legend_below(figure, [handle(styles([("digits", label)])[label])] * 8, [label] * 8)
    figure.draw_without_rendering()
    box, inches = figure.legends[0].get_window_extent(), figure.get_size_inches() * figure.dpi
    assert box.x1 <= inches[0]
    assert box.y0 >= 0
    assert not any(axes.get_tightbbox().overlaps(box) for axes in fields)
