import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sk

from common.distillation import figure
from common.distillation.gate import agreement
from common.figures import predictions, roc
from common.metrics import one_label, several_labels

LONG = "actinic keratoses and intraepithelial carcinoma of the skin"
TITLE = "resnet18-s3 on test images of cifar10, chosen by validation accuracy"


def names(classes: int) -> list[str]:
    """Short, long and odd ones in turn."""
    kinds = ("cat", LONG, "_$bee$ & a_b^{2}", "犬", "two\nlines")
    return [f"{kinds[c % len(kinds)]} {c}" if c % len(kinds) != 3 else kinds[3] for c in range(classes)]


def drawn(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += np.linspace(0.5, 3, classes)[labels]
    return logits, labels


def of_several_labels(n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (n, classes))
    return rng.normal(size=(n, classes)) + labels * np.linspace(0.5, 2, classes), labels


def confusion(classes: int) -> Figure:
    logits, labels = drawn(30 * classes, classes)
    return predictions.confusion_matrix(
        one_label.evaluate(logits, labels, names(classes))["confusion_matrix"], names(classes), TITLE
    )


def reliability(classes: int) -> Figure:
    logits, labels = drawn(30 * classes, classes)
    return predictions.reliability_diagram(
        one_label.reliability(logits, labels), one_label.ece(logits, labels), len(labels), TITLE
    )


def roc_of(classes: int) -> Figure:
    return roc.roc_curves(*drawn(30 * classes, classes), names(classes), TITLE, "multi-class")


def multi_label_roc(classes: int) -> Figure:
    return roc.roc_curves(*of_several_labels(100, classes), names(classes), TITLE, "multi-label")


def bars(classes: int) -> Figure:
    return predictions.per_class_bars(
        one_label.evaluate(*drawn(30 * classes, classes), names(classes))["per_class"], TITLE
    )


def distillation(classes: int) -> Figure:
    names = ("label_loss", "token_loss", "relation_loss", "alpha", "token_deviation", "token_directions")
    history = [{"epoch": epoch, **dict.fromkeys(names, 1234.5 / epoch)} for epoch in range(1, classes + 1)]
    logits, labels = drawn(30 * classes, classes)
    return figure.distillation(history, agreement(logits, logits[:, ::-1], labels), TITLE)


KINDS = [confusion, reliability, roc_of, multi_label_roc, bars, distillation]


def laid_out(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


def lies_inside(figure: Figure) -> bool:
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(box.x0, box.y0) >= -0.001 and box.x1 <= width + 0.001 and box.y1 <= height + 0.001


def title_of(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def legend_of(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend
    return [text.get_text() for text in legend.get_texts()]


# --- every figure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 14, 100, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off_and_no_labels_lie_on_each_other(kind: Callable[[int], Figure], classes: int) -> None:
    figure = laid_out(kind(classes))
    assert lies_inside(figure)
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label.get_text()]
            assert not [one for one, other in pairwise(boxes) if one.overlaps(other)]
        legend, heading = axes.get_legend(), next(text for text in figure.texts if text.get_text())
        assert legend is None or not legend.get_window_extent().overlaps(heading.get_window_extent())


@pytest.mark.parametrize("letters", [2, 9, 24])
@pytest.mark.parametrize("classes", [2, 20])
def test_no_part_of_a_square_matrix_is_cut_off_whatever_the_length_of_the_names(classes: int, letters: int) -> None:
    figure = predictions.confusion_matrix(np.full((classes, classes), 12), ["m" * letters] * classes, "t")
    assert lies_inside(laid_out(figure))


@pytest.mark.parametrize("classes", [2, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_has_its_title_n_and_units(kind: Callable[[int], Figure], classes: int) -> None:
    figure = kind(classes)
    n = 100 if kind is multi_label_roc else 30 * classes
    assert title_of(figure).startswith(TITLE)
    assert f"n = {n:,} " in title_of(figure)
    axes = [each.get_xlabel() + each.get_ylabel() for each in figure.axes]
    assert all(axes)
    assert any("%" in label for label in axes)


def test_matplotlibs_global_state_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; import matplotlib as mpl; before = mpl.rcParams.copy()\n"
        "from common.figures import predictions\n"
        "predictions.save(predictions.confusion_matrix(np.eye(2, dtype=int), ['a', 'b'], 't'), Path(sys.argv[1]))\n"
        "print(before == mpl.rcParams.copy(), 'matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.svg")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False", "False"]


def test_what_cannot_be_drawn_is_named_by_number_and_the_rest_is_taken_literally(tmp_path: Path) -> None:
    figure = predictions.confusion_matrix(np.eye(5, dtype=int), names(5), "costs $5, not $6 犬")
    predictions.save(
        figure, tmp_path / "a.png"
    )  # a missing glyph or a broken formula would be a warning, hence an error
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == ["cat 0", "actinic kera…the skin 1", r"_\$bee\$ & a_b^{2} 2", "class 3", "two lines 4"]
    assert all(len(name) <= predictions.LONGEST_NAME + 2 for name in shown)
    assert title_of(figure).startswith(r"costs \$5, not \$6 ?")


def test_a_long_title_is_wrapped() -> None:
    figure = laid_out(predictions.confusion_matrix(np.eye(2, dtype=int), ["a", "b"], "a title without end " * 8))
    assert lies_inside(figure)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: predictions.confusion_matrix(np.eye(2, dtype=int), ["a"], "t"),
        lambda: roc.roc_curves(np.eye(2), [0, 1], ["a"], "t", "binary"),
    ],
)
def test_names_must_match_the_classes(draw: Callable[[], Figure]) -> None:
    with pytest.raises(ValueError, match="class_names: given 1 names, allowed: 2"):
        draw()


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_figure_is_the_same_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "one" / f"a.{suffix}", tmp_path / "other" / f"a.{suffix}"]
    for path, now in zip(paths, ("0", "1000000000"), strict=True):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", now)  # what matplotlib takes for today
        predictions.save(confusion(3), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"a.{suffix}"] * 2  # nothing temporary is left


def test_a_png_has_150_dots_per_inch(tmp_path: Path) -> None:
    figure = bars(3)
    predictions.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == tuple(int(150 * inches) for inches in figure.get_size_inches())
        assert round(image.info["dpi"][0]) == 150


def test_a_palette_makes_a_png_small_and_changes_little(tmp_path: Path) -> None:
    for name in ("whole", "small"):
        predictions.save(roc_of(10), tmp_path / f"{name}.png", with_palette=name == "small")
    assert (tmp_path / "small.png").stat().st_size < (tmp_path / "whole.png").stat().st_size / 2
    with Image.open(tmp_path / "small.png") as small, Image.open(tmp_path / "whole.png") as whole:
        assert small.mode == "P"
        assert round(small.info["dpi"][0]) == 150
        ours, theirs = (np.asarray(image.convert("RGB")).astype(int) for image in (small, whole))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 32, "of 255"
    assert ours[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{name}: given suffix .*, allowed: .png, .pdf, .svg"):
        predictions.save(bars(2), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# --- confusion matrix -------------------------------------------------------------------------------------------


def counts_in_cells(axes: Axes) -> dict[tuple[int, int], str]:
    return {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}


def test_the_cells_hold_counts_and_are_shaded_by_the_share_of_their_row() -> None:
    figure = predictions.confusion_matrix([[1500, 500, 0], [0, 3, 1], [0, 0, 0]], ["a", "b", "c"], "t")
    axes = figure.axes[0]
    assert counts_in_cells(axes) == {(0, 0): "1,500", (0, 1): "500", (1, 1): "3", (1, 2): "1"}
    (image,) = axes.images
    shades = np.ma.masked_array(image.get_array())
    assert shades[:2].tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25]]
    assert shades.mask.tolist() == [[False] * 3, [False] * 3, [True] * 3]
    assert image.norm(0.25) == 0.25
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (2,000)", "b (4)", "c (0)"]
    assert "hatched: no images" in axes.get_ylabel()
    assert title_of(figure) == "t n = 2,004 images"


def test_nothing_is_hatched_where_every_class_has_images() -> None:
    assert "hatched" not in predictions.confusion_matrix([[1, 0], [1, 1]], ["a", "b"], "t").axes[0].get_ylabel()


def test_counts_can_be_read_on_their_shade() -> None:
    """A contrast of 3 : 1 or more, as WCAG 2 asks for large text and graphics."""
    for share in range(1, 100, 3):
        axes = predictions.confusion_matrix([[share, 100 - share], [0, 1]], ["a", "b"], "t").axes[0]
        (image,) = axes.images
        text = next(text for text in axes.texts if text.get_text() == str(share))
        shade = luminance(image.cmap(image.norm(share / 100))[:3])
        ink = luminance(to_rgb(text.get_color()))
        assert (max(shade, ink) + 0.05) / (min(shade, ink) + 0.05) >= 3


def luminance(colour: Sequence[float]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_counts_fit_their_cells() -> None:
    figure = laid_out(predictions.confusion_matrix(np.full((20, 20), 12_345), names(20), "t"))
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / 20
    assert max(text.get_window_extent().width for text in axes.texts) < cell


@pytest.mark.parametrize(("classes", "named"), [(20, 20), (100, 100), (200, 100)])
def test_many_classes_have_no_counts_and_fewer_names(classes: int, named: int) -> None:
    axes = confusion(classes).axes[0]
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == named
    assert bool(axes.texts) == (classes == 20)
    assert ("one in 2 named" in axes.get_xlabel()) == (named < classes)


def test_the_commonest_mistakes_of_many_classes_are_told() -> None:
    counts = 50 * np.eye(30, dtype=int)
    counts[4, 7], counts[9, 2], counts[7, 4] = 12, 30, 5
    axes = predictions.confusion_matrix(counts, [f"c{i}" for i in range(30)], "t").axes[0]
    assert axes.get_xlabel().splitlines()[2:] == [
        "Commonest mistakes",
        "c9, taken for c2: 30 of 80",
        "c4, taken for c7: 12 of 62",
        "c7, taken for c4: 5 of 55",
    ]
    spotless = predictions.confusion_matrix(np.eye(30, dtype=int), [f"c{i}" for i in range(30)], "t").axes[0]
    assert spotless.get_xlabel().endswith("No mistakes")


# --- reliability ------------------------------------------------------------------------------------------------

BINS = [
    {"low": 0.0, "high": 0.5, "n": 0, "confidence": None, "accuracy": None},
    {"low": 0.5, "high": 0.75, "n": 40, "confidence": 0.6, "accuracy": 0.5},
    {"low": 0.75, "high": 1.0, "n": 2_000_000, "confidence": 0.8, "accuracy": 0.9},
]


def test_bars_gaps_and_numbers_are_those_of_the_bins() -> None:
    figure = predictions.reliability_diagram(BINS, 0.1, 2_000_040, "t", "decisions")
    upper, lower = figure.axes
    observed, gaps = (bars.patches for bars in upper.containers)
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in observed] == [(50, 25, 50), (75, 25, 90)]
    spans = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in gaps]
    assert spans == [pytest.approx((50, 60)), pytest.approx((80, 90))]
    assert [bar.get_height() for bar in lower.patches] == [40, 2_000_000]
    assert [text.get_text() for text in lower.texts] == ["40", "2M"]
    assert title_of(figure) == "t n = 2,000,040 decisions, ECE = 10.00 % (3 bins)"
    assert lower.get_ylabel() == "n decisions"


