from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure

from aggregate.figures.curves import (
    corruption_curves,
    draw_curves,
    history,
    learning_curves,
    severity_curves,
    under_corruption,
)
from aggregate.figures.style import Styles, styles
from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from common.settings.shift import ALL_CORRUPTIONS

MakeRun = Callable[..., Path]


def with_history(folder: Path, *shares: float) -> Path:
    lines = [f"{epoch},{share}" for epoch, share in enumerate(shares, 1)]
    (folder / "history.csv").write_text("\n".join(["epoch,val_accuracy", *lines, ""]))
    return folder


def read(*folders: Path) -> tuple[list[Method], Styles]:
    methods = group(collect(folders)[0])
    return methods, styles((method.data, method.label) for method in methods)


def drawn(*curves: Mapping[int, float], start: int = 0) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The line's points, and the lower and upper end of the band at each."""
    axes = Figure().subplots()
    draw_curves(axes, curves, styles([("digits", "a")])["a"], start)
    line = [tuple(map(float, point)) for each in axes.get_lines() for point in each.get_xydata()]
    bands = [each for each in axes.collections if isinstance(each, FillBetweenPolyCollection)]
    corners = [tuple(map(float, each)) for band in bands for each in band.get_paths()[0].vertices]
    ends = {x: [y for at, y in corners if at == x] for x, _ in corners}
    return line, [(min(ys), max(ys)) for _, ys in sorted(ends.items())]


def test_mean_and_band_by_hand() -> None:
    line, band = drawn({1: 0.4, 2: 0.6}, {1: 0.6, 2: 0.6})
    assert line == [pytest.approx((1, 50)), pytest.approx((2, 60))]
    assert band == [pytest.approx((50 - 14.142136, 50 + 14.142136)), pytest.approx((60, 60))]


def test_runs_that_ended_early_end_the_line() -> None:
    line, _ = drawn({1: 0.4, 2: 0.6, 3: 0.9}, {1: 0.6, 2: 0.6})
    assert [x for x, _ in line] == [1, 2]
    assert [x for x, _ in drawn({1: 0.4, 2: 0.6, 3: 0.9}, start=2)[0]] == [2, 3]
    assert drawn({1: 0.4}, {2: 0.5}) == ([], [])


def test_one_run_has_no_band_and_no_band_leaves_what_is_possible() -> None:
    assert drawn({1: 0.4, 2: 0.6})[1] == []
    assert drawn({1: 1.0}, {1: 0.9}, {1: 1.0})[1][0][1] == 100


@pytest.mark.parametrize("text", ["", "epoch,loss\n1,2\n", "epoch,val_accuracy\n1,high\n", "epoch,val_accuracy\n1\n"])
def test_histories_that_do_not_tell(text: str, make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "history.csv").write_text(text)
    methods, looks = read(folder)
    assert history(methods[0].first) == {}
    assert list(learning_curves(methods, looks)) == []


def test_learning_curves_of_each_data_set(make_run: MakeRun) -> None:
    rising = [epoch / 10 for epoch in range(1, 9)]
    folders = [with_history(make_run(seed=seed), *rising) for seed in (0, 1)]
    methods, looks = read(*folders, with_history(make_run(data={"name": "mnist"}), 0.5), make_run(recipe={"epochs": 9}))
    digits, mnist = learning_curves(methods, looks)
    assert (digits.name, mnist.name) == ("learning-digits", "learning-mnist")
    whole, half = digits.figure.axes
    assert len(whole.get_lines()) == 2, "the other recipe has two epochs of the history that all have"
    assert min(x for line in half.get_lines() for x in line.get_xdata()) == 4
    assert len(mnist.figure.axes) == 1, "one epoch has no second half"
    digits.figure.draw_without_rendering()
    mnist.figure.draw_without_rendering()


