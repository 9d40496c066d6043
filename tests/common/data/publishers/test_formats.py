import gzip
import json
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.packing import Part
from common.data.publishers.formats import (
    load_plain_pickle,
    read_cifar10,
    read_cifar100,
    read_digits,
    read_idx,
    read_mnist,
)
from common.failures import Refused

# An idx file by hand: type 08, 3 dimensions, 2 images of 1x2.
TWO_IMAGES = bytes.fromhex("00000803 00000002 00000001 00000002 00ff 0102")


def images_of(part: Part) -> np.ndarray:
    return np.concatenate(list(part.blocks))


def test_idx_worked_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(TWO_IMAGES)
    assert read_idx(path, dimensions=3).tolist() == [[[0, 255]], [[1, 2]]]


@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=3), zipped=st.booleans(), seed=st.integers(0, 1000))
def test_idx_round_trip(tmp_path_factory: pytest.TempPathFactory, shape: list[int], zipped: bool, seed: int) -> None:
    array = np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)
    content = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + array.tobytes()
    path = tmp_path_factory.getbasetemp() / ("round_trip.gz" if zipped else "round_trip")
    path.write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(read_idx(path, len(shape)), array)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (TWO_IMAGES[:-1], r"images: holds 3 values, its header says 4 \(2, 1, 2\)"),
        (TWO_IMAGES + b"\0", "images: holds 5 values, its header says 4"),
        (TWO_IMAGES[:10], r"images: not idx: begins with 00000803000000020000, expected 00000803 and the sizes"),
        (b"\0\0\x0d\x03" + TWO_IMAGES[4:], "images: not idx: begins with 00000d03"),  # floats
        (b"\0\0\x08\x01" + TWO_IMAGES[4:], "images: not idx: begins with 00000801"),  # labels
        (b"<html>not found</html>", "images: not idx: begins with 3c68746d6c"),
        (b"", "images: not idx: begins with , expected 00000803"),
    ],
)
def test_broken_idx_is_refused_by_name(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(Refused, match=problem):
        read_idx(tmp_path / "images", dimensions=3)


@pytest.mark.parametrize("damage", [lambda zipped: zipped[:-9], lambda _: b"plain text", lambda zipped: zipped[:3]])
def test_broken_gzip_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "images.gz").write_bytes(damage(gzip.compress(TWO_IMAGES)))
    with pytest.raises(Refused, match=r"images\.gz: not a whole gzip file"):
        read_idx(tmp_path / "images.gz", dimensions=3)


def test_mnist_of_differing_counts_is_refused(tmp_path: Path, write_idx: Callable[[np.ndarray], bytes]) -> None:
    arrays = {
        "train-images-idx3-ubyte": np.zeros((3, 2, 2)),
        "train-labels-idx1-ubyte": np.zeros(2),
        "t10k-images-idx3-ubyte": np.zeros((1, 2, 2)),
        "t10k-labels-idx1-ubyte": np.zeros(1),
    }
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(write_idx(array))
    with pytest.raises(Refused, match="train-images-idx3-ubyte holds 3 images, but train-labels-idx1-ubyte 2 labels"):
        read_mnist({name: tmp_path / name for name in arrays})


# --- CIFAR ------------------------------------------------------------------------------------------------------

NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def batch_of(first_byte: int, label: int) -> dict[bytes, object]:
    """One image whose bytes count up from `first_byte`."""
    return {b"data": (np.arange(3072) + first_byte).astype(np.uint8)[None], b"labels": [label]}


@pytest.fixture
def batches(tmp_path: Path, write_python2_pickle: Callable[[object], bytes]) -> dict[str, Path]:
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(write_python2_pickle(batch_of(number, number)))
    return {name: tmp_path / name for name in NAMES}


def test_cifar_batches_in_their_order_and_channels_first(batches: dict[str, Path]) -> None:
    parts = read_cifar10(batches)
    train = images_of(parts["train"])
    assert train.shape == (5, 3, 32, 32)
    assert parts["train"].labels.tolist() == [0, 1, 2, 3, 4]
    assert parts["test"].labels.tolist() == [5]
    assert train[2, 0, 0, :3].tolist() == [2, 3, 4]  # along a row
    assert train[0, 0, 1, 0] == 32  # down a column
    assert images_of(parts["test"])[0, 1, 0, 0] == (1024 + 5) % 256  # the green plane


def test_cifar_archive_is_read_in_place(
    tmp_path: Path, batches: dict[str, Path], write_tar_gz: Callable[[dict[str, bytes]], bytes]
) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(write_tar_gz({f"../../escape/{name}": path.read_bytes() for name, path in batches.items()}))
    before = sorted(tmp_path.rglob("*"))
    from_archive, from_folder = read_cifar10({archive.name: archive}), read_cifar10(batches)
    np.testing.assert_array_equal(images_of(from_archive["train"]), images_of(from_folder["train"]))
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent.parent / "escape").exists()