def test_numbers_of_images_lie_within_the_axes() -> None:
    figure = laid_out(reliability(10))
    lower = figure.axes[1]
    assert all(lower.get_window_extent().y1 > text.get_window_extent().y1 for text in lower.texts)
    boxes = [text.get_window_extent() for text in lower.texts]
    assert not [one for one, other in pairwise(boxes) if one.overlaps(other)]


# --- ROC --------------------------------------------------------------------------------------------------------


def curves(axes: Axes) -> dict[str, np.ndarray]:
    """By label, without its AUC: points in percent."""
    return {str(line.get_label()).partition("  ")[2]: line.get_xydata() for line in axes.lines}


@pytest.mark.parametrize("task", ["multi-class", "multi-label"])
def test_curves_have_the_area_that_their_label_says(task: str) -> None:
    logits, labels = of_several_labels(200, 5) if task == "multi-label" else drawn(200, 5)
    axes = roc.roc_curves(logits, labels, [f"c{i}" for i in range(5)], "t", task).axes[0]
    truth = labels if task == "multi-label" else np.eye(5, dtype=int)[labels]
    scores = logits if task == "multi-label" else one_label.softmax(logits)
    aucs = sk.roc_auc_score(truth, scores, average=None)
    found = curves(axes)
    for c in range(5):
        points = found[f"c{c} ({truth[:, c].sum()})"]
        assert np.trapezoid(*points.T[::-1]) / 1e4 == pytest.approx(aucs[c])
    macro = found["macro: mean of 5 classes"]
    assert np.trapezoid(*macro.T[::-1]) / 1e4 == pytest.approx(np.mean(aucs), abs=0.002)
    best_first = [f"{aucs[c]:.3f}  c{c} ({truth[:, c].sum()})" for c in np.argsort(-aucs)]
    assert legend_of(axes) == [f"{np.mean(aucs):.3f}  macro: mean of 5 classes", *best_first, "0.500  chance"]


