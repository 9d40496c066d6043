"""Start what is not finished of a sweep, on this machine or as jobs of a cluster; or show what would start."""

import functools
import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli.command import DONE, FAILED
from common.failures import Refused
from jobs.engines.container import look_at_container, write_digest
from jobs.engines.profiles import LOCAL, Profile, open_profile
from jobs.machine import scheduler
from jobs.planning.cell import Sweep
from jobs.planning.ledger import Batch, attempts
from jobs.planning.plan import Plan, expected_hours, make_plan
from jobs.planning.request import Asked, lasting_words, look
from jobs.planning.states import Standing
from jobs.planning.table import print_table
from jobs.planning.weights import missing_weights


def carry_on(asked: Asked) -> int:
    """Start, where the words say, what is not finished of the chosen cells."""
    for note in asked.sweep.notes:
        print(f"note: {asked.sweep.name}: {note}", file=sys.stderr)
    _say_what_is_unprepared(asked)
    cluster = asked.words.cluster or os.environ.get("STILLHOUSE_CLUSTER") or _place_by_itself(asked)
    if asked.words.dry_run:
        return _show(asked, cluster)
    if cluster == LOCAL:
        return _run_here(asked)
    return _submit_to(asked, cluster)


def _say_what_is_unprepared(asked: Asked) -> None:
    """Refuse to start runs whose data are not there; a dry run only notes it, because a plan needs no pixels."""
    if not asked.sweep.unprepared:
        return
    names = ", ".join(asked.sweep.unprepared)
    again = shlex.join([*(word for word in asked.typed if not word.startswith("dry_run=")), "prepare=true"])
    problem = f"{asked.sweep.name}: not prepared under {asked.data_dir}: {names}; run: python jobs/submit.py {again}"
    if not asked.words.dry_run:
        raise Refused([problem])
    print(f"note: {problem}", file=sys.stderr)


def _place_by_itself(asked: Asked) -> str:
    """Choose where a sweep runs that nobody named a place for; say so when it is not where it ran before.

    Who installs SLURM's client, or logs in elsewhere, did not ask for another place.
    """
    here = shutil.which("sbatch") is None
    cluster = LOCAL if here else "default"
    if cluster != (asked.ledger.cluster_of(asked.sweep.name) or LOCAL):
        why, other = ("no sbatch", "PROFILE runs it on a cluster") if here else ("sbatch", "local runs it here")
        print(
            f"note: there is {why} on this machine, so this means cluster={cluster}; cluster={other}", file=sys.stderr
        )
    return cluster


def _without_weights(sweep: Sweep, standings: Mapping[str, Standing], profile: Profile | None = None) -> dict[str, str]:
    """Say which cells would fail for want of published weights; none where the profile looks for them elsewhere."""
    if profile and any("HF_H" in line or "TORCH_HOME" in line for line in profile.setup):
        return {}
    unfinished = [
        cell for key, cell in sweep.cells.items() if standings[key].state not in {"done", "running", "queued"}
    ]
    missing = missing_weights(unfinished)
    if missing:
        names = dict.fromkeys(itertools.chain.from_iterable(missing.values()))
        which = next(iter(names)) if len(names) == 1 else f"NAME, for {', '.join(names)}"
        print(
            f"note: {sweep.name}: published weights that are not on this machine; where there is internet, run: "
            f"python jobs/prepare.py weights={which}",
            file=sys.stderr,
        )
    return dict.fromkeys(missing, "without published weights that they need")


# --- a dry run ----------------------------------------------------------------------------------------------------


def _show(asked: Asked, cluster: str) -> int:
    standings, batches = look(asked)
    profile = open_profile(cluster) if cluster != LOCAL else None
    gone = _without_weights(asked.sweep, standings, profile)
    plan = make_plan(asked.sweep, standings, asked.words.retry, gone, asked.chosen)
    for stage, keys in asked.sweep.stages.items():
        parents = " or ".join(asked.sweep.parents[stage])
        starts = sum(cell.stage == stage for cell in plan.start)
        print(f"{stage:12} {len(keys):6} cells, {starts} to run" + (f", each after its {parents}" if parents else ""))

    # Kinds of runs that never ran here count as no time at all, so their number is told beside the hours.
    hours, unknown = expected_hours(plan.start, asked.root)
    print(f"{asked.sweep.name}: {plan.counted()}")
    basis = f" (and {unknown} runs of kinds that never ran here)" if unknown else ""
    print(f"expected: {hours:.2f} hours of training, by the times of earlier runs{basis}")

    if cluster != LOCAL:
        _show_scripts(asked, cluster, plan, standings, batches)
    return DONE


