"""The packed format: a folder that training only maps.

    <data_dir>/<name>/
        train_images.npy uint8 (n, c, h, w)     train_labels.npy int64 (n,), of a multi-label set (n, classes) 0 or 1
        test_images.npy                         test_labels.npy
        ...                                     two such files for every part the set has
        manifest.json                           written last: the set is whole

Images are written block by block, so a set may be far larger than the memory. numpy is imported where it is
used, here and in the modules beside this one: a command that only answers a question does not wait for it.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.failures import Refused
from common.files import atomic_write, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
MANIFEST = "manifest.json"
TRAIN = "train"  # the part whose mean and deviation normalise images; sets for evaluation only have none
MULTI_LABEL = "multi-label"
Task = Literal["multi-class", "binary", "ordinal", "multi-label"]  # the first three have one class number per image
DTYPES = {"images": "|u1", "labels": "<i8"}  # the same bytes, so the same checksums, on every machine
BLOCK = 1024  # images


@dataclass(frozen=True)
class Part:
    """Images that belong together, such as those for training or for the test, with their labels."""

    labels: "np.ndarray"  # int64 (n,) class numbers; of a multi-label set (n, classes) of 0 and 1
    shape: tuple[int, int, int]  # channels, height, width
    blocks: Iterable["np.ndarray"]  # uint8 (some, channels, height, width), n images in all, in the order of labels

    @classmethod
    def of(cls, images: "np.ndarray", labels: "np.ndarray") -> "Part":
        channels, height, width = images.shape[1:]
        blocks = [images[start : start + BLOCK] for start in range(0, len(images), BLOCK)]
        return cls(labels, (channels, height, width), blocks)


class PixelSums:
    """Sums for mean and standard deviation per channel, in whole numbers: exact, however many images there are."""

    def __init__(self, channels: int) -> None:
        self.pixels = 0
        self.total = [0] * channels
        self.squares = [0] * channels

    def passing(self, blocks: Iterable["np.ndarray"]) -> Iterator["np.ndarray"]:
        """Yield the blocks as they come, and count each."""
        for block in blocks:
            self.add(block)
            yield block

    def add(self, block: "np.ndarray") -> None:
        import numpy as np

        self.pixels += block.size // len(self.total)
        for channel in range(len(self.total)):
            values = block[:, channel]
            self.total[channel] += int(values.sum(dtype=np.uint64))
            self.squares[channel] += int(np.square(values, dtype=np.uint16).sum(dtype=np.uint64))

    def mean(self) -> list[float]:
        return [total / self.pixels / 255 for total in self.total]

    def std(self) -> list[float]:
        """Return the deviation over all pixels, divided by n, not n - 1, as the published figures are."""
        return [
            math.sqrt(squares * self.pixels - total**2) / self.pixels / 255
            for total, squares in zip(self.total, self.squares, strict=True)
        ]


def is_packed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def pack(folder: Path, parts: Mapping[str, Part], classes: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the arrays of all parts, then the manifest; the problems of all parts are Refused together.

    Mean and deviation are those of the training images; in a set without any, those of all images, for information.
    """
    shapes = {part.shape for part in parts.values()}
    if len(shapes) > 1:
        raise Refused([f"{' and '.join(parts)} images differ in shape: {' and '.join(map(str, sorted(shapes)))}"])

    # All parts are checked, and so read to their end, before any problem is reported.
    shape = list(shapes.pop())
    sums = PixelSums(shape[0])
    sets: dict[str, Any] = {}
    problems: list[str] = []
    for name, part in parts.items():
        counted = sums if name == TRAIN or TRAIN not in parts else None
        try:
            _check_labels(name, part.labels, classes, about)
            sets[name] = _write_set(folder, name, part, len(classes), counted)
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)

    # The manifest comes last: a folder that has it is whole.
    manifest = {
        "format": FORMAT,
        **about,
        "classes": list(classes),
        "shape": shape,
        "sets": sets,
        "mean": sums.mean(),
        "std": sums.std(),
        "digest": fingerprint(classes, shape, sets),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def fingerprint(classes: Sequence[str], shape: Sequence[int], sets: Mapping[str, Any]) -> str:
    """Return a digest that differs for other images, labels, class names, or another order of them."""
    content = [list(classes), list(shape), {name: entry["sha256"] for name, entry in sets.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_labels(name: str, labels: "np.ndarray", classes: Sequence[str], about: Mapping[str, Any]) -> None:
    if len(labels) == 0:
        raise Refused([f"{name}: no images; a set needs at least one"])
    expected = _label_shape(about, len(labels), len(classes))
    if labels.shape != expected:
        raise Refused([f"{name}: labels have the shape {labels.shape}, expected {expected}"])
    problem = _label_problem(labels, len(classes))
    if problem:
        raise Refused([f"{name}: {problem}"])
    if name == TRAIN and (labels == labels[0]).all():
        what = f"are of one class, {classes[labels[0]]}" if labels.ndim == 1 else "have the same labels"
        raise Refused([f"{name}: all {len(labels):,} images {what}; expected two classes or more to tell apart"])


def _label_shape(about: Mapping[str, Any], n: int, n_classes: int) -> tuple[int, ...]:
    return (n, n_classes) if about.get("task") == MULTI_LABEL else (n,)


def _label_problem(labels: "np.ndarray", n_classes: int) -> str:
    """Say what is wrong with the values of labels; empty where they are right."""
    highest = n_classes - 1 if labels.ndim == 1 else 1
    if not labels.size or (labels.min() >= 0 and labels.max() <= highest):
        return ""
    return f"labels run from {labels.min()} to {labels.max()}, allowed: 0 to {highest}"


def _per_class(labels: "np.ndarray", n_classes: int) -> list[int]:
    """Count the images of each class; an image of several classes counts for each of them."""
    import numpy as np

    counts = np.bincount(labels, minlength=n_classes) if labels.ndim == 1 else labels.sum(axis=0)
    return counts.tolist()


def _write_set(folder: Path, name: str, part: Part, n_classes: int, sums: PixelSums | None) -> dict[str, Any]:
    n = len(part.labels)
    files = {kind: f"{name}_{kind}.npy" for kind in DTYPES}
    blocks = sums.passing(part.blocks) if sums else part.blocks
    checksums = {
        "images": _write_array(folder / files["images"], (n, *part.shape), "images", blocks),
        "labels": _write_array(folder / files["labels"], part.labels.shape, "labels", [part.labels]),
    }
    return {"n": n, **files, "sha256": checksums, "per_class": _per_class(part.labels, n_classes)}


def _write_array(path: Path, shape: tuple[int, ...], kind: str, blocks: Iterable["np.ndarray"]) -> str:
    """Write a .npy file in one pass and return its checksum; ValueError if the blocks do not have as many rows."""
    import numpy as np

    # Plain writes, because on a full disk a write to a mapped file ends the process with SIGBUS.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": DTYPES[kind], "fortran_order": False, "shape": shape})
    digest = hashlib.sha256(header.getvalue())
    rows = 0
    with atomic_write(path) as file:
        file.write(header.getvalue())
        for block in blocks:
            content = np.ascontiguousarray(block, dtype=DTYPES[kind]).data
            file.write(content)
            digest.update(content)
            rows += len(block)
        if rows != shape[0]:
            raise ValueError(f"{path.name}: {rows} rows were written, expected {shape[0]}")
    return digest.hexdigest()


def differences(folder: Path) -> list[str]:
    """List everything in which a packed set is not what its manifest says; empty is good."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        return [f"{folder / MANIFEST}: not readable as JSON"]
    if manifest.get("format") != FORMAT:
        return [f"{folder / MANIFEST}: format is {manifest.get('format')}, expected {FORMAT}"]

    # The manifest may be anybody's JSON: a key that is missing or of another type is a difference too.
    try:
        lines = [line for name in manifest["sets"] for line in _set_differences(folder, name, manifest)]
        digest = fingerprint(manifest["classes"], manifest["shape"], manifest["sets"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [f"{folder / MANIFEST}: not a whole manifest: {type(error).__name__} {error}"]
    if manifest.get("digest") != digest:
        lines.append(f"{folder / MANIFEST}: digest is {manifest.get('digest')}, expected {digest}")
    return lines


def _set_differences(folder: Path, name: str, manifest: Mapping[str, Any]) -> list[str]:
    import numpy as np

    entry = manifest["sets"][name]
    n, n_classes = entry["n"], len(manifest["classes"])
    shapes = {"images": (n, *manifest["shape"]), "labels": _label_shape(manifest, n, n_classes)}
    lines: list[str] = []
    for kind, dtype in DTYPES.items():
        path = folder / entry[kind]
        try:
            with path.open("rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            lines.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
            continue

        # A checksum says that the bytes changed; what they hold now tells the user more.
        if checksum != entry["sha256"][kind]:
            lines.append(f"{path}: sha256 is {checksum}, expected {entry['sha256'][kind]}")
        if (array.shape, array.dtype.str) != (shapes[kind], dtype):
            lines.append(f"{path}: holds {array.dtype.str} {array.shape}, expected {dtype} {shapes[kind]}")
        elif kind == "labels":
            problem = _label_problem(array, n_classes) or _count_problem(array, entry["per_class"])
            lines += [f"{path}: {problem}"] if problem else []
    return lines


def _count_problem(labels: "np.ndarray", per_class: list[int]) -> str:
    counts = _per_class(labels, len(per_class))
    return "" if counts == per_class else f"images per class are {counts}, expected {per_class}"
