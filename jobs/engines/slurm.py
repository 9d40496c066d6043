"""The SLURM engine submits a sweep as arrays of jobs, through submitit; each student starts after its own teacher.

A stage becomes arrays of cells with the same needs. Task k of a student's array starts when task k of its teachers'
array has succeeded (aftercorr); where the numbers cannot line up, single jobs wait for single tasks (afterok). Nothing
here waits: submission returns at once. A last small job, the steward, submits again what the machine failed and what
did not fit.
"""

import contextlib
import io
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.failures import Refused
from jobs.engines.profiles import Needs, Profile, needs
from jobs.engines.sbatch import python_command, sbatch_parameters
from jobs.engines.steward import Steward  # a steward queued by version 0.1 is sought here; version 0.3 may drop it
from jobs.machine import scheduler
from jobs.planning.cell import Cell, Sweep
from jobs.planning.ledger import STEWARD, Batch, Ledger, latest
from jobs.planning.plan import Plan, lineage
from jobs.planning.states import Standing
from jobs.worker import Job

USUAL_ARRAY_SIZE = 1001  # of a SLURM that nobody configured


@dataclass(frozen=True)
class Group:
    """Cells that are submitted together, and what they wait for."""

    stage: str
    cells: tuple[Cell, ...]
    needs: Needs
    parents: tuple[str, ...] = ()  # of each cell, its parent's key, where it must be waited for


def groups(plan: Plan, standings: Mapping[str, Standing], wanted: Mapping[str, Needs], largest: int) -> list[Group]:
    """Divide the plan into arrays, parents first; largest: the most tasks of one array."""
    # A student waits for a teacher that is submitted with it, or is under way already.
    starting = {cell.key for cell in plan.start}
    by_kind: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in plan.start:
        waits = cell.parent in starting or (cell.parent and standings[cell.parent].state in {"running", "queued"})
        by_kind.setdefault((cell.stage, wanted[cell.key], bool(waits)), []).append(cell)

    arrays: list[Group] = []
    place: dict[str, tuple[int, int]] = {}  # key: group, number
    for (stage, need, waits), cells in by_kind.items():
        for tasks in _layers(cells, place) if waits else _chunks(cells, largest):
            parents = tuple(str(cell.parent) for cell in tasks) if waits else ()
            for number, cell in enumerate(tasks):
                place[cell.key] = (len(arrays), number)
            arrays.append(Group(stage, tuple(tasks), need, parents))
    return arrays


def _chunks(cells: Sequence[Cell], largest: int) -> Iterator[list[Cell]]:
    for start in range(0, len(cells), largest):
        yield list(cells[start : start + largest])


def _layers(cells: Sequence[Cell], place: Mapping[str, tuple[int, int]]) -> Iterator[list[Cell]]:
    """Yield arrays whose numbers are those of the teachers' array; cells that do not line up come one by one."""
    # A teacher's first child goes into the first layer, its second into another: a number stands for one cell alone.
    layers: dict[tuple[int, int], dict[int, Cell]] = {}  # (teachers' group, which child of its teacher): number: cell
    alone: list[Cell] = []
    children: dict[str, int] = {}
    for cell in cells:
        parent = str(cell.parent)
        which = children.get(parent, 0)
        children[parent] = which + 1
        if parent in place:
            group, number = place[parent]
            layers.setdefault((group, which), {})[number] = cell
        else:
            alone.append(cell)

    # An array begins at 0 and has no gaps.
    for layer in layers.values():
        if sorted(layer) == list(range(len(layer))):
            yield [layer[number] for number in range(len(layer))]
        else:
            alone.extend(layer.values())
    for cell in alone:
        yield [cell]


def dependency(group: Group, submitted: Mapping[str, tuple[Batch, int]]) -> str | None:
    """Write in SLURM's words what a group waits for."""
    if not group.parents:
        return None
    tasks = [submitted[parent] for parent in group.parents]
    batch, number = tasks[0]
    return f"aftercorr:{batch.job}" if len(tasks) > 1 else f"afterok:{batch.task(number)}"


# --- submitting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """All that a submission must know besides the plan."""

    sweep: Sweep
    profile: Profile
    profile_name: str
    root: Path
    data_dir: Path
    ledger: Ledger
    limits: scheduler.Limits


