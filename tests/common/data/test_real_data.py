"""The real files, where this machine has them: STILLHOUSE_TEST_DATA, else shared/data beside the checkout.

Expected: mnist/ and fashion_mnist/ with the publishers' four .gz files; cifar10/ with either form of CIFAR-10's python
version, or with lossless shards beside an unpack_cifar10.py that rebuilds it; medmnist/ with .npz files.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.packing import differences
from common.data.prepare import prepare
from common.data.publishers.catalog import DATASETS
from common.data.publishers.formats import load_plain_pickle

REPOSITORY = Path(__file__).parents[3]
REAL = Path(os.environ.get("STILLHOUSE_TEST_DATA") or REPOSITORY.parent / "shared" / "data")


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (REAL / name).is_dir(), reason=f"no {name} in {REAL} (STILLHOUSE_TEST_DATA)")


def packed(name: str, data_dir: Path, source: Path) -> dict[str, Any]:
    folder = prepare(name, data_dir, source=source)
    assert differences(folder) == []
    return json.loads((folder / "manifest.json").read_text())


@needs("mnist")
def test_mnist(tmp_path: Path) -> None:
    manifest = packed("mnist", tmp_path, REAL)  # found among the other sets
    assert [round(value, 4) for value in (*manifest["mean"], *manifest["std"])] == [0.1307, 0.3081]
    assert (manifest["sets"]["train"]["n"], manifest["sets"]["test"]["n"]) == (60_000, 10_000)
    assert manifest["sets"]["test"]["per_class"] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.load(tmp_path / "mnist" / "train_labels.npy")[:5].tolist() == [5, 0, 4, 1, 9]
    assert packed("mnist", tmp_path / "again", REAL / "mnist")["digest"] == manifest["digest"]


@needs("fashion_mnist")
def test_fashion_mnist(tmp_path: Path) -> None:
    manifest = packed("fashion_mnist", tmp_path, REAL)
    assert [round(value, 4) for value in (*manifest["mean"], *manifest["std"])] == [0.2860, 0.3530]
    assert set(manifest["sets"]["train"]["per_class"]) == {6000}
    assert manifest["classes"][np.load(tmp_path / "fashion_mnist" / "train_labels.npy")[0]] == "Ankle boot"


@pytest.mark.slow
@needs("cifar10")
def test_cifar10(tmp_path: Path) -> None:
    source = REAL / "cifar10"
    if (REAL / "unpack_cifar10.py").is_file():
        source = tmp_path / "cifar-10-batches-py"
        unpack = [sys.executable, REAL / "unpack_cifar10.py", REAL / "cifar10", source]
        subprocess.run(unpack, check=True, capture_output=True)
    manifest = packed("cifar10", tmp_path / "data", source)
    assert [round(value, 4) for value in manifest["mean"]] == [0.4914, 0.4822, 0.4465]
    assert [round(value, 4) for value in manifest["std"]] == [0.2470, 0.2435, 0.2616]
    assert set(manifest["sets"]["train"]["per_class"]) == {5000}
    assert set(manifest["sets"]["test"]["per_class"]) == {1000}
    assert manifest["classes"][np.load(tmp_path / "data" / "cifar10" / "train_labels.npy")[0]] == "frog"


@needs("cifar10")
def test_cifar10_classes_are_the_publishers() -> None:
    meta = next(REAL.joinpath("cifar10").rglob("batches.meta"), None)
    if meta is None:
        pytest.skip(f"no batches.meta in {REAL / 'cifar10'}")
    names = load_plain_pickle(meta.read_bytes(), meta.name)[b"label_names"]
    assert [name.decode() for name in names] == list(DATASETS["cifar10"].classes)


@pytest.mark.parametrize(
    ("name", "task", "channels", "per_class"),
    [
        ("breastmnist", "binary", 1, {"train": [147, 399], "val": [21, 57], "test": [42, 114]}),
        (
            "retinamnist",
            "ordinal",
            3,
            {"train": [486, 128, 206, 194, 66], "val": [54, 12, 28, 20, 6], "test": [174, 46, 92, 68, 20]},
        ),
    ],
)
@needs("medmnist")
def test_medmnist(tmp_path: Path, name: str, task: str, channels: int, per_class: dict[str, list[int]]) -> None:
    """Counted in the published files with numpy alone; together the n of MedMNIST v2's table: 780 and 1,600 images."""
    manifest = packed(name, tmp_path, REAL)
    assert manifest["task"] == task
    assert manifest["shape"] == [channels, 28, 28]
    assert {part: entry["per_class"] for part, entry in manifest["sets"].items()} == per_class
    assert sum(entry["n"] for entry in manifest["sets"].values()) == {"breastmnist": 780, "retinamnist": 1600}[name]
    with np.load(REAL / "medmnist" / f"{name}.npz") as published:
        for part in per_class:
            images = published[f"{part}_images"].reshape(-1, 28, 28, channels).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(np.load(tmp_path / name / f"{part}_images.npy"), images)
            np.testing.assert_array_equal(
                np.load(tmp_path / name / f"{part}_labels.npy"), published[f"{part}_labels"][:, 0]
            )
