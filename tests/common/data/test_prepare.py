import gzip
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import common.data.prepare
from common.data.image_files import NO_IMAGE
from common.data.image_folder import FolderSettings
from common.data.packing import differences
from common.data.prepare import prepare, prepare_folder
from common.data.publishers.catalog import DATASETS
from common.data.publishers.download import DownloadFailed
from common.failures import Refused
from common.files import checksum_of

FILES = {"manifest.json", "train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"}
SETTINGS = FolderSettings(size=4, channels=3, test_fraction=0.5, split_seed=0)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 6), (10 * number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_mnist_from_the_published_files(tiny_mnist: Path, data_dir: Path) -> None:
    folder = prepare("mnist", data_dir, source=tiny_mnist)
    assert folder == data_dir / "mnist"
    assert names(data_dir) == {"mnist"}
    assert names(folder) == FILES
    assert differences(folder) == []
    with gzip.open(tiny_mnist / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read()[16:], np.uint8).reshape(6, 1, 5, 4)
    np.testing.assert_array_equal(np.load(folder / "train_images.npy"), pixels)
    np.testing.assert_array_equal(np.load(folder / "train_labels.npy"), np.arange(6))
    manifest = manifest_of(folder)
    assert manifest["shape"] == [1, 5, 4]
    assert manifest["classes"] == list("0123456789")
    assert manifest["sets"]["test"]["per_class"] == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert manifest["source"] == {path.name: checksum_of(path, "md5") for path in tiny_mnist.iterdir()}
    assert (manifest["licence"], manifest["task"], manifest["dark_background"]) == ("CC BY-SA 3.0", "multi-class", True)


def test_unpacked_files_give_the_same_set(tiny_mnist: Path, tmp_path: Path) -> None:
    first = manifest_of(prepare("mnist", tmp_path / "a", source=tiny_mnist))
    for path in list(tiny_mnist.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    second = manifest_of(prepare("mnist", tmp_path / "b", source=tiny_mnist))
    assert first["digest"] == second["digest"]
    assert all(name.endswith("-ubyte") for name in second["source"])


def test_cifar_from_the_archive_and_from_the_folder_it_holds(tiny_cifar: tuple[str, Path], tmp_path: Path) -> None:
    name, source = tiny_cifar
    first = manifest_of(prepare(name, tmp_path / "a", source=source))
    (archive,) = source.iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "extracted", filter="data")
    second = manifest_of(prepare(name, tmp_path / "b", source=tmp_path / "extracted"))
    assert first["digest"] == second["digest"]
    assert first["shape"] == [3, 32, 32]
    assert first["sets"]["train"]["n"] == {"cifar10": 20, "cifar100": 4}[name]
    assert list(first["source"]) == [archive.name]
    assert set(second["source"]) == {part.name for part in DATASETS[name].files[0].unpacked}
    assert differences(tmp_path / "a" / name) == []


def test_what_is_packed_is_left_alone(tiny_mnist: Path, data_dir: Path) -> None:
    folder = prepare("mnist", data_dir, source=tiny_mnist)
    before = (folder / "manifest.json").stat()
    prepare("mnist", data_dir, source=data_dir / "not even looked at")
    after = (folder / "manifest.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_force_replaces_it(tiny_mnist: Path, data_dir: Path) -> None:
    folder = prepare("mnist", data_dir, source=tiny_mnist)
    (folder / "train_images.npy").write_bytes(b"damaged")
    prepare("mnist", data_dir, source=tiny_mnist, force=True)
    assert differences(folder) == []
    assert names(data_dir) == {"mnist"}


def test_force_keeps_the_old_set_until_the_new_one_is_whole(
    tiny_mnist: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare("mnist", data_dir, source=tiny_mnist)
    monkeypatch.setattr(common.data.prepare, "pack", interrupted_after_writing)
    with pytest.raises(KeyboardInterrupt):
        prepare("mnist", data_dir, source=tiny_mnist, force=True)
    assert differences(folder) == []
    assert names(data_dir) == {"mnist"}


def interrupted_after_writing(folder: Path, *_: object) -> None:
    (folder / "train_images.npy").write_bytes(b"half")
    raise KeyboardInterrupt


def test_an_interrupted_preparation_leaves_nothing(
    tiny_mnist: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common.data.prepare, "pack", interrupted_after_writing)
    with pytest.raises(KeyboardInterrupt):
        prepare("mnist", data_dir, source=tiny_mnist)
    assert names(data_dir) == set()


@pytest.mark.parametrize("force", [False, True])
def test_two_at_once_both_succeed(
    tiny_mnist: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """The other process finishes while this one packs."""
    real = common.data.prepare.pack
    others: list[Path] = []

    def pack_while_another_does(folder: Path, *rest: Any) -> object:
        monkeypatch.setattr(common.data.prepare, "pack", real)
        others.append(prepare("mnist", data_dir, source=tiny_mnist))
        return real(folder, *rest)

    monkeypatch.setattr(common.data.prepare, "pack", pack_while_another_does)
    assert others == []
    folder = prepare("mnist", data_dir, source=tiny_mnist, force=force)
    assert others == [folder]
    assert differences(folder) == []
    assert names(data_dir) == {"mnist"}


def test_another_folder_of_that_name_is_never_touched(tiny_mnist: Path, data_dir: Path) -> None:
    """It may well hold the publisher's files."""
    (data_dir / "mnist").mkdir(parents=True)
    (data_dir / "mnist" / "precious.gz").write_bytes(b"mine")
    for force in (False, True):
        with pytest.raises(Refused, match=r"mnist is there but is no packed set \(it has no manifest\.json\); move it"):
            prepare("mnist", data_dir, source=tiny_mnist, force=force)
    assert (data_dir / "mnist" / "precious.gz").read_bytes() == b"mine"


def test_an_empty_folder_of_that_name_is_used(tiny_mnist: Path, data_dir: Path) -> None:
    (data_dir / "mnist").mkdir(parents=True)
    assert differences(prepare("mnist", data_dir, source=tiny_mnist)) == []


def test_refused_sources_leave_no_trace(tiny_mnist: Path, data_dir: Path) -> None:
    (tiny_mnist / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(Refused, match=r"train-labels-idx1-ubyte\.gz: md5 is"):
        prepare("mnist", data_dir, source=tiny_mnist)
    assert not data_dir.exists()


def test_a_data_folder_that_cannot_be_made_is_refused(tiny_mnist: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"data_dir: .*file/data cannot be made: Not a directory"):
        prepare("mnist", tmp_path / "file" / "data", source=tiny_mnist)


def test_without_a_source_the_mirror_is_asked(tiny_mnist: Path, data_dir: Path) -> None:
    with pytest.raises(
        DownloadFailed, match=r"http://127\.0\.0\.1:9/inside/train-images-idx3-ubyte\.gz: cannot be reached"
    ):
        prepare("mnist", data_dir, mirror="http://127.0.0.1:9/inside")
    with pytest.raises(DownloadFailed, match=r"http://127\.0\.0\.1:9/never-asked/train-images"):
        prepare("mnist", data_dir)


def test_downloads_that_are_there_need_no_network(tiny_mnist: Path, data_dir: Path) -> None:
    (data_dir / ".downloads").mkdir(parents=True)
    tiny_mnist.rename(data_dir / ".downloads" / "mnist")
    assert differences(prepare("mnist", data_dir)) == []


def test_own_images(photos: Path, data_dir: Path) -> None:
    folder = prepare_folder("pets", data_dir, source=photos, settings=SETTINGS, licence="CC BY 4.0")
    manifest = manifest_of(folder)
    assert differences(folder) == []
    assert manifest["classes"] == ["cat", "dog"]
    assert manifest["shape"] == [3, 4, 4]
    assert manifest["sets"]["train"]["per_class"] == [2, 2]
    assert manifest["licence"] == "CC BY 4.0"
    assert manifest["made_with"] == {"size": 4, "channels": 3, "test_fraction": 0.5, "split_seed": 0}


def test_own_images_under_other_settings_are_not_taken_for_the_same(photos: Path, data_dir: Path) -> None:
    folder = prepare_folder("pets", data_dir, source=photos, settings=SETTINGS)
    assert prepare_folder("pets", data_dir, source=photos, settings=SETTINGS) == folder
    other = FolderSettings(size=5, channels=1, test_fraction=0.5, split_seed=0)
    with pytest.raises(Refused) as refused:
        prepare_folder("pets", data_dir, source=photos, settings=other)
    assert [line.split(";")[0] for line in refused.value.problems] == [
        f"size: given 5, but {folder} was packed with 4",
        f"channels: given 1, but {folder} was packed with 3",
    ]
    prepare_folder("pets", data_dir, source=photos, settings=other, force=True)
    assert manifest_of(folder)["shape"] == [1, 5, 5]


def test_other_own_images_have_another_digest(photos: Path, tmp_path: Path) -> None:
    first = manifest_of(prepare_folder("pets", tmp_path / "a", source=photos, settings=SETTINGS))
    again = manifest_of(prepare_folder("pets", tmp_path / "b", source=photos, settings=SETTINGS))
    Image.new("RGB", (8, 6), (1, 2, 3)).save(photos / "cat" / "0.png")
    other = manifest_of(prepare_folder("pets", tmp_path / "c", source=photos, settings=SETTINGS))
    assert first["digest"] == again["digest"] != other["digest"]


def test_unreadable_images_of_both_sets_are_named_and_leave_nothing(photos: Path, data_dir: Path) -> None:
    for name in ("cat", "dog"):
        for path in (photos / name).iterdir():
            path.write_text("no image")
    with pytest.raises(Refused) as refused:
        prepare_folder("pets", data_dir, source=photos, settings=SETTINGS)
    assert sorted(refused.value.problems) == sorted(
        f"{photos}/{name}/{number}.png: {NO_IMAGE}" for name in ("cat", "dog") for number in range(4)
    )
    assert names(data_dir) == set()


def test_a_data_folder_that_cannot_be_written_is_refused(
    tiny_mnist: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != data_dir)  # root, who may run this, writes everywhere
    with pytest.raises(Refused, match=rf"data_dir: {data_dir} cannot be written by this user"):
        prepare("mnist", data_dir, source=tiny_mnist)


def test_broken_content_with_the_right_checksum_is_refused(
    tiny_mnist: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, write_idx: Callable[[np.ndarray], bytes]
) -> None:
    """As where a publisher's own file is broken: labels beyond the ten classes."""
    labels = tiny_mnist / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(write_idx(np.array([0, 1, 10]))))
    monkeypatch.setattr("common.data.publishers.checksums.checksum_of", lambda path, _: known[path.name])
    known = {file.name: file.md5 for file in DATASETS["mnist"].files}
    with pytest.raises(Refused, match="test: labels run from 0 to 10, allowed: 0 to 9"):
        prepare("mnist", data_dir, source=tiny_mnist)
    assert names(data_dir) == set()
