"""Runs -> methods: what was run several times and differs in the seed alone.

A method is an entry with its settings, but for the seed, and the method of the run that it builds on. Other images,
another split or another rule of selection make another method. Other code, machines or containers do not, or nothing
would ever have two runs; where they differ within a method, a note says so.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregate.inference.estimates import deviation, t_interval
from aggregate.runs.collect import Run
from common.settings import messages
from common.settings.entries import TRAININGS

NAMED = 3  # settings in a label
UNKNOWN = "unknown"


@dataclass(frozen=True)
class AskedRun:
    """One run that a sweep asks for, as jobs/status.py tells of it."""

    stage: str
    at: tuple[tuple[str, Any], ...]  # axis, value; without the seed
    seed: int
    run: Path | None
    state: str
    why: str = ""

    @property
    def place(self) -> tuple[Any, ...]:
        return (self.stage, *self.at)

    @property
    def title(self) -> str:
        return " ".join([self.stage, *(f"{axis}={messages.shown(value)}" for axis, value in self.at)])

    @property
    def label(self) -> str:
        """As a method without runs is called in tables, which name the data set elsewhere."""
        axes = [f"{axis}={messages.shown(value)}" for axis, value in self.at if axis not in {"data", "of"}]
        return " ".join([str(dict(self.at).get("of", self.stage)), *axes])


def cell_of(facts: Mapping[str, Any]) -> AskedRun:
    axes = dict(facts["axes"])
    seed = int(axes.pop("seed", 0))
    why = messages.one_line(
        " ".join(
            f"({facts['cause']})" if part == "cause" else str(facts[part])
            for part in ("cause", "why")
            if facts.get(part)
        )
    )
    run = Path(facts["run"]) if facts["run"] else None
    return AskedRun(str(facts["stage"]), tuple(axes.items()), seed, run, str(facts["state"]), why)


@dataclass(frozen=True)
class Method:
    label: str
    entry: str
    data: str
    runs: tuple[Run, ...]  # by seed
    unfinished: Mapping[str, int] = field(default_factory=dict)  # state: cells of the sweep
    parent: str = ""  # label of the method that it builds on

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def is_training(self) -> bool:
        return self.entry in TRAININGS or self.entry == UNKNOWN  # what is tested under shift says of what

    @property
    def run_names(self) -> str:
        return run_names(self.runs)

    def values(self, dotted: str) -> list[float]:
        """Of all runs that have this number in their result."""
        found = [run.fact(dotted) for run in self.runs]
        return [float(value) for value in found if isinstance(value, int | float)]

    def by_seed(self, dotted: str) -> dict[int, float]:
        """Where runs share a seed, their mean."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            value = run.fact(dotted)
            if isinstance(value, int | float):
                found.setdefault(run.seed, []).append(value)
        return {seed: sum(values) / len(values) for seed, values in found.items()}


def run_names(runs: Iterable[Run]) -> str:
    """What a row is made of, for the tables: names hold no space."""
    return " ".join(dict.fromkeys(run.name for run in runs))


# --- grouping ---------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """A method on its way to its label."""

    base: str
    entry: str
    data: str
    traits: dict[str, Any]  # all that makes it this method
    parent: str = ""  # key of the method that it builds on, or the name of a network from elsewhere
    is_stage: bool = False  # the base is what a sweep calls it
    runs: list[Run] = field(default_factory=list)
    unfinished: Counter[str] = field(default_factory=Counter)


def group(runs: Sequence[Run], cells: Sequence[AskedRun] = ()) -> list[Method]:
    """All methods, those of one data set together, in the order of the sweep or of their names."""
    groups = _grouped(runs, {cell.run: cell for cell in cells if cell.run})
    _add_unfinished(groups, cells, {run.path for run in runs})
    labels = _labels(groups)
    methods = [
        Method(
            labels[key],
            each.entry,
            each.data,
            tuple(sorted(each.runs, key=_by_seed)),
            each.unfinished,
            labels.get(each.parent, each.parent),
        )
        for key, each in groups.items()
    ]
    if not cells:
        methods.sort(key=lambda method: (method.data, method.label))
    order = {data: place for place, data in reversed(list(enumerate(each.data for each in methods)))}
    return sorted(methods, key=lambda method: order[method.data])


def _by_seed(run: Run) -> tuple[int, str]:
    return run.seed, run.name


def _grouped(runs: Sequence[Run], cells: Mapping[Path, AskedRun]) -> dict[str, _Group]:
    by_weights = {str(run.fact("selection.digest")): run for run in runs if run.is_training}
    groups: dict[str, _Group] = {}
    keys: dict[str, str] = {}  # run: key of its method

    def place(run: Run) -> str:
        if run.name not in keys:
            keys[run.name] = ""  # no run is its own teacher's teacher, but a forged one could say so
            parent = by_weights.get(run.parent or "")
            parent_key = place(parent) if parent else _foreign_parent(run)
            traits = _traits(run, parent_key)
            keys[run.name] = json.dumps([run.entry, traits], sort_keys=True)
            base, is_stage = _base(run, cells.get(run.path))
            new = _Group(base, run.entry, run.data, traits, parent_key, is_stage)
            groups.setdefault(keys[run.name], new).runs.append(run)
        return keys[run.name]

    for run in runs:
        place(run)
    return groups


def _foreign_parent(run: Run) -> str:
    """A published network, or a run that is not among those collected, of which the model is known at most."""
    return str(run.fact("teacher.model" if run.is_training else "model.name") or "")


