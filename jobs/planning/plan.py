"""A plan says what a submission will do: which cells start, which do not and why, and how many hours that takes."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.run.run_dir import finished_runs
from common.settings.entries import TrainingSettings
from jobs.planning.cell import Cell, Lineage, Sweep
from jobs.planning.states import MACHINE, Standing

Retry = Literal["all", "machine", "none"]
Chosen = Callable[[str, Standing], bool]
RUNS_LOOKED_AT = 200  # finished runs of an entry that are read to expect a time


@dataclass(frozen=True)
class Plan:
    start: tuple[Cell, ...]  # parents before children
    skipped: Mapping[str, int]  # reason: cells

    def counted(self) -> str:
        return ", ".join([f"{len(self.start)} to run", *(f"{count} {why}" for why, count in self.skipped.items())])


def make_plan(
    sweep: Sweep,
    standings: Mapping[str, Standing],
    retry: Retry = "all",
    gone: Mapping[str, str] | None = None,
    chosen: Chosen | None = None,
) -> Plan:
    """Sort the cells of a sweep into those that start, and reasons why the others do not.

    gone: cells that may not be tried again, and why, by key; their children wait with them.
    chosen: says whether a cell that could start is wanted, by its key and where it stands.
    """
    start: list[Cell] = []
    skipped: Counter[str] = Counter()
    starting: set[str] = set()
    gone = gone or {}

    for key, cell in sweep.cells.items():
        standing = standings[key]
        reason = gone.get(key) or _not_started(standing, retry)
        if not reason and chosen and not chosen(key, standing):
            reason = "not asked for"

        # Parents come first, so that `starting` has the parent already if it starts.
        if not reason and cell.parent and cell.parent not in starting and standings[cell.parent].state not in _COMING:
            reason = "what it builds on will not be finished"

        if reason:
            skipped[reason] += 1
        else:
            start.append(cell)
            starting.add(key)
    return Plan(tuple(start), dict(skipped))


_COMING = {"done", "running", "queued"}


def _not_started(standing: Standing, retry: Retry) -> str:
    if standing.state == "done":
        return "finished"
    if standing.state in {"running", "queued"}:
        return standing.state
    if standing.state == "failed" and (retry == "none" or (retry == "machine" and standing.cause not in MACHINE)):
        return f"failed ({standing.cause})"
    return ""


def lineage(sweep: Sweep, cell: Cell) -> Lineage:
    """Return the way to a cell: the first of its forebears, ..., the cell itself."""
    before = lineage(sweep, sweep.cells[cell.parent]) if cell.parent else ()
    return (*before, (cell.entry, cell.words))


# --- what it will cost ------------------------------------------------------------------------------------------


def expected_hours(cells: Sequence[Cell], root: Path) -> tuple[float, int]:
    """Return the hours that the cells will take, by earlier runs, and how many cells have none to go by.

    A run to go by is a finished one of the same entry, data set and network.
    """
    rates: dict[tuple[str, str, str], float | None] = {}  # seconds per epoch
    hours, unknown = 0.0, 0
    for cell in cells:
        kind = (cell.entry, cell.settings.data.name, cell.settings.model.name)
        if kind not in rates:
            rates[kind] = _seconds_per_epoch(root, *kind)
        rate = rates[kind]
        hours += (rate or 0) * _epochs(cell) / 3600
        unknown += rate is None
    return hours, unknown


def _epochs(cell: Cell) -> int:
    """Return the epochs of a cell; an evaluation counts as one."""
    return cell.settings.recipe.epochs if isinstance(cell.settings, TrainingSettings) else 1


def _seconds_per_epoch(root: Path, entry: str, data: str, model: str) -> float | None:
    """Return the median over finished runs; an evaluation is one epoch long."""
    seconds = []
    for run in finished_runs(root, f"{entry}/{data}-{model.removeprefix('timm/')}-s*")[:RUNS_LOOKED_AT]:
        cost = (run.finished() or {}).get("cost", {})
        if cost.get("epochs"):
            seconds.append(cost["train_seconds"] / cost["epochs"])
        elif "seconds" in cost:
            seconds.append(cost["seconds"])
    return statistics.median(seconds) if seconds else None
