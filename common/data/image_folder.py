"""A folder of images with one folder per class: the user's own data.

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

from common.data.image_files import read_image
from common.data.packing import Part
from common.failures import Refused

if TYPE_CHECKING:
    import numpy as np

SETS = ("train", "test")
VALIDATION_NAMES = ("val", "valid", "validation")
PROBLEMS_SHOWN = 20
READ_AT_ONCE = 64  # images; decoding releases Python's lock, so threads share the work


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
    if not source.is_dir():
        raise Refused([f"source: {source} is not a folder; expected one with a folder of images per class"])
    names = {folder.name for folder in _subfolders(source)}
    if "train" not in names:
        by_class = _by_class(source)
        single = [name for name, files in by_class.items() if len(files) == 1]
        if single:
            raise Refused(
                [f"source: class {name} has 1 image; expected one to train on, one to test on" for name in single]
            )
        return _listing({name: _split(name, files, settings) for name, files in by_class.items()})
    _check_split_folders(source, names)
    train, test = _by_class(source / "train"), _by_class(source / "test")
    unpaired = [f"source: {source / 'test'} has no class folder {name}" for name in sorted(train.keys() - test.keys())]
    unpaired += [
        f"source: {source / 'train'} has no class folder {name}" for name in sorted(test.keys() - train.keys())
    ]
    if unpaired:
        raise Refused(unpaired)
    return _listing({name: {"train": train[name], "test": test[name]} for name in train})


def as_parts(listing: Listing, settings: FolderSettings) -> dict[str, Part]:
    """Nothing is read before the blocks are asked for."""
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
    found: dict[str, list[Path]] = {}
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
        found[class_folder.name] = entries
    if len(found) < 2:
        names = ", ".join(found) or "none"
        problems.append(
            f"source: {folder} has too few class folders ({names}); expected at least 2, named as the classes"
        )
    if problems:
        raise Refused(_shortened(problems))
    return found


def _split(class_name: str, files: Sequence[Path], settings: FolderSettings) -> dict[str, list[Path]]:
    """By a hash of the names, so that images which join the folder later move few of the others to the other side."""

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
    """Goes on to the end in spite of unreadable images, so that all of them are known at once."""
    import numpy as np
    from tqdm import tqdm

    problems: list[str] = []

    def read(path: Path) -> "np.ndarray":
        try:
            return read_image(path, shape)
        except Refused as refused:
            problems.extend(refused.problems)
            return np.zeros(shape, dtype=np.uint8)

    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), desc=name, unit=" images", disable=None) as bar:
        for start in range(0, len(paths), READ_AT_ONCE):
            block = np.stack(list(pool.map(read, paths[start : start + READ_AT_ONCE])))
            yield block
            bar.update(len(block))
    if problems:
        raise Refused(_shortened(sorted(problems)))


def _shortened(problems: Sequence[str]) -> list[str]:
    hidden = len(problems) - PROBLEMS_SHOWN
    return [*problems[:PROBLEMS_SHOWN], *([f"... and {hidden:,} more like these"] if hidden > 0 else [])]
