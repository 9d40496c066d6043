"""A sweep at a glance: a row for each stage and data set, a line for each run that is under way or has failed."""

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


def print_table(sweep: Sweep, found: Mapping[str, Standing]) -> None:
    rows: list[tuple[str, ...]] = [("stage", "data", *STATES, "accuracy, %", "left")]
    for (stage, data), keys in _rows(sweep).items():
        here = [found[key] for key in keys]
        counts = Counter(each.state for each in here)
        numbers = [str(counts[state]) if counts[state] else "-" for state in STATES]
        rows.append((stage, data, *numbers, _accuracy(here), _time_left(here)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for line in (*_notable(sweep, found), *_foreign_containers(found)):
        print(line)
    sys.stdout.flush()


def _rows(sweep: Sweep) -> dict[tuple[str, str], list[str]]:
    rows: dict[tuple[str, str], list[str]] = {}
    for stage, keys in sweep.stages.items():
        for key in keys:
            rows.setdefault((stage, sweep.cells[key].settings.data.name), []).append(key)
    return rows


def _accuracy(here: list[Standing]) -> str:
    """Mean and standard deviation of what is finished."""
    told = [found for each in here if each.result and (found := headline(each.result))]
    if not told:
        return "-"
    values = [100 * value for _, value in told]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    what = "" if told[0][0] == "test accuracy" else ", under corruption"
    return f"{statistics.mean(values):.2f}{spread} (n={len(values)}{what})"


def _time_left(here: list[Standing]) -> str:
    """Of the slowest run that is under way, by its last epoch."""
    left = [seconds for each in here if each.state == "running" and (seconds := _seconds_left(each)) is not None]
    return f"{max(left) / 60:.0f} min" if left else ""


def _seconds_left(standing: Standing) -> float | None:
    if not standing.run or not standing.epoch:
        return None
    rows = RunDir(standing.run).read_history()
    done, epochs = standing.epoch
    return float(rows[-1]["epoch_time_sec"]) * (epochs - done) if rows else None


def _notable(sweep: Sweep, found: Mapping[str, Standing]) -> Iterator[str]:
    for state in ("running", "failed", "blocked"):
        keys = [key for key, each in found.items() if each.state == state]
        for key in keys[:SHOWN]:
            yield f"{state} {sweep.cells[key].title}: {said(found[key])}"
        if len(keys) > SHOWN:
            yield f"{state}: and {len(keys) - SHOWN} more"


def _foreign_containers(found: Mapping[str, Standing]) -> Iterator[str]:
    """Runs whose code is not that of the checkout that started them, which nobody would guess from their settings."""
    facts = (read_json(RunDir(each.run).provenance) or {} for each in found.values() if each.run)
    for told, count in Counter(told for each in facts if (told := foreign_container(each))).items():
        yield f"note: {count} of these runs: in {told}"


def said(standing: Standing) -> str:
    """How far it is, or why it is no further."""
    if standing.state == "running":
        unit = "cell" if standing.run and standing.run.parent.name == "eval_shift" else "epoch"
        at = f"{unit} {standing.epoch[0]} of {standing.epoch[1]}" if standing.epoch else "starting"
        return f"{at}, {standing.run or standing.task}"
    cause = f"({standing.cause}) " if standing.cause and standing.state == "failed" else ""
    return messages.one_line(f"{cause}{standing.why}")
