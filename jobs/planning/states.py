"""Find out where each cell of a sweep stands: run folders are asked first, then the scheduler's queue and accounting.

done      it has a result
running   its heartbeat is fresh, a process of this machine has its folder, or the scheduler runs it
queued    the scheduler has it
waiting   nobody has it; it may start, or what it builds on is not finished yet
failed    it ended without a result; the cause says why
blocked   what it builds on has failed or is blocked itself, so it cannot start
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.failures import Refused
from common.files import read_json
from common.run.run_dir import DEAD_AFTER_SECONDS, RunDir
from common.settings import messages
from jobs.machine.scheduler import CAUSES, Queued, cause_in_log, refused_in_log
from jobs.planning.cell import Cell, Sweep, run_on
from jobs.planning.ledger import Batch, latest

STATES = ("done", "running", "queued", "waiting", "failed", "blocked")
MACHINE = ("oom", "timeout", "preempted", "node", "lost")  # causes that another attempt may get past
LOG_END = 20_000  # bytes


@dataclass(frozen=True)
class Standing:
    state: str
    run: Path | None = None  # the run's folder; unknown before its parent is finished
    cause: str = ""  # class of the failure, or cancelled, lost
    why: str = ""
    result: Mapping[str, Any] | None = None
    epoch: tuple[int, int] | None = None  # finished, of how many
    task: str | None = None  # the scheduler's name of it


@dataclass(frozen=True)
class Outside:
    """All that is known of a sweep beside its run folders."""

    batches: Sequence[Batch] = ()
    queue: Mapping[str, Queued] | None = None  # None: the scheduler does not answer
    ended: Mapping[str, str] | None = None  # task: state, as far as accounting tells
    logs: Path | None = None  # folder of submitit's logs


@dataclass(frozen=True)
class Seen:
    """All that decides where one cell stands."""

    run: Path | None
    parent: Standing | None  # where the run stands that it builds on
    hindrance: str  # why that run keeps it from starting, if it does
    batch: Batch | None
    task: str | None

    @property
    def is_blocked(self) -> bool:
        return self.parent is not None and self.parent.state in {"failed", "blocked"}


def standings(sweep: Sweep, root: Path, outside: Outside) -> dict[str, Standing]:
    """Return where every cell stands, by key, in the order of the sweep."""
    where: dict[str, Standing] = {}
    submitted = latest(outside.batches)
    for key, cell in sweep.cells.items():
        # A sweep has parents before their children: where the parent stands is known here.
        parent = where[cell.parent] if cell.parent else None
        name = _run_name(cell, parent)

        batch, number = submitted.get(key, (None, 0))
        seen = Seen(
            root / cell.entry / name if name else None,
            parent,
            hindrance(sweep, cell, parent) if parent else "",
            batch,
            batch.task(number) if batch and batch.job else None,
        )
        where[key] = _standing(seen, outside)
    return where


def find_cell(sweep: Sweep, where: Mapping[str, Standing], name: str, word: str) -> str:
    """Return the key of the cell whose run has that name, hash or title; else Refused.

    word: that of the command, for the message.
    """
    keys: dict[str, str] = {}
    for key, cell in sweep.cells.items():
        run = where[key].run
        keys |= {cell.title: key, key: key, key.rpartition("-")[2]: key}
        keys |= {run.name: key, run.name.rpartition("-")[2]: key} if run else {}
    if name not in keys:
        raise Refused([f"{word}: {name} is no run of {sweep.name}{messages.nearest(name, keys)}"])
    return keys[name]


def _run_name(cell: Cell, parent: Standing | None) -> str | None:
    if cell.parent is None:
        return cell.key
    if parent is None or parent.result is None:
        return None
    return run_on(cell, parent.result["selection"]["digest"])


def hindrance(sweep: Sweep, cell: Cell, parent: Standing) -> str:
    """Say why the run that a cell builds on keeps it from starting; empty where that run is finished."""
    if parent.state == "done":
        return ""
    return f"{cell.parent_role}, {sweep.cells[str(cell.parent)].title}, {_end_in_words(parent)}"


def _end_in_words(standing: Standing) -> str:
    if standing.cause == "cancelled" and standing.state == "failed":
        return "was cancelled"
    if standing.cause == "preempted" and standing.state in {"failed", "waiting"}:
        return "was stopped"
    if standing.state == "failed":
        return f"failed ({standing.cause})"
    return "cannot start either" if standing.state == "blocked" else "is not finished"


def _standing(seen: Seen, outside: Outside) -> Standing:
    run, task = seen.run, seen.task
    result = RunDir(run).finished() if run else None
    if result is not None:
        return Standing("done", run, result=result, task=task)

    # Signs of life count before the words of an earlier end, which stay until an attempt succeeds.
    beat = read_json(RunDir(run).heartbeat) if run else None
    epoch = (beat["epoch"], beat["epochs"]) if beat and "epochs" in beat else None
    queued = (outside.queue or {}).get(task or "")
    if queued and queued.live:
        return _as_queued(queued, seen, epoch)
    if run and beat and _beats(run, beat["time"]):
        return Standing("running", run, epoch=epoch, task=task)

    if run and RunDir(run).is_locked():  # it has only just begun: it beats from its first step on
        return Standing("running", run, epoch=epoch, task=task)

    if seen.parent and seen.is_blocked:
        return Standing("blocked", run, seen.parent.cause, seen.hindrance, task=task)
    if run and (standing := _as_failed(run, seen, outside, epoch)):
        return standing
    return _as_submitted(seen, outside, epoch)


def _as_queued(queued: Queued, seen: Seen, epoch: tuple[int, int] | None) -> Standing:
    run, task = seen.run, seen.task
    if queued.reason == "DependencyNeverSatisfied":
        # a job may end badly though its run goes on elsewhere, or is finished
        why = seen.hindrance if seen.is_blocked else "the job that it waits for did not succeed"
        cause = seen.parent.cause if seen.parent and seen.is_blocked else ""
        return Standing("blocked", run, cause, f"{why}; the scheduler will not start it", task=task)
    if queued.state == "RUNNING":
        return Standing("running", run, epoch=epoch, task=task)
    return Standing("queued", run, why="" if queued.reason == "None" else queued.reason, epoch=epoch, task=task)


def _as_failed(run: Path, seen: Seen, outside: Outside, epoch: tuple[int, int] | None) -> Standing | None:
    """Return what the run says of its last end; None if it says nothing, or has been submitted since."""
    batch, task = seen.batch, seen.task
    failure = read_json(RunDir(run).failure)
    if failure is None or (batch and not _changed(run, batch.submitted)):
        return None
    kind, message = str(failure.get("class")), str(failure.get("message"))
    if kind == "preempted" and not batch:
        return Standing("waiting", run, kind, message, epoch=epoch)
    if kind == "preempted" and task and _end_of(task, outside)[0] == "cancelled":  # the run knows its signal alone
        kind, message = _end_of(task, outside)
    return Standing("failed", run, kind, message, epoch=epoch, task=task)


def _as_submitted(seen: Seen, outside: Outside, epoch: tuple[int, int] | None) -> Standing:
    """Return where a cell stands whose folder says nothing, and which the queue does not have."""
    if seen.batch is None:
        return Standing("waiting", seen.run, why=seen.hindrance, epoch=epoch)
    if seen.task is None:
        return Standing("queued", seen.run, why="its submission was cut short; the same command mends it")
    if outside.queue is None:
        why = "as far as is known: the scheduler does not answer"
        return Standing("queued", seen.run, why=why, epoch=epoch, task=seen.task)
    cause, why = _end_of(seen.task, outside)
    return Standing("failed", seen.run, cause, why, epoch=epoch, task=seen.task)


def _beats(run: Path, last: float) -> bool:
    """Say whether the heartbeat is fresh, and of a process that may still live."""
    return time.time() - last < DEAD_AFTER_SECONDS and not _changed(run, last) and RunDir(run).is_locked() is not False


def _changed(run: Path, when: float) -> bool:
    """Say whether the run failed after that time."""
    try:
        return RunDir(run).failure.stat().st_mtime >= when
    except OSError:
        return False


def _end_of(task: str, outside: Outside) -> tuple[str, str]:
    """Return why a task is gone without a word in its run folder: the cause, and a sentence."""
    state = (outside.ended or {}).get(task, "")
    if state in CAUSES:
        return CAUSES[state], f"job {task} ended as {state}"

    # Accounting does not know, or there is none: the end of the task's log may tell.
    log = outside.logs / task / f"{task}_0_log.err" if outside.logs else None
    text = ""
    if log and log.is_file():
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_END))
            text = file.read().decode(errors="replace")

    if refusal := refused_in_log(text):
        return "node", f"job {task}: {refusal}"
    cause = cause_in_log(text)
    if cause:
        return cause, f"job {task}: {text.strip().splitlines()[-1]}"
    return "lost", f"job {task} is gone without a result" + (f" ({state})" if state else "")
