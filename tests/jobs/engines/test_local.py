"""Sweeps on this machine: in order, once, around failures, and through Ctrl-C to the very same weights."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings.entries import ENTRIES
from jobs import status, submit
from jobs.engines.local import Engine
from jobs.machine.processes import memory_kills
from jobs.planning.ledger import Ledger
from jobs.planning.plan import make_plan
from jobs.planning.states import Standing

Told = Callable[..., tuple[int, str]]
REPOSITORY = Path(__file__).parents[3]
pytestmark = pytest.mark.slow

SMALL = {"model.width": 24, "model.depth": 1, "model.stem_width": 0}
STAGES: dict[str, Any] = {
    "student": {"entry": "distill_kd", "teacher": "teacher", "with": {"recipe.epochs": 1, **SMALL}},
    "teacher": {"entry": "train_vit", "with": {"recipe.epochs": 5, **SMALL}},  # long enough to be stopped in its midst
}


@dataclass(frozen=True)
class Place:
    """A sweep file, and a root of its own."""

    folder: Path
    data_dir: Path

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    def words(self, *more: str, stages: Any = STAGES) -> list[str]:
        file = self.folder / "tiny.yaml"
        tree = {"axes": {"seed": [0]}, "with": {"compute.threads": 1}, "stages": stages}
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        return [f"sweep={file}", "cluster=local", f"root={self.root}", f"data_dir={self.data_dir}", *more]

    def command(self) -> list[str]:
        return [sys.executable, str(REPOSITORY / "jobs" / "submit.py"), *self.words()]

    def results(self) -> dict[str, dict[str, Any]]:
        return {path.parts[-3]: json.loads(path.read_text()) for path in self.root.glob("*/*/result.json")}

    def weights(self) -> dict[str, bytes]:
        return {path.parts[-4]: path.read_bytes() for path in self.root.glob("*/*/checkpoints/best.safetensors")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> tuple[Place, str]:
    """A teacher and its student, trained once; and what was printed."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), digits_dir)
    done = subprocess.run(place.command(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return place, done.stdout


@pytest.fixture
def place(tmp_path: Path, digits_dir: Path) -> Place:
    return Place(tmp_path, digits_dir)


def test_a_student_comes_after_its_teacher_whatever_the_file_says_first(undisturbed: tuple[Place, str]) -> None:
    place, printed = undisturbed
    assert printed.startswith("tiny: 2 to run; 1 at a time under ")
    assert printed.index("teacher seed=0: finished in ") < printed.index("student seed=0: finished in ")
    assert set(place.results()) == set(place.weights()) == {"train_vit", "distill_kd"}
    assert Ledger(place.root).worker_here("tiny") is None  # nobody works here any more


def test_the_same_command_again_runs_nothing(undisturbed: tuple[Place, str], told: Told) -> None:
    place, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for entry in ENTRIES for path in place.root.glob(f"{entry}/**/*")}
    assert len(before) > 10
    code, text = told(submit.main, *place.words())
    assert code == 0
    assert text.startswith("tiny: 0 to run, 2 finished; ")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_failure_blocks_its_student_and_nothing_else(place: Place, told: Told) -> None:
    stages = {**STAGES, "alone": {"entry": "train_vit", "with": {"recipe.epochs": 1, **SMALL}}}
    code, text = told(submit.main, *place.words("teacher.recipe.lr=1e30", "slots=2", stages=stages))
    assert code == 1
    assert "teacher seed=0: failed (nan): the training loss is" in text
    assert "student seed=0: not started: its teacher, teacher seed=0, failed (nan)\n" in text
    assert "alone seed=0: finished in " in text
    code, text = told(status.main, "sweep=tiny", "json=true", f"root={place.root}")
    assert code == 1
    states = {cell["stage"]: (cell["state"], cell["cause"]) for cell in json.loads(text)}
    assert states == {"teacher": ("failed", "nan"), "student": ("blocked", "nan"), "alone": ("done", None)}


def test_ctrl_c_and_taken_up_again(place: Place, undisturbed: tuple[Place, str], told: Told) -> None:
    """Behind a checkpoint, in the midst of the teacher; the end has the bits of a sweep that nobody stopped."""
    with subprocess.Popen(place.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as engine:
        wait_until(lambda: any(place.root.glob("train_vit/*/checkpoints/last.pt")), engine)
        engine.send_signal(signal.SIGINT)
        printed, problems = engine.communicate(timeout=60)
    assert engine.returncode == 1
    assert "teacher seed=0: stopped after a checkpoint" in printed
    assert "stopped; the same command goes on" in problems
    assert place.results() == {}
    code, text = told(status.main, "sweep=tiny", f"root={place.root}")
    assert code == 0  # stopped is not failed
    assert "failed" not in text.partition("\n")[2]

    code, text = told(submit.main, *place.words())
    assert code == 0, text
    assert text.startswith("tiny: 2 to run; ")
    assert place.weights() == undisturbed[0].weights()
    for entry, result in undisturbed[0].results().items():
        assert place.results()[entry]["test"] == result["test"]


PARENTS = {
    "cnn": {"entry": "train_cnn"},
    "deit": {"entry": "distill_kd", "teacher": "cnn"},
    "shift": {"entry": "eval_shift", "of": ["cnn", "deit"]},
}


@pytest.mark.parametrize(
    ("kind", "end", "why"),
    [
        ("nan", "failed (nan): it broke", "failed (nan)"),
        ("preempted", "stopped after a checkpoint", "was stopped"),
        (None, "failed (code 3): it ended without a word (", "failed (code 3)"),
    ],
)
def test_what_is_not_started_says_what_it_builds_on_and_how_that_ended(
    worlds: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: Any, end: str, why: str
) -> None:
    """Without training: the process of the first run only ends."""
    world = worlds("0", stages=PARENTS)

    def launch(*_: Any) -> "subprocess.Popen[bytes]":
        if kind:
            world.fail("cnn", kind)
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])

    monkeypatch.setattr(Engine, "_launch", launch)
    plan = make_plan(world.sweep, dict.fromkeys(world.sweep.cells, Standing("waiting")))
    engine = Engine(world.sweep, plan, world.root, world.folder / "data", 1, world.ledger.logs)
    assert not engine.work()
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"cnn seed=0: {end}")
    assert set(others) == {
        f"deit seed=0: not started: its teacher, cnn seed=0, {why}",
        f"shift of=cnn seed=0: not started: the run that it tests, cnn seed=0, {why}",
        "shift of=deit seed=0: not started: the run that it tests, deit seed=0, cannot start either",
    }


