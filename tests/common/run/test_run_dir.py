import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.failures import Refused
from common.files import read_json, write_json
from common.run.run_dir import DEAD_AFTER_SECONDS, RunDir, finished_runs

HOLD = """
import sys, time
from pathlib import Path
from common.run.run_dir import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def holder(run: RunDir):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_holds_the_lock(run: RunDir, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(Refused, match=rf"is locked by pid {holder.pid} on \S+ since 20\d\d-"), run.lock():
        pytest.fail("two writers")


def test_the_lock_ends_with_its_process_however_it_dies(run: RunDir, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with run.lock():
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
    assert (run.path / "lock").read_text() == ""


def test_the_holder_is_seen_until_it_dies(run: RunDir) -> None:
    assert run.is_locked() is None
    with run.lock():
        assert run.is_locked() is True
    assert run.is_locked() is False


def test_the_name_that_a_killed_holder_left_is_no_holder(run: RunDir, holder: subprocess.Popen[str]) -> None:
    assert run.is_locked() is True
    holder.kill()
    holder.wait()
    assert (run.holder() or {})["pid"] == holder.pid  # it had no time to give it back
    assert run.is_locked() is False


@pytest.mark.parametrize("text", ['{"boot": "other", "pid": 7}', "{}", "["])
def test_of_another_machines_holder_nothing_is_known(run: RunDir, text: str) -> None:
    run.path.mkdir()
    (run.path / "lock").write_text(text)
    assert run.is_locked() is None


@pytest.mark.parametrize("text", ["", "{", "{}", "[7]", '{"host": null}'])
def test_a_lock_that_names_nobody_refuses_all_the_same(
    run: RunDir, holder: subprocess.Popen[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.run.run_dir.LOCK_PATIENCE_SECONDS", 0.02)
    (run.path / "lock").write_text(text)
    with pytest.raises(Refused, match="is locked by pid unknown on "), run.lock():
        pytest.fail("two writers")


def leave_foreign_lock(run: RunDir, slurm_job: str | None, age_seconds: float) -> None:
    """The mark of a holder on another machine, whose kernel lock this file system does not show us."""
    run.path.mkdir(parents=True)
    lock = run.path / "lock"
    lock.write_text(json.dumps({"pid": 7, "host": "n9", "boot": "other", "slurm_job": slurm_job, "since": "then"}))
    run.heartbeat.write_text("{}")
    for path in (lock, run.heartbeat):
        os.utime(path, (time.time() - age_seconds,) * 2)


def test_a_foreign_holder_with_a_fresh_heartbeat_is_alive(run: RunDir) -> None:
    leave_foreign_lock(run, None, DEAD_AFTER_SECONDS / 2)
    with pytest.raises(Refused, match="locked by pid 7 on n9 since then"), run.lock():
        pytest.fail("two writers")


def test_a_foreign_holder_that_fell_silent_is_dead(run: RunDir) -> None:
    leave_foreign_lock(run, None, DEAD_AFTER_SECONDS + 5)
    with run.lock():
        pass


def test_a_job_requeued_elsewhere_takes_over_from_itself(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_foreign_lock(run, "4711", 1)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with run.lock():
        pass


def test_an_unwritable_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"root: .*run cannot be written: Not a directory"):
        RunDir(tmp_path / "file" / "run").lock().__enter__()


def test_leftovers_of_a_killed_attempt_go_and_nothing_else(run: RunDir) -> None:
    keep = [run.config, run.last]
    for path in [*keep, run.path / ".result.json.17.tmp", run.checkpoints / ".last.pt.17.tmp"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    run.clear_leftovers()
    assert sorted(path for path in run.path.rglob("*") if path.is_file()) == sorted(keep)


def test_the_checkpoint_before_the_last_stays(run: RunDir) -> None:
    for content in (b"one", b"two", b"three"):
        run.rotate_checkpoint(content)
    assert (run.previous.read_bytes(), run.last.read_bytes()) == (b"two", b"three")
    assert len([*run.checkpoints.iterdir()]) == 2


def test_history_reads_back_digit_for_digit(run: RunDir) -> None:
    rows = [{"epoch": 1, "train_loss": 0.1 + 0.2, "val_loss": ""}, {"epoch": 2, "train_loss": 1e-17, "val_loss": 3.0}]
    run.write_history(rows)
    first = run.history.read_bytes()
    assert [float(row["train_loss"]) for row in run.read_history()] == [0.1 + 0.2, 1e-17]
    run.write_history(run.read_history())
    assert run.history.read_bytes() == first
    with run.history.open(newline="") as file:
        assert next(csv.DictReader(file))["val_loss"] == ""


def test_heartbeats_are_rationed(run: RunDir) -> None:
    run.path.mkdir()
    run.beat(epoch=1, step=1)
    run.beat(epoch=1, step=2)
    beat = read_json(run.heartbeat)
    assert beat is not None
    assert (beat["step"], beat["pid"]) == (1, os.getpid())


def test_setting_aside_keeps_everything_under_another_name(run: RunDir) -> None:
    run.path.mkdir()
    run.config.write_text("x")
    aside = run.set_aside()
    assert not run.path.exists()
    assert (aside / "config.yaml").read_text() == "x"


def test_two_folders_of_the_same_second_have_two_names(run: RunDir) -> None:
    for text in ("one", "two"):
        run.path.mkdir()
        run.config.write_text(text)
        run.set_aside()
    asides = sorted(run.path.parent.glob("run.aside-*"), key=lambda path: len(path.name))
    assert [(aside / "config.yaml").read_text() for aside in asides] == ["one", "two"]


def test_finished_runs_of_a_root_are_those_with_a_result_that_were_not_set_aside(tmp_path: Path) -> None:
    runs = [RunDir(tmp_path / folder) for folder in ("train_cnn/digits-a", "train_cnn/digits-b", "train_vit/digits-c")]
    for run in runs:
        write_json(run.result, {})
    write_json(RunDir(tmp_path / "train_cnn" / "digits-d").failure, {})
    RunDir(tmp_path / "train_cnn" / "digits-b").set_aside()
    assert [run.path for run in finished_runs(tmp_path, "*/digits-*")] == [runs[0].path, runs[2].path]
