"""Who may work in a run folder, and what is left of a refused attempt: by hand, and by processes that race."""

import errno
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.cli.attempt import Attempt, carry_out
from common.cli.compose import Command, compose
from common.failures import Interrupted, Refused
from common.files import atomic_write, read_json
from common.run.run_dir import RunDir
from common.settings.entries import TrainCNN, run_name

REPOSITORY = Path(__file__).parent.parent.parent
RESULT = {"test": {"accuracy": 0.5}}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return compose(TrainCNN, [f"root={tmp_path / 'made' / 'runs'}", "log.progress=off"])


@pytest.fixture
def run(command: Command) -> RunDir:
    return RunDir(command.root / "train_cnn" / run_name(command.settings))


def forced(command: Command) -> Command:
    return Command(command.settings, command.root, command.data_dir, force=True, dry_run=False)


def work(attempt: Attempt) -> dict[str, Any]:
    return RESULT


def refuse(attempt: Attempt) -> dict[str, Any]:
    """As an entry does when it finds that there is no GPU."""
    assert attempt.run.config.exists()
    raise Refused(["compute.device: there is no GPU"])


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files; the lock's text is its holder's own."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def just_before_it_makes_a_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let something happen after a process has looked for its folder, and before it makes it."""

    def arrange(happens: Callable[[], object]) -> None:
        mkdir = Path.mkdir

        def late(path: Path, *words: Any, **more: Any) -> None:
            monkeypatch.setattr(Path, "mkdir", mkdir)
            happens()
            mkdir(path, *words, **more)

        monkeypatch.setattr(Path, "mkdir", late)

    return arrange


@pytest.fixture
def holder(run: RunDir) -> Iterator[Callable[[], None]]:
    """Someone else, who takes the lock when asked to and has written a checkpoint."""
    with ExitStack() as held:

        def take() -> None:
            held.enter_context(RunDir(run.path).lock())
            run.rotate_checkpoint(b"hours of work")

        yield take


# --- refused by the lock ----------------------------------------------------------------------------------------


def test_who_is_refused_the_lock_removes_nothing_of_the_holders(
    command: Command, run: RunDir, just_before_it_makes_a_folder: Any, holder: Callable[[], None]
) -> None:
    """Both have looked before either makes the folder."""
    just_before_it_makes_a_folder(holder)
    with pytest.raises(Refused, match=f"^{run.path} is locked by pid "):
        carry_out(command, work, [])
    assert contents(run.path) == {"checkpoints/last.pt": b"hours of work"}
    assert (run.path / "lock").exists()


def test_who_has_set_a_folder_aside_and_is_then_refused_says_where_it_is(
    command: Command, run: RunDir, just_before_it_makes_a_folder: Any, holder: Callable[[], None]
) -> None:
    assert carry_out(command, work, []) == 0
    before = contents(run.path)
    just_before_it_makes_a_folder(holder)
    with pytest.raises(Refused, match=r"(?s)is locked by pid .*; the old folder is .*\.aside-") as refused:
        carry_out(forced(command), work, [])
    assert contents(run.path) == {"checkpoints/last.pt": b"hours of work"}
    assert contents(Path(refused.value.problems[-1].rpartition(" is ")[2])) == before