def wanted_needs(
    plan: Plan, profile: Profile, standings: Mapping[str, Standing], batches: Sequence[Batch]
) -> tuple[dict[str, Needs], dict[str, int]]:
    """Return what to ask for each cell, more where memory or time ran out, and how often that was raised so far."""
    before = latest(batches)
    wanted, escalations = {}, {}
    for cell in plan.start:
        # More memory of the node does not help a run that lacked memory of the GPU.
        standing = standings[cell.key]
        short = standing.state == "failed" and standing.cause in {"oom", "timeout"} and "CUDA" not in standing.why

        # What was raised once stays so, also after a failure of another kind.
        batch = before[cell.key][0] if cell.key in before else None
        raised = batch.escalation if batch else 0
        resources = cell.resources
        if batch and raised:
            resources = resources.model_copy(update={name: batch.needs[name] for name in ("mem_gb", "time_min")})

        wanted[cell.key] = needs(profile, resources, int(short), standing.cause if short else None)
        escalations[cell.key] = raised + int(short)
    return wanted, escalations


def submit(
    site: Site, plan: Plan, standings: Mapping[str, Standing], batches: Sequence[Batch]
) -> tuple[list[Batch], int]:
    """Submit the plan; return the batches, in order, and how many cells are left for later."""
    wanted, escalations = wanted_needs(plan, site.profile, standings, batches)

    # Students may wait for jobs of earlier submissions too.
    starting = {cell.key for cell in plan.start}  # whatever they were submitted with before has ended
    earlier = latest([batch for batch in batches if batch.job])
    known = {key: place for key, place in earlier.items() if key not in starting}

    made: list[Batch] = []
    room = site.limits.max_submit
    left = 0
    for group in groups(plan, standings, wanted, site.limits.max_array_size or USUAL_ARRAY_SIZE):
        if (room is not None and len(group.cells) > room) or any(parent not in known for parent in group.parents):
            left += len(group.cells)  # the steward comes back for them, and for students of a run started by hand
            continue

        escalation = max(escalations[cell.key] for cell in group.cells)
        try:
            batch = _submit_group(site, group, dependency(group, known), escalation)
        except Refused as refused:
            before = [f"submitted before that, {one.stage}: job {one.job}" for one in made]
            raise Refused([*refused.problems, *before]) from None
        made.append(batch)
        known |= latest([batch])
        room = None if room is None else room - len(group.cells)
    return made, left


def _submit_group(site: Site, group: Group, waits_for: str | None, escalation: int) -> Batch:
    python = _python(site, group.needs)  # or a refusal, before anything is written down
    token = uuid.uuid4().hex[:8]
    keys = tuple(cell.key for cell in group.cells)

    # The intent is written before the job exists: if this process is killed, the token in the job's name finds it.
    batch = Batch(
        token, site.sweep.name, group.stage, keys, asdict(group.needs), site.profile_name, time.time(), escalation
    )
    site.ledger.intend(batch)

    name = job_name(site.sweep.name, group.stage, token)
    works = [_job(site, cell, group.needs) for cell in group.cells]
    with _refusal_of_sbatch(site.ledger, token):
        job = _through_submitit(site, group.needs, name, waits_for, works, python)
    site.ledger.submitted(token, job)
    return Batch(**{**asdict(batch), "keys": keys, "job": job})


@contextlib.contextmanager
def _refusal_of_sbatch(ledger: Ledger, token: str) -> Iterator[None]:
    """Make one line of what sbatch says when it takes no job, and take the intent back."""
    from submitit.core.utils import FailedJobError

    try:
        yield
    except FailedJobError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.startswith("sbatch:")]
        if not lines:
            raise

        # After a time-out the controller may have the job all the same: then the intent stays, and mend() looks for it.
        if any("timed out" in line for line in lines):
            unsure = "; whether SLURM has the job is not known yet, and the same command finds out"
            raise Refused([f"cluster: {lines[-1]}{unsure}"]) from None
        ledger.void(token)
        raise Refused([f"cluster: {lines[-1]}"]) from None


def job_name(sweep: str, stage: str, token: str) -> str:
    return f"{sweep}-{stage}-{token}"


