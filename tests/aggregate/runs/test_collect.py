import errno
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.report import all_tables
from aggregate.runs.collect import collect, flatten, read_arrays, read_run
from aggregate.runs.material import Material, of_pattern
from aggregate.runs.methods import group
from aggregate.tables.runs import run_rows

MakeRun = Callable[..., Path]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def test_what_is_known_of_a_run(make_run: MakeRun) -> None:
    run = read_run(make_run(seed=3, accuracy=0.97, recipe={"epochs": 4}))
    assert (run.entry, run.seed, run.data, run.fact("test.accuracy")) == ("train_cnn", 3, "digits", 0.97)
    assert run.settings["recipe.epochs"] == 4
    assert "seed" not in run.settings
    assert not [name for name in run.settings if name.startswith(("compute", "log"))], "cannot change the result"
    assert run.learning.chosen == {
        "epoch": 2,
        "train_loss": 1.0,
        "train_accuracy": 0.8,
        "val_loss": 1.1,
        "val_accuracy": 0.7,
    }
    assert run.fact("test.confusion_matrix") is None
    assert run.fact("no.such.thing") is None


def test_settings_read_by_blocks_are_those_of_the_whole_file(make_run: MakeRun) -> None:
    one, other = make_run(seed=1, augment={"flip": 0.5}), make_run(seed=2, augment={"flip": 0.25})
    assert [read_run(each).settings["augment.flip"] for each in (one, other)] == [0.5, 0.25]


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (lambda f: [(f / n).unlink() for n in ("config.yaml", "result.json")], "it has no config.yaml"),
    "half a config": (lambda f: (f / "config.yaml").write_text("entry: [train"), "config.yaml: not YAML"),
    "a config of nothing": (lambda f: (f / "config.yaml").write_text(""), r"config.yaml: .*"),
    "bytes": (lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe\x00"), "config.yaml: .*"),
    "deep": (lambda f: (f / "config.yaml").write_text("a: " + "[" * 5000), "config.yaml: .*"),
    "a foreign entry": (lambda f: (f / "config.yaml").write_text("entry: train_gan"), "given train_gan, allowed"),
    "a list for an entry": (lambda f: (f / "config.yaml").write_text("entry: [1]"), "config.yaml: entry: given"),
    "an older setting": (
        lambda f: (f / "config.yaml").write_text((f / "config.yaml").read_text() + "warmup_epochs: 3\n"),
        "config.yaml: warmup_epochs: no such setting",
    ),
    "two of a key": (
        lambda f: (f / "config.yaml").write_text((f / "config.yaml").read_text() + "seed: 9\n"),
        "seed is there twice",
    ),
    "an edited config": (
        lambda f: (f / "config.yaml").write_text((f / "config.yaml").read_text().replace("seed: 0", "seed: 7")),
        "its settings are those of digits-adaptive_cnn-s7-.*: edited, renamed",
    ),
    "no result": (lambda f: (f / "result.json").unlink(), "^not finished$"),
    "half a result": (lambda f: (f / "result.json").write_text('{"entry": "tr'), "result.json is not whole JSON"),
    "a result in a loop": (lambda f: (f / "result.json").write_text("[" * 100_000), "result.json is not whole JSON"),
    "a list": (lambda f: (f / "result.json").write_text("[]"), "result.json is not whole JSON"),
    "a folder for a result": (
        lambda f: [(f / "result.json").unlink(), (f / "result.json").mkdir()],
        "result.json is not whole JSON",
    ),
    "another run's result": (lambda f: edit(f, lambda r: r.update(run="other")), "its result.json is that of other"),
    "an older result": (lambda f: edit(f, lambda r: r["data"].pop("task")), "no data.task: it is of an older version"),
    "no test": (lambda f: edit(f, lambda r: r.update(test=None)), "no test.n"),
    "a text for a number": (lambda f: edit(f, lambda r: r["test"].update(accuracy="0.9")), "is 0.9, expected float"),
    "a truth for a number": (lambda f: edit(f, lambda r: r["test"].update(accuracy=True)), "is true, expected float"),
    "a percentage": (lambda f: edit(f, lambda r: r["test"].update(accuracy=97.0)), "is 97.0, expected 0 to 1"),
    "NaN": (lambda f: edit(f, lambda r: r["test"].update(nll=float("nan"))), "test.nll is nan"),
    "an endless number": (lambda f: edit(f, lambda r: r["test"].update(nll=10**400)), "test.nll is 1000"),
    "a number of classes": (
        lambda f: edit(f, lambda r: r["data"].update(classes=3)),
        "data.classes is 3, expected list",
    ),
    "a name for a teacher": (lambda f: edit(f, lambda r: r.update(teacher="x")), "teacher is x, expected dict"),
    "no images": (lambda f: edit(f, lambda r: r["test"].update(n=0)), "tested on no images"),
}


