"""This module groups runs into methods: the runs of a method differ in the seed alone.

A method is an entry with its settings, without the seed, and the method of the run that it builds on. Other images,
another split or another rule of selection make another method. Other code, machines or containers do not, or no
method would ever have two runs; if they differ within a method, a note says so.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregate.inference.estimates import deviation, t_interval
from aggregate.runs.cells import AskedRun
from aggregate.runs.collect import Run
from common.settings import messages
from common.settings.entries import TRAININGS

NAMED = 3  # settings in a label
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Method:
    """The runs that differ in the seed alone, and the label that they share in tables and figures."""

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
        """Return a number of the results, from all runs that have it."""
        facts = [run.fact(dotted) for run in self.runs]
        return [float(value) for value in facts if isinstance(value, int | float)]

    def by_seed(self, dotted: str) -> dict[int, float]:
        """Return a number of the results by seed; runs that share a seed give their mean."""
        of_seeds: dict[int, list[float]] = {}
        for run in self.runs:
            value = run.fact(dotted)
            if isinstance(value, int | float):
                of_seeds.setdefault(run.seed, []).append(value)
        return {seed: sum(values) / len(values) for seed, values in of_seeds.items()}


def run_names(runs: Iterable[Run]) -> str:
    """Join the names of the runs that a row of a table is made of; names hold no space."""
    return " ".join(dict.fromkeys(run.name for run in runs))


# --- grouping ---------------------------------------------------------------------------------------------------


@dataclass
class _Draft:
    """A method that has no label yet."""

    base: str  # what its label begins with
    entry: str
    data: str
    traits: dict[str, Any]  # all that makes it this method
    parent: str = ""  # key of the method that it builds on, or the name of a network from elsewhere
    is_stage: bool = False  # the base is what a sweep calls it
    runs: list[Run] = field(default_factory=list)
    unfinished: Counter[str] = field(default_factory=Counter)

    @property
    def is_shift(self) -> bool:
        return self.entry == "eval_shift"


def group(runs: Sequence[Run], cells: Sequence[AskedRun] = ()) -> list[Method]:
    """Return all methods, those of one data set together, in the order of the sweep or of their names."""
    drafts = _drafts(runs, {cell.run: cell for cell in cells if cell.run})
    _add_unfinished(drafts, cells, {run.path for run in runs})
    labels = _labels(drafts)
    methods = [
        Method(
            labels[key],
            draft.entry,
            draft.data,
            tuple(sorted(draft.runs, key=_by_seed)),
            draft.unfinished,
            labels.get(draft.parent, draft.parent),
        )
        for key, draft in drafts.items()
    ]

    # The sort is stable: within a data set the order stays that of the sweep, where there is one.
    if not cells:
        methods.sort(key=lambda method: (method.data, method.label))
    data_sets = list(dict.fromkeys(method.data for method in methods))
    return sorted(methods, key=lambda method: data_sets.index(method.data))


def _by_seed(run: Run) -> tuple[int, str]:
    return run.seed, run.name


def _drafts(runs: Sequence[Run], cells: Mapping[Path, AskedRun]) -> dict[str, _Draft]:
    """Group runs by a key that holds their entry and all their traits."""
    by_weights = {str(run.fact("selection.digest")): run for run in runs if run.is_training}
    drafts: dict[str, _Draft] = {}
    keys: dict[str, str] = {}  # run: key of its method

    def place(run: Run) -> str:
        if run.name in keys:
            return keys[run.name]

        # The parent comes first, since its key is a trait of this run. No run is its own teacher's teacher, but a
        # forged one could say so; the empty key ends that circle.
        keys[run.name] = ""
        parent = by_weights.get(run.parent or "")
        parent_key = place(parent) if parent else _foreign_parent(run)

        traits = _traits(run, parent_key)
        keys[run.name] = json.dumps([run.entry, traits], sort_keys=True)
        base, is_stage = _base(run, cells.get(run.path))
        draft = _Draft(base, run.entry, run.data, traits, parent_key, is_stage)
        drafts.setdefault(keys[run.name], draft).runs.append(run)
        return keys[run.name]

    for run in runs:
        place(run)
    return drafts


def _foreign_parent(run: Run) -> str:
    """Name a parent that is not among the runs: a published network, or a run of which at most the model is known."""
    return str(run.fact("teacher.model" if run.is_training else "model.name") or "")


def _traits(run: Run, parent: str) -> dict[str, Any]:
    """Return the settings, and what else can make numbers incomparable."""
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


def _add_unfinished(drafts: dict[str, _Draft], cells: Sequence[AskedRun], finished: set[Path]) -> None:
    """Count cells without a usable result in the method of their place in the sweep, or in one without runs."""
    keys = {run.path: key for key, draft in drafts.items() for run in draft.runs}
    by_place = {cell.place: keys[cell.run] for cell in cells if cell.run in keys}
    entries = {cell.stage: cell.run.parent.name for cell in cells if cell.run}
    for cell in cells:
        if cell.run in finished:
            continue

        # A cell that waits for its parent has no run folder yet: its entry is that of other cells of its stage.
        axes = dict(cell.at)
        entry = entries.get(cell.stage, "eval_shift" if "of" in axes else UNKNOWN)
        empty = _Draft(cell.label, entry, str(axes.get("data", "")), {"place": cell.title}, is_stage=True)
        key = by_place.setdefault(cell.place, cell.title)
        drafts.setdefault(key, empty).unfinished["unusable" if cell.state == "done" else cell.state] += 1


# --- labels -----------------------------------------------------------------------------------------------------


def _labels(drafts: Mapping[str, _Draft]) -> dict[str, str]:
    """Label each method by its base, what tells it from others of that base, and its parent.

    All labels on one data set differ. What is tested under shift has the label of the method that was trained.
    """
    namesakes: dict[tuple[Any, ...], list[_Draft]] = {}
    for draft in drafts.values():
        namesakes.setdefault(_name(draft), []).append(draft)
    differing = {name: _differing([draft.traits for draft in members]) for name, members in namesakes.items()}

    # A stage of a sweep says enough by its name, unless it has several parents.
    lines = {(draft.base, draft.data, draft.parent) for draft in drafts.values()}
    counts = Counter((base, data) for base, data, _ in lines)
    labels: dict[str, str] = {}

    def label(key: str) -> str:
        if key not in drafts:  # a network from elsewhere
            return key
        if key not in labels:
            draft = drafts[key]
            settings = _settings_text(draft, differing[_name(draft)])
            has_parent = draft.is_shift or not draft.is_stage or counts[draft.base, draft.data] > 1
            parent = label(draft.parent) if has_parent else ""
            if draft.is_shift:
                labels[key] = f"{parent or draft.base}{settings}"
            else:
                labels[key] = f"{draft.base}{settings} ← {parent}" if parent else f"{draft.base}{settings}"
        return labels[key]

    return _numbered({key: label(key) for key in drafts}, drafts)


def _name(draft: _Draft) -> tuple[Any, ...]:
    return draft.base, draft.data, draft.parent, draft.is_shift


def _numbered(labels: Mapping[str, str], drafts: Mapping[str, _Draft]) -> dict[str, str]:
    """Number the labels that are still the same."""
    places = {key: (drafts[key].is_shift, drafts[key].data, label) for key, label in labels.items()}
    counts, seen = Counter(places.values()), Counter[Any]()
    numbered = {}
    for key, place in places.items():
        seen[place] += 1
        numbered[key] = f"{labels[key]} #{seen[place]}" if counts[place] > 1 else labels[key]
    return numbered


def _differing(all_traits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the traits that are not the same in all."""
    names = dict.fromkeys(name for traits in all_traits for name in traits)
    return [name for name in names if len({json.dumps(traits.get(name), sort_keys=True) for traits in all_traits}) > 1]


