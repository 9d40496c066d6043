"""A job runs the entry of one cell in this process, and asks the scheduler to start it again where that must be.

A job is an object of strings, whose class pickle stores by its path: so it can be read by another Python, and in a
container. While a training runs, signals are handled by it (common/cli/attempt.py): it stops after its next step with
a checkpoint, and the job goes on here.

- USR2 comes before the time limit, and before preemption where the cluster is set up so: the job asks to be requeued.
- TERM alone comes before preemption or a cancellation: SLURM goes on with either, and the job waits for it.

It asks by a file, which the batch script looks for when this process has ended (jobs/engines/sbatch.py): inside a
container there is no scontrol. Signals come twice there, from srun and through apptainer; the second changes nothing.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from common.cli.command import DONE, REFUSED
from common.cli.compose import compose
from common.files import read_json, write_json
from common.run.run_dir import RunDir
from common.settings.entries import ENTRIES, run_name
from eval import eval_shift
from jobs.planning.cell import Lineage, key_of
from train import distill_cst, distill_kd, train_cnn, train_vit

MAINS = {
    "train_cnn": train_cnn.main,
    "train_vit": train_vit.main,
    "distill_kd": distill_kd.main,
    "distill_cst": distill_cst.main,
    "eval_shift": eval_shift.main,
}
MODULES = (train_cnn, train_vit, distill_kd, distill_cst, eval_shift)
SCRIPTS = {entry: Path(str(module.__file__)) for entry, module in zip(MAINS, MODULES, strict=True)}

WAIT_FOR_THE_END = 600.0  # seconds for SLURM to end a job that it told to stop
ASKED_AGAIN = 1  # exit code
LOCKED_RETRY = 15.0  # seconds between two looks at a run that another process holds


class RunFailed(Exception):
    """A job ends with this if its run has no result; the run's folder says why."""


def command_of(lineage: Lineage, root: Path, data_dir: Path) -> tuple[list[str], Path, str]:
    """Return words, run folder and key of a cell whose parents are finished."""
    parent, key, words = "", None, []
    run = root
    for entry, own_words in lineage:
        built_on = [f"{ENTRIES[entry].PARENT}={parent}"] if parent else []
        words = [*own_words, f"root={root}", f"data_dir={data_dir}", *built_on]
        settings = compose(ENTRIES[entry], words).settings
        key = key_of(settings, key)
        parent = run_name(settings)
        run = root / entry / parent
    assert key
    return words, run, key


@dataclass(frozen=True)
class Job:
    key: str  # what the cell was called when it was submitted
    lineage: Lineage
    root: str
    data_dir: str
    time_min: int
    signal_s: int
    requeues: int

    def __call__(self) -> None:
        began = time.monotonic()
        _join_processes()
        words, folder, key = command_of(self.lineage, Path(self.root), Path(self.data_dir))
        run = RunDir(folder)
        if key != self.key:
            raise RunFailed(
                f"{folder}: the settings of this run are not those that were submitted ({key}, not {self.key}): "
                "presets or data have changed meanwhile; submit the sweep again"
            )

        code = self._run(words, run)
        if code == DONE:
            _end_in_peace()
            return

        if int(os.environ.get("RANK", "0")) > 0:  # the first process writes down why, and its end ends all of them
            _wait_for_the_end()

        # A training that was stopped has no result, but is no failure: SLURM or the batch script takes it up again.
        failure = read_json(run.failure) or {}
        if failure.get("class") == "preempted":
            self._stopped(run, failure, time.monotonic() - began)
        raise RunFailed(f"{folder} failed ({failure.get('class')}): {failure.get('message')}")

    def checkpoint(self) -> NoReturn:
        """Answer a signal that comes before the training listens, or after it; submitit calls this."""
        self._start_again("stopped while no training was under way")

    def _run(self, words: list[str], run: RunDir) -> int:
        entry = self.lineage[-1][0]
        script, main = SCRIPTS[entry], MAINS[entry]
        sys.argv = [str(script), *words]  # as if it had been started by hand: provenance says so
        code = main(words)
        while code == REFUSED and run.is_locked():
            time.sleep(LOCKED_RETRY)  # another process has the run: its result is ours
            code = main(words)
        return code

    def _stopped(self, run: RunDir, failure: dict[str, Any], seconds: float) -> None:
        """Ask to be requeued after USR2; after TERM, SLURM does what it has begun."""
        if failure.get("signal") == "SIGUSR2":
            if seconds > self.time_min * 60 - self.signal_s - 30:
                write_json(run.failure, {**failure, "class": "timeout"})
            self._start_again(f"{run.path}: {failure.get('message')}")
        _wait_for_the_end()

    def _start_again(self, why: str) -> NoReturn:
        """End this process at once, so that submitit writes no result and the batch script requeues the job."""
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if restarts >= self.requeues:
            again = f"it has been requeued {restarts} times, allowed are {self.requeues} (requeues in the profile)"
            raise RunFailed(f"{why}; {again}")
        Path(os.environ["STILLHOUSE_REQUEUE"]).touch()
        print(f"{why}; asks to be requeued", flush=True)
        sys.stderr.flush()
        os._exit(ASKED_AGAIN)


def _join_processes() -> None:
    """Describe the processes of a run as torchrun would; there is one task per GPU."""
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if tasks > 1:
        job = int(os.environ.get("SLURM_JOB_ID", "0"))
        os.environ |= {
            "RANK": os.environ["SLURM_PROCID"],
            "LOCAL_RANK": os.environ["SLURM_LOCALID"],
            "WORLD_SIZE": str(tasks),
            "MASTER_ADDR": "127.0.0.1",  # all on one node
            "MASTER_PORT": str(20000 + job % 20000),
        }


def _end_in_peace() -> None:
    """Ignore signals from now on: one that comes while Python ends would make a failed job of a finished run."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _wait_for_the_end() -> None:
    end = time.monotonic() + WAIT_FOR_THE_END
    while time.monotonic() < end:
        time.sleep(1)
