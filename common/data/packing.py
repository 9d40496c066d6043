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
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.data.integrity import (
    DTYPES,
    FORMAT,
    MANIFEST,
    array_problems,
    checksum_of_manifest,
    fingerprint,
    label_problem,
    label_shape,
    manifest_problems,
    open_array,
    per_class_counts,
    structure_problem,
)
from common.failures import Refused
from common.files import atomic_write, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

TRAIN = "train"  # the part whose mean and deviation normalise images; sets for evaluation only have none
Task = Literal["multi-class", "binary", "ordinal", "multi-label"]  # the first three have one class number per image
BLOCK = 1024  # images
TELL_EVERY_S = 60


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
    manifest["checksum"] = checksum_of_manifest(manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def _check_labels(name: str, labels: "np.ndarray", classes: Sequence[str], about: Mapping[str, Any]) -> None:
    if len(labels) == 0:
        raise Refused([f"{name}: no images; a set needs at least one"])
    expected = label_shape(about, len(labels), len(classes))
    if labels.shape != expected:
        raise Refused([f"{name}: labels have the shape {labels.shape}, expected {expected}"])
    problem = label_problem(labels, len(classes))
    if problem:
        raise Refused([f"{name}: {problem}"])
    if name == TRAIN and (labels == labels[0]).all():
        what = f"are of one class, {classes[labels[0]]}" if labels.ndim == 1 else "have the same labels"
        raise Refused([f"{name}: all {len(labels):,} images {what}; expected two classes or more to tell apart"])


def _write_set(folder: Path, name: str, part: Part, n_classes: int, sums: PixelSums | None) -> dict[str, Any]:
    n = len(part.labels)
    files = {kind: f"{name}_{kind}.npy" for kind in DTYPES}
    blocks = _told(part.blocks, name, n)
    blocks = sums.passing(blocks) if sums else blocks
    checksums = {
        "images": _write_array(folder / files["images"], (n, *part.shape), "images", blocks),
        "labels": _write_array(folder / files["labels"], part.labels.shape, "labels", [part.labels]),
    }
    return {"n": n, **files, "sha256": checksums, "per_class": per_class_counts(part.labels, n_classes)}


def _told(blocks: Iterable["np.ndarray"], name: str, n: int) -> Iterator["np.ndarray"]:
    """Yield the blocks; off a terminal, where no bar is drawn, tell from time to time how far they are."""
    started = told = time.monotonic()
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        now = time.monotonic()
        if done and now - told >= TELL_EVERY_S and not sys.stderr.isatty():
            told, per_second = now, done / max(now - started, 1e-9)
            left_min = (n - done) / per_second / 60
            line = f"{name}: {done:,} of {n:,} images, {per_second:,.0f} a second, {left_min:.0f} min left"
            print(line, file=sys.stderr, flush=True)


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


# --- verifying ---------------------------------------------------------------------------------------------------


def differences(folder: Path) -> list[str]:
    """List everything in which a packed set is not what its manifest says; empty is good."""
    manifest = read_json(folder / MANIFEST)
    problem = structure_problem(manifest)
    if manifest is None or problem:
        return [f"{folder / MANIFEST}: {problem}"]

    lines = []
    for name in manifest["sets"]:
        for kind in DTYPES:
            try:
                lines += array_problems(folder, name, kind, manifest, bytewise=True)
            except OSError as error:
                lines.append(f"{folder / manifest['sets'][name][kind]}: cannot be read: {error.strerror or error}")

    # Damaged images have another mean, which says nothing new.
    if not lines:
        lines += _statistics_problems(folder, manifest)
    return lines + manifest_problems(folder, manifest)


def _statistics_problems(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Compute mean and deviation again from the pixels, and list what the manifest has otherwise."""
    sets = manifest["sets"]
    sums = PixelSums(manifest["shape"][0])
    for name in [TRAIN] if TRAIN in sets else sets:
        images = open_array(folder / sets[name]["images"])
        for start in range(0, len(images), BLOCK):
            sums.add(images[start : start + BLOCK])

    return [
        f"{folder / MANIFEST}: {key} is {manifest[key]}, expected {computed}"
        for key, computed in (("mean", sums.mean()), ("std", sums.std()))
        if not all(map(_nearly, manifest[key], computed))
    ]


def _nearly(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