def _settings_text(draft: _Draft, differing: Sequence[str]) -> str:
    names = [name for name in differing if name in draft.traits and name not in {"parent", "place"}]
    parts = [f"{name}={messages.shown(draft.traits[name])}" for name in names[:NAMED]]
    parts += [f"{len(names) - NAMED} more settings"] if len(names) > NAMED else []
    return f" {', '.join(parts)}" if parts else ""


# --- means over the runs of a method ----------------------------------------------------------------------------


def trained(methods: Iterable[Method]) -> list[Method]:
    return [method for method in methods if method.is_training]


def by_data(methods: Iterable[Method]) -> dict[str, list[Method]]:
    """Return the methods with runs, by data set."""
    members: dict[str, list[Method]] = {}
    for method in methods:
        if method.runs:
            members.setdefault(method.data, []).append(method)
    return members


def by_validation(methods: Iterable[Method]) -> list[Method]:
    """Sort methods, the best first, by validation: test accuracy would be flattered by a choice of its own."""
    return sorted(methods, key=lambda method: -(mean_of(method.values("val.accuracy")) or 0.0))


def estimate(name: str, values: Sequence[float], *, bounded: bool = False) -> dict[str, Any]:
    """Return the columns <name>_mean, _std, _low and _high (95 % t interval over seeds).

    A bounded value is a share: its interval is cut at 0 and 1.
    """
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
    """Return the value that all have in common, else None."""
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else None
