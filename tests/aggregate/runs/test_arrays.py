import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.runs.collect import read_arrays

NAMES = ("logits", "labels")


def packed(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of them
    return file.getvalue()


WHOLE = packed(logits=np.eye(3), labels=np.arange(3))
LARGE = packed(logits=np.ones((3000, 3)), labels=np.arange(3000))  # read in parts: its checksum is compared last


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(WHOLE)
    found = read_arrays(tmp_path / "a.npz", ("labels", "logits"))
    assert found is not None
    assert found[0].tolist() == [0, 1, 2], "in the order that was asked for"
    assert found[1].tolist() == np.eye(3).tolist()


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.eye(3))
    return file.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.savez(file, logits=np.eye(3), labels=np.array([{}, {}, {}], dtype=object))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    {
        "nothing": b"",
        "half": WHOLE[: len(WHOLE) // 2],
        "another file": b"\x89PNG",
        "one array": one_array(),
        "objects": pickled(),
        "text": packed(logits=np.array(["a"]), labels=np.arange(3)),
        "without labels": packed(logits=np.eye(3)),
        "a huge shape": WHOLE.replace(b"(3, 3)", b"(9**")[:-1],
        "of 8 exabytes": WHOLE.replace(b"'shape': (3, 3), }" + 8 * b" ", b"'shape': (999999999, 9), }"),
        "an open bracket": LARGE.replace(b"(3000, 3)", b"(3000, (("),
        "LZMA": LARGE.replace(b"PK\x01\x02\x2d\x03\x2d\x00\x00\x00\x00", b"PK\x01\x02\x2d\x03\x2d\x00\x00\x00\x0e"),
        "encrypted": WHOLE.replace(b"PK\x01\x02\x2d\x03\x2d\x00\x00\x00", b"PK\x01\x02\x2d\x03\x2d\x00\x01\x00"),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_such_file(content: tuple[str, bytes], tmp_path: Path) -> None:
    assert content[1] not in {WHOLE, LARGE}, "the damage is done"
    (tmp_path / "a.npz").write_bytes(content[1])
    assert read_arrays(tmp_path / "a.npz", NAMES) is None


def test_no_file_and_a_folder_of_that_name(tmp_path: Path) -> None:
    assert read_arrays(tmp_path / "a.npz", NAMES) is None
    assert read_arrays(tmp_path, NAMES) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_is_a_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content)
    found = read_arrays(path, NAMES)
    assert found is None or [array.dtype.kind in "biuf" for array in found] == [True, True]
