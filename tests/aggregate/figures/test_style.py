from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from aggregate.collect import collect
from aggregate.figures.style import leading, legend_label, runs_each, styles
from aggregate.methods import group

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
    assert runs_each(one) == "n = 1 run of each method"
    assert runs_each(both) == "n = 1 to 2 runs of each method"


def test_no_label_is_a_formula_or_without_end() -> None:
    assert legend_label("a$b$") == r"a\$b\$"
    assert max(map(len, legend_label("word " * 60).splitlines())) <= 90
