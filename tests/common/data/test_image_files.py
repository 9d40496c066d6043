from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from common.data.image_files import NO_IMAGE, find_images, load_all_outside, load_outside
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


# --- many of them -----------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """In the working folder: files, folders, hidden ones."""
    for name in ("b.png", "a.png", "in/2.jpg", "in/deep/1.jpg", "in/.thumbs/t.jpg", "in/.hidden.jpg", "a[1].png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["b.png", "a.png"], ["b.png", "a.png"]),
        (["in"], ["in/2.jpg", "in/deep/1.jpg"]),
        (["in/"], ["in/2.jpg", "in/deep/1.jpg"]),
        (["?.png"], ["a.png", "b.png"]),
        (["a[1].png"], ["a[1].png"]),  # a file of that very name comes before what the pattern means
        (["[ab].png", "b.png", "./a.png"], ["a.png", "b.png"]),
        (["in/*"], ["in/2.jpg", "in/deep/1.jpg"]),
        (["**/*.jpg"], ["in/2.jpg", "in/deep/1.jpg"]),
        (["in/.hidden.jpg"], ["in/.hidden.jpg"]),  # asked for by name
    ],
    ids=str,
)
def test_names_folders_and_patterns_become_files_each_once(given: list[str], expected: list[str], tree: Path) -> None:
    assert list(map(str, find_images(given))) == expected


def test_the_same_file_by_its_full_name_is_the_same(tree: Path) -> None:
    assert find_images([str(tree / "a.png"), "a.png"]) == [tree / "a.png"]


def test_what_stands_for_no_file_is_refused_all_at_once(tree: Path) -> None:
    with pytest.raises(Refused) as refused:
        find_images(["empty", "x*.png", "a.png", "c.png", "y" * 300, "nowhere/c.png"])
    assert refused.value.problems == [
        "empty: holds no files (hidden ones do not count); expected images",
        "x*.png: no file matches",
        "c.png: no such file or folder",
        f"{'y' * 300}: cannot be read: File name too long",
        "nowhere/c.png: no such file or folder",
    ]


def test_very_many_problems_are_counted(tree: Path) -> None:
    with pytest.raises(Refused) as refused:
        find_images([f"none{index}.xyz" for index in range(1023)])
    assert len(refused.value.problems) == 21
    assert refused.value.problems[-1] == "... and 1,003 more like these"


def test_all_are_read_in_order_as_each_is_alone(tmp_path: Path) -> None:
    """More than are read at once, some of them inverted."""
    paths = [tmp_path / f"{index}.png" for index in range(150)]
    for index, path in enumerate(paths):
        Image.new("L", (9, 7), index + 50).save(path)
    found = load_all_outside(paths, manifest(dark_background=True, shape=(1, 4, 4)))
    assert (found.shape, found.dtype) == ((150, 1, 4, 4), np.uint8)
    expected = np.stack([load_outside(path, manifest(dark_background=True, shape=(1, 4, 4))) for path in paths])
    assert np.array_equal(found, expected)
    assert expected[:, 0, 0, 0].tolist() == [*range(50, 128), *(255 - grey for grey in range(128, 200))]


def test_every_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(100)]
    for index, path in enumerate(paths):
        Image.new("L", (4, 4), index).save(path)
    for index in (3, 70, 99):
        paths[index].write_text("no image")
    with pytest.raises(Refused) as refused:
        load_all_outside(paths, manifest(dark_background=False, shape=(1, 4, 4)))
    assert refused.value.problems == [f"{paths[index]}: {NO_IMAGE}" for index in (3, 70, 99)]
