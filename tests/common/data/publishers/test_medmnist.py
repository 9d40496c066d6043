import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.packing import differences
from common.data.prepare import prepare
from common.data.publishers.catalog import DATASETS
from common.data.publishers.medmnist import MEDMNIST, SIZES, read_medmnist, set_name
from common.failures import Refused
from common.files import read_json

Arrays = dict[str, np.ndarray]
COUNTS = {"train": 6, "val": 3, "test": 4}


def arrays_of(name: str, size: int) -> Arrays:
    """As the publisher stores them: images without an axis for a single channel, labels as bytes in columns."""
    medical, random = MEDMNIST[name], np.random.RandomState(0)
    arrays: Arrays = {}
    for part, n in COUNTS.items():
        shape = (n, size, size) if medical.channels == 1 else (n, size, size, 3)
        columns, highest = (len(medical.classes), 2) if medical.task == "multi-label" else (1, len(medical.classes))
        arrays[f"{part}_images"] = random.randint(0, 256, shape).astype(np.uint8)
        arrays[f"{part}_labels"] = (
            (np.arange(n * columns) // (1 if columns == 1 else 3) % highest).reshape(n, columns).astype(np.uint8)
        )
    return arrays


def npz(arrays: Arrays) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=True, **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, 28) for name in MEDMNIST),
        ("breastmnist", 64),
        ("chestmnist", 64),
        ("dermamnist", 128),
        ("pathmnist", 224),
    ],
)
def test_packed_as_published(
    tmp_path: Path, publish: Callable[[str, dict[str, bytes]], Path], name: str, size: int
) -> None:
    full_name, arrays, medical = set_name(name, size), arrays_of(name, size), MEDMNIST[name]
    source = publish(full_name, {f"{full_name}.npz": npz(arrays)})
    folder = prepare(full_name, tmp_path / "data", source=source)
    manifest = read_json(folder / "manifest.json") or {}
    assert differences(folder) == []
    assert manifest["shape"] == [medical.channels, size, size]
    assert manifest["task"] == medical.task
    assert {part: entry["n"] for part, entry in manifest["sets"].items()} == COUNTS
    for part, n in COUNTS.items():
        images, labels = np.load(folder / f"{part}_images.npy"), np.load(folder / f"{part}_labels.npy")
        published = arrays[f"{part}_images"].reshape(n, size, size, medical.channels)
        for channel in range(medical.channels):
            np.testing.assert_array_equal(images[:, channel], published[..., channel])
        if medical.task == "multi-label":
            np.testing.assert_array_equal(labels, arrays[f"{part}_labels"])
        else:
            assert labels.tolist() == [row[0] for row in arrays[f"{part}_labels"].tolist()]


def changed(**changes: Callable[[np.ndarray], np.ndarray] | None) -> bytes:
    arrays = arrays_of("retinamnist", 28)
    for key, change in changes.items():
        array = arrays.pop(key)
        if change:
            arrays[key] = change(array)
    return npz(arrays)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (changed(val_images=None), "holds no val_images.npy, but train_images.npy, train_labels.npy, "),
        (changed(test_labels=None), "holds no test_labels.npy, but "),
        (
            changed(train_images=lambda a: a[:, :27]),
            "train_images.npy holds uint8 (6, 27, 28, 3), expected uint8 (6, 28",
        ),
        (
            changed(val_images=lambda a: a[..., 0].copy()),
            "val_images.npy holds uint8 (3, 28, 28), expected uint8 (3, 28",
        ),
        (changed(test_images=lambda a: a / 255), "test_images.npy holds float64 (4, 28, 28, 3), expected uint8"),
        (
            changed(test_images=lambda a: a.astype(object)),
            "test_images.npy holds object (4, 28, 28, 3), expected uint8",
        ),
        (
            changed(val_labels=lambda a: a[:, 0]),
            "val_labels.npy holds uint8 (3,), expected whole numbers of the shape (n,",
        ),
        (
            changed(val_labels=lambda a: a[:2]),
            "val_images.npy holds uint8 (3, 28, 28, 3), expected uint8 (2, 28, 28, 3)",
        ),
        (
            changed(val_labels=lambda a: a.astype(object)),
            "val_labels.npy is not a whole .npy file of plain numbers: Obj",
        ),
        (changed(val_labels=lambda a: a * 1.0), "val_labels.npy holds float64 (3, 1), expected whole numbers"),
        (changed()[:-30], "train_labels.npy cannot be read: File is not a zip file"),
        (b"<html>not found</html>", "train_labels.npy cannot be read: File is not a zip file"),
    ],
)
def test_what_is_no_such_set_is_refused_by_name(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "retinamnist.npz"
    path.write_bytes(content)
    with pytest.raises(Refused, match=f"^{re.escape(f'{path}: {problem}')}"):
        read_medmnist({path.name: path}, medical=MEDMNIST["retinamnist"], size=28)


@pytest.mark.parametrize(
    ("name", "labels", "problem"),
    [
        ("retinamnist", [[0], [1], [2], [3], [4], [5]], "train: labels run from 0 to 5, allowed: 0 to 4"),
        (
            "breastmnist",
            [[1]] * 6,
            "train: all 6 images are of one class, normal, benign; expected two classes or more",
        ),
        ("chestmnist", [[2] * 14] * 6, "train: labels run from 2 to 2, allowed: 0 to 1"),
        ("chestmnist", [[1] * 14] * 6, "train: all 6 images have the same labels"),
    ],
)
def test_wrong_labels_are_refused_and_leave_nothing(
    tmp_path: Path,
    publish: Callable[[str, dict[str, bytes]], Path],
    name: str,
    labels: list[list[int]],
    problem: str,
) -> None:
    content = npz(arrays_of(name, 28) | {"train_labels": np.array(labels, dtype=np.uint8)})
    source = publish(name, {f"{name}.npz": content})
    with pytest.raises(Refused, match=re.escape(problem)):
        prepare(name, tmp_path / "data", source=source)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "breastmnist_64.npz"
    path.write_bytes(npz(arrays_of("breastmnist", 28)))
    problem = r"train_images\.npy holds uint8 \(6, 28, 28\), expected uint8 \(6, 64, 64\)"
    with pytest.raises(Refused, match=problem):
        read_medmnist({path.name: path}, medical=MEDMNIST["breastmnist"], size=64)


def test_the_twelve_at_four_sizes() -> None:
    names = [set_name(name, size) for name in MEDMNIST for size in SIZES]
    assert len(names) == 48
    assert names[:5] == ["pathmnist", "pathmnist_64", "pathmnist_128", "pathmnist_224", "chestmnist"]
    assert set(names) <= set(DATASETS)
    tasks = {name: medical.task for name, medical in MEDMNIST.items() if medical.task != "multi-class"}
    assert tasks == {
        "chestmnist": "multi-label",
        "pneumoniamnist": "binary",
        "retinamnist": "ordinal",
        "breastmnist": "binary",
    }
    grey = {name for name, medical in MEDMNIST.items() if medical.channels == 1}
    assert set(MEDMNIST) - grey == {"pathmnist", "dermamnist", "retinamnist", "bloodmnist"}
    assert [len(medical.classes) for medical in MEDMNIST.values()] == [9, 14, 7, 4, 2, 5, 2, 8, 8, 11, 11, 11]
    assert {name for name, medical in MEDMNIST.items() if medical.licence != "CC BY 4.0"} == {"dermamnist"}
