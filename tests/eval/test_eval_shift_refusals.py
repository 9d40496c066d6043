"""What eval_shift refuses before any cell, and what it is measured against: all of it through the command."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import yaml

from common.files import digest_of
from eval.eval_shift import main
from train.train_cnn import main as train_cnn

TINY = (
    *("shift.corruptions=[gaussian_noise,contrast]", "shift.severities=[3,5]"),
    *("compute.threads=1", "log.progress=off"),
)
Refusal = Callable[..., list[str]]
Pack = Callable[..., dict[str, Any]]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def only(root: Path, entry: str) -> Path:
    (folder,) = (root / entry).iterdir()
    return folder


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = read(path)
    change(content)
    path.write_text(json.dumps(content))


# --- the run ----------------------------------------------------------------------------------------------------


def test_a_run_is_needed_that_is_finished_and_whole(run_copy: Path, digits_dir: Path, refused: Refusal) -> None:
    words = f"data_dir={digits_dir}", "root=copies", *TINY
    run = f"run={run_copy.name}"
    assert refused(main, *words) == ["run: missing; a finished run (its folder, name or hash)"]
    (line,) = refused(main, "run=nobody", *words)
    assert line.startswith("run: given nobody, which is no folder and no run under copies")
    assert refused(main, run, "run.digest=0f3a", *words)[0].endswith("but the settings name 0f3a")
    assert refused(main, run, "run.digest=[1]", *words)[0].endswith("but the settings name [1]")
    weights = run_copy / "checkpoints" / "best.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (line,) = refused(main, run, *words)
    assert "has changed since the run's result was written" in line
    weights.unlink()
    (line,) = refused(main, run, *words)
    assert line.endswith("is missing; the run has a result, but its weights are gone")
    (run_copy / "result.json").unlink()
    (line,) = refused(main, run, *words)
    assert "is not finished (epoch " in line


def test_what_the_run_decides_cannot_be_set(finished_run: Path, digits_dir: Path, refused: Refusal) -> None:
    given = "data=mnist", "seed=3", "model.dropout=0.5", "data.val_fraction=0"
    lines = refused(main, f"run={finished_run}", f"data_dir={digits_dir}", *given, *TINY)
    assert lines == [
        "data: given mnist, but it is that of the run",
        "seed: given 3, but it is that of the run",
        "model.dropout: given 0.5, but it is that of the run",
        "data.val_fraction: given 0, but it is that of the run",
    ]


def test_all_that_is_wrong_is_said_at_once(finished_run: Path, digits_dir: Path, refused: Refusal) -> None:
    words = "shift.sets=[cifar10_1_v6,digitz]", "shift.corruptions=[fogg]", "shift.baseline=none-such"
    lines = refused(main, f"run={finished_run}", f"data_dir={digits_dir}", *words)
    assert len(lines) == 4
    assert lines[0].startswith("shift.sets: cifar10_1_v6 is not prepared under ")
    assert lines[0].endswith(f"run: python jobs/prepare.py data=cifar10_1_v6 data_dir={digits_dir}")
    assert lines[1].startswith("shift.sets: given digitz, allowed: digits, ")
    assert lines[1].endswith(", nearest: digits")
    assert lines[2].startswith("shift.baseline: given none-such, which is no folder and no run under runs")
    assert lines[3].startswith("shift.corruptions: given fogg, allowed: gaussian_noise, ")
    assert lines[3].endswith(", nearest: fog")


@pytest.mark.parametrize("shift", [3, {"sets": 3}, {"sets": [3, [1]]}, {"digests": 3}, {"baseline": 3}], ids=str)
def test_a_snapshot_that_makes_no_sense_is_refused(
    shift: Any, finished_run: Path, digits_dir: Path, refused: Refusal, tmp_path: Path
) -> None:
    (tmp_path / "snapshot.yaml").write_text(yaml.safe_dump({"entry": "eval_shift", "shift": shift}))
    lines = refused(main, "config=snapshot.yaml", f"run={finished_run}", f"data_dir={digits_dir}")
    assert lines
    assert all(line.startswith("shift") for line in lines)


def test_several_labels_are_refused(multi_label: tuple[Path, Path], refused: Refusal) -> None:
    run, data_dir = multi_label
    lines = refused(main, f"run={run}", f"data_dir={data_dir}", *TINY)
    assert lines == [f"run: {run.name} has several labels for an image; allowed: one label each"]


def test_the_runs_own_images_must_be_there_unchanged(
    finished_run: Path, digits_dir: Path, packed: Pack, refused: Refusal, tmp_path: Path
) -> None:
    (line,) = refused(main, f"run={finished_run}", "data_dir=nowhere", *TINY)
    assert line == "data: digits, on which the run was trained, is not packed as nowhere/digits"
    noise = np.random.RandomState(0).randint(256, size=(20, 1, 8, 8)).astype(np.uint8)
    packed(tmp_path / "data" / "digits", {part: (noise, np.arange(20) % 10) for part in ("train", "test")})
    (line,) = refused(main, f"run={finished_run}", "data_dir=data", *TINY)
    assert line.startswith("data: the images packed as digits have the digest ")


def test_several_processes_are_refused(
    finished_run: Path, digits_dir: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        lines = refused(main, f"run={finished_run}", f"data_dir={digits_dir}", *TINY)
        assert lines == ["given 2 processes, allowed: one; cells are not shared out"]


# --- another run to measure against -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def baseline(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a worse run, and of its test under shift."""
    root = tmp_path_factory.mktemp("baseline")
    common = f"root={root}", f"data_dir={digits_dir}", "compute.threads=1", "log.progress=off"
    with contextlib.redirect_stdout(io.StringIO()):
        assert train_cnn(["seed=1", "recipe.epochs=1", "recipe.batch_size=128", "augment=none", *common]) == 0
        assert main([f"run={only(root, 'train_cnn')}", *TINY, *common]) == 0
    return root


