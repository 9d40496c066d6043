"""Figures are drawn whole, of one image or many, of two classes or two hundred."""

import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from eval.explanations import figures

RANDOM = np.random.default_rng(0)


def drawn(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    file.seek(0)
    return matplotlib.image.imread(file)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_rows_of_images(n: int, channels: int) -> None:
    images = RANDOM.integers(0, 256, (n, channels, 8, 10), dtype=np.uint8)
    maps, titles = RANDOM.random((n, 5, 2, 3)), [f"title {i}" for i in range(n)]
    for figure in (
        figures.overlays(images, maps[:, 0], titles, "heading, n", "unit"),
        figures.head_maps(images, maps, titles, "heading, n", "unit"),
        figures.channel_maps(images, maps, np.array([4, 0]), titles, "heading, n"),
    ):
        said = texts(figure)
        assert drawn(figure).std() > 0.05
        assert "heading, n" in said
        assert all(title in said for title in titles)
    assert "channel 4" in said


def test_a_map_of_nothing_is_drawn_as_nothing() -> None:
    images = np.zeros((1, 1, 4, 4), dtype=np.uint8)
    figure = figures.overlays(images, np.zeros((1, 2, 2)), ["t"], "h", "u")
    heat = figure.axes[0].images[-1].get_array()
    assert heat is not None
    assert np.array_equal(heat, np.zeros((2, 2)))


def test_heat_covers_the_second_picture_and_keeps_its_own_scale() -> None:
    images = np.zeros((2, 1, 4, 6), dtype=np.uint8)
    maps = np.array([[[0.0, 2.0]], [[8.0, 4.0]]])
    figure = figures.overlays(images, maps, ["a", "b"], "h", "u")
    heats = [axes.images[-1] for axes in figure.axes[:2]]
    assert [np.asarray(heat.get_array()).tolist() for heat in heats] == [[[0, 1]], [[1, 0.5]]]
    assert all(heat.get_extent() == axes.images[1].get_extent() for heat, axes in zip(heats, figure.axes, strict=False))


def test_each_head_has_one_scale_for_all_images_and_a_bar_that_shows_it() -> None:
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    maps = np.array([[[[0.0, 0.2]], [[0.5, 0.1]]], [[[0.4, 0.1]], [[0.3, 0.0]]]])  # two images, two heads
    figure = figures.head_maps(images, maps, ["a", "b"], "h", "unit")
    scales = [axes.images[0].get_clim() for axes in figure.axes[:6]]
    assert [scales[place] for place in (1, 2, 4, 5)] == [(0, 0.4), (0, 0.5)] * 2
    bars = figure.axes[6:]
    assert [bar.get_xlim() for bar in bars] == [(0, 0.4), (0, 0.5)]
    assert [[label.get_text() for label in bar.get_xticklabels()] for bar in bars] == [["0", "0.4"], ["0", "0.5"]]
    assert texts(figure).count("unit") == 1
    nothing = figures.head_maps(images, 0 * maps, ["a", "b"], "h", "unit")
    assert nothing.axes[1].images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("shape", [(3, 1, 3, 3), (70, 3, 7, 7), (5, 6, 1, 1)])
def test_filters_show_zero_as_grey(shape: tuple[int, ...]) -> None:
    weights = RANDOM.normal(size=shape)
    weights[0] = 0
    figure = figures.filter_grid(weights, "h")
    first = np.asarray(figure.axes[0].images[0].get_array())
    assert (first == 0.5).all()
    assert all(np.asarray(axes.images[0].get_array()).min() >= 0 for axes in figure.axes if axes.images)
    assert sum(len(axes.images) for axes in figure.axes) == min(shape[0], figures.MOST_FILTERS)


def test_every_gradient_has_a_line_and_none_is_said() -> None:
    figure = figures.gradient_bars(["stem", "head", "other"], [0.1, 0.001, 0.0], [1.0, 0.01, 0.0], "h")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "head", "other"]
    assert axes.get_xscale() == "log"
    assert [bar.get_x() + bar.get_width() for bar in axes.patches[:2]] == pytest.approx([0.1, 0.001])
    assert texts(figure).count("not used for the answer") == 1
    assert drawn(figure).std() > 0.05


def test_gradients_that_are_all_nothing_are_drawn() -> None:
    drawn(figures.gradient_bars(["a"], [0.0], [0.0], "h"))
