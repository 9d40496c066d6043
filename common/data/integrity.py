"""Is a packed set still what was packed? Every opening asks, so that damage is never trained on without a word.

At an opening the manifest is checked as a whole, labels byte by byte, and of images the size and the shape: all that
costs next to nothing. Pixels, and the mean and deviation that follow from them, are read again by verify=true alone.
"""

import hashlib
import json
import math
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import checksum_of

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
MANIFEST = "manifest.json"
MULTI_LABEL = "multi-label"
DTYPES = {"images": "|u1", "labels": "<i8"}  # the same bytes, so the same checksums, on every machine
# All that numpy raises for a damaged .npy file, whose header is read as Python's literals.
NPY_DAMAGES = (
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    LookupError,
    tokenize.TokenError,
)


def fingerprint(classes: Sequence[str], shape: Sequence[int], sets: Mapping[str, Any]) -> str:
    """Return a digest that differs for other images, labels, class names, or another order of them."""
    content = [list(classes), list(shape), {name: entry["sha256"] for name, entry in sets.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def checked_manifest(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Read the manifest of a packed set, and list what is wrong with it; a fault of the machine is an OSError."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}, [f"{folder / MANIFEST}: there is none"]
    except (ValueError, RecursionError):
        content = None
    manifest = content if isinstance(content, dict) else None
    return manifest or {}, manifest_problems(folder, manifest)


def manifest_problems(folder: Path, manifest: Mapping[str, Any] | None) -> list[str]:
    """List what is wrong with a manifest by itself; empty is good."""
    problem = structure_problem(manifest)
    if manifest is None or problem:
        return [f"{folder / MANIFEST}: {problem}"]
    digest = fingerprint(manifest["classes"], manifest["shape"], manifest["sets"])
    if manifest["digest"] != digest:
        return [f"{folder / MANIFEST}: digest is {manifest['digest']}, expected {digest}"]

    # The digest, which runs name, is of the images alone; sets that older versions packed have no checksum beside it.
    checksum = checksum_of_manifest(manifest)
    if manifest.get("checksum", checksum) != checksum:
        return [f"{folder / MANIFEST}: checksum is {manifest['checksum']}, expected {checksum}: a value was changed"]
    return []


def checksum_of_manifest(manifest: Mapping[str, Any]) -> str:
    """Return a checksum of all that a manifest says, mean and deviation among it."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def structure_problem(manifest: Mapping[str, Any] | None) -> str:
    """Say why a manifest, which may be anybody's JSON, cannot be used; empty where it can."""
    if manifest is None:
        return "not readable as JSON"
    if manifest.get("format") != FORMAT:
        return f"format is {manifest.get('format')}, expected {FORMAT}"

    try:
        channels, _, _ = manifest["shape"]
        entries = list(manifest["sets"].values())
        counts = [*manifest["shape"], *(entry["n"] for entry in entries)]
        per_class = [count for entry in entries for count in entry["per_class"]]
        texts = [manifest["digest"], *manifest["classes"]]
        texts += [text for entry in entries for kind in DTYPES for text in (entry[kind], entry["sha256"][kind])]
        numbers = [*manifest["mean"], *manifest["std"]]
        whole = (
            len(manifest["mean"]) == len(manifest["std"]) == channels
            and all(len(entry["per_class"]) == len(manifest["classes"]) for entry in entries)
            and all(type(count) is int and count >= 0 for count in [*counts, *per_class])
            and min(counts) > 0
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return f"not a whole manifest: {type(error).__name__} {error}"
    return "" if whole else "not a whole manifest: a value in it is not of the kind that is written there"


def array_problems(folder: Path, name: str, kind: str, manifest: Mapping[str, Any], *, bytewise: bool) -> list[str]:
    """List in what a file of a part is not what the manifest says; bytewise also compares its checksum."""
    entry, n_classes = manifest["sets"][name], len(manifest["classes"])
    path, n = folder / entry[kind], entry["n"]
    expected = (n, *manifest["shape"]) if kind == "images" else label_shape(manifest, n, n_classes)
    try:
        checksum = checksum_of(path, "sha256") if bytewise else entry["sha256"][kind]
        array = open_array(path)
    except FileNotFoundError as error:
        return [f"{path}: cannot be read: {error.strerror}"]
    except ValueError as error:
        return [f"{path}: cannot be read: {error}"]

    # A checksum says that the bytes changed; what they hold now tells the user more.
    lines = []
    if checksum != entry["sha256"][kind]:
        lines.append(f"{path}: sha256 is {checksum}, expected {entry['sha256'][kind]}")
    if (array.shape, array.dtype.str) != (expected, DTYPES[kind]):
        lines.append(f"{path}: holds {array.dtype.str} {array.shape}, expected {DTYPES[kind]} {expected}")
    elif kind == "labels":
        problem = label_problem(array, n_classes) or _count_problem(array, entry["per_class"])
        lines += [f"{path}: {problem}"] if problem else []
    return lines


def open_array(path: Path) -> "np.ndarray":
    """Map the array of a .npy file; ValueError if the file does not hold one from its first byte to its last."""
    import numpy as np

    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except NPY_DAMAGES as error:
        raise ValueError(f"not a whole .npy file: {error}") from None
    if not array.flags.c_contiguous:
        raise ValueError("its rows lie in Fortran's order")
    if path.stat().st_size != array.offset + array.nbytes:
        raise ValueError(f"not a whole .npy file: it goes on after {len(array)} rows")
    return array


def label_shape(about: Mapping[str, Any], n: int, n_classes: int) -> tuple[int, ...]:
    return (n, n_classes) if about.get("task") == MULTI_LABEL else (n,)


def label_problem(labels: "np.ndarray", n_classes: int) -> str:
    """Say what is wrong with the values of labels; empty where they are right."""
    highest = n_classes - 1 if labels.ndim == 1 else 1
    if not labels.size or (labels.min() >= 0 and labels.max() <= highest):
        return ""
    return f"labels run from {labels.min()} to {labels.max()}, allowed: 0 to {highest}"


def per_class_counts(labels: "np.ndarray", n_classes: int) -> list[int]:
    """Count the images of each class; an image of several classes counts for each of them."""
    import numpy as np

    counts = np.bincount(labels, minlength=n_classes) if labels.ndim == 1 else labels.sum(axis=0)
    return counts.tolist()


def _count_problem(labels: "np.ndarray", per_class: list[int]) -> str:
    counts = per_class_counts(labels, len(per_class))
    return "" if counts == per_class else f"images per class are {counts}, expected {per_class}"