def test_errors_are_set_in_proportion_to_the_baselines(
    baseline: Path, finished_run: Path, digits_dir: Path, tmp_path: Path
) -> None:
    """As the paper writes it: the sum over severities in proportion, then the mean over corruptions."""
    theirs = only(baseline, "eval_shift")
    words = f"run={finished_run}", f"data_dir={digits_dir}", *TINY
    assert main([*words, "root=plain"]) == 0
    assert main([*words, "root=measured", f"shift.baseline={theirs}"]) == 0
    base, mine = (read(path / "result.json")["shift"] for path in (theirs, only(tmp_path / "plain", "eval_shift")))
    folder = only(tmp_path / "measured", "eval_shift")
    found = read(folder / "result.json")["shift"]["corrupted"]["against_baseline"]
    e, b = mine["corrupted"]["errors"], base["corrupted"]["errors"]
    assert found["baseline"] == theirs.name
    assert found["mean_corruption_error"] == pytest.approx(
        mean([sum(e["gaussian_noise"]) / sum(b["gaussian_noise"]), sum(e["contrast"]) / sum(b["contrast"])])
    )
    clean, their_clean = (1 - each["clean"]["accuracy"] for each in (mine, base))
    added = {name: (sum(e[name]) - 2 * clean, sum(b[name]) - 2 * their_clean) for name in e}
    if all(theirs > 0 for _, theirs in added.values()):
        expected = mean(mine / theirs for mine, theirs in added.values())
        assert found["relative_mean_corruption_error"] == pytest.approx(expected)
    else:
        assert found["relative_mean_corruption_error"] is None
        assert "adds " in found["relative_mean_corruption_error_problem"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["shift"]["baseline_digest"] == digest_of(theirs / "result.json")


def test_a_baseline_tested_otherwise_is_refused_before_any_cell(
    baseline: Path, finished_run: Path, digits_dir: Path, refused: Refusal, tmp_path: Path
) -> None:
    theirs = Path(shutil.copytree(only(baseline, "eval_shift"), tmp_path / "theirs"))
    words = f"run={finished_run}", f"data_dir={digits_dir}", *TINY, "shift.baseline=theirs"
    otherwise = "shift.baseline: theirs was tested on other corruptions or severities; allowed: the same"
    assert refused(main, *words, "shift.severities=[3]") == [otherwise]
    assert refused(main, *words, "shift.corruptions=[gaussian_noise,fog]") == [otherwise]
    (line,) = refused(main, *words, "shift.baseline_digest=0f3a")
    assert line.startswith("shift.baseline_digest: given 0f3a, but theirs has ")
    whole = (theirs / "result.json").read_bytes()
    rewrite(theirs / "result.json", lambda result: result["data"].update(name="mnist", digest="0f3a"))
    (line,) = refused(main, *words)
    assert line.startswith("shift.baseline: theirs was tested on mnist (0f3a), not on digits (")
    (theirs / "result.json").write_bytes(whole)
    rewrite(theirs / "result.json", lambda result: result["shift"]["clean"].pop("accuracy"))
    assert refused(main, *words) == ["shift.baseline: theirs has no accuracy on its clean images"]
    (theirs / "result.json").unlink()
    assert refused(main, *words) == ["shift.baseline: theirs is no finished run of eval_shift"]
    (line,) = refused(main, *words[:-1], f"shift.baseline={finished_run}")
    assert line.endswith("is no finished run of eval_shift")


def test_a_test_under_shift_is_no_run_to_test(baseline: Path, digits_dir: Path, refused: Refusal) -> None:
    theirs = only(baseline, "eval_shift")
    (line,) = refused(main, f"run={theirs}", f"data_dir={digits_dir}", *TINY)
    assert line == f"run: {theirs}/result.json is not the result of a training"
