"""Tiny ImageNet: 200 classes of 64-pixel JPEG images in a zip, which is read without unpacking it, or in its folder.

    wnids.txt                               the classes, a WordNet id a line; they are numbered in this order
    words.txt                               id, tab, its names
    train/<id>/images/*.JPEG
    val/images/*.JPEG, val_annotations.txt  in val: file, id and box of each image

The labels of test/ were never published, so papers report results on val. It becomes `test` here too, and validation
is split from train. Some of the images are grey.
"""

import contextlib
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from common.data.packing import BLOCK, Part
from common.data.publishers.archives import DAMAGES
from common.failures import Refused

if TYPE_CHECKING:
    import numpy as np

FOLDER = "tiny-imagenet-200"
SHAPE = (3, 64, 64)
ANNOTATIONS = "val/val_annotations.txt"

Read = Callable[[str], bytes]  # the content of a file, named as in the list above


def read_class_names(paths: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the first name that words.txt has for each class, with the id where two classes have the same name."""
    (source,) = paths.values()
    with _opened(source) as (read, files):
        wnids = _lines(source, "wnids.txt", read, files)
        lines = _lines(source, "words.txt", read, files)
    names = dict(line.split("\t", 1) for line in lines if "\t" in line)
    unnamed = [wnid for wnid in wnids if wnid not in names]
    if unnamed:
        raise Refused([f"{source}: words.txt has no name for {wnid} of wnids.txt" for wnid in unnamed])
    first = [names[wnid].split(",")[0].strip() for wnid in wnids]
    counts = Counter(first)
    return tuple(name if counts[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(first, wnids, strict=True))


def read_tiny_imagenet(paths: Mapping[str, Path]) -> dict[str, Part]:
    """Read the labels of both sets; pixels are read when the blocks are asked for."""
    (source,) = paths.values()
    with _opened(source) as (read, names):
        labels = {wnid: label for label, wnid in enumerate(_lines(source, "wnids.txt", read, names))}
        train = _training_files(source, names, labels)
        annotations = _lines(source, ANNOTATIONS, read, names)
    test = _annotated_files(source, names, annotations, labels)
    return {"train": _part(source, train, "train"), "test": _part(source, test, "test")}


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[Read, set[str]]]:
    """Yield a function that reads a file by its name, and the names of all files."""
    # Names begin in the folder of the set, so that nothing else needs to know whether there is a zip.
    try:
        if source.is_dir():
            names = {path.relative_to(source).as_posix() for path in source.rglob("*")}
            yield lambda name: (source / name).read_bytes(), names
            return

        with zipfile.ZipFile(source) as archive:
            prefix = f"{FOLDER}/"
            names = {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}
            yield lambda name: archive.read(prefix + name), names
    except DAMAGES as error:
        what = f"{getattr(error, 'filename', None) or source}: cannot be read"
        raise Refused([f"{what}: {getattr(error, 'strerror', None) or error}"]) from None


def _lines(source: Path, name: str, read: Read, names: Collection[str]) -> list[str]:
    if name not in names:
        raise Refused([f"{source}: holds no {name}; expected what {FOLDER}.zip holds"])
    try:
        return [line for line in read(name).decode().splitlines() if line]
    except UnicodeDecodeError as error:
        raise Refused([f"{source}: {name} is not text: {error}"]) from None


def _training_files(source: Path, names: Collection[str], labels: Mapping[str, int]) -> list[tuple[str, int]]:
    """List the training images and their labels, by class and then by name: the same from the zip and the folder."""
    by_class: dict[str, list[str]] = {wnid: [] for wnid in labels}
    for name in sorted(names):
        match PurePosixPath(name).parts:
            case ("train", wnid, "images", file) if file.endswith(".JPEG"):
                if wnid not in by_class:
                    raise Refused([f"{source}: {name} is of a class that wnids.txt does not list"])
                by_class[wnid].append(name)

    # An interrupted unpacking leaves classes out, and the folder has no checksum that would tell.
    empty = [wnid for wnid, files in by_class.items() if not files]
    if empty:
        raise Refused(
            [f"{source}: train/{wnid}/images holds no .JPEG; expected the images of a class" for wnid in empty]
        )
    return [(name, labels[wnid]) for wnid, files in by_class.items() for name in files]


def _annotated_files(
    source: Path, names: Collection[str], annotations: Sequence[str], labels: Mapping[str, int]
) -> list[tuple[str, int]]:
    """List the images of val with their labels, in the order of the annotations."""
    files = []
    for number, line in enumerate(annotations, 1):
        name, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in labels:
            raise Refused(
                [f"{source}: {ANNOTATIONS}: line {number} is {line!r}, expected an image and one of {len(labels)} ids"]
            )
        files.append((f"val/images/{name}", labels[wnid]))

    # An image without an annotation would be left out, and one that is missing be noticed only when it is read.
    there = {name for name in names if name.startswith("val/images/") and name.endswith(".JPEG")}
    odd = sorted({name for name, _ in files} ^ there)
    if odd:
        raise Refused([f"{source}: {ANNOTATIONS} and val/images differ in {len(odd)} images, among them {odd[0]}"])
    return files


def _part(source: Path, files: Sequence[tuple[str, int]], title: str) -> Part:
    import numpy as np

    labels = np.array([label for _, label in files], dtype=np.int64)
    return Part(labels, SHAPE, _blocks(source, [name for name, _ in files], title))


def _blocks(source: Path, names: Sequence[str], title: str) -> Iterator["np.ndarray"]:
    import numpy as np
    from tqdm import tqdm

    with _opened(source) as (read, _), tqdm(total=len(names), desc=title, unit=" images", disable=None) as bar:
        for start in range(0, len(names), BLOCK):
            block = np.stack([_decoded(read(name), f"{source}: {name}") for name in names[start : start + BLOCK]])
            yield block
            bar.update(len(block))


def _decoded(content: bytes, where: str) -> "np.ndarray":
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            width, height = image.size
            # An image of another size is not of this set: it is never resized, and not even decoded.
            if (height, width) == SHAPE[1:]:
                return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # noqa: BLE001 - on damaged files Pillow's decoders raise nearly anything
        raise Refused([f"{where} cannot be read as an image: {error or type(error).__name__}"]) from None
    raise Refused([f"{where} is {width}x{height} pixels, expected {SHAPE[2]}x{SHAPE[1]}"])
