import io
import re
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
from common.data.publishers.stl10 import read_stl10
from common.failures import Refused
from common.files import checksum_of, read_json

LABELS = {"train": [1, 10, 3], "test": [10, 1]}
IMAGES = {
    part: np.random.RandomState(seed).randint(0, 256, (len(labels), 96, 96, 3)).astype(np.uint8)  # height, width, RGB
    for seed, (part, labels) in enumerate(LABELS.items())
}


def binary(image: np.ndarray) -> bytes:
    """Channel after channel, and in each column after column: written pixel by pixel, as the publisher says it."""
    height, width, channels = image.shape
    return bytes(int(image[y, x, c]) for c in range(channels) for x in range(width) for y in range(height))


def files() -> dict[str, bytes]:
    whole = {"unlabeled_X.bin": b"not read", "class_names.txt": b"airplane\nbird\n"}
    for part, labels in LABELS.items():
        whole[f"{part}_X.bin"] = b"".join(binary(image) for image in IMAGES[part])
        whole[f"{part}_y.bin"] = bytes(labels)
    return whole


def tar_gz(contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"stl10_binary/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_packed_as_published(tmp_path: Path, publish: Callable[[str, dict[str, bytes]], Path]) -> None:
    source = publish("stl10", {"stl10_binary.tar.gz": tar_gz(files())})
    folder = prepare("stl10", tmp_path / "data", source=source)
    assert differences(folder) == []
    for part, labels in LABELS.items():
        packed = np.load(folder / f"{part}_images.npy")
        for channel in range(3):
            np.testing.assert_array_equal(packed[:, channel], IMAGES[part][..., channel])
        assert np.load(folder / f"{part}_labels.npy").tolist() == [label - 1 for label in labels]


def test_the_unpacked_files_give_the_same(
    tmp_path: Path, publish: Callable[[str, dict[str, bytes]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare("stl10", tmp_path / "a", source=publish("stl10", {"stl10_binary.tar.gz": tar_gz(files())}))
    unpacked = tmp_path / "stl10_binary"
    unpacked.mkdir()
    for name, content in files().items():
        (unpacked / name).write_bytes(content)
    (archive,) = DATASETS["stl10"].files
    parts = tuple(File(part.name, checksum_of(unpacked / part.name, "md5")) for part in archive.unpacked)
    entry = replace(DATASETS["stl10"], files=(replace(archive, unpacked=parts),))
    monkeypatch.setitem(DATASETS, "stl10", entry)
    second = prepare("stl10", tmp_path / "b", source=unpacked)
    digests = {(read_json(folder / "manifest.json") or {})["digest"] for folder in (first, second)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train_y.bin": b"\0\1\2"}, "train_y.bin: labels run from 0 to 2, expected 1 to 10"),
        ({"test_y.bin": b"\x0b\1"}, "test_y.bin: labels run from 1 to 11, expected 1 to 10"),
        ({"train_X.bin": files()["train_X.bin"][:-1]}, "train_X.bin ends after 2 images, expected 3"),
        ({"test_X.bin": files()["test_X.bin"] + b"!"}, "test_X.bin goes on after 2 images, expected no more"),
        ({"test_X.bin": None}, "holds no test_X.bin, but unlabeled_X.bin, class_names.txt, train_X.bin, "),
    ],
)
def test_a_broken_archive_is_refused(tmp_path: Path, changes: dict[str, bytes | None], problem: str) -> None:
    path = tmp_path / "stl10_binary.tar.gz"
    path.write_bytes(tar_gz({name: content for name, content in (files() | changes).items() if content is not None}))
    with pytest.raises(Refused, match=f"{path}: {re.escape(problem)}"):
        for part in read_stl10({path.name: path}).values():
            list(part.blocks)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stl10_binary.tar.gz"
    path.write_bytes(tar_gz(files())[:5000])
    with pytest.raises(Refused, match=f"{path}: train_y.bin cannot be read: "):
        read_stl10({path.name: path})
