"""These tables show what methods cost to train, failed attempts included, and which of them are worth it."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aggregate.inference.estimates import deviation
from aggregate.runs.collect import Run
from aggregate.runs.methods import Method, estimate, mean_of, same, trained
from aggregate.runs.origins import origins, selection_sentence
from aggregate.tables.table import Column, Row, Table, number, percent_interval, percent_spread, shown, text
from common.files import read_json
from common.run.run_dir import RunDir

HOUR = 3600
UNITS = "Device-hours: hours of training times the processes that shared it, each of which has a device of its own; of "
TIMES = "Times of different devices, and of runs that shared one, do not compare."


# --- what was spent ---------------------------------------------------------------------------------------------


def cost(methods: Sequence[Method], without_result: Iterable[Path] = ()) -> Table | None:
    """Make the table of costs; `without_result` are folders of runs that failed, or have not finished."""
    chosen = [method for method in trained(methods) if method.runs]
    if not chosen:
        return None

    caption = (
        "Training time of a run: mean ± standard deviation over n runs, without that of a teacher. "
        f"{UNITS}a CPU it is CPU-hours, of a GPU GPU-hours. Lost: time of failed attempts, without "
        f"what later ones built on; at least that much, by their logs. {TIMES}"
    )
    rows = [_cost_row(method) for method in chosen]
    return Table("cost", "Cost", caption, COST_COLUMNS, rows, _totals(methods, without_result))


def _seconds(row: Row) -> str:
    spread = row["seconds_std"]
    return shown(row["seconds_mean"], ".1f") + ("" if spread is None else f" ± {shown(spread, '.1f')}")


COST_COLUMNS = [
    text("data", "data"),
    text("method", "method"),
    number("n", "n", "d"),
    text("device", "device"),
    Column("seconds", _seconds, key="seconds_mean"),
    number("images/s", "train_images_per_sec", ",.0f"),
    number("device-hours of all n", "device_hours", ".3f"),
    number("lost", "lost_device_hours", ".3f"),
    number("attempts", "attempts", "d"),
]


def _cost_row(method: Method) -> dict[str, Any]:
    seconds = method.values("cost.train_seconds")
    return {
        "data": method.data,
        "method": method.label,
        "n": len(method.runs),
        "device": _devices(method.runs),
        "seconds_mean": mean_of(seconds),
        "seconds_std": deviation(seconds),
        "train_images_per_sec": mean_of([_images_per_second(run) for run in method.runs]),
        "device_hours": sum(device_hours(run) for run in method.runs),
        "lost_device_hours": sum(_lost_hours(run) for run in method.runs),
        "attempts": sum(1 + len(_earlier(run)) for run in method.runs),
        "runs": method.run_names,
    }


def _devices(runs: Sequence[Run]) -> str:
    return ", ".join(origins(runs, ["device"])["device"])


def _images_per_second(run: Run) -> float | None:
    facts = [run.fact(name) for name in ("data.train_images", "cost.epochs", "cost.train_seconds")]
    if not all(isinstance(fact, int | float) and fact > 0 for fact in facts):
        return None
    images, epochs, seconds = facts
    return float(images * epochs / seconds)


def device_hours(run: Run) -> float:
    """Return the hours of training, or of a test under shift, times the processes that shared it."""
    seconds = run.fact("cost.train_seconds" if run.is_training else "cost.seconds")
    return (seconds if isinstance(seconds, int | float) else 0.0) * _processes(run.provenance) / HOUR


def _lost_hours(run: Run) -> float:
    return lost_seconds(run) * _processes(run.provenance) / HOUR


def _processes(provenance: Mapping[str, Any]) -> int:
    processes = provenance.get("processes")
    return processes if isinstance(processes, int) and processes > 0 else 1


def _earlier(run: Run) -> Sequence[Any]:
    attempts = run.provenance.get("earlier_attempts")
    return attempts if isinstance(attempts, list) else ()


def _totals(methods: Sequence[Method], without_result: Iterable[Path]) -> list[str]:
    """Return a sentence for each kind of device: all that the folders tell of, tests under shift included."""
    # A total over both kinds would add hours that have nothing to do with each other.
    counted, wasted = defaultdict[str, float](float), defaultdict[str, float](float)
    for run in (run for method in methods for run in method.runs):
        unit = _unit(run.provenance)
        counted[unit] += device_hours(run)
        wasted[unit] += _lost_hours(run)
    for folder in without_result:
        provenance = read_json(RunDir(folder).provenance) or {}
        wasted[_unit(provenance)] += spent_seconds(folder) * _processes(provenance) / HOUR

    return [
        f"In all {counted[unit] + wasted[unit]:.3f} {unit}: {counted[unit]:.3f} of the runs that count, tests under "
        f"shift included, and {wasted[unit]:.3f} of failed attempts and of runs without a result."
        for unit in sorted(counted.keys() | wasted.keys())
    ]


def _unit(provenance: Mapping[str, Any]) -> str:
    return "CPU-hours" if str(provenance.get("device") or "cpu").startswith("cpu") else "GPU-hours"


# --- what failed attempts lost ----------------------------------------------------------------------------------


LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+ (.*)")
EPOCH = re.compile(r"epoch (\d+)/\d+: .*, (\d+\.\d) s$")


@dataclass
class LoggedAttempt:
    """One attempt at a run, as far as the log tells of it."""

    began: datetime
    ended: datetime
    epochs: dict[int, float] = field(default_factory=dict)  # epoch -> seconds

    @property
    def seconds(self) -> float:
        return max(0.0, (self.ended - self.began).total_seconds())


def lost_seconds(run: Run) -> float:
    """Return what a finished run lost: its earlier attempts without the epochs that later ones went on from."""
    return _lost(_logged(run.path)) if run.provenance.get("earlier_attempts") else 0.0


def spent_seconds(folder: Path) -> float:
    """Return what a run without a result has cost: all of its attempts."""
    return sum(attempt.seconds for attempt in _logged(folder))


def _lost(attempts: Sequence[LoggedAttempt]) -> float:
    lost = 0.0
    again: set[int] = set()  # epochs that a later attempt did again
    for place, attempt in enumerate(reversed(attempts)):
        kept = sum(seconds for epoch, seconds in attempt.epochs.items() if epoch not in again)
        lost += max(0.0, attempt.seconds - kept) if place else 0.0
        again |= attempt.epochs.keys()
    return lost


def _logged(folder: Path) -> list[LoggedAttempt]:
    """Read the attempts from log.txt, in which each begins with a line that names the run."""
    attempts: list[LoggedAttempt] = []
    with suppress(OSError, ValueError), RunDir(folder).log.open(errors="replace") as file:
        for line in file:
            _read_line(line, attempts)
    return attempts


def _read_line(line: str, attempts: list[LoggedAttempt]) -> None:
    parts = LINE.match(line)
    if not parts:
        return

    at, message = datetime.fromisoformat(parts[1]), parts[2]
    if message.startswith("run "):
        attempts.append(LoggedAttempt(at, at))
    if attempts:
        attempts[-1].ended = at
        if epoch := EPOCH.match(message):
            attempts[-1].epochs[int(epoch[1])] = float(epoch[2])


# --- what it is worth -------------------------------------------------------------------------------------------


def efficiency(methods: Sequence[Method]) -> Table | None:
    chosen = [method for method in trained(methods) if method.runs]
    if not chosen:
        return None

    caption = (
        "Test accuracy in % (mean ± standard deviation over n runs, 95 % interval by Student's t) beside what it costs "
        "to reach and to use. FLOPs of one image; latency of one image, images per second in batches. Memory: the "
        f"GPU's peak in training. {UNITS}one run, without that of a teacher. Front: no other method on that data set "
        "is at least as good for less, or better for as much; in training among those of the same device, by "
        f"device-hours; in use by FLOPs. {TIMES} {selection_sentence(run for method in chosen for run in method.runs)}"
    )

    # Hours depend on the device, so they compare only on the same one; FLOPs compare everywhere.
    rows = [_efficiency_row(method) for method in chosen]
    in_training = fronts(rows, ("data", "device"), "device_hours_mean")
    in_use = fronts(rows, ("data",), "flops")
    rows = [
        {**row, "front_in_training": _yes(place in in_training), "front_in_use": _yes(place in in_use)}
        for place, row in enumerate(rows)
    ]
    return Table("efficiency", "Efficiency", caption, EFFICIENCY_COLUMNS, rows)


EFFICIENCY_COLUMNS = [
    text("data", "data"),
    text("method", "method"),
    number("n", "n", "d"),
    percent_spread("test accuracy", "accuracy"),
    percent_interval("95 % interval", "accuracy"),
    number("parameters", "parameters", ",d"),
    number("FLOPs", "flops", ".2e"),
    number("latency (ms)", "latency_ms", ".2f"),
    number("images/s", "images_per_sec", ",.0f"),
    number("memory (MB)", "peak_gpu_memory_mb", ",.0f"),
    number("seconds", "seconds_mean", ".1f"),
    number("device-hours", "device_hours_mean", ".4f"),
    text("device", "device"),
    text("front in training", "front_in_training"),
    text("front in use", "front_in_use"),
]


def _efficiency_row(method: Method) -> dict[str, Any]:
    return {
        "data": method.data,
        "method": method.label,
        "n": len(method.runs),
        **estimate("accuracy", method.values("test.accuracy"), bounded=True),
        "parameters": same(map(int, method.values("model.parameters"))),
        "flops": same(method.values("model.flops")),
        "latency_ms": mean_of(method.values("speed.latency_ms")),
        "images_per_sec": mean_of(method.values("speed.images_per_sec")),
        "peak_gpu_memory_mb": mean_of([peak for peak in method.values("cost.peak_gpu_memory_mb") if peak > 0]),
        "seconds_mean": mean_of(method.values("cost.train_seconds")),
        "device_hours_mean": mean_of([device_hours(run) for run in method.runs]),
        "device": _devices(method.runs),
        "runs": method.run_names,
    }


def _yes(is_so: bool) -> str:
    return "yes" if is_so else ""


def fronts(rows: Sequence[Row], same_columns: Sequence[str], cost: str) -> set[int]:
    """Return the places of rows on the Pareto front of (cost, accuracy) among the rows that share these columns."""
    groups: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        if row[cost] is not None:
            groups.setdefault(tuple(row[name] for name in same_columns), []).append(place)

    on_front: set[int] = set()
    for places in groups.values():
        front = pareto_front([(rows[place][cost], rows[place]["accuracy_mean"]) for place in places])
        on_front |= {places[place] for place in front}
    return on_front


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of points that no other beats in (cost, gain), the cheapest first; of equal ones the first."""
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front
