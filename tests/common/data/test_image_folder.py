from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.image_files import NO_IMAGE
from common.data.image_folder import FolderSettings, Listing, as_parts, list_images
from common.failures import Refused

SETTINGS = FolderSettings(size=4, channels=3, test_fraction=0.25, split_seed=0)


def put(folder: Path, names: Iterable[str], colour: tuple[int, int, int] = (9, 9, 9)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (6, 5), colour).save(folder / name)


def numbered(n: int, start: int = 0) -> list[str]:
    return [f"{number:03}.png" for number in range(start, start + n)]


def names(listing: Listing, part: str) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path, _ in listing.files[part]}


def problems(source: Path) -> list[str]:
    with pytest.raises(Refused) as refused:
        list_images(source, SETTINGS)
    return refused.value.problems


def test_classes_are_numbered_by_name_and_keep_their_images(tmp_path: Path) -> None:
    put(tmp_path / "rose", numbered(4), colour=(200, 0, 0))
    put(tmp_path / "daisy", numbered(8), colour=(0, 200, 0))
    put(tmp_path / "Tulip", numbered(4), colour=(0, 0, 200))
    (tmp_path / "LICENCE.txt").write_text("beside the classes")
    (tmp_path / "rose" / ".thumbnails").write_text("hidden")
    (tmp_path / ".cache").mkdir()
    listing = list_images(tmp_path, SETTINGS)
    assert listing.classes == ["Tulip", "daisy", "rose"]
    colours = {0: (0, 0, 200), 1: (0, 200, 0), 2: (200, 0, 0)}
    for name, part in as_parts(listing, SETTINGS).items():
        images = np.concatenate(list(part.blocks))
        assert images.shape == (len(part.labels), 3, 4, 4)
        assert [tuple(image[:, 0, 0]) for image in images] == [colours[label] for label in part.labels.tolist()]
        assert np.bincount(part.labels).tolist() == {"train": [3, 6, 3], "test": [1, 2, 1]}[name]


def test_the_split_is_disjoint_complete_and_repeatable(tmp_path: Path) -> None:
    put(tmp_path / "a", numbered(20))
    put(tmp_path / "b", numbered(11))
    first, again = list_images(tmp_path, SETTINGS), list_images(tmp_path, SETTINGS)
    assert first == again
    assert names(first, "train") & names(first, "test") == set()
    assert names(first, "train") | names(first, "test") == {f"a/{n}" for n in numbered(20)} | {
        f"b/{n}" for n in numbered(11)
    }
    assert names(list_images(tmp_path, replace(SETTINGS, split_seed=1)), "test") != names(first, "test")
    # the two classes do not lose the same numbers
    assert {name[2:] for name in names(first, "test") if name[0] == "b"} - {
        name[2:] for name in names(first, "test") if name[0] == "a"
    }


def test_the_split_does_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    for place in ("here", "there"):
        put(tmp_path / place / "a", numbered(9))
        put(tmp_path / place / "b", numbered(9))
    here, there = (list_images(tmp_path / place, SETTINGS) for place in ("here", "there"))
    assert names(here, "test") == names(there, "test")


def test_images_that_join_later_move_few_others(tmp_path: Path) -> None:
    put(tmp_path / "a", numbered(40))
    put(tmp_path / "b", numbered(40))
    before = names(list_images(tmp_path, SETTINGS), "test")
    put(tmp_path / "a", numbered(4, start=40))
    after = names(list_images(tmp_path, SETTINGS), "test")
    assert len(before - after) <= 4
    assert {name for name in before if name[0] == "b"} <= after


@pytest.mark.parametrize(("n", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.24, 2), (10, 0.26, 3)])
def test_both_sides_get_at_least_one_image(tmp_path: Path, n: int, fraction: float, expected: int) -> None:
    put(tmp_path / "a", numbered(n))
    put(tmp_path / "b", numbered(n))
    listing = list_images(tmp_path, replace(SETTINGS, test_fraction=fraction))
    assert len(listing.files["test"]) == 2 * expected


def test_a_split_that_is_there_is_kept(tmp_path: Path) -> None:
    for part, n in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            put(tmp_path / part / name, numbered(n))
    listing = list_images(tmp_path, SETTINGS)
    assert listing.classes == ["cat", "dog"]
    assert [label for _, label in listing.files["train"]] == [0, 0, 0, 1, 1, 1]
    assert {path.parent.parent.name for path, _ in listing.files["test"]} == {"test"}


def test_classes_must_be_the_same_on_both_sides(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "train/eel", "test/cat", "test/dog", "test/fox"):
        put(tmp_path / folder, numbered(1))
    assert problems(tmp_path) == [
        f"source: {tmp_path}/test has no class folder eel",
        f"source: {tmp_path}/train has no class folder fox",
    ]


def test_a_validation_folder_is_refused_with_the_reason(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "val/cat", "val/dog"):
        put(tmp_path / folder, numbered(1))
    without_test, validation = problems(tmp_path)
    assert without_test.startswith(
        f"source: {tmp_path} has train but no test; expected both, or source={tmp_path}/train"
    )
    assert validation.startswith(f"source: {tmp_path}/val: validation is split from train when a model is trained")


def test_classes_may_be_called_test_and_valid(tmp_path: Path) -> None:
    put(tmp_path / "test", numbered(2))
    put(tmp_path / "valid", numbered(2))
    assert list_images(tmp_path, SETTINGS).classes == ["test", "valid"]


def test_every_fault_of_the_folders_is_named_at_once(tmp_path: Path) -> None:
    put(tmp_path / "a", numbered(2))
    (tmp_path / "a" / "more").mkdir()
    (tmp_path / "b").mkdir()
    assert problems(tmp_path) == [
        f"source: {tmp_path}/a/more is a folder inside a class folder; expected images only",
        f"source: {tmp_path}/b is empty; expected the images of class b",
    ]


def test_every_class_of_one_image_is_named(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path / name, numbered(2 if name == "b" else 1))
    assert problems(tmp_path) == [
        f"source: class {name} has 1 image; expected one to train on, one to test on" for name in "ac"
    ]


@pytest.mark.parametrize("class_names", [[], ["only"]])
def test_one_class_is_not_enough(tmp_path: Path, class_names: list[str]) -> None:
    for name in class_names:
        put(tmp_path / name, numbered(3))
    (line,) = problems(tmp_path)
    assert f"too few class folders ({class_names[0] if class_names else 'none'}); expected at least 2" in line


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere") == [
        f"source: {tmp_path}/nowhere is not a folder; expected one with a folder of images per class"
    ]


def test_unreadable_images_are_all_named_up_to_a_limit(tmp_path: Path) -> None:
    put(tmp_path / "a", numbered(70))
    put(tmp_path / "b", numbered(4))
    for number in range(5, 70, 3):  # 22 of them, in both blocks
        (tmp_path / "a" / f"{number:03}.png").write_text("no image")
    everything = Listing(["a", "b"], {"train": [(path, 0) for path in sorted((tmp_path / "a").iterdir())], "test": []})
    with pytest.raises(Refused) as refused:
        list(as_parts(everything, SETTINGS)["train"].blocks)
    lines = refused.value.problems
    assert lines[0] == f"{tmp_path}/a/005.png: {NO_IMAGE}"
    assert lines[19] == f"{tmp_path}/a/062.png: {NO_IMAGE}"
    assert lines[20:] == ["... and 2 more like these"]
