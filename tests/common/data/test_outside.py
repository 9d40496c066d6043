from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from common.data.outside import load_outside
from common.failures import Refused


def manifest(dark_background: bool, shape: tuple[int, int, int] = (1, 28, 28)) -> dict[str, object]:
    return {"shape": list(shape), "dark_background": dark_background}


def drawing(path: Path, ink: int, paper: int) -> Path:
    image = Image.new("L", (140, 140), paper)
    ImageDraw.Draw(image).rectangle((60, 20, 79, 119), fill=ink)
    image.save(path)
    return path


def test_ink_on_paper_is_inverted_for_sets_on_black(tmp_path: Path) -> None:
    read = load_outside(drawing(tmp_path / "one.png", ink=0, paper=255), manifest(dark_background=True))
    assert (read.shape, read.dtype) == ((1, 28, 28), np.uint8)
    assert (read[0, 0, 0], read[0, 14, 14]) == (0, 255)


def test_chalk_on_a_board_stays(tmp_path: Path) -> None:
    read = load_outside(drawing(tmp_path / "one.png", ink=255, paper=0), manifest(dark_background=True))
    assert (read[0, 0, 0], read[0, 14, 14]) == (0, 255)


def test_other_sets_are_never_inverted(tmp_path: Path) -> None:
    read = load_outside(drawing(tmp_path / "one.png", ink=0, paper=255), manifest(dark_background=False))
    assert (read[0, 0, 0], read[0, 14, 14]) == (255, 0)


@pytest.mark.parametrize(("grey", "expected"), [(127, 127), (128, 127), (255, 0)])
def test_bright_begins_above_127(tmp_path: Path, grey: int, expected: int) -> None:
    Image.new("L", (28, 28), grey).save(tmp_path / "flat.png")
    assert np.unique(load_outside(tmp_path / "flat.png", manifest(dark_background=True))).tolist() == [expected]


def test_a_clear_ground_counts_as_paper(tmp_path: Path) -> None:
    image = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((12, 4, 15, 23), fill=(0, 0, 0, 255))
    image.save(tmp_path / "pen.png")
    read = load_outside(tmp_path / "pen.png", manifest(dark_background=True))
    assert (read[0, 0, 0], read[0, 14, 14]) == (0, 255)


def test_colour_sets_get_colour(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (10, 200, 30)).save(tmp_path / "a.bmp")
    read = load_outside(tmp_path / "a.bmp", manifest(dark_background=False, shape=(3, 32, 32)))
    assert (read.shape, read[:, 5, 5].tolist()) == ((3, 32, 32), [10, 200, 30])


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(Refused, match=r"notes\.txt: not an image"):
        load_outside(tmp_path / "notes.txt", manifest(dark_background=True))
