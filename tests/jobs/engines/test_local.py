"""Sweeps on this machine: in order, once, around failures, and through Ctrl-C to the very same weights."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings.entries import ENTRIES
from jobs import status, submit
from jobs.engines.local import Engine
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
    assert list((place.root / "jobs" / "local").iterdir()) == []  # nobody works here any more


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