def test_under_corruption(make_run: MakeRun) -> None:
    subject = make_run()
    digest = f"w-{subject.name}"
    shift = {"clean": {"accuracy": 0.9}, "corrupted": {"accuracy_by_severity": {"1": 0.8, "5": 0.4}}}
    parts = {"subject": {"digest": digest}, "shift": shift}
    tested = make_run(entry="eval_shift", run={"run": subject.name, "digest": digest}, parts=parts)
    methods, looks = read(subject, tested)
    (run,) = (method.first for method in methods if method.entry == "eval_shift")
    assert under_corruption(run) == {0: 0.9, 1: 0.8, 5: 0.4}
    (picture,) = severity_curves(methods, looks)
    (line,) = picture.figure.axes[0].get_lines()
    assert line.get_ydata() == pytest.approx([90, 80, 40])
    assert line.get_color() == looks["train_cnn adaptive_cnn"].colour, "that of the method it was tested of"


@pytest.mark.parametrize("corrupted", [None, {}, {"accuracy_by_severity": None}])
def test_not_tested_under_corruption(corrupted: dict[str, object] | None, make_run: MakeRun) -> None:
    parts = {"subject": {"digest": "w"}, "shift": {"clean": {"accuracy": 0.9}, "corrupted": corrupted}}
    methods, looks = read(make_run(entry="eval_shift", run={"run": "0" * 10, "digest": "w"}, parts=parts))
    assert list(severity_curves(methods, looks)) == []


# --- of each corruption -----------------------------------------------------------------------------------------


def under(make_run: MakeRun, corrupted: object, seed: int = 0, clean: object = 0.9) -> Path:
    parts = {"subject": {"digest": "w"}, "shift": {"clean": {"accuracy": clean}, "corrupted": corrupted}}
    return make_run(entry="eval_shift", seed=seed, run={"run": "0" * 10, "digest": "w"}, parts=parts)


def test_small_multiples_by_hand(make_run: MakeRun) -> None:
    errors = [{"snow": [0.2, 0.4], "fog": [0.1, 0.5]}, {"snow": [0.4, 0.4], "fog": [0.1, 0.7], "saturate": [0.3, 0.3]}]
    folders = [under(make_run, {"severities": [1, 5], "errors": each}, seed) for seed, each in enumerate(errors)]
    methods, looks = read(*folders)
    (picture,) = corruption_curves(methods, looks)
    assert picture.name == "corruptions-digits"
    assert "n = 2 runs of each method; severity 0: clean" in picture.figure.get_suptitle()
    assert [axes.get_title() for axes in picture.figure.axes] == ["snow", "fog", "saturate"], "those of the paper first"
    lines = [line.get_xydata() for axes in picture.figure.axes for line in axes.get_lines()]
    assert lines[0] == pytest.approx(np.array([(0, 90), (1, 70), (5, 60)]))
    assert lines[1] == pytest.approx(np.array([(0, 90), (1, 90), (5, 40)]))
    assert lines[2] == pytest.approx(np.array([(0, 90), (1, 70), (5, 70)])), "of the one run that was tested so"
    picture.figure.draw_without_rendering()


def test_all_corruptions_are_on_one_scale(make_run: MakeRun) -> None:
    errors = {name: [0.05 * place] for place, name in enumerate(ALL_CORRUPTIONS)}
    (picture,) = corruption_curves(*read(under(make_run, {"severities": [3], "errors": errors})))
    fields = picture.figure.axes
    assert len(fields) == 19
    assert len({axes.get_ylim() for axes in fields}) == 1
    picture.figure.draw_without_rendering()
    named = [bool(axes.get_xlabel()) for axes in fields]
    assert named == [False] * 14 + [True] * 5, "below the lowest of each column"


@pytest.mark.parametrize(
    "corrupted",
    [
        None,
        {"errors": {"fog": [0.1], "snow": [0.1]}},
        {"errors": [0.1], "severities": [1]},
        {"errors": {"fog": [0.1], "snow": [0.1, 0.2]}, "severities": [1]},
        {"errors": {"fog": [0.1], "snow": ["x"]}, "severities": [1]},
        {"errors": {"fog": [0.1], "snow": None, "rain": [0.1]}, "severities": [1]},
    ],
)
def test_fewer_than_two_corruptions_are_no_figure(corrupted: object, make_run: MakeRun) -> None:
    methods, looks = read(under(make_run, corrupted))
    assert list(corruption_curves(methods, looks)) == []