@pytest.mark.parametrize("kind", BREAKAGES)
def test_a_broken_folder_is_left_out_with_the_reason(kind: str, make_run: MakeRun) -> None:
    breakage, reason = BREAKAGES[kind]
    whole, broken = make_run(seed=1), make_run(seed=0)
    assert len(collect([whole, broken])[0]) == 2
    breakage(broken)
    runs, left = collect([whole, broken])
    assert [run.path for run in runs] == [whole]
    assert [each.path for each in left] == [broken]
    assert re.search(reason, left[0].reason), left[0].reason


def test_how_an_unfinished_run_stands(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "result.json").unlink()
    beat = {"time": time.time(), "epoch": 3, "epochs": 8}
    (folder / "heartbeat.json").write_text(json.dumps(beat))
    assert collect([folder])[1][0].reason == "running, epoch 3 of 8"
    (folder / "heartbeat.json").write_text(json.dumps({**beat, "time": 0}))
    assert collect([folder])[1][0].reason == "not finished, epoch 3 of 8"
    (folder / "failure.json").write_text(json.dumps({"class": "oom", "message": "out of memory"}))
    assert collect([folder])[1][0].reason == "failed (oom): out of memory"
    (folder / "failure.json").write_text(json.dumps({"class": "bug", "message": "\x1b[2J\nx"}))
    assert collect([folder])[1][0].reason == "failed (bug): \\x1b[2J\\nx", "no terminal is cleared by it"


def test_a_run_counts_once(make_run: MakeRun, tmp_path: Path) -> None:
    one = make_run()
    copy = make_run(root=tmp_path / "copy")
    changed = make_run(root=tmp_path / "changed", accuracy=0.5)
    runs, left = collect([one, one, copy, changed])
    assert len(runs) == 1
    assert [each.reason for each in left] == [
        f"the same run as {one}, which is counted",
        f"the same run as {one}, which is counted; their results differ",
    ]


@pytest.mark.parametrize("text", [None, "", "epoch\n", "epoch,val_loss\n2,NaN\n", 'epoch,"x\n2'])
def test_a_history_that_tells_nothing_does_no_harm(text: str | None, make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "history.csv").unlink()
    if text is not None:
        (folder / "history.csv").write_text(text)
    assert {"val_loss", "train_accuracy"}.isdisjoint(read_run(folder).learning.chosen)


def test_a_run_without_provenance_counts_as_one_of_unknown_origin(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "provenance.json").write_text("{")
    assert read_run(folder).provenance == {}


@pytest.mark.parametrize("value", [3, "x", [{}], {"x": {}}])
@pytest.mark.parametrize("name", ["commit", "dirty", "packages", "container", "gpu", "earlier_attempts", "processes"])
def test_a_strange_origin_is_an_unknown_one(name: str, value: Any, make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "provenance.json").write_text(json.dumps({"device": "cpu", name: value}))
    runs, left_out = collect([folder])
    methods = group(runs)
    assert left_out == []
    assert next(table.name for table in all_tables(methods, Material("x", "x", runs, []))) == "summary"
    assert len(run_rows(methods)) == 1


def test_a_folder_that_cannot_be_read_stops_no_other(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, locked = make_run(seed=0), make_run(seed=1)
    original = Path.is_file

    def of_a_file_server(self: Path) -> bool:
        if self.parent == locked:
            raise OSError(errno.ESTALE, "Stale file handle")
        return original(self)

    monkeypatch.setattr(Path, "is_file", of_a_file_server)
    material = of_pattern(f"{tmp_path}/runs/*/*")
    assert [run.path for run in material.runs] == [whole]
    assert [(left.path, left.reason) for left in material.left_out] == [(locked, "cannot be read: Stale file handle")]


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2], "e": {}}


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
