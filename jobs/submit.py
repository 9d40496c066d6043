"""Run a sweep: on this machine, or as SLURM jobs. The same command again goes on with what is not finished.

    python jobs/submit.py sweep=quickstart                                on this machine, where there is no SLURM
    python jobs/submit.py sweep=cifar_all cluster=a100                    as arrays, with slurm/profiles/a100.yaml
    python jobs/submit.py sweep=cifar_all dry_run=true                    the plan, the scripts, the expected hours
    python jobs/submit.py sweep=cifar_all seeds=0-9 only=cnn,deit data=cifar10 recipe.epochs=2
    python jobs/submit.py sweep=cifar_all deit.distill.alpha=0.5          a setting of one stage

Other words are settings: each stage that has one takes it.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.compose import DONE, FAILED, answer, check, data_root, read_words, runs_root
from common.failures import Refused
from common.run_dir import expanded
from common.settings import Group, setting
from jobs import scheduler
from jobs.cell import Sweep
from jobs.ledger import Batch, Ledger, attempts
from jobs.plan import Chosen, Plan, expected_hours, make_plan
from jobs.profiles import open_profile
from jobs.standing import Outside, Standing, standings
from jobs.sweep import Overrides, open_sweep

LOCAL = "local"


class SubmitWords(Group):
    """Words of this command; every other word is a setting of the runs."""

    sweep: str = setting(..., "shipped sweep (jobs/sweeps/) or a YAML file")
    cluster: str | None = setting(
        None, "profile (slurm/profiles/ or a file), or local; null is $STILLHOUSE_CLUSTER, else local without SLURM"
    )
    seeds: str | int | None = setting(None, "seeds instead of the sweep's, such as 0-4 or 0,3")
    data: str | None = setting(None, "data sets instead of the sweep's, separated by commas")
    only: str | None = setting(None, "stages, separated by commas; their teachers come along")
    slots: int | None = setting(None, "runs at a time on this machine; null is its GPUs, else 1", ge=1)
    retry: Literal["all", "machine", "none"] = setting(
        "all", "failed runs to take up again: all, those that the machine failed, or none"
    )
    dry_run: bool = setting(False, "print the plan, the scripts and the expected hours, do nothing")
    ask: bool = setting(False, "with dry_run: also ask the scheduler (sbatch --test-only)")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")


@dataclass(frozen=True)
class Asked:
    """A sweep as it was asked for."""

    words: SubmitWords
    sweep: Sweep
    root: Path
    data_dir: Path
    ledger: Ledger
    given: tuple[str, ...]  # as typed
    chosen: Chosen | None = None  # what of it is to start; everything that can be


def main(argv: list[str] | None = None) -> int:
    return answer(_submit, argv, script="jobs/submit.py", about=__doc__, models=[SubmitWords])


def read_sweep(argv: Sequence[str]) -> Asked:
    """The words of a submission, and the sweep they lead to; every problem at once."""
    own = [word for word in argv if word.partition("=")[0] in SubmitWords.model_fields or "=" not in word]
    rest = tuple(word for word in argv if word not in own)
    values, problems = read_words(own, (SubmitWords,))
    words, wrong = check(SubmitWords, {key: str(value) if key in _TEXTS else value for key, value in values.items()})
    problems |= {key: problem for key, problem in wrong.items() if key not in problems}
    if words is None or problems:
        raise Refused(problems.values())
    root, data_dir = runs_root(words.root), data_root(words.data_dir)
    axes: dict[str, Any] = {"seed": words.seeds} if words.seeds is not None else {}
    axes |= {"data": words.data} if words.data is not None else {}
    only = tuple(words.only.split(",")) if words.only else ()
    sweep = open_sweep(words.sweep, Overrides(axes, only, rest), data_dir, root)
    return Asked(words, sweep, root, data_dir, Ledger(root), tuple(argv))


_TEXTS = {"seeds", "data", "only", "sweep"}


def read_again(sweep: str, root: Path) -> Asked:
    """A sweep as it was last submitted under that root."""
    return read_sweep([*Ledger(root).words_of(sweep), f"root={root}"])


def look(asked: Asked) -> tuple[dict[str, Standing], list[Batch]]:
    """Where every cell stands, with all that can be known."""
    batches = asked.ledger.batches()
    if not any(batch.job for batch in batches):
        return standings(asked.sweep, asked.root, Outside(batches, queue={})), batches
    outside = Outside(batches, scheduler.queue(), logs=asked.ledger.slurm)
    found = standings(asked.sweep, asked.root, outside)
    gone = [each.task for each in found.values() if each.state == "failed" and each.task]
    if gone:  # accounting is asked for these alone: of all that ever ran it would take minutes
        found = standings(asked.sweep, asked.root, replace(outside, ended=scheduler.ended(gone)))
    return found, batches


def _submit(argv: list[str]) -> int:
    problems = _cluster_refused(argv)
    try:
        asked = read_sweep(argv)
    except Refused as refused:
        raise Refused([*refused.problems, *problems]) from None
    if problems:
        raise Refused(problems)
    return carry_on(asked)


def _cluster_refused(argv: Sequence[str]) -> list[str]:
    """Looked at before the sweep, so that what is wrong with either is said at once."""
    named = [word.partition("=")[2] for word in argv if word.startswith("cluster=")]
    cluster = named[-1] if named else os.environ.get("STILLHOUSE_CLUSTER", LOCAL)
    try:
        if cluster not in {LOCAL, "null"}:
            open_profile(cluster)
    except Refused as refused:
        return refused.problems
    return []


def carry_on(asked: Asked) -> int:
    """Start what is not finished, of what is chosen, where the words say."""
    cluster = asked.words.cluster or os.environ.get("STILLHOUSE_CLUSTER")
    cluster = cluster or (LOCAL if shutil.which("sbatch") is None else "default")
    if asked.words.dry_run:
        return _show(asked, cluster)
    if cluster == LOCAL:
        return _run_here(asked)
    return _submit_to(asked, cluster)


# --- this machine -------------------------------------------------------------------------------------------------


def _run_here(asked: Asked) -> int:
    from jobs.engines.local import Engine
    from jobs.status import print_table

    with asked.ledger.working_here(asked.sweep.name):
        found, _ = look(asked)
        plan = make_plan(asked.sweep, found, asked.words.retry, _behind_others(asked.sweep, found), asked.chosen)
        gpus = _gpus()
        slots = asked.words.slots or len(gpus) or 1
        asked.ledger.remember(asked.sweep.name, _lasting(asked))
        print(f"{asked.sweep.name}: {_counted(plan)}; {slots} at a time under {asked.root}", flush=True)
        engine = Engine(asked.sweep, plan, asked.root, asked.data_dir, slots, asked.ledger.logs, gpus)
        done = engine.work()
    found, _ = look(asked)
    print_table(asked.sweep, found)
    if engine.stopping:
        print("stopped; the same command goes on", file=sys.stderr)
    return DONE if done else FAILED


def _behind_others(sweep: Sweep, found: Mapping[str, Standing]) -> dict[str, str]:
    """What builds on a run that another process works on; the same command takes it up once that is finished."""
    busy = {key for key, standing in found.items() if standing.state in {"running", "queued"}}
    return {key: "behind a run of another process" for key, cell in sweep.cells.items() if cell.parent in busy}


def _gpus() -> tuple[str, ...]:
    """GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without loading torch."""
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
    with asked.ledger.lock():
        if unknown := slurm.mend(asked.ledger, asked.ledger.batches()):
            raise Refused(
                [
                    f"an earlier submission was cut short ({', '.join(unknown)}), and the scheduler does not answer "
                    "whether it has those jobs; nothing is submitted before it does"
                ]
            )
        found, batches = look(asked)
        gone = _exhausted(asked, batches, profile.retries)
        plan = make_plan(asked.sweep, found, asked.words.retry, gone, asked.chosen)
        site = slurm.Site(asked.sweep, profile, cluster, asked.root, asked.data_dir, asked.ledger, scheduler.limits())
        words = _lasting(asked)
        asked.ledger.remember(asked.sweep.name, words)
        made, left = slurm.submit(site, plan, found, batches)
        for batch in made:
            size = f"{len(batch.keys)} runs" if len(batch.keys) > 1 else "1 run"
            print(f"submitted {batch.stage}: {size} as job {batch.job}")
        if made and profile.steward:
            print(f"submitted the steward as job {slurm.submit_steward(site, words, made)}")
    print(
        f"{asked.sweep.name}: {_counted(plan)}" + (f"; {left} do not fit yet, the steward submits them" if left else "")
    )
    return DONE


def _exhausted(asked: Asked, batches: Sequence[Batch], retries: int) -> dict[str, str]:
    """What the steward leaves alone; a person who asks again may have mended something."""
    if asked.words.retry != "machine":
        return {}
    return {key: f"tried {count} times" for key, count in attempts(batches).items() if count > retries}


def _lasting(asked: Asked) -> list[str]:
    """The words of this submission as they mean the same another day, in another folder."""
    words = asked.words
    folders = {"root": asked.root, "data_dir": asked.data_dir}
    files = {name: given for name, given in (("sweep", words.sweep), ("cluster", words.cluster)) if _is_file(given)}
    passing = {"retry", "dry_run", "ask", *folders, *files}
    kept = [word for word in asked.given if word.partition("=")[0] not in passing]
    return [*kept, *(f"{name}={expanded(str(path)).absolute()}" for name, path in {**files, **folders}.items())]


def _is_file(given: str | None) -> bool:
    return given is not None and given.endswith((".yaml", ".yml"))


def _counted(plan: Plan) -> str:
    parts = [f"{len(plan.start)} to run", *(f"{count} {reason}" for reason, count in plan.skipped.items())]
    return ", ".join(parts)


# --- dry run ------------------------------------------------------------------------------------------------------


def _show(asked: Asked, cluster: str) -> int:
    found, batches = look(asked)
    plan = make_plan(asked.sweep, found, asked.words.retry, chosen=asked.chosen)
    for stage, keys in asked.sweep.stages.items():
        parents = " or ".join(asked.sweep.parents[stage])
        starts = sum(cell.stage == stage for cell in plan.start)
        print(f"{stage:12} {len(keys):6} cells, {starts} to run" + (f", each after its {parents}" if parents else ""))
    hours, unknown = expected_hours(plan.start, asked.root)
    print(f"{asked.sweep.name}: {_counted(plan)}")
    basis = f" (and {unknown} runs of kinds that never ran here)" if unknown else ""
    print(f"expected: {hours:.2f} hours of training, by the times of earlier runs{basis}")
    if cluster != LOCAL:
        _show_scripts(asked, cluster, plan, found, batches)
    return DONE


def _show_scripts(asked: Asked, cluster: str, plan: Plan, found: dict[str, Standing], batches: Sequence[Batch]) -> None:
    from jobs.engines import slurm

    profile = open_profile(cluster)
    limits = scheduler.limits()
    site = slurm.Site(asked.sweep, profile, cluster, asked.root, asked.data_dir, asked.ledger, limits)
    wanted, _ = slurm.wanted_needs(plan, profile, found, batches)
    shown: set[tuple[Any, ...]] = set()
    for group in slurm.groups(plan, found, wanted, limits.max_array_size or slurm.USUAL_ARRAY_SIZE):
        if (group.stage, group.needs) in shown:
            continue
        shown.add((group.stage, group.needs))
        text = slurm.script_text(site, group)
        print(f"\n--- {group.stage}: {len(group.cells)} runs\n{text}")
        if asked.words.ask:
            print(f"--- sbatch --test-only: {scheduler.test_only(text)}")


if __name__ == "__main__":
    sys.exit(main())
