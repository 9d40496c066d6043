"""Tiny data sets in exactly the publishers' formats, with checksums of their own."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from common.data.publishers.catalog import DATASETS, Published
from common.data.publishers.checksums import File


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and numpy 1.x wrote: byte strings for text, and 0 and 1 where numpy now wants booleans."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str | bytes) -> None:
        raw = text.encode() if isinstance(text, str) else text
        short = len(raw) < 256
        self.write(
            pickle.SHORT_BINSTRING + bytes([len(raw)]) if short else pickle.BINSTRING + struct.pack("<i", len(raw))
        )
        self.write(raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string

    def reducer_override(self, value: object) -> object:
        if isinstance(value, np.dtype):
            return np.dtype, (value.str[1:], 0, 1), (3, value.str[0], None, None, None, -1, -1, 0)
        return NotImplemented


def python2_pickle(content: object) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(content)
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def tar_gz(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cifar_batch(seed: int, n: int = 4, label_key: bytes = b"labels", n_classes: int = 10) -> bytes:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (n, 3072)).astype(np.uint8)
    labels = [int(label) for label in random.randint(0, n_classes, n)]
    return python2_pickle(
        {b"batch_label": b"a batch", label_key: labels, b"data": images, b"filenames": [b"x.png"] * n}
    )


@pytest.fixture
def write_idx() -> Callable[[np.ndarray], bytes]:
    return idx


@pytest.fixture
def write_python2_pickle() -> Callable[[object], bytes]:
    return python2_pickle


@pytest.fixture
def write_tar_gz() -> Callable[[dict[str, bytes]], bytes]:
    return tar_gz


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of four .gz files that DATASETS["mnist"] then stands for: 6 training and 3 test images of 5x4."""
    random = np.random.RandomState(0)
    folder = tmp_path / "published" / "mnist"
    folder.mkdir(parents=True)
    files = []
    for prefix, n in (("train", 6), ("t10k", 3)):
        for name, array in (
            (f"{prefix}-images-idx3-ubyte", random.randint(0, 256, (n, 5, 4))),
            (f"{prefix}-labels-idx1-ubyte", np.arange(n) % 10),
        ):
            raw = idx(array)
            packed = gzip.compress(raw, mtime=0)
            (folder / f"{name}.gz").write_bytes(packed)
            files.append(File(f"{name}.gz", md5(packed), len(packed), unpacked=(File(name, md5(raw)),)))
    _publish(monkeypatch, "mnist", replace(DATASETS["mnist"], files=tuple(files)))
    return folder


@pytest.fixture(params=["cifar10", "cifar100"])
def tiny_cifar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, Path]:
    """Name and folder of a tar.gz that DATASETS then stands for: 4 images a batch."""
    name = request.param
    label_key = {"cifar10": b"labels", "cifar100": b"fine_labels"}[name]
    published = DATASETS[name]
    batches = {
        part.name: cifar_batch(seed, label_key=label_key, n_classes=len(published.classes))
        for seed, part in enumerate(published.files[0].unpacked)
    }
    archive = tar_gz({f"{name}-python/{part}": content for part, content in {**batches, "meta": b"not read"}.items()})
    folder = tmp_path / "published" / name
    folder.mkdir(parents=True)
    (folder / published.files[0].name).write_bytes(archive)
    parts = tuple(File(part, md5(content)) for part, content in batches.items())
    _publish(
        monkeypatch,
        name,
        replace(published, files=(File(published.files[0].name, md5(archive), len(archive), unpacked=parts),)),
    )
    return name, folder


def _publish(monkeypatch: pytest.MonkeyPatch, name: str, published: Published) -> None:
    monkeypatch.setitem(DATASETS, name, replace(published, mirrors=("http://127.0.0.1:9/never-asked/",)))


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, dict[str, bytes]], Path]:
    """Writes files that DATASETS[name] then stands for, under their own names, and gives their folder."""

    def write(name: str, contents: dict[str, bytes]) -> Path:
        assert set(contents) == {file.name for file in DATASETS[name].files}
        folder = tmp_path / "published" / name
        folder.mkdir(parents=True)
        for file_name, content in contents.items():
            (folder / file_name).write_bytes(content)
        files = tuple(
            replace(file, md5=md5(contents[file.name]), sha256="", size=len(contents[file.name]))
            for file in DATASETS[name].files
        )
        _publish(monkeypatch, name, replace(DATASETS[name], files=files))
        return folder

    return write
