"""The packed format: a folder that training only maps.

    <data_dir>/<name>/
        train_images.npy uint8 (n, c, h, w)     train_labels.npy int64 (n,)
        test_images.npy                         test_labels.npy
        manifest.json                           written last: the set is whole

Images pass through block by block, so a set may be far larger than the memory. numpy is imported where it is
used, here and in the rooms beside this one: a command that only answers a question does not wait for it.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.failures import Refused
from common.run_dir import atomic_write, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
MANIFEST = "manifest.json"
SETS = ("train", "test")
DTYPES = {"images": "|u1", "labels": "<i8"}  # the same bytes, so the same checksums, on every machine
BLOCK = 1024  # images


@dataclass(frozen=True)
class Part:
    """The training or the test images, with their labels."""

    labels: "np.ndarray"  # (n,) int64
    shape: tuple[int, int, int]  # channels, height, width
    blocks: Iterable["np.ndarray"]  # uint8 (some, channels, height, width), n images in all, in the order of labels

    @classmethod
    def of(cls, images: "np.ndarray", labels: "np.ndarray") -> "Part":
        channels, height, width = images.shape[1:]
        blocks = [images[start : start + BLOCK] for start in range(0, len(images), BLOCK)]
        return cls(labels, (channels, height, width), blocks)


class PixelSums:
    """Mean and standard deviation per channel, in whole numbers up to the last division: exact however many images."""

    def __init__(self, channels: int) -> None:
        self.pixels = 0
        self.total = [0] * channels
        self.squares = [0] * channels

    def passing(self, blocks: Iterable["np.ndarray"]) -> Iterator["np.ndarray"]:
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
        """Of all pixels (divided by n, not n - 1), as the published figures are."""
        return [
            math.sqrt(squares * self.pixels - total**2) / self.pixels / 255
            for total, squares in zip(self.total, self.squares, strict=True)
        ]


def is_packed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def pack(folder: Path, parts: Mapping[str, Part], classes: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the arrays, then the manifest; the problems of both sets are Refused together."""
    shapes = {parts[name].shape for name in SETS}
    if len(shapes) > 1:
        raise Refused([f"train and test images differ in shape: {' and '.join(map(str, sorted(shapes)))}"])
    shape = list(shapes.pop())
    sums = {name: PixelSums(shape[0]) for name in SETS}
    sets: dict[str, Any] = {}
    problems: list[str] = []
    for name in SETS:
        try:
            sets[name] = _write_set(folder, name, parts[name], len(classes), sums[name])
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    manifest = {
        "format": FORMAT,
        **about,
        "classes": list(classes),
        "shape": shape,
        "sets": sets,
        "mean": sums["train"].mean(),
        "std": sums["train"].std(),
        "digest": fingerprint(classes, shape, sets),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def fingerprint(classes: Sequence[str], shape: Sequence[int], sets: Mapping[str, Any]) -> str:
    """Other images, labels, order or class names give another one."""
    content = [list(classes), list(shape), {name: entry["sha256"] for name, entry in sets.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _write_set(folder: Path, name: str, part: Part, n_classes: int, sums: PixelSums) -> dict[str, Any]:
    import numpy as np

    n = len(part.labels)
    if n == 0:
        raise Refused([f"{name}: no images; a set needs at least one"])
    if part.labels.min() < 0 or part.labels.max() >= n_classes:
        raise Refused(
            [f"{name}: labels run from {part.labels.min()} to {part.labels.max()}, allowed: 0 to {n_classes - 1}"]
        )
    files = {kind: f"{name}_{kind}.npy" for kind in DTYPES}
    checksums = {
        "images": _write_array(folder / files["images"], (n, *part.shape), "images", sums.passing(part.blocks)),
        "labels": _write_array(folder / files["labels"], (n,), "labels", [part.labels]),
    }
    per_class = np.bincount(part.labels, minlength=n_classes).tolist()
    return {"n": n, **files, "sha256": checksums, "per_class": per_class}


def _write_array(path: Path, shape: tuple[int, ...], kind: str, blocks: Iterable["np.ndarray"]) -> str:
    """The .npy format in one pass, with its checksum. Plain writes: on a full disk a mapped file dies of SIGBUS."""
    import numpy as np

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
            raise ValueError(f"{path.name}: {rows} rows were given, {shape[0]} announced")
    return digest.hexdigest()


def differences(folder: Path) -> list[str]:
    """Everything in which a packed set is not what its manifest says; empty is good."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        return [f"{folder / MANIFEST}: not readable as JSON"]
    if manifest.get("format") != FORMAT:
        return [f"{folder / MANIFEST}: format is {manifest.get('format')}, expected {FORMAT}"]
    try:
        found = [line for name in SETS for line in _set_differences(folder, name, manifest)]
        digest = fingerprint(manifest["classes"], manifest["shape"], manifest["sets"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [f"{folder / MANIFEST}: not a whole manifest: {type(error).__name__} {error}"]
    if manifest.get("digest") != digest:
        found.append(f"{folder / MANIFEST}: digest is {manifest.get('digest')}, expected {digest}")
    return found


def _set_differences(folder: Path, name: str, manifest: Mapping[str, Any]) -> list[str]:
    import numpy as np

    entry = manifest["sets"][name]
    shapes = {"images": (entry["n"], *manifest["shape"]), "labels": (entry["n"],)}
    found: list[str] = []
    for kind, dtype in DTYPES.items():
        path = folder / entry[kind]
        try:
            with path.open("rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            found.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
            continue
        if checksum != entry["sha256"][kind]:
            found.append(f"{path}: sha256 is {checksum}, expected {entry['sha256'][kind]}")
        if (array.shape, array.dtype.str) != (shapes[kind], dtype):
            found.append(f"{path}: holds {array.dtype.str} {array.shape}, expected {dtype} {shapes[kind]}")
        elif kind == "labels":
            found += _label_differences(path, array, entry["per_class"], len(manifest["classes"]))
    return found


def _label_differences(path: Path, labels: "np.ndarray", per_class: list[int], n_classes: int) -> list[str]:
    import numpy as np

    if len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        return [f"{path}: labels run from {labels.min()} to {labels.max()}, expected 0 to {n_classes - 1}"]
    counts = np.bincount(labels, minlength=n_classes).tolist()
    return [] if counts == per_class else [f"{path}: images per class are {counts}, expected {per_class}"]
