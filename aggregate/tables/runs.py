"""This module lists each run: those that were counted with their numbers, the others with the reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregate.runs.cells import AskedRun
from aggregate.runs.collect import LeftOut, Run, flatten
from aggregate.runs.methods import Method
from aggregate.runs.origins import image_of
from aggregate.tables.table import Row, Table, text

SHOWN = 50  # rows of what is not finished, in Markdown and LaTeX; CSV has all
METRICS = ("test", "val", "shift.clean", "shift.corrupted")


def run_rows(methods: Sequence[Method]) -> Sequence[Row]:
    """Return the rows of runs.csv: settings that differ between runs, metrics, cost, provenance."""
    runs = [run for method in methods for run in method.runs]
    differing = differing_settings(runs)
    rows = [_run_row(method, run, differing) for method in methods for run in method.runs]
    return rows or [{"run": ""}]


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Name the settings that not all runs share."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    absent = object()
    return [
        name
        for name in names
        if any(run.settings.get(name, absent) != runs[0].settings.get(name, absent) for run in runs)
    ]


def _run_row(method: Method, run: Run, differing: Sequence[str]) -> dict[str, Any]:
    settings = {name: run.settings[name] for name in differing if name in run.settings and name != "data.name"}
    return {
        "run": run.name,
        "entry": run.entry,
        "method": method.label,
        "data": run.data,
        "seed": run.seed,
        **settings,
        # Every number that the result has, under the place that it has there.
        **{f"{part}.{name}": value for part in METRICS for name, value in _numbers(run.fact(part)).items()},
        "selection.rule": run.fact("selection.rule"),
        "selection.epoch": run.fact("selection.epoch"),
        **{f"cost.{name}": value for name, value in _numbers(run.fact("cost")).items()},
        **{f"speed.{name}": value for name, value in _numbers(run.fact("speed")).items()},
        **{f"model.{name}": value for name, value in _numbers(run.fact("model")).items()},
        "teacher": run.fact("teacher.run"),
        **_provenance(run),
        "folder": str(run.path),
    }


def _numbers(part: Any) -> dict[str, float]:
    flat = flatten(part) if isinstance(part, Mapping) else {}
    return {name: value for name, value in flat.items() if isinstance(value, int | float)}


def _provenance(run: Run) -> dict[str, Any]:
    facts = run.provenance
    return {
        **{name: facts.get(name) for name in ("commit", "dirty", "started", "host", "device", "gpu", "command")},
        "container": image_of(run),
        "data.digest": run.fact("data.digest"),
        "data.split_digest": run.fact("data.split_digest"),
        "weights": run.fact("selection.digest"),
    }


# --- what is not counted ----------------------------------------------------------------------------------------


def unfinished_text(method: Method) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(method.unfinished.items()))


def unfinished(cells: Sequence[AskedRun], runs: Sequence[Run], left_out: Sequence[LeftOut]) -> Table | None:
    """List the cells of the sweep without a usable result, and the folders that were left out."""
    finished = {run.path for run in runs}
    reasons = {left.path: left.reason for left in left_out}
    rows: list[dict[str, Any]] = [
        {
            "what": f"{cell.title} seed={cell.seed}",
            "state": "unusable" if cell.state == "done" else cell.state,
            "why": (reasons.get(cell.run) if cell.run else None) or cell.why,
            "folder": str(cell.run or ""),
        }
        for cell in cells
        if cell.run not in finished
    ]

    # A folder that belongs to a cell has its row already.
    of_cells = {cell.run for cell in cells}
    rows += [
        {"what": left.path.name, "state": "left out", "why": left.reason, "folder": str(left.path)}
        for left in left_out
        if left.path not in of_cells
    ]
    if not rows:
        return None

    caption = "Not counted in any table, and why."
    columns = [text("what", "what"), text("state", "state"), text("why", "why")]
    return Table("unfinished", "Not counted", caption, columns, rows, most=SHOWN)
