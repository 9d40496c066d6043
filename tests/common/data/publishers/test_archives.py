import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.publishers import archives
from common.data.publishers.archives import image_part, open_member, read_labels
from common.failures import Refused


def npy(array: np.ndarray, **options: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def in_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def in_npz(folder: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "all.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return folder / "all.npz"


def in_tar(folder: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path = folder / f"all.{mode}.tar"
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"../all/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def in_tar_gz(folder: Path, files: dict[str, bytes]) -> Path:
    return in_tar(folder, files, "w:gz")


Put = Callable[[Path, dict[str, bytes]], Path]
everywhere = pytest.mark.parametrize("put", [in_folder, in_npz, in_tar, in_tar_gz])


def images_of(source: Path, name: str, n: int, image_shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(list(image_part(source, name, np.zeros(n, np.int64), image_shape).blocks))


@everywhere
@pytest.mark.parametrize("image_shape", [(3, 2), (3, 2, 3)])
@pytest.mark.parametrize("block_bytes", [1, 40, 1 << 24])
def test_images_pass_through_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put, image_shape: tuple[int, ...], block_bytes: int
) -> None:
    monkeypatch.setattr(archives, "BLOCK_BYTES", block_bytes)
    images = np.random.RandomState(0).randint(0, 256, (7, *image_shape)).astype(np.uint8)
    source = put(tmp_path, {"first.npy": npy(images[::-1]), "second.npy": npy(images)})
    before = sorted(tmp_path.rglob("*"))
    part = image_part(source, "second.npy", np.zeros(7, np.int64), image_shape)
    blocks = list(part.blocks)
    packed = np.concatenate(blocks)
    assert part.shape == packed.shape[1:]
    # of 6 bytes an image: one at a time, then 6 in 40 bytes; of 18 bytes: one, then 2
    assert len(blocks) == {(1, 2): 7, (40, 2): 2, (1, 3): 7, (40, 3): 4}.get((block_bytes, len(image_shape)), 1)
    for n, row, column in np.ndindex(7, 3, 2):  # channels first, and nothing else is moved
        assert packed[n, :, row, column].tolist() == np.atleast_1d(images[n, row, column]).tolist()
    assert sorted(tmp_path.rglob("*")) == before


@given(st.integers(0, 30), st.sampled_from(["u1", "<i4", ">i8", "<u2"]), st.sampled_from([None, 1, 3]))
def test_labels_are_whole_numbers_of_any_kind(
    tmp_path_factory: pytest.TempPathFactory, n: int, kind: str, columns: int | None
) -> None:
    labels = np.random.RandomState(n).randint(0, 100, n if columns is None else (n, columns)).astype(kind)
    source = in_npz(tmp_path_factory.getbasetemp(), {"labels.npy": npy(labels)})
    read = read_labels(source, "labels.npy", columns)
    np.testing.assert_array_equal(read, labels)
    assert read.dtype == np.int64


IMAGES = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


@everywhere
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (npy(IMAGES)[:-1], r"x\.npy ends after 1 images, expected 2"),
        (npy(IMAGES) + b"!", r"x\.npy goes on after 2 images, expected no more"),
        (npy(IMAGES[:1]), r"x\.npy holds uint8 \(1, 2, 3\), expected uint8 \(2, 2, 3\)"),
        (npy(IMAGES.transpose(0, 2, 1).copy()), r"x\.npy holds uint8 \(2, 3, 2\), expected uint8 \(2, 2, 3\)"),
        (npy(IMAGES / 255), r"x\.npy holds float64 \(2, 2, 3\), expected uint8"),
        (npy(IMAGES.view(np.int8)), r"x\.npy holds int8 \(2, 2, 3\), expected uint8"),
        (npy(np.asfortranarray(IMAGES)), r"x\.npy holds uint8 \(2, 2, 3\) in Fortran's order, expected uint8"),
        (npy(IMAGES.astype(object), allow_pickle=True), r"x\.npy holds object \(2, 2, 3\), expected uint8"),
        (npy(IMAGES)[:30], r"x\.npy is not a \.npy file: EOF"),
        (b"", r"x\.npy is not a \.npy file: EOF"),
        (npy(IMAGES).replace(b"), }", b"  , }"), r"x\.npy is not a \.npy file: "),  # Python's tokenizer finds no end
        (b"<html>not found</html>", r"x\.npy is not a \.npy file: the magic string is not correct"),
    ],
)
def test_images_that_are_not_as_announced_are_refused(tmp_path: Path, put: Put, content: bytes, problem: str) -> None:
    source = put(tmp_path, {"x.npy": content})
    with pytest.raises(Refused, match=f"{source}: {problem}"):
        images_of(source, "x.npy", 2, (2, 3))


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("content", "columns", "problem"),
    [
        (npy(np.arange(4))[:-1], None, r"y\.npy is not a whole \.npy file of plain numbers: "),
        (npy(np.array([Evil()]), allow_pickle=True), None, r"y\.npy is not a whole .*: Object arrays cannot be loaded"),
        (npy(np.arange(4)).replace(b"), }", b"  , }"), None, r"y\.npy is not a whole \.npy file of plain numbers: "),
        (npy(np.zeros(4)), None, r"y\.npy holds float64 \(4,\), expected whole numbers of the shape \(n,\)"),
        (npy(np.zeros(4, bool)), None, r"y\.npy holds bool \(4,\), expected whole numbers"),
        (npy(np.zeros((4, 1), int)), None, r"y\.npy holds int64 \(4, 1\), expected whole numbers of the shape \(n,\)"),
        (npy(np.zeros(4, int)), 1, r"y\.npy holds int64 \(4,\), expected whole numbers of the shape \(n, 1\)"),
        (npy(np.zeros((4, 2), int)), 14, r"y\.npy holds int64 \(4, 2\), expected whole numbers of the shape \(n, 14\)"),
        (npy(np.zeros((), int)), None, r"y\.npy holds int64 \(\), expected whole numbers of the shape \(n,\)"),
    ],
)
def test_labels_that_are_not_as_announced_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, columns: int | None, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = in_npz(tmp_path, {"y.npy": content})
    with pytest.raises(Refused, match=f"{source}: {problem}"):
        read_labels(source, "y.npy", columns)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("put", "problem"),
    [
        (in_folder, r"c\.npy cannot be read: No such file or directory"),
        (in_npz, r"holds no c\.npy, but a\.npy, b\.npy"),
        (in_tar, r"holds no c\.npy, but a\.npy, b\.npy"),
        (in_tar_gz, r"holds no c\.npy, but a\.npy, b\.npy"),
    ],
)
def test_a_missing_file_is_named_with_what_is_there(tmp_path: Path, put: Put, problem: str) -> None:
    source = put(tmp_path, {"a.npy": b"", "b.npy": b""})
    with pytest.raises(Refused, match=f"{source}: {problem}"), open_member(source, "c.npy"):
        pass


