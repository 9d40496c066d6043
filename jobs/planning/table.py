"""Print a sweep at a glance: a row for each method and data set, a line for each run under way, failed or blocked."""

import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

from common.files import read_json
from common.run.provenance import foreign_container
from common.run.run_dir import RunDir, headline
from common.settings import messages
from jobs.planning.cell import Sweep
from jobs.planning.states import STATES, Standing

SHOWN = 20  # runs in a list


def print_table(sweep: Sweep, standings: Mapping[str, Standing]) -> None:
    rows: list[tuple[str, ...]] = [("stage", "data", *STATES, "accuracy, %", "left")]
    for (method, data), keys in _rows(sweep).items():
        cells = [standings[key] for key in keys]
        counts = Counter(cell.state for cell in cells)
        numbers = [str(counts[state]) if counts[state] else "-" for state in STATES]
        rows.append((method, data, *numbers, _accuracy(cells), _time_left(cells)))

    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())

    # The counts do not say which runs need a look.
    for line in (*_notable(sweep, standings), *_foreign_containers(standings)):
        print(line)
    sys.stdout.flush()


def _rows(sweep: Sweep) -> dict[tuple[str, str], list[str]]:
    """Return the cells of each method and data set: what differs in its seed alone has one mean."""
    rows: dict[tuple[str, str], list[str]] = {}
    for stage, keys in sweep.stages.items():
        for key in keys:
            cell = sweep.cells[key]
            axes = [axis for axis in cell.at if axis not in {"seed", "data"}]
            method = " ".join([stage, *(f"{axis}={messages.one_line(messages.shown(cell.at[axis]))}" for axis in axes)])
            rows.setdefault((method, cell.settings.data.name), []).append(key)
    return rows


def _accuracy(cells: list[Standing]) -> str:
    """Write the mean and standard deviation of what is finished."""
    headlines = [headline(cell.result) for cell in cells if cell.result]
    accuracies = [line for line in headlines if line]
    if not accuracies:
        return "-"
    values = [100 * value for _, value in accuracies]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    what = "" if accuracies[0][0] == "test accuracy" else ", under corruption"
    return f"{statistics.mean(values):.2f}{spread} (n={len(values)}{what})"


def _time_left(cells: list[Standing]) -> str:
    """Write the time that the slowest run under way still needs, by its last epoch."""
    seconds = [_seconds_left(cell) for cell in cells if cell.state == "running"]
    known = [left for left in seconds if left is not None]
    return f"{max(known) / 60:.0f} min" if known else ""


def _seconds_left(standing: Standing) -> float | None:
    if not standing.run or not standing.epoch:
        return None
    rows = RunDir(standing.run).read_history()
    done, epochs = standing.epoch
    return float(rows[-1]["epoch_time_sec"]) * (epochs - done) if rows else None


def _notable(sweep: Sweep, standings: Mapping[str, Standing]) -> Iterator[str]:
    """Yield a line for each run that is under way, has failed or cannot start; of many, for the first ones."""
    for state in ("running", "failed", "blocked"):
        keys = [key for key, standing in standings.items() if standing.state == state]
        for key in keys[:SHOWN]:
            yield f"{state} {sweep.cells[key].title}: {said(standings[key])}"
        if len(keys) > SHOWN:
            yield f"{state}: and {len(keys) - SHOWN} more"


def _foreign_containers(standings: Mapping[str, Standing]) -> Iterator[str]:
    """Yield a note for runs whose code is not that of the checkout, which nobody would guess from their settings."""
    runs = [standing.run for standing in standings.values() if standing.run]
    containers = [foreign_container(read_json(RunDir(run).provenance) or {}) for run in runs]
    for container, count in Counter(name for name in containers if name).items():
        yield f"note: {count} of these runs: in {container}"


def said(standing: Standing) -> str:
    """Say how far a run is, or why it is no further."""
    if standing.state == "running":
        unit = "cell" if standing.run and standing.run.parent.name == "eval_shift" else "epoch"
        at = f"{unit} {standing.epoch[0]} of {standing.epoch[1]}" if standing.epoch else "starting"
        return f"{at}, {standing.run or standing.task}"
    cause = f"({standing.cause}) " if standing.cause and standing.state == "failed" else ""
    return messages.one_line(f"{cause}{standing.why}")