# --- runs that do nothing but end --------------------------------------------------------------------------------

Launch = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def worked(
    world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Launch], tuple[bool, list[str]]]:
    """Let the engine run a teacher, a student and its student, whose processes are what is launched here."""

    def command_of(lineage: Any, *_: Any) -> tuple[list[str], Path, str]:
        return [], world.run(("cnn", "deit", "small")[len(lineage) - 1]).path, ""

    def works(launch: Launch, **more: Any) -> tuple[bool, list[str]]:
        monkeypatch.setattr("jobs.engines.local.command_of", command_of)
        monkeypatch.setattr(Engine, "_launch", lambda *words: launch(words[2], words[4]))
        plan = make_plan(world.sweep, dict.fromkeys(world.sweep.cells, Standing("waiting")))
        engine = Engine(world.sweep, plan, world.root, world.folder / "data", 1, world.ledger.logs, **more)
        return engine.work(), capsys.readouterr().out.splitlines()

    return works


def process(code: str, file: Any = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)


@pytest.mark.parametrize(
    ("kills", "kind", "why"), [(1, "oom", "and the kernel killed"), (0, "node", "nothing here says by whom")]
)
def test_a_run_that_is_killed_has_a_class_and_status_fails(
    world: Any, worked: Any, told: Told, monkeypatch: pytest.MonkeyPatch, kills: int, kind: str, why: str
) -> None:
    counts = iter([5, 5 + kills])
    monkeypatch.setattr("jobs.engines.local.memory_kills", lambda: next(counts))
    done, lines = worked(lambda *_: process("import os; os.kill(os.getpid(), 9)"))
    assert not done
    assert lines[0].startswith(f"cnn seed=0: failed ({kind}): killed by SIGKILL, {why}")
    assert lines[1] == f"deit seed=0: not started: its teacher, cnn seed=0, failed ({kind})"
    code, text = told(status.main, "sweep=mine", f"root={world.root}")
    assert code == 1
    assert f"failed cnn seed=0: ({kind}) killed by SIGKILL, {why}" in text