def _show_scripts(
    asked: Asked, cluster: str, plan: Plan, standings: Mapping[str, Standing], batches: Sequence[Batch]
) -> None:
    """Print one script for each stage and size of its jobs: the others differ in their numbers alone."""
    from jobs.engines import slurm

    profile = open_profile(cluster)
    for note in look_at_container(profile.container, profile.code) if profile.container else []:
        print(f"note: {note}")

    limits = scheduler.limits()
    site = slurm.Site(asked.sweep, profile, cluster, asked.root, asked.data_dir, asked.ledger, limits)
    needs, _ = slurm.wanted_needs(plan, profile, standings, batches)
    shown: set[tuple[Any, ...]] = set()
    for group in slurm.groups(plan, standings, needs, limits.max_array_size or slurm.USUAL_ARRAY_SIZE):
        if (group.stage, group.needs) in shown:
            continue
        shown.add((group.stage, group.needs))
        text = slurm.script_text(site, group)
        print(f"\n--- {group.stage}: {len(group.cells)} runs\n{text}")
        if asked.words.ask:
            print(f"--- sbatch --test-only: {scheduler.test_only(text)}")


# --- this machine -------------------------------------------------------------------------------------------------


def _run_here(asked: Asked) -> int:
    from jobs.engines.local import Engine

    with asked.ledger.working_here(asked.sweep.name):
        standings, _ = look(asked)
        gone = _without_weights(asked.sweep, standings) | _after_others(asked.sweep, standings)
        plan = make_plan(asked.sweep, standings, asked.words.retry, gone, asked.chosen)
        asked.ledger.remember(asked.sweep.name, lasting_words(asked), LOCAL)

        gpus = _gpus()
        slots = asked.words.slots or len(gpus) or 1
        print(f"{asked.sweep.name}: {plan.counted()}; {slots} at a time under {asked.root}", flush=True)
        left_out = functools.partial(asked.ledger.runs_to_leave_out, asked.sweep.name)
        engine = Engine(asked.sweep, plan, asked.root, asked.data_dir, slots, asked.ledger.logs, gpus, left_out)
        done = engine.work()

    # The table shows what other processes have done meanwhile, too.
    standings, _ = look(asked)
    print_table(asked.sweep, standings)
    if engine.stopping:
        print("stopped; the same command goes on", file=sys.stderr)
    return DONE if done else FAILED


def _after_others(sweep: Sweep, standings: Mapping[str, Standing]) -> dict[str, str]:
    """Say which cells come after a run of another process; the same command takes them up once that is finished."""
    busy = {key for key, standing in standings.items() if standing.state in {"running", "queued"}}
    return {key: "after a run of another process" for key, cell in sweep.cells.items() if cell.parent in busy}


def _gpus() -> tuple[str, ...]:
    """Name the GPUs of this machine as CUDA_VISIBLE_DEVICES does, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name not in {"", "-1"})
    return tuple(str(number) for number, _ in enumerate(sorted(Path("/proc/driver/nvidia/gpus").glob("*"))))


# --- a cluster ----------------------------------------------------------------------------------------------------


def _submit_to(asked: Asked, cluster: str) -> int:
    from jobs.engines import slurm

    profile = open_profile(cluster)
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise Refused([f"cluster: {cluster} needs SLURM's commands (sbatch, srun), which are not here; allowed: local"])
    container = profile.container
    notes = [*look_at_container(container, profile.code), *write_digest(container)] if container else []

    with asked.ledger.lock():
        # Jobs that an earlier submission could not write down must be known first, or they would be submitted twice.
        if unknown := slurm.mend(asked.ledger, asked.ledger.batches()):
            raise Refused(
                [
                    f"an earlier submission was cut short ({', '.join(unknown)}), and the scheduler does not answer "
                    "whether it has those jobs; nothing is submitted before it does"
                ]
            )

        standings, batches = look(asked)
        gone = _without_weights(asked.sweep, standings, profile) | _exhausted(asked, batches, profile.retries)
        plan = make_plan(asked.sweep, standings, asked.words.retry, gone, asked.chosen)
        site = slurm.Site(asked.sweep, profile, cluster, asked.root, asked.data_dir, asked.ledger, scheduler.limits())
        words = lasting_words(asked)
        asked.ledger.remember(asked.sweep.name, words, cluster)

        submitted, left = slurm.submit(site, plan, standings, batches)
        for batch in submitted:
            size = f"{len(batch.keys)} runs" if len(batch.keys) > 1 else "1 run"
            print(f"submitted {batch.stage}: {size} as job {batch.job}")
        if submitted and profile.steward:
            print(f"submitted the steward as job {slurm.submit_steward(site, words, submitted)}")

    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    rest = f"; {left} do not fit yet, the steward submits them" if left else ""
    print(f"{asked.sweep.name}: {plan.counted()}{rest}")
    return DONE


def _exhausted(asked: Asked, batches: Sequence[Batch], retries: int) -> dict[str, str]:
    """Say which cells the steward gives up; a person who asks again may have mended something."""
    if asked.words.retry != "machine":
        return {}
    return {key: f"tried {count} times" for key, count in attempts(batches).items() if count > retries}
