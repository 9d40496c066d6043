"""What a submission would do: how many cells start, behind which, for how long, with which scripts."""

from collections.abc import Sequence
from typing import Any

from common.compose import DONE
from jobs import scheduler
from jobs.asked import Asked, look
from jobs.image import look_at_container
from jobs.ledger import Batch
from jobs.plan import Plan, expected_hours, make_plan
from jobs.profiles import LOCAL, open_profile
from jobs.standing import Standing


def show(asked: Asked, cluster: str) -> int:
    found, batches = look(asked)
    plan = make_plan(asked.sweep, found, asked.words.retry, chosen=asked.chosen)
    for stage, keys in asked.sweep.stages.items():
        parents = " or ".join(asked.sweep.parents[stage])
        starts = sum(cell.stage == stage for cell in plan.start)
        print(f"{stage:12} {len(keys):6} cells, {starts} to run" + (f", each after its {parents}" if parents else ""))
    hours, unknown = expected_hours(plan.start, asked.root)
    print(f"{asked.sweep.name}: {plan.counted()}")
    basis = f" (and {unknown} runs of kinds that never ran here)" if unknown else ""
    print(f"expected: {hours:.2f} hours of training, by the times of earlier runs{basis}")
    if cluster != LOCAL:
        _show_scripts(asked, cluster, plan, found, batches)
    return DONE


def _show_scripts(asked: Asked, cluster: str, plan: Plan, found: dict[str, Standing], batches: Sequence[Batch]) -> None:
    from jobs.engines import slurm

    profile = open_profile(cluster)
    for note in look_at_container(profile.container, profile.code) if profile.container else []:
        print(f"note: {note}")
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