def test_curves_of_a_few_classes_all_look_different() -> None:
    axes = multi_label_roc(predictions.MOST_CURVES).axes[0]
    styles = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert len(styles) == len(set(styles)) == predictions.MOST_CURVES + 2


def test_two_classes_have_one_curve_that_of_the_second() -> None:
    logits, labels = drawn(50, 2)
    axes = roc.roc_curves(logits, labels, ["healthy", "ill"], "t", "binary").axes[0]
    assert list(curves(axes)) == [f"ill ({labels.sum()})", "chance"]


def test_of_many_classes_the_worst_are_drawn_before_the_spread_of_all() -> None:
    logits, labels = drawn(2000, 30)
    figure = roc.roc_curves(logits, labels, [f"c{i}" for i in range(30)], "t", "multi-class")
    aucs = one_label.one_vs_rest_auc(logits, labels)
    drawn_classes = [
        name.partition(" ")[0] for name in curves(figure.axes[0]) if name.startswith("c") and name != "chance"
    ]
    assert drawn_classes == [f"c{c}" for c in np.argsort(aucs)[: roc.WORST_CURVES]]
    assert "the 6 classes of lowest AUC, of 30" in title_of(figure)
    assert [artist for artist in figure.axes[0].collections if isinstance(artist, FillBetweenPolyCollection)]