def _job(site: Site, cell: Cell, need: Needs) -> Job:
    return Job(
        cell.key,
        lineage(site.sweep, cell),
        str(site.root.absolute()),
        str(site.data_dir.absolute()),
        need.time_min,
        site.profile.signal_s,
        site.profile.requeues,
    )


def _through_submitit(
    site: Site, need: Needs, name: str, waits_for: str | None, works: Sequence[Any], python: str
) -> str:
    from submitit import SlurmExecutor

    with scheduler.outside_environment():
        executor = SlurmExecutor(site.ledger.slurm.absolute() / "%j", python=python)
        executor.update_parameters(**_parameters(site, need, name, waits_for))
        # submitit prints what sbatch says, and raises it too.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            submitted = [executor.submit(work) for work in works]
    return str(submitted[0].job_id).partition("_")[0]


def _parameters(site: Site, need: Needs, name: str, waits_for: str | None) -> dict[str, Any]:
    return sbatch_parameters(site.profile, need, name, site.ledger.slurm.absolute(), waits_for)


def _python(site: Site, need: Needs) -> str:
    weights = os.environ.get("HF_HOME")  # elsewhere they are in the home folder, which a container sees
    return python_command(site.profile, need, site.root, [site.data_dir, *([Path(weights)] if weights else [])])


def script_text(site: Site, group: Group) -> str:
    """Return the sbatch script of a group, for a dry run; its teachers have no numbers yet."""
    from submitit.slurm.slurm import _make_sbatch_string

    waits_for = None
    if group.parents:
        waits_for = "aftercorr:TEACHERS" if len(group.parents) > 1 else "afterok:TEACHER"
    parameters = _parameters(site, group.needs, job_name(site.sweep.name, group.stage, "XXXX"), waits_for)
    folder = site.ledger.slurm.absolute() / "%j"
    command = f"{_python(site, group.needs)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    count: dict[str, Any] = {"map_count": len(group.cells)} if len(group.cells) > 1 else {}
    text: str = _make_sbatch_string(command=command, folder=folder, **parameters, **count)
    return text


# --- what an earlier submission left ------------------------------------------------------------------------------


def mend(ledger: Ledger, batches: Sequence[Batch]) -> list[str]:
    """Find the jobs of a submission that was killed before it wrote them down; return the tokens of those not found.

    submitit gives a job its work when sbatch has answered. A job whose submitter was killed before that has none, and
    is cancelled.
    """
    unknown = []
    for batch in batches:
        if batch.job or batch.void:
            continue

        # None: the scheduler does not answer. No ids: it never had the job.
        ids = scheduler.by_name(job_name(batch.sweep, batch.stage, batch.token))
        job = ids[0].partition("_")[0] if ids else None
        if job and _has_its_work(ledger, replace(batch, job=job)):
            ledger.submitted(batch.token, job)
        elif ids == [] or (job and scheduler.cancel([job])):
            ledger.void(batch.token)
        else:
            unknown.append(batch.token)
    return unknown


def _has_its_work(ledger: Ledger, batch: Batch) -> bool:
    tasks = [batch.task(number) for number in range(max(1, len(batch.keys)))]
    return all((ledger.slurm / task / f"{task}_submitted.pkl").is_file() for task in tasks)


# --- the steward --------------------------------------------------------------------------------------------------


def submit_steward(site: Site, words: Sequence[str], batches: Sequence[Batch]) -> str:
    waits_for = "afterany:" + ":".join(str(batch.job) for batch in batches)
    need = Needs(gpus=0, cpus=1, mem_gb=min(2.0, site.profile.mem_gb or 2.0), time_min=15)
    token = uuid.uuid4().hex[:8]
    site.ledger.intend(Batch(token, site.sweep.name, STEWARD, (), asdict(need), site.profile_name, time.time()))
    name = job_name(site.sweep.name, STEWARD, token)
    python = _python(site, need)
    if site.profile.container:  # where there is no sbatch
        python = shlex.quote(sys.executable)
    with _refusal_of_sbatch(site.ledger, token):
        job = _through_submitit(site, need, name, waits_for, [Steward(tuple(words))], python)
    site.ledger.submitted(token, job)
    return job