def test_a_run_that_another_finished_since_the_door_is_not_done_again(
    command: Command, run: RunDir, just_before_it_makes_a_folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    just_before_it_makes_a_folder(lambda: carry_out(command, work, []))
    assert carry_out(command, lambda _: pytest.fail("done twice"), []) == 0
    assert f"finished: {run.path}, test accuracy 50.00%" in capsys.readouterr().out


# --- finished, and killed before it had tidied up ---------------------------------------------------------------


@pytest.fixture
def leftovers(command: Command, run: RunDir) -> list[Path]:
    """What a kill leaves between the result and the last removal."""
    assert carry_out(command, work, []) == 0
    temporary = run.predictions("test").with_name(".test.npz.1.tmp")
    paths = [run.previous, run.failure, run.path / ".result.json.1.tmp", temporary]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    return paths


def test_a_finished_run_is_tidied_at_the_next_look(
    command: Command, run: RunDir, leftovers: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert carry_out(command, lambda _: pytest.fail("done twice"), []) == 0
    assert f"finished: {run.path}, test accuracy 50.00%" in capsys.readouterr().out
    assert [path for path in leftovers if path.exists()] == []


def test_a_finished_run_answers_at_once_and_stays_as_it_is_while_another_process_has_it(
    command: Command, run: RunDir, leftovers: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits for the lock"))
    with RunDir(run.path).lock():
        assert carry_out(command, lambda _: pytest.fail("done twice"), []) == 0
        assert [path for path in leftovers if not path.exists()] == []


# --- refused by the work ----------------------------------------------------------------------------------------


def test_a_new_run_that_is_refused_leaves_no_trace(command: Command, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no GPU"):
        carry_out(command, refuse, [])
    assert not [*tmp_path.iterdir()]


def test_folders_that_others_made_or_use_stay(command: Command, run: RunDir) -> None:
    (command.root / "train_vit").mkdir(parents=True)
    with pytest.raises(Refused, match="there is no GPU"):
        carry_out(command, refuse, [])
    assert [*command.root.rglob("*")] == [command.root / "train_vit"]


def test_a_run_that_had_begun_stays(command: Command, run: RunDir) -> None:
    run.rotate_checkpoint(b"hours of work")
    with pytest.raises(Refused, match="there is no GPU"):
        carry_out(command, refuse, [])
    assert run.last.read_bytes() == b"hours of work"


def test_a_finished_run_comes_back_when_its_new_beginning_is_refused(command: Command, run: RunDir) -> None:
    assert carry_out(command, work, []) == 0
    before = contents(run.path)
    with pytest.raises(Refused, match=r"^compute.device: there is no GPU$"):
        carry_out(forced(command), refuse, [])
    assert contents(run.path) == before
    assert [*run.path.parent.iterdir()] == [run.path]


def test_a_folder_that_cannot_come_back_is_named(command: Command, run: RunDir, holder: Callable[[], None]) -> None:
    """Another process begins anew between the refusal and the way back."""
    assert carry_out(command, work, []) == 0
    before = contents(run.path)
    rename = Path.rename

    with pytest.MonkeyPatch.context() as patch:

        def late(path: Path, target: Path) -> Path:
            if target == run.path:
                holder()
            return rename(path, target)

        patch.setattr(Path, "rename", late)
        with pytest.raises(Refused, match=r"no GPU; another process uses .* by now; the old folder is ") as refused:
            carry_out(forced(command), refuse, [])
    assert contents(run.path) == {"checkpoints/last.pt": b"hours of work"}
    assert contents(Path(refused.value.problems[-1].rpartition(" is ")[2])) == before


# --- signs of life, and of an end by hand -----------------------------------------------------------------------


def test_a_run_beats_from_its_lock_on_and_stands_where_it_stood(command: Command, run: RunDir) -> None:
    """Building a network takes longer than a look at the status."""
    beats = []

    def stop_or_work(attempt: Attempt) -> dict[str, Any]:
        beats.append(read_json(attempt.run.heartbeat) or {})
        attempt.run.beat(epoch=3, epochs=8)
        if len(beats) == 1:
            raise Interrupted("stopped by SIGTERM")
        return RESULT

    began = time.time()
    assert [carry_out(command, stop_or_work, []) for _ in range(2)] == [1, 0]
    assert [beat["time"] >= began and beat["pid"] == os.getpid() for beat in beats] == [True, True]
    assert [beat.get("epoch") for beat in beats] == [None, 3]


@pytest.mark.parametrize("error", [Interrupted("stopped by SIGINT"), KeyboardInterrupt()])
def test_ones_own_ctrl_c_is_no_failure_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    command = compose(TrainCNN, [f"root={tmp_path}", "log.progress=lines"])

    def press_ctrl_c(attempt: Attempt) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        raise error

    assert carry_out(command, press_ctrl_c, []) == 1
    printed = capsys.readouterr().out
    assert ("stopped by SIGINT" in printed, "failed" in printed) == (True, False)
    assert (read_json(only_run(tmp_path).failure) or {})["class"] == "preempted"


# --- failed before the work begins ------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "kind"), [(errno.EACCES, "config"), (errno.ENOSPC, "disk"), (errno.EIO, "node")])
def test_a_log_that_cannot_be_written_is_a_failure_with_its_class(
    command: Command,
    run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: int,
    kind: str,
) -> None:
    def cannot_open(self: logging.FileHandler) -> None:
        raise OSError(error, os.strerror(error), self.baseFilename)

    monkeypatch.setattr(logging.FileHandler, "_open", cannot_open)
    assert carry_out(command, lambda _: pytest.fail("works without a log"), []) == 1
    assert f"failed ({kind}): " in capsys.readouterr().out
    failure = read_json(run.failure) or {}
    assert (failure["class"], "log.txt" in failure["message"]) == (kind, True)


# --- the folder is lost while the run works in it ---------------------------------------------------------------


def remove(run: RunDir) -> None:
    shutil.rmtree(run.path)


def replace(run: RunDir) -> None:
    """Another process finds no folder, and begins the run in one of its own."""
    run.set_aside()
    run.path.mkdir()
    for path in (run.path / "lock", run.config):
        path.write_text("another's")


@pytest.mark.parametrize("lose", [remove, replace])
@pytest.mark.parametrize("moment", ["at once", "between writes", "inside a write", "at the end", "before a refusal"])
def test_a_run_whose_folder_is_lost_fails_as_node_and_leaves_no_half_of_a_result(
    command: Command, run: RunDir, capsys: pytest.CaptureFixture[str], lose: Callable[[RunDir], None], moment: str
) -> None:
    def work_on(attempt: Attempt) -> dict[str, Any]:
        if moment == "before a refusal":
            lose(attempt.run)
            raise Refused(["compute.device: there is no GPU"])
        for now in ("at once", "between writes", "at the end"):
            if now == moment:
                lose(attempt.run)
            if now == "between writes":
                attempt.run.rotate_checkpoint(b"hours of work")
                with atomic_write(attempt.run.predictions("val")):
                    if moment == "inside a write":
                        lose(attempt.run)
                attempt.run.write_history([{"epoch": 1}])
        return RESULT

    if moment == "before a refusal":
        with pytest.raises(Refused, match="there is no GPU"):
            carry_out(command, work_on, [])
    else:
        assert carry_out(command, work_on, []) == 1
        assert f"failed (node): {run.path} was removed or replaced while this run" in capsys.readouterr().out

    # What another process has there by now stays as it is.
    assert run.path.exists() == (lose is replace)
    others = {"config.yaml": b"another's"} if lose is replace else {}
    assert contents(run.path) == others


def test_a_run_that_has_lost_its_settings_has_no_result(
    command: Command, run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    def work_on(attempt: Attempt) -> dict[str, Any]:
        attempt.run.config.unlink()
        return RESULT

    assert carry_out(command, work_on, []) == 1
    assert f"failed (node): {run.config} was removed while this run" in capsys.readouterr().out
    assert (read_json(run.failure) or {})["class"] == "node"
    assert not run.result.exists()


# --- the lock file ----------------------------------------------------------------------------------------------


def test_a_lock_on_a_file_that_was_removed_is_none(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder is refused and takes its folder away, just when the next one has opened the lock file in it."""
    first, flock = RunDir(run.path).lock(), fcntl.flock
    first.__enter__()

    def late(*words: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.__exit__(Refused, Refused(["no GPU"]), None)
        flock(*words)

    monkeypatch.setattr(fcntl, "flock", late)
    with run.lock():
        assert run.path.is_dir()
        with pytest.raises(Refused, match="is locked by pid"), RunDir(run.path).lock():
            pytest.fail("two writers")


def test_who_looks_at_a_lock_keeps_nobody_from_it(run: RunDir) -> None:
    run.path.mkdir(parents=True)
    code = "import fcntl, sys, time; file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_SH)"
    code += "; print('looks', flush=True); time.sleep(0.1)"
    looker = [sys.executable, "-c", code, str(run.path / "lock")]
    with subprocess.Popen(looker, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "looks\n"
        with run.lock():
            pass


# --- races ------------------------------------------------------------------------------------------------------

# Starts when told to, at the same moment as its rivals. Its work lasts until the others have been answered.
RACER = """
import contextlib, io, json, sys, time
from pathlib import Path
from common.cli.attempt import run_entry
from common.settings.entries import TrainCNN
from common.failures import Refused

for line in sys.stdin:
    task = json.loads(line)
    root = Path(task["root"])

    def work(attempt):
        with (root.parent / f"{root.name}.began").open("a") as file:
            file.write("one\\n")
        if task["kind"] == "refused":
            raise Refused(["compute.device: there is no GPU"])
        run = attempt.run
        run.rotate_checkpoint(b"hours of work")
        end = time.monotonic() + 60
        while not (root.parent / f"{root.name}.answered").exists() and time.monotonic() < end:
            time.sleep(0.002)
        written = (run.config, run.provenance, run.log, run.last, run.path / "lock")
        return {"lost": [str(path) for path in written if not path.exists()], "test": {"accuracy": 0.5}}

    while time.monotonic() < task["at"]:
        pass
    words = [f"root={root}", "log.progress=off", *(["force=true"] if task["kind"] == "forced" else [])]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run_entry(TrainCNN, work, words, script="", about="")
    print(json.dumps([code, errors.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def racers() -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as stack:
        started = [sys.executable, "-c", RACER]
        yield [
            stack.enter_context(
                subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
            )
            for _ in range(3)
        ]


def race(racers: list[subprocess.Popen[str]], root: Path, kind: str) -> list[tuple[int, str, int]]:
    """Code, errors and pid of each, in the order in which they answered."""
    task = json.dumps({"root": str(root), "kind": kind, "at": time.monotonic() + 0.02})
    for racer in racers:
        assert racer.stdin
        racer.stdin.write(task + "\n")
        racer.stdin.flush()
    waiting = {racer.stdout: racer.pid for racer in racers if racer.stdout}
    answers = []
    while waiting:
        ready, _, _ = select.select([*waiting], [], [], 60)
        answers += [(*json.loads(stdout.readline()), waiting.pop(stdout)) for stdout in ready]
        if len(waiting) <= 1 or not ready:
            (root.parent / f"{root.name}.answered").touch()
    return answers


def only_run(root: Path, besides: int = 0) -> RunDir:
    (folder,) = (path for path in (root / "train_cnn").iterdir() if ".aside-" not in path.name)
    assert len([*folder.parent.iterdir()]) == 1 + besides
    return RunDir(folder)


@pytest.mark.parametrize(("kind", "rounds"), [("new", 50), ("forced", 25)])
def test_of_three_processes_one_works_and_nothing_is_lost(
    racers: list[subprocess.Popen[str]], tmp_path: Path, command: Command, kind: str, rounds: int
) -> None:
    for number in range(rounds):
        root = tmp_path / f"{number}"
        if kind == "forced":
            carry_out(Command(command.settings, root, command.data_dir, force=False, dry_run=False), work, [])
        *refusals, (code, errors, winner) = race(racers, root, kind)
        assert (code, errors) == (0, "")
        # A forced one may be refused by who sets the old folder aside, and then loses the new one to the third.
        holders = {winner} if kind == "new" else {racer.pid for racer in racers}
        for code, errors, pid in refusals:
            assert code == 2
            assert any(f"is locked by pid {holder} on " in errors for holder in holders - {pid}), errors
        run = only_run(root, besides=kind == "forced")
        assert (read_json(run.result) or {})["lost"] == []
        assert contents(run.path).keys() == {
            *("config.yaml", "provenance.json", "log.txt", "heartbeat.json", "checkpoints/last.pt", "result.json")
        }
        if kind == "forced":
            (aside,) = run.path.parent.glob("*.aside-*")
            assert (read_json(RunDir(aside).result) or {})["test"] == RESULT["test"]


def test_three_processes_that_are_all_refused_leave_nothing(
    racers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    for number in range(25):
        root = tmp_path / f"{number}"
        answers = race(racers, root, "refused")
        assert [code for code, _, _ in answers] == [2, 2, 2]
        began = (tmp_path / f"{number}.began").read_text().splitlines()
        assert len(began) == sum("there is no GPU" in errors for _, errors, _ in answers) > 0
        assert not [path for path in root.rglob("*") if not path.is_dir()]