def test_cifar100_reads_the_fine_labels(tmp_path: Path, write_python2_pickle: Callable[[object], bytes]) -> None:
    for name in ("train", "test"):
        batch = batch_of(0, 0) | {b"fine_labels": [99], b"coarse_labels": [7]}
        (tmp_path / name).write_bytes(write_python2_pickle(batch))
    parts = read_cifar100({name: tmp_path / name for name in ("train", "test")})
    assert parts["train"].labels.tolist() == [99]


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        ([1, 2], "test_batch: holds no images of 3072 bytes"),
        ({b"labels": [1]}, "test_batch: holds no images of 3072 bytes"),
        (batch_of(0, 0) | {b"data": np.zeros((1, 3071), np.uint8)}, "test_batch: holds no images of 3072 bytes"),
        (batch_of(0, 0) | {b"labels": [1, 2]}, "test_batch: 'labels' is not a list of 1 numbers"),
        (batch_of(0, 0) | {b"labels": [b"cat"]}, "test_batch: 'labels' is not a list of 1 numbers"),
        (batch_of(0, 0) | {b"data": np.zeros((1, 3072), np.float64)}, "test_batch: not a whole pickle.*type b'f8'"),
    ],
)
def test_what_is_no_cifar_batch_is_refused(
    batches: dict[str, Path], write_python2_pickle: Callable[[object], bytes], batch: object, problem: str
) -> None:
    batches["test_batch"].write_bytes(write_python2_pickle(batch))
    with pytest.raises(Refused, match=problem):
        read_cifar10(batches)


def test_a_link_to_nothing_in_an_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("a/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "gone"
        tar.addfile(link)
    with pytest.raises(Refused, match=r"not a whole tar\.gz archive: it is a link to gone, which leads to no file"):
        read_cifar10({archive.name: archive})


def test_broken_archives_are_refused(tmp_path: Path, write_tar_gz: Callable[[dict[str, bytes]], bytes]) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(write_tar_gz({"a/data_batch_1": b"", "a/test_batch": b""}))
    with pytest.raises(Refused, match="holds no data_batch_2, data_batch_3, data_batch_4, data_batch_5"):
        read_cifar10({archive.name: archive})
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(Refused, match=r"tar\.gz: not a whole tar\.gz archive"):
        read_cifar10({archive.name: archive})


class Evil:
    """A pickle that calls a function of its choice as soon as it is loaded."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.mkdir, ("evil",), r"posix\.mkdir"),
        (eval, ("__import__('os').mkdir('evil')",), r"(builtins|__builtin__)\.eval"),
        (np.save, ("evil/x.npy", 1), r"numpy\.save"),
        (getattr, ("os", "mkdir"), r"(builtins|__builtin__)\.getattr"),
    ],
)
def test_loading_never_executes(
    tmp_path: Path, function: Callable[..., object], arguments: tuple[object, ...], named: str, protocol: int
) -> None:
    content = pickle.dumps({"data": Evil(function, *arguments)}, protocol=protocol)
    with pytest.raises(Refused, match=rf"test_batch: asks to load {named}, allowed: numpy\.core\.multiarray"):
        load_plain_pickle(content, "test_batch")
    assert not (tmp_path / "evil").exists()


def test_the_evil_pickle_would_have_worked(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(os.mkdir, "evil"), protocol=2))  # noqa: S301 - the control of the test above
    assert (tmp_path / "evil").is_dir()


@given(st.binary(max_size=60), st.integers(0, 200))
def test_garbage_is_refused_whatever_it_is(garbage: bytes, cut: int) -> None:
    whole = pickle.dumps({b"labels": [1, 2, 3], b"batch_label": b"text" * 9}, protocol=2)
    with pytest.raises(Refused, match=r"a batch: (not a whole pickle|asks to load)"):
        load_plain_pickle(whole[: min(cut, len(whole) - 1)] + b"\xff" + garbage, "a batch")


# --- digits -----------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_own_split_once_and_for_all() -> None:
    from sklearn.datasets import load_digits

    parts = read_digits({})
    # 360 / 1797 of the class sizes 178 182 177 183 181 182 181 179 174 180 are 35.66 36.46 35.46 36.66 36.26 36.46
    # 36.26 35.86 34.86 36.06: together 355 when rounded down; the largest remainders are those of 7, 8, 3, 0 and 1.
    assert np.bincount(parts["test"].labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert len(parts["train"].labels) == 1437
    together = np.concatenate([images_of(parts["train"]), images_of(parts["test"])]).reshape(1797, 64)
    expected = [[round(value * 255 / 16) for value in row] for row in load_digits().data.tolist()]
    labels = np.concatenate([parts["train"].labels, parts["test"].labels]).tolist()
    assert sorted(zip(together.tolist(), labels, strict=True)) == sorted(
        zip(expected, load_digits().target.tolist(), strict=True)
    )
    again = read_digits({})
    np.testing.assert_array_equal(images_of(again["test"]), images_of(parts["test"]))


def test_the_packed_digits_are_those_that_finished_runs_learned_from(digits_dir: Path) -> None:
    assert json.loads((digits_dir / "digits" / "manifest.json").read_text())["digest"] == "2473b17cd6d365a8"


def test_digits_without_scikit_learn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.data.publishers.formats.find_spec", lambda _: None)
    with pytest.raises(Refused, match=r"^data=digits: its images come with scikit-learn, which is not installed$"):
        read_digits({})
