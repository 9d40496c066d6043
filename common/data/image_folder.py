"""Reading the user's own data: a folder of images with one folder per class.

    DIR/train/<class>/*  and  DIR/test/<class>/*       the split that is there is kept; or
    DIR/<class>/*                                      a share of every class becomes the test set

Classes are numbered by name. Hidden files are ignored, and so are files beside the class folders (licences, notes).
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.image_files import read_at_once, read_image, shortened
from common.data.packing import Part
from common.failures import Refused

if TYPE_CHECKING:
    import numpy as np

SETS = ("train", "test")
VALIDATION_NAMES = ("val", "valid", "validation")


@dataclass(frozen=True)
class FolderSettings:
    size: int  # side of the packed images
    channels: int
    test_fraction: float
    split_seed: int


@dataclass(frozen=True)
class Listing:
    classes: list[str]
    files: dict[str, list[tuple[Path, int]]]  # "train", "test" -> images with their class numbers


def list_images(source: Path, settings: FolderSettings) -> Listing:
    """List the images of both sets with their classes; Refused if the folder is laid out in another way."""
    if not source.is_dir():
        raise Refused([f"source: {source} is not a folder; expected one with a folder of images per class"])
    names = {folder.name for folder in _subfolders(source)}
    if "train" in names:
        _check_split_folders(source, names)
        return _listing(_already_split(source))

    # No split is there: a share of every class becomes the test set.
    by_class = _by_class(source)
    single = [name for name, files in by_class.items() if len(files) == 1]
    if single:
        raise Refused(
            [f"source: class {name} has 1 image; expected one to train on, one to test on" for name in single]
        )
    return _listing({name: _split(name, files, settings) for name, files in by_class.items()})


def _already_split(source: Path) -> dict[str, dict[str, list[Path]]]:
    train, test = _by_class(source / "train"), _by_class(source / "test")
    unpaired = [f"source: {source / 'test'} has no class folder {name}" for name in sorted(train.keys() - test.keys())]
    unpaired += [
        f"source: {source / 'train'} has no class folder {name}" for name in sorted(test.keys() - train.keys())
    ]
    if unpaired:
        raise Refused(unpaired)
    return {name: {"train": train[name], "test": test[name]} for name in train}


def as_parts(listing: Listing, settings: FolderSettings) -> dict[str, Part]:
    """Return the sets as parts; no image is read before its block is asked for."""
    import numpy as np

    shape = (settings.channels, settings.size, settings.size)
    return {
        name: Part(
            np.array([label for _, label in files], dtype=np.int64),
            shape,
            _blocks([path for path, _ in files], shape, name),
        )
        for name, files in listing.files.items()
    }


def _check_split_folders(source: Path, names: set[str]) -> None:
    problems = []
    validation = [name for name in VALIDATION_NAMES if name in names]
    if "test" not in names:
        problems.append(
            f"source: {source} has train but no test; expected both, or source={source / 'train'}, "
            "of which test_fraction then becomes the test set"
        )

    # The suite splits validation itself, so a folder of it would be left unused without a word.
    problems += [
        f"source: {source / name}: validation is split from train when a model is trained; "
        f"move its images into train, or rename it to test if it is what results are to be reported on"
        for name in validation
    ]
    if problems:
        raise Refused(problems)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise Refused([f"source: {folder} cannot be read: {error.strerror}"]) from None


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _by_class(folder: Path) -> dict[str, list[Path]]:
    by_class: dict[str, list[Path]] = {}
    problems: list[str] = []
    for class_folder in _subfolders(folder):
        entries = _entries(class_folder)
        problems += [
            f"source: {entry} is a folder inside a class folder; expected images only"
            for entry in entries
            if entry.is_dir()
        ]
        if not entries:
            problems.append(f"source: {class_folder} is empty; expected the images of class {class_folder.name}")
        by_class[class_folder.name] = entries

    # There is nothing to tell apart in a single class.
    if len(by_class) < 2:
        names = ", ".join(by_class) or "none"
        problems.append(
            f"source: {folder} has too few class folders ({names}); expected at least 2, named as the classes"
        )

    if problems:
        raise Refused(shortened(problems))
    return by_class


def _split(class_name: str, files: Sequence[Path], settings: FolderSettings) -> dict[str, list[Path]]:
    """Divide a class by a hash of the names: images that join the folder later move few others to the other set."""

    def place(path: Path) -> str:
        return hashlib.sha256(f"{settings.split_seed}/{class_name}/{path.name}".encode()).hexdigest()

    count = min(max(round(len(files) * settings.test_fraction), 1), len(files) - 1)
    test = set(sorted(files, key=place)[:count])
    return {"train": [file for file in files if file not in test], "test": [file for file in files if file in test]}


def _listing(by_class: dict[str, dict[str, list[Path]]]) -> Listing:
    classes = sorted(by_class)
    files = {
        name: [(path, label) for label, class_name in enumerate(classes) for path in by_class[class_name][name]]
        for name in SETS
    }
    return Listing(classes, files)


def _blocks(paths: Sequence[Path], shape: tuple[int, int, int], name: str) -> Iterator["np.ndarray"]:
    """Yield the images block by block; Refused only after the last one, with every image that cannot be read."""
    import numpy as np
    from tqdm import tqdm

    problems: list[str] = []

    def read(path: Path) -> "np.ndarray":
        try:
            return read_image(path, shape)
        except Refused as refused:
            problems.extend(refused.problems)
            return np.zeros(shape, dtype=np.uint8)

    # Reading goes on after a bad image, with a black one in its place, so that all bad ones are reported together.
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), desc=name, unit=" images", disable=None) as bar:
        for start in range(0, len(paths), count := read_at_once(shape)):
            block = np.stack(list(pool.map(read, paths[start : start + count])))
            yield block
            bar.update(len(block))

    if problems:
        raise Refused(shortened(sorted(problems)))
