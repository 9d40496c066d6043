"""A sweep whose run folders are written by hand, and a SLURM of shell scripts: no training, no scheduler."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.files import write_json
from common.run.run_dir import RunDir
from jobs.planning.cell import Cell, Sweep, run_on
from jobs.planning.ledger import Batch, Ledger
from jobs.planning.states import Outside, Standing, standings
from jobs.planning.sweep import open_sweep
from jobs.planning.sweep_file import Overrides

STAGES: dict[str, Any] = {
    "cnn": {"entry": "train_cnn"},
    "deit": {"entry": "distill_kd", "teacher": "cnn", "with": {"model": "vit_digits"}},
    "small": {"entry": "distill_kd", "teacher": "deit"},
}
NEEDS = {"gpus": 0, "cpus": 1, "mem_gb": 4.0, "time_min": 60}


class World:
    """One root of runs, and a sweep of a teacher, its student, and the student's student, for each seed."""

    def __init__(self, folder: Path, seeds: str, stages: Mapping[str, Any] = STAGES) -> None:
        self.folder, self.root = folder, folder / "runs"
        self.file = folder / "mine.yaml"
        self.file.write_text(yaml.safe_dump({"axes": {"seed": seeds}, "stages": dict(stages)}, sort_keys=False))
        self.sweep: Sweep = open_sweep(str(self.file), Overrides(), folder / "data")
        self.weights = "d"
        self.ledger = Ledger(self.root)
        self.ledger.remember("mine", [f"sweep={self.file}", "cluster=local", f"data_dir={folder / 'data'}"])

    def cell(self, stage: str, seed: int = 0) -> Cell:
        return next(cell for cell in self.sweep.cells.values() if cell.stage == stage and cell.at["seed"] == seed)

    def run(self, stage: str, seed: int = 0) -> RunDir:
        """Where the run of a cell lies, its teachers being finished."""
        cell = self.cell(stage, seed)
        name = cell.key
        if cell.parent:
            parent = self.sweep.cells[cell.parent]
            name = run_on(cell, self.digest(parent.stage, seed))
        return RunDir(self.root / cell.entry / name)

    def digest(self, stage: str, seed: int = 0) -> str:
        return f"{self.weights}{stage}{seed}"

    def finish(self, stage: str, seed: int = 0, accuracy: float = 0.9) -> RunDir:
        run = self.run(stage, seed)
        selection = {"digest": self.digest(stage, seed)}
        write_json(run.result, {"selection": selection, "test": {"accuracy": accuracy}}, durable=False)
        return run

    def fail(self, stage: str, kind: str, seed: int = 0, message: str = "it broke") -> RunDir:
        run = self.run(stage, seed)
        write_json(run.failure, {"class": kind, "message": message, "traceback": "line 1\nline 2"}, durable=False)
        return run

    def beat(self, stage: str, seed: int = 0, ago: float = 1.0) -> RunDir:
        run = self.run(stage, seed)
        facts = {"time": time.time() - ago, "pid": os.getpid(), "host": socket.gethostname(), "epoch": 3, "epochs": 9}
        write_json(run.heartbeat, facts, durable=False)
        return run

    def submit(self, stage: str, job: str | None = "100", *, ago: float = 10.0, token: str = "", **more: Any) -> Batch:
        """All of a stage in the ledger, without a scheduler."""
        token = token or f"{stage}{len(self.ledger.batches())}"
        keys = self.sweep.stages.get(stage, ())  # the steward is no stage
        batch = Batch(token, "mine", stage, tuple(keys), NEEDS, "default", time.time() - ago, **more)
        self.ledger.intend(batch)
        if job:
            self.ledger.submitted(token, job)
        return batch

    def look(self, **outside: Any) -> dict[tuple[str, int], Standing]:
        """Where each cell stands, by stage and seed."""
        found = standings(self.sweep, self.root, Outside(self.ledger.batches(), **outside))
        return {(cell.stage, cell.at["seed"]): found[key] for key, cell in self.sweep.cells.items()}

    def states(self, **outside: Any) -> list[str]:
        return [standing.state for standing in self.look(**outside).values()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One seed: cnn teaches deit teaches small."""
    return World(tmp_path, "0")


@pytest.fixture
def worlds(tmp_path: Path) -> Callable[..., World]:
    return lambda seeds, **more: World(tmp_path, seeds, **more)


class FakeSlurm:
    """SLURM's commands, which answer what a test tells them, and write down what they were asked."""

    COMMANDS = ("squeue", "sacct", "scancel", "sbatch", "srun", "scontrol", "sacctmgr")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in self.COMMANDS:
            self.answers(name, "")

    def answers(self, command: str, text: str, code: int = 0) -> None:
        (self.folder / f"{command}.answer").write_text(text)
        path = self.folder / command
        lines = ("#!/bin/sh", f'echo "{command} $*" >> "{self.folder}/asked"', f'cat "{path}.answer"', f"exit {code}")
        path.write_text("\n".join(lines))
        path.chmod(0o755)

    def refuses(self, command: str, text: str) -> None:
        """Say it where errors are said, and end with a failure."""
        self.answers(command, text, code=1)
        path = self.folder / command
        path.write_text(path.read_text().replace('.answer"', '.answer" >&2'))

    def answers_in_turn(self, command: str, first: str, refusal: str) -> None:
        """Answer once, and refuse from then on."""
        self.refuses(command, refusal)
        path, mark = self.folder / command, self.folder / f"{command}.was-asked"
        once = f'if [ ! -e "{mark}" ]; then touch "{mark}"; echo "{first}"; exit 0; fi'
        path.write_text(path.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{once}\n"))

    def asked(self, command: str) -> list[str]:
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(f"{command} ")]


@pytest.fixture
def slurm_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A command's exit code, and all that it printed."""

    def tells(main: Callable[[list[str]], int], *words: str) -> tuple[int, str]:
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return tells