def _traits(run: Run, parent: str) -> dict[str, Any]:
    """Settings, and what has the power to make numbers incomparable."""
    return {
        **run.settings,
        "parent": parent,
        "images": run.fact("data.digest"),
        "split": run.fact("data.split_digest"),
        "selection": run.fact("selection.rule"),
    }


def _base(run: Run, cell: AskedRun | None) -> tuple[str, bool]:
    if cell:
        return cell.stage, True
    return f"{run.entry} {str(run.fact('model.name')).removeprefix('timm/')}", False


def _add_unfinished(groups: dict[str, _Group], cells: Sequence[AskedRun], finished: set[Path]) -> None:
    """Cells without a usable result join the method of their place in the sweep, or make one without runs."""
    keys = {run.path: key for key, each in groups.items() for run in each.runs}
    by_place = {cell.place: keys[cell.run] for cell in cells if cell.run in keys}
    entries = {cell.stage: cell.run.parent.name for cell in cells if cell.run}
    for cell in cells:
        if cell.run in finished:
            continue
        at = dict(cell.at)
        entry = entries.get(cell.stage, "eval_shift" if "of" in at else UNKNOWN)
        empty = _Group(cell.label, entry, str(at.get("data", "")), {"place": cell.title}, is_stage=True)
        key = by_place.setdefault(cell.place, cell.title)
        groups.setdefault(key, empty).unfinished["unusable" if cell.state == "done" else cell.state] += 1


# --- labels -----------------------------------------------------------------------------------------------------


def _labels(groups: Mapping[str, _Group]) -> dict[str, str]:
    """By key: the base, what tells it from others of that base, and its parent; all different on one data set.

    What is tested under shift is called as it is called elsewhere.
    """
    alike: dict[tuple[str, ...], list[_Group]] = {}
    for each in groups.values():
        alike.setdefault(_namesakes(each), []).append(each)
    differing = {name: _differing([each.traits for each in members]) for name, members in alike.items()}
    lines = {(name[:2], each.parent) for name, members in alike.items() for each in members}
    several = {name for name, count in Counter(name for name, _ in lines).items() if count > 1}
    labels: dict[str, str] = {}

    def label(key: str) -> str:
        if key not in groups:  # a network from elsewhere
            return key
        if key not in labels:
            each = groups[key]
            names = _namesakes(each)
            told = _told(each, differing[names])
            parent = label(each.parent) if not each.is_stage or names[:2] in several or _is_shift(each) else ""
            base = (parent or each.base) if _is_shift(each) else each.base
            tail = f" ← {parent}" if parent and not _is_shift(each) else ""
            labels[key] = f"{base}{told}{tail}"
        return labels[key]

    return _numbered({key: label(key) for key in groups}, groups)


def _namesakes(each: _Group) -> tuple[str, ...]:
    return each.base, each.data, each.parent, "shift" if _is_shift(each) else ""


def _is_shift(each: _Group) -> bool:
    return each.entry == "eval_shift"


def _numbered(labels: Mapping[str, str], groups: Mapping[str, _Group]) -> dict[str, str]:
    """What is still the same is counted through."""
    rooms = {key: (_is_shift(groups[key]), groups[key].data, label) for key, label in labels.items()}
    counts, seen = Counter(rooms.values()), Counter[Any]()
    numbered = {}
    for key, room in rooms.items():
        seen[room] += 1
        numbered[key] = f"{labels[key]} #{seen[room]}" if counts[room] > 1 else labels[key]
    return numbered


def _differing(traits: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for each in traits for name in each)
    return [name for name in names if len({json.dumps(each.get(name), sort_keys=True) for each in traits}) > 1]


def _told(each: _Group, differing: Sequence[str]) -> str:
    told = [name for name in differing if name in each.traits and name not in {"parent", "place"}]
    shown = [f"{name}={messages.shown(each.traits[name])}" for name in told[:NAMED]]
    more = [f"{len(told) - NAMED} more settings"] if len(told) > NAMED else []
    return "".join(f" {part}" for part in [", ".join(shown + more)] if part)


# --- means over the runs of a method ----------------------------------------------------------------------------------


def trained(methods: Iterable[Method]) -> list[Method]:
    return [method for method in methods if method.is_training]


def by_data(methods: Iterable[Method]) -> dict[str, list[Method]]:
    """Those with runs."""
    rooms: dict[str, list[Method]] = {}
    for method in methods:
        if method.runs:
            rooms.setdefault(method.data, []).append(method)
    return rooms


def by_validation(methods: Iterable[Method]) -> list[Method]:
    """The best first: by test images, they would be chosen by what is shown."""
    return sorted(methods, key=lambda method: -(mean_of(method.values("val.accuracy")) or 0.0))


def estimate(name: str, values: Sequence[float], *, bounded: bool = False) -> dict[str, Any]:
    """Columns <name>_mean, _std, _low and _high (95 % t interval over seeds); a share is not below 0 or above 1."""
    interval = t_interval(values)
    low, high = interval or (None, None)
    if interval and bounded:
        low, high = max(0.0, interval[0]), min(1.0, interval[1])
    mean = statistics.fmean(values) if values else None
    return {f"{name}_mean": mean, f"{name}_std": deviation(values), f"{name}_low": low, f"{name}_high": high}


def mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def same(values: Iterable[Any]) -> Any:
    """What all have in common, else None."""
    found = list(dict.fromkeys(values))
    return found[0] if len(found) == 1 else None


def unfinished_text(method: Method) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(method.unfinished.items()))


# --- what they reach --------------------------------------------------------------------------------------------
