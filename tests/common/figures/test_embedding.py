import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from common.figures import embedding

RANDOM = np.random.default_rng(0)


def drawn(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    file.seek(0)
    return matplotlib.image.imread(file)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("classes", [2, 20, 200])
def test_planes_name_every_class(classes: int) -> None:
    groups = np.arange(classes * 2) % classes
    points = RANDOM.normal(size=(len(groups), 2))
    names = [f"class-{i}" for i in range(classes)]
    figure = embedding.planes(points, [0.5, 0.25], points, groups, names, "h")
    said = texts(figure).split("\n")
    named = [name for name in names for _ in range(said.count(name))]
    if classes <= embedding.MOST_IN_LEGEND:
        assert named == [name for name in names for _ in "ab"]  # once in each plane
    else:
        assert said.count(f"no room for the names of {classes - len(named) // 2} of {classes} classes") == 2
    assert ("class-0 (2)" in said) == (classes <= embedding.MOST_IN_LEGEND)
    assert any("50.0% of the variance" in line for line in said)
    assert drawn(figure).std() > 0.05


def test_classes_of_a_legend_differ() -> None:
    looks = {
        (embedding.COLOURS[i % len(embedding.COLOURS)], embedding.MARKERS[i % len(embedding.MARKERS)])
        for i in range(embedding.MOST_IN_LEGEND)
    }
    assert len(looks) == embedding.MOST_IN_LEGEND


def far(places: list[np.ndarray | None], room: np.ndarray) -> bool:
    shown = [place for place in places if place is not None]
    return all((np.abs(shown[i] - shown[j]) >= room - 1e-9).any() for i in range(len(shown)) for j in range(i))


def test_names_are_moved_off_each_other_or_left_out() -> None:
    places, room = np.array([[0.0, 0.0], [0.01, 0.001], [0.02, 0.002], [0.9, 0.0]]), np.array([0.1, 0.05])
    moved = embedding._apart(places, room)
    assert far(moved, room)
    assert np.array_equal(np.array(moved), [[0.0, 0.0], [0.01, 0.05], [0.02, 0.1], [0.9, 0.0]])
    kept = embedding._free(places, room)
    assert [place is not None for place in kept] == [True, False, False, True]
    assert far(kept, room)


def test_many_names_are_moved_off_each_other() -> None:
    places, room = RANDOM.random((20, 2)), np.array([0.2, 0.05])
    assert not far(list(places), room)
    assert far(embedding._apart(places, room), room)
    assert far(embedding._free(places, room), room)
