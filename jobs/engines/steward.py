"""The steward is the last job of a submission: it submits the same sweep again, for what the machine failed."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from jobs.machine.scheduler import outside_environment

SUBMIT = Path(__file__).resolve().parents[1] / "submit.py"


@dataclass(frozen=True)
class Steward:
    """An object of strings, whose class pickle stores by its path, as it does that of a run's job (jobs/worker.py)."""

    words: tuple[str, ...]  # of the submission

    def __call__(self) -> None:
        """Run the command again, as a person would: what it prints goes into this job's log."""
        command = [sys.executable, str(SUBMIT), *self.words, "retry=machine"]
        with outside_environment():
            code = subprocess.run(command, check=False).returncode
        if code:
            raise RuntimeError(f"jobs/submit.py ended with code {code}; its output is in the log of this job")
