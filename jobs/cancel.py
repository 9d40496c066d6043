"""Stop a sweep, or some of its stages or runs, after a checkpoint.

    python jobs/cancel.py sweep=cifar_all
    python jobs/cancel.py sweep=cifar_all stage=deit,cst
    python jobs/cancel.py sweep=cifar_all run=RUN                a run's name, its hash, or its title

What builds on a run that is stopped is not started. jobs/submit.py and jobs/retry.py go on where it was.
"""

import sys
from collections.abc import Collection

from common.cli.command import DONE, FAILED, answer, parse, runs_root
from common.failures import Refused
from common.run.run_dir import RunDir
from common.settings import messages
from common.settings.field import Group, setting
from jobs.machine import scheduler
from jobs.machine.processes import tell
from jobs.planning.ledger import STEWARD, Batch
from jobs.planning.request import Asked, look, read_again
from jobs.planning.states import Standing, find_cell


class CancelWords(Group):
    """Words of this command."""

    sweep: str = setting(..., "a sweep that was submitted")
    stage: str | None = setting(None, "stages, separated by commas; null is all")
    run: str | None = setting(None, "a run: its name, its hash, or its title, such as 'cnn seed=0 data=digits'")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")


def main(argv: list[str] | None = None) -> int:
    return answer(_cancel, argv, script="jobs/cancel.py", about=__doc__, models=[CancelWords])


def _cancel(argv: list[str]) -> int:
    words = parse(CancelWords, argv)
    asked = read_again(words.sweep, runs_root(words.root))

    # The local engine would start the next run in place of one that was stopped, so it is told first.
    whole = words.stage is None and words.run is None
    engine = asked.ledger.worker_here(asked.sweep.name)
    if whole and engine and tell(engine["pid"]):
        print(f"told pid {engine['pid']} to stop; its runs end after their next step")

    with asked.ledger.lock():  # what is being submitted at this moment would escape
        standings, batches = look(asked)
        keys = _meant(asked, standings, words)
        if engine:  # it has the runs, also those that wait for a slot or have only just begun
            stopped = 0 if whole else _leave_out(asked, standings, keys, engine["pid"])
        else:
            stopped = _stop_here(asked, standings, keys)
        cancelled = _cancel_jobs(asked, standings, batches, keys)

    if cancelled is None:
        print(f"{asked.sweep.name}: the scheduler does not answer; its jobs may still run", file=sys.stderr)
        return FAILED
    if not ((whole and engine) or stopped or cancelled):
        print(f"{asked.sweep.name}: nothing to cancel")
    return DONE


def _meant(asked: Asked, standings: dict[str, Standing], words: CancelWords) -> set[str]:
    stages = words.stage.split(",") if words.stage else list(asked.sweep.stages)
    if unknown := [stage for stage in stages if stage not in asked.sweep.stages]:
        raise Refused(messages.unknown("stage", stage, asked.sweep.stages) for stage in unknown)
    keys = {key for stage in stages for key in asked.sweep.stages[stage]}
    return keys & {find_cell(asked.sweep, standings, words.run, "run")} if words.run else keys


def _leave_out(asked: Asked, standings: dict[str, Standing], keys: Collection[str], pid: int) -> int:
    """Tell the local engine which runs are not wanted; return the number of those that are not finished."""
    unfinished = [key for key in asked.sweep.cells if key in keys and standings[key].state != "done"]
    if unfinished:
        asked.ledger.leave_out(asked.sweep.name, unfinished)
        runs = "1 run" if len(unfinished) == 1 else f"{len(unfinished)} runs"
        print(f"told pid {pid} to leave out {runs}; what is under way ends after its next step")
    return len(unfinished)


def _stop_here(asked: Asked, standings: dict[str, Standing], keys: Collection[str]) -> int:
    """Tell runs of this machine that are no jobs to stop, each by itself; return their number."""
    stopped = 0
    for key in keys:
        standing = standings[key]
        run = standing.run
        if standing.state == "running" and not standing.task and run and RunDir(run).is_locked():
            holder = RunDir(run).holder() or {}
            if "pid" in holder and tell(int(holder["pid"])):
                print(f"told {asked.sweep.cells[key].title} (pid {holder['pid']}) to stop")
                stopped += 1
    return stopped


def _cancel_jobs(
    asked: Asked, standings: dict[str, Standing], batches: Collection[Batch], keys: Collection[str]
) -> int | None:
    """Cancel the jobs of these cells; return their number, or None where the scheduler does not answer.

    The steward is cancelled with any of them: it cannot tell what a person has stopped from what the machine has.
    """
    live = [standings[key] for key in keys if standings[key].state in {"running", "queued"}]
    tasks = [standing.task for standing in live if standing.task]
    mine = [batch for batch in batches if batch.sweep == asked.sweep.name and batch.stage == STEWARD]
    stewards = [batch.job for batch in mine if batch.job]

    # Stewards of earlier submissions have ended: which one waits, only the queue says.
    queue = scheduler.queue() if tasks or stewards else {}
    if queue is None:
        return None
    stewards = [job for job in stewards if job in queue and queue[job].live]
    if not scheduler.cancel([*stewards, *tasks]):
        return None

    if tasks:
        print(f"cancelled {len(tasks)} jobs")
    if stewards:
        print("cancelled the steward; what else the machine fails waits for jobs/submit.py")
    return len(tasks) + len(stewards)


if __name__ == "__main__":
    sys.exit(main())
