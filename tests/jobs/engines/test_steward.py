"""The steward runs the command again, outside its own job, and an old one still finds its class."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.engines import slurm, steward

Capfd = pytest.CaptureFixture[str]


COMMAND = """
import os, sys
print(sys.argv[1:], sorted(name for name in os.environ if name.startswith("SLURM_")))
print("why", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of jobs/submit.py: says what it was given, in a job of SLURM, and ends with its first word."""
    path = tmp_path / "submit.py"
    path.write_text(COMMAND)
    monkeypatch.setattr(steward, "SUBMIT", path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")


def test_the_steward_runs_the_command_again_outside_its_own_job(command: None, capfd: Capfd) -> None:
    slurm.Steward(("0", "sweep=mine"))()
    assert capfd.readouterr() == ("['0', 'sweep=mine', 'retry=machine'] []\n", "why\n")
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_a_command_that_fails_fails_the_steward(command: None, capfd: Capfd) -> None:
    with pytest.raises(RuntimeError, match=r"^jobs/submit\.py ended with code 2; its output is in the log"):
        slurm.Steward(("2",))()
    assert capfd.readouterr().err == "why\n"


def test_the_steward_finds_the_command(world: Any, capfd: Capfd) -> None:
    with pytest.raises(RuntimeError, match="ended with code 2"):
        slurm.Steward(("sweep=mime", f"root={world.root}"))()
    assert capfd.readouterr().err.startswith("sweep: given mime, allowed: ")


def test_a_steward_that_version_0_1_has_queued_still_runs(command: None, capfd: Capfd) -> None:
    pickled = (
        b"\x80\x04\x957\x00\x00\x00\x00\x00\x00\x00\x8c\x12jobs.engines.slurm\x94\x8c\x07Steward\x94\x93\x94)\x81\x94}"
        b"\x94\x8c\x05words\x94\x8c\x010\x94\x85\x94sb."
    )
    pickle.loads(pickled)()  # noqa: S301 - our own bytes, written above
    assert capfd.readouterr().out.startswith("['0', 'retry=machine']")


def test_no_engine_imports_a_command() -> None:
    """Or the two would import each other."""
    engines = Path(steward.__file__).parent
    commands = {path.stem for path in engines.parent.glob("*.py") if "def main(" in path.read_text()}
    assert {"submit", "status"} <= commands
    wanted = re.compile(rf"(from|import) jobs(\.| import )({'|'.join(commands)})\b")
    assert [path.name for path in engines.glob("*.py") if wanted.search(path.read_text())] == []
