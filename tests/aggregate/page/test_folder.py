"""What a report may replace and remove in a folder, by the list of what earlier reports have written there."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from aggregate.page import folder as module
from aggregate.page.folder import LIST, report_folder
from common.failures import Refused
from common.files import digest_of


def write(folder: Path, files: Mapping[str, str], *, force: bool = False) -> None:
    with report_folder(folder, force=force) as drafts:
        for name, content in files.items():
            (drafts / name).parent.mkdir(exist_ok=True)
            (drafts / name).write_text(content)


def files_of(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != LIST]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_a_later_report_replaces_and_removes_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": "1", "b.csv": "1", "figures/a.png": "1", "figures/b.png": "1"})
    write(tmp_path, {"a.csv": "2", "figures/a.png": "2"})
    assert files_of(tmp_path) == {"a.csv": "2", "figures/a.png": "2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "figures", LIST], "and no drafts"


def test_a_users_file_is_never_removed(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": "1", "changed.csv": "1", "figures/a.png": "1"})
    own = {"changed.csv": "mine", "notes.csv": "mine", "figures/roc.png": "mine"}
    for name, content in own.items():
        (tmp_path / name).write_text(content)
    write(tmp_path, {"b.csv": "2"})
    assert files_of(tmp_path) == {"b.csv": "2", **own}
    write(tmp_path, {"b.csv": "3"})
    assert files_of(tmp_path) == {"b.csv": "3", **own}, "nor later, when the list has forgotten it"


@pytest.mark.parametrize("kind", ["file", "changed", "folder", "link"])
def test_a_users_file_is_not_replaced_unless_force_says_so(kind: str, tmp_path: Path) -> None:
    folder, taken = tmp_path / "out", tmp_path / "out" / "b.csv"
    write(folder, {"a.csv": "1", **({"b.csv": "1"} if kind == "changed" else {})})
    if kind == "folder":
        taken.mkdir()
    elif kind == "link":
        taken.symlink_to(tmp_path / "nowhere")
    else:
        taken.write_text("mine")
    before = files_of(folder)
    with pytest.raises(Refused, match=re.escape(f"out: {folder} has a b.csv that no report has written")):
        write(folder, {"a.csv": "2", "b.csv": "2"})
    assert files_of(folder) == before, "of the others none is replaced either"
    if kind != "folder":
        write(folder, {"a.csv": "2", "b.csv": "2"}, force=True)
        assert files_of(folder) == {"a.csv": "2", "b.csv": "2"}


def test_a_refusal_is_one_line_of_a_few_names(tmp_path: Path) -> None:
    names = [f"{letter}.csv" for letter in "abcde"]
    for name in names:
        (tmp_path / name).write_text("of a report of an older version")
    with pytest.raises(Refused) as refused:
        write(tmp_path, dict.fromkeys(names, "new"))
    (problem,) = refused.value.problems
    assert "a.csv, b.csv, c.csv and 2 more that" in problem


@pytest.mark.parametrize("content", ["", "[]", '{"files": ["a.csv"]}', '{"files": {"a.csv": "1"}}'])
def test_a_list_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / LIST).write_text(content)
    with pytest.raises(Refused, match=r"report-files\.json is not the list of a report's files"):
        write(tmp_path, {"a.csv": "1"})
    assert files_of(tmp_path) == {}
    write(tmp_path, {"a.csv": "1"}, force=True)
    assert json.loads((tmp_path / LIST).read_text())["files"].keys() == {"a.csv"}


@pytest.mark.parametrize("name", ["../own.csv", "figures/../../own.csv", "other/own.csv", "{folder}/own.csv", "..", ""])
def test_a_list_from_elsewhere_reaches_no_file_that_a_report_cannot_have(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    own = [tmp_path / "own.csv", folder / "other" / "own.csv", folder / "own.csv"]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    listed = {name.format(folder=folder): [digest_of(own[0])]}
    (folder / LIST).write_text(json.dumps({"files": listed}))
    write(folder, {"a.csv": "1"})
    assert [path.read_text() for path in own] == ["mine"] * 3


def test_after_a_report_was_killed_the_next_one_knows_the_files_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a.csv": "1", "b.csv": "1", "c.csv": "1"})
    original = Path.replace

    def killed_at_b(self: Path, target: Path) -> Path:
        if Path(target).name == "b.csv":
            raise KeyboardInterrupt
        return original(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.Path, "replace", killed_at_b)
        write(tmp_path, {"a.csv": "2", "b.csv": "2"})
    assert files_of(tmp_path) == {"a.csv": "2", "b.csv": "1", "c.csv": "1"}
    write(tmp_path, {"b.csv": "3"})
    assert files_of(tmp_path) == {"b.csv": "3"}