def test_runs_that_are_left_out_are_stopped_or_not_started(world: Any, worked: Any) -> None:
    """The teacher while it runs, which leaves nobody for its student; then a student that waits."""
    keys = {stage: world.cell(stage).key for stage in ("cnn", "deit")}
    told = iter([set(), {keys["cnn"]}])
    done, lines = worked(lambda *_: process("import time; time.sleep(60)"), left_out=lambda: next(told, set()))
    assert not done
    assert lines[:2] == [
        "cnn seed=0: stopped before it began",
        "deit seed=0: not started: its teacher, cnn seed=0, was stopped",
    ]

    def launch(cell: Any, _: Any) -> "subprocess.Popen[bytes]":
        world.finish(cell.stage)
        return process("")

    told = iter([{keys["deit"]}])
    done, lines = worked(launch, left_out=lambda: next(told, set()))
    assert not done
    assert lines[0] == "deit seed=0: not started: it was cancelled"
    assert "small seed=0: not started: its teacher, deit seed=0, was cancelled" in lines
    assert lines[-1].startswith("cnn seed=0: finished")


def test_the_kernel_counts_whom_it_kills_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_kills() >= 0
    monkeypatch.setattr("jobs.machine.processes.PROCESSES", tmp_path)
    assert memory_kills() == 0
    (tmp_path / "vmstat").write_text("oom_kill_other 3\noom_kill 7\n")
    assert memory_kills() == 7


def test_a_run_that_another_process_has_is_running_and_its_student_comes_after_it(world: Any, worked: Any) -> None:
    """As when a sweep is submitted on two machines, or a run is started by hand."""
    run = world.run("cnn")
    holder = ExitStack()
    holder.enter_context(run.lock())

    def end() -> None:
        world.finish("cnn")
        holder.close()

    def launch(cell: Any, file: Any) -> "subprocess.Popen[bytes]":
        if cell.stage == "cnn":
            threading.Timer(0.5, end).start()
            return process("print('/run is locked by pid 1 on n1 since then'); raise SystemExit(2)", file)
        world.finish(cell.stage)
        return process("")

    done, lines = worked(launch)
    assert done
    assert lines[:2] == [
        "cnn seed=0: runs in another process; /run is locked by pid 1 on n1 since then",
        "cnn seed=0: finished by another process, test accuracy 90.00%",
    ]
    assert [line.split(":")[0] for line in lines[2:]] == ["deit seed=0", "small seed=0"]


def test_a_run_that_another_process_leaves_unfinished_is_started_again(world: Any, worked: Any) -> None:
    launched: list[str] = []

    def launch(cell: Any, file: Any) -> "subprocess.Popen[bytes]":
        launched.append(cell.stage)
        if launched == ["cnn"]:
            (world.run("cnn").path).mkdir(parents=True)
            (world.run("cnn").path / "lock").touch()  # given back meanwhile
            return process("print('/run is locked by pid 1 on n1 since then'); raise SystemExit(2)", file)
        world.finish(cell.stage)
        return process("")

    assert worked(launch)[0]
    assert launched == ["cnn", "cnn", "deit", "small"]


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("raise SystemExit(3)", "failed (code 3): it ended without a word ("),
        ("raise SystemExit(2)", "failed (code 2): it ended without a word ("),
        ("import os; os.kill(os.getpid(), 15)", "stopped before it began"),
    ],
)
def test_the_failure_of_an_attempt_before_is_not_that_of_this_one(world: Any, worked: Any, code: str, end: str) -> None:
    world.fail("cnn", "preempted")
    assert worked(lambda *_: process(code))[1][0].startswith(f"cnn seed=0: {end}")


def wait_until(true: Callable[[], bool], engine: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "waited for too long"
        assert engine.poll() is None, engine.communicate()
        time.sleep(0.02)


def test_two_engines_for_one_sweep_are_one_too_many(place: Place, told: Told) -> None:
    with Ledger(place.root).working_here("tiny"):
        code, text = told(submit.main, *place.words())
    assert code == 2
    assert "runs tiny; wait for it, or cancel it" in text