def test_classes_without_a_curve_are_counted() -> None:
    figure = roc.roc_curves(np.eye(4)[[0, 1, 0]], [0, 1, 1], [*"abcd"], "t", "multi-class")
    assert set(curves(figure.axes[0])) == {"macro: mean of 2 classes", "a (1)", "b (2)", "chance"}
    assert title_of(figure).endswith("classes without curve (no image has them, or all): 2")


def test_one_class_alone_has_no_curve_and_the_figure_says_so(tmp_path: Path) -> None:
    figure = roc.roc_curves([[1.0, 0.0]], [0], ["a", "b"], "t", "binary")
    assert [text.get_text() for text in figure.axes[0].texts] == ["No class has both images of its own and others"]
    predictions.save(figure, tmp_path / "a.png")


@pytest.mark.parametrize("task", ["multi-class", "multi-label"])
def test_mean_curves_of_runs_have_the_mean_of_their_areas(task: str) -> None:
    draw = of_several_labels if task == "multi-label" else drawn
    logits, labels = draw(200, 5)
    scores = [logits, logits + np.random.default_rng(1).normal(size=logits.shape)]
    runs = [roc.one_against_the_rest(each, labels, task) for each in scores]
    figure = roc.mean_roc_curves(runs, [*"abcde"], "t")
    assert "n = 200 images, means over 2 runs" in title_of(figure)
    truth = labels if task == "multi-label" else np.eye(5, dtype=int)[labels]
    ranked = scores if task == "multi-label" else [one_label.softmax(each) for each in scores]
    found = curves(figure.axes[0])
    for c, name in enumerate("abcde"):
        expected = np.mean([sk.roc_auc_score(truth[:, c], each[:, c]) for each in ranked])
        points = found[f"{name} ({truth[:, c].sum()})"]
        assert np.trapezoid(*points.T[::-1]) / 1e4 == pytest.approx(expected, abs=0.002)
        assert any(label.startswith(f"{expected:.3f}  {name}") for label in legend_of(figure.axes[0]))