@pytest.mark.parametrize("target", ["gone.npy", "x.npy"])
def test_a_link_to_nothing_or_to_itself_is_refused(tmp_path: Path, target: str) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        link = tarfile.TarInfo("x.npy")
        link.type, link.linkname = tarfile.SYMTYPE, target
        archive.addfile(link)
    problem = rf"all\.tar: x\.npy cannot be read: it is a link to {target}, which leads to no file of the archive"
    with pytest.raises(Refused, match=problem), open_member(tmp_path / "all.tar", "x.npy"):
        pass


def test_of_many_others_some_are_named(tmp_path: Path) -> None:
    source = in_npz(tmp_path, {f"{number}.npy": b"" for number in range(20)})
    with (
        pytest.raises(Refused, match=r"holds no c\.npy, but 0\.npy, .*, 11\.npy and 8 more$"),
        open_member(source, "c.npy"),
    ):
        pass


@pytest.mark.parametrize("put", [in_npz, in_tar, in_tar_gz])
def test_a_truncated_archive_is_refused(tmp_path: Path, put: Put) -> None:
    images = np.random.RandomState(0).randint(0, 256, (50, 10, 10)).astype(np.uint8)
    source = put(tmp_path, {"x.npy": npy(images)})
    whole = source.read_bytes()
    for length in (0, 100, len(whole) // 2):
        source.write_bytes(whole[:length])
        with pytest.raises(Refused, match=rf"{source}: (x\.npy (cannot be read|ends after)|holds no x\.npy)"):
            images_of(source, "x.npy", 50, (10, 10))


def test_a_damaged_byte_in_a_zip_is_refused(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (50, 10, 10)).astype(np.uint8)
    source = in_npz(tmp_path, {"x.npy": npy(images)})
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    source.write_bytes(content)
    with pytest.raises(Refused, match=rf"{source}: x\.npy cannot be read"):
        images_of(source, "x.npy", 50, (10, 10))
