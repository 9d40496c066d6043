"""What a job does with the signals of its scheduler. (Whole jobs: tests/slurm.)"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.engines.sbatch import REPOSITORY
from jobs.worker import Job, RunFailed

STOPPED = """
import sys
sys.path.insert(0, {repository!r})
from jobs.worker import Job
Job("key", (), "/runs", "/data", time_min=60, signal_s=90, requeues=2).checkpoint()
print("still here")
"""


def stopped(requeue: Path, restarts: int) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "STILLHOUSE_REQUEUE": str(requeue), "SLURM_RESTART_COUNT": str(restarts)}
    script = STOPPED.format(repository=str(REPOSITORY))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=False)


def test_a_job_asks_to_be_requeued_and_ends(tmp_path: Path) -> None:
    done = stopped(tmp_path / "requeue", restarts=1)
    assert (tmp_path / "requeue").exists()
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "stopped while no training was under way; asks to be requeued\n"


def test_a_job_that_was_requeued_often_enough_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_REQUEUE", str(tmp_path / "requeue"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with pytest.raises(RunFailed, match=r"requeued 2 times, allowed are 2 \(requeues in the profile\)"):
        Job("key", (), "/runs", "/data", time_min=60, signal_s=90, requeues=2).checkpoint()
    assert not (tmp_path / "requeue").exists()


FINISHED = """
import atexit, os, signal, sys
sys.path.insert(0, {repository!r})
from jobs import worker
worker.Job._run = lambda *_: worker.DONE
worker.command_of = lambda *_: ([], worker.Path("/run"), "key")
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))
worker.Job("key", (), "/runs", "/data", time_min=60, signal_s=90, requeues=2)()
for number in (signal.SIGUSR2, signal.SIGTERM):
    os.kill(os.getpid(), number)
    atexit.register(os.kill, os.getpid(), number)
"""


def test_a_job_whose_run_is_finished_ends_well_whatever_comes() -> None:
    script = FINISHED.format(repository=str(REPOSITORY))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
