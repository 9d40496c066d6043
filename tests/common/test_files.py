from pathlib import Path

import pytest

from common.files import atomic_write, read_json, write_json


def test_a_write_replaces_the_whole_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write(b"ne")
        file.write("not bytes")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("content", ["", '{"a": ', "[1]", "\x00", "[" * 100_000])
def test_a_damaged_json_file_counts_as_absent(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert read_json(tmp_path / "x.json") is None
