import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data.packing import differences
from common.data.prepare import prepare
from common.data.publishers.catalog import DATASETS
from common.data.publishers.checksums import File
from common.data.publishers.shifted_cifar import read_cifar10_1, read_cifar10_c
from common.failures import Refused
from common.files import checksum_of, read_json
from common.settings.shift import PUBLISHED_CORRUPTIONS

Publish = Callable[[str, dict[str, bytes]], Path]


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def images_of(seed: int, n: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (n, 32, 32, 3)).astype(np.uint8)


def assert_same_pixels(packed: Path, published: np.ndarray) -> None:
    images = np.load(packed)
    assert images.shape == (len(published), 3, 32, 32)
    for channel in range(3):
        np.testing.assert_array_equal(images[:, channel], published[..., channel])


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_cifar10_1(tmp_path: Path, publish: Publish, version: str) -> None:
    images, labels = images_of(0, 7), np.array([3, 0, 9, 9, 1, 2, 5], dtype=np.int32)
    name, data = f"cifar10_1_{version}", f"cifar10.1_{version}"
    source = publish(name, {f"{data}_data.npy": npy(images), f"{data}_labels.npy": npy(labels)})
    folder = prepare(name, tmp_path / "data", source=source)
    manifest = read_json(folder / "manifest.json") or {}
    assert differences(folder) == []
    assert list(manifest["sets"]) == ["test"]
    assert manifest["classes"][:2] == ["airplane", "automobile"]
    assert manifest["mean"] == pytest.approx((images / 255).mean(axis=(0, 1, 2)), abs=1e-12)
    assert_same_pixels(folder / "test_images.npy", images)
    assert np.load(folder / "test_labels.npy").tolist() == labels.tolist()


def test_cifar10_1_of_differing_counts_is_refused(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy")}
    for path, array in zip(paths.values(), (images_of(0, 3), np.zeros(4, np.int32)), strict=True):
        path.write_bytes(npy(array))
    problem = r"cifar10\.1_v6_data\.npy holds uint8 \(3, 32, 32, 3\), expected uint8 \(4, 32, 32, 3\)"
    with pytest.raises(Refused, match=problem):
        read_cifar10_1(paths, version="v6")


# --- CIFAR-10-C -------------------------------------------------------------------------------------------------

LABELS = np.array([7, 1] * 5, dtype=np.uint8)  # two images at five severities
CORRUPTED = {name: images_of(seed, 10) for seed, name in enumerate(PUBLISHED_CORRUPTIONS)}


def members() -> dict[str, bytes]:
    return {f"{name}.npy": npy(images) for name, images in CORRUPTED.items()} | {"labels.npy": npy(LABELS)}


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"CIFAR-10-C/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_a_part_per_corruption(tmp_path: Path, publish: Publish) -> None:
    source = publish("cifar10_c", {"CIFAR-10-C.tar": tar(members())})
    folder = prepare("cifar10_c", tmp_path / "data", source=source)
    manifest = read_json(folder / "manifest.json") or {}
    assert differences(folder) == []
    assert list(manifest["sets"]) == list(PUBLISHED_CORRUPTIONS)
    assert len(PUBLISHED_CORRUPTIONS) == 19
    for name, images in CORRUPTED.items():
        assert_same_pixels(folder / f"{name}_images.npy", images)
        assert np.load(folder / f"{name}_labels.npy").tolist() == LABELS.tolist()
    everything = np.concatenate(list(CORRUPTED.values())) / 255
    assert manifest["mean"] == pytest.approx(everything.mean(axis=(0, 1, 2)), abs=1e-12)
    assert manifest["std"] == pytest.approx(everything.std(axis=(0, 1, 2)), abs=1e-9)


def test_the_folder_that_it_unpacks_to_gives_the_same(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_archive = prepare("cifar10_c", tmp_path / "a", source=publish("cifar10_c", {"CIFAR-10-C.tar": tar(members())}))
    unpacked = tmp_path / "unpacked" / "CIFAR-10-C"
    unpacked.mkdir(parents=True)
    for name, content in members().items():
        (unpacked / name).write_bytes(content)
    files = tuple(File(path.name, checksum_of(path, "md5")) for path in unpacked.iterdir())
    (archive,) = DATASETS["cifar10_c"].files
    entry = replace(DATASETS["cifar10_c"], files=(replace(archive, unpacked=files),))
    monkeypatch.setitem(DATASETS, "cifar10_c", entry)
    from_folder = prepare("cifar10_c", tmp_path / "b", source=tmp_path / "unpacked")
    first, second = (read_json(folder / "manifest.json") or {} for folder in (from_archive, from_folder))
    assert first["digest"] == second["digest"]
    assert set(second["source"]) == set(members())


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"fog.npy": None}, r"CIFAR-10-C\.tar: holds no fog\.npy, but gaussian_noise\.npy, .* and 7 more$"),
        ({"labels.npy": npy(LABELS[:9])}, r"labels\.npy holds 9 labels, expected 5 times as many"),
        (
            {"labels.npy": npy(LABELS[:5])},
            r"gaussian_noise\.npy holds uint8 \(10, 32, 32, 3\), expected uint8 \(5, 32,",
        ),
        (
            {"snow.npy": npy(CORRUPTED["snow"][:, :16])},
            r"snow\.npy holds uint8 \(10, 16, 32, 3\), expected uint8 \(10, 32",
        ),
        ({"frost.npy": b"half"}, r"frost\.npy is not a \.npy file: EOF"),
    ],
)
def test_a_broken_cifar10_c_is_refused(tmp_path: Path, files: dict[str, bytes | None], problem: str) -> None:
    whole = {name: content for name, content in (members() | files).items() if content is not None}
    path = tmp_path / "CIFAR-10-C.tar"
    path.write_bytes(tar(whole))
    with pytest.raises(Refused, match=problem):
        read_cifar10_c({path.name: path})