def test_a_mean_curve_by_hand() -> None:
    """At a false positive rate of 0 the one has found all already, the other half."""
    one, other = (np.array([0, 0, 1.0]), np.array([0, 1.0, 1])), (np.array([0, 0, 1.0]), np.array([0, 0.5, 1]))
    false, true = roc.mean_curve([one, other])
    assert (false[0], true[0]) == (0, 0)
    assert np.interp([0, 0.5, 1], false[1:], true[1:]) == pytest.approx([0.75, 0.875, 1])


def test_one_run_has_its_own_curves_and_not_those_of_a_grid() -> None:
    run = roc.one_against_the_rest(*drawn(50, 3), "multi-class")
    assert roc.mean_of_runs([run]) is run


def test_the_corner_is_magnified_where_all_curves_are_in_it() -> None:
    sure, labels = 9 * np.eye(3)[np.arange(90) % 3], np.arange(90) % 3
    (axes,) = roc.roc_curves(sure, labels, [*"abc"], "t", "multi-class").axes
    (corner,) = axes.child_axes
    assert len(corner.get_lines()) == len(axes.get_lines())
    assert corner.get_ylim()[0] == 90
    (axes,) = roc.roc_curves(*drawn(90, 3), [*"abc"], "t", "multi-class").axes
    assert not axes.child_axes


# --- bars -------------------------------------------------------------------------------------------------------


def test_bars_are_as_long_as_the_scores() -> None:
    per_class = [
        {"class": "a", "n": 1200, "precision": 0.5, "recall": 1.0, "f1_score": 2 / 3, "auc": None},
        {"class": "b", "n": 0, "precision": 0.0, "recall": 0.0, "f1_score": 0.0, "auc": None},
    ]
    figure = predictions.per_class_bars(per_class, "t")
    (axes,) = figure.axes
    lengths = {str(bars.get_label()): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert lengths == {"Precision": [50, 0], "Recall": [100, 0], "F1": [pytest.approx(200 / 3), 0]}
    assert legend_of(axes) == list(lengths)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (1,200)", "b (0)"]
    assert axes.yaxis_inverted()  # the first class is on top
    assert title_of(figure) == "t n = 1,200 labels"


def test_bars_stand_beside_the_name_of_their_class_in_order_of_the_legend() -> None:
    (axes,) = bars(10).axes
    for place in range(10):
        middles = [group.patches[place].get_y() + group.patches[place].get_height() / 2 for group in axes.containers]
        assert middles == sorted(middles)
        assert np.mean(middles) == pytest.approx(place)
        assert middles[-1] - middles[0] < 0.6


def test_bars_differ_in_grey_print() -> None:
    lightness = sorted(luminance(to_rgb(colour)) for _, colour in predictions.BARS.values())
    assert all(lighter > darker * 1.5 for darker, lighter in pairwise(lightness))


def test_of_many_classes_the_worst_have_bars_beside_all() -> None:
    logits, labels = drawn(3000, 50)
    per_class = one_label.evaluate(logits, labels, [f"c{i}" for i in range(50)])["per_class"]
    figure = predictions.per_class_bars(per_class, "t")
    left, right = figure.axes
    rising = sorted(per_class, key=lambda row: row["f1_score"])
    assert [label.get_text() for label in left.get_yticklabels()] == [
        f"{row['class']} ({row['n']})" for row in rising[:20]
    ]
    assert right.lines[0].get_ydata() == pytest.approx([100 * row["f1_score"] for row in rising])
    assert f"macro F1: {100 * np.mean([row['f1_score'] for row in rising]):.1f} %" in legend_of(right)
    assert "the 20 classes of lowest F1, of 50" in title_of(figure)


def test_bars_of_several_labels_have_the_same_columns() -> None:
    logits, labels = of_several_labels(80, 3)
    per_class = several_labels.evaluate(logits, labels, [*"abc"])["per_class"]
    assert f"n = {labels.sum()} labels" in title_of(predictions.per_class_bars(per_class, "t"))
