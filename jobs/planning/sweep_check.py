"""Check the names in a sweep file, and in the words that override it, before cells are made of them.

Each function yields one line for each problem, with the names that are allowed.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from common.cli.compose import presets_of
from common.settings import messages
from common.settings.entries import ENTRIES, RunSettings
from common.settings.field import every_setting
from common.settings.yaml12 import load_yaml
from jobs.planning.ledger import STEWARD
from jobs.planning.sweep_file import MOST_VALUES, SHARED_AXES, Overrides, StageWords, SweepWords, flat, listed, twice

Axes = Mapping[str, Mapping[str, list[Any]]]  # stage: axis: its values

# Both names become part of a job's name, which is a line of a shell script: they hold nothing that a shell could read.
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def name_problems(sweep: str, words: SweepWords) -> Iterator[str]:
    """Yield which names of the sweep and its stages have characters that are not allowed, or are taken."""
    if not SWEEP_NAME.fullmatch(sweep):
        yield f"name: given {messages.shown(sweep)}, allowed: a file named with letters, digits, _, - and . alone"
    for stage in words.stages:
        if not STAGE_NAME.fullmatch(stage):
            yield f"stages: given {messages.shown(stage)}, allowed: a name of letters, digits, _ and -, at most 64"
        elif stage == STEWARD:
            yield f"stages: given {STEWARD}, allowed: another name; the job that submits again has this one"


def stage_problems(words: SweepWords, axes: Axes) -> Iterator[str]:
    """Yield what is wrong with entries, parents and settings."""
    for name, stage in words.stages.items():
        for problem in _problems_of_stage(stage, axes[name]):
            yield f"stage {name}: {problem}"
        of_teacher = axes.get(stage.parents[0], {}) if stage.parents else {}
        for axis in [axis for axis in stage.fixed if of_teacher and axis not in of_teacher]:
            yield f"stage {name}: teacher: {messages.unknown('axis', axis, of_teacher)}"

    shared = [*flat(words.with_), *(key for case in words.cases for key in flat(case.with_))]
    for problem in _taken_by_none(words, shared, list(words.stages)):
        yield f"with: {problem}"
    for section in (words.with_, *(case.with_ for case in words.cases)):
        yield from (f"with: {key} is there twice; allowed: once" for key in twice(section))
        for key in flat(section):
            if axis := axis_of(key, words.axes):
                yield f"with: {key}: {axis} is an axis of the sweep; allowed: one of the two"


def _problems_of_stage(stage: StageWords, axes: Iterable[str]) -> Iterator[str]:
    if stage.entry not in ENTRIES:
        yield messages.unknown("entry", stage.entry, ENTRIES)
        return

    entry = ENTRIES[stage.entry]
    if stage.teacher is not None and entry.PARENT != "teacher":
        yield f"{stage.entry} has no teacher; allowed: an entry that distils"
    if stage.of is not None and entry.PARENT != "run":
        yield f"{stage.entry} tests no runs; allowed: an entry that evaluates"
    if stage.of is None and entry.PARENT == "run":
        yield f"of is missing: the stages whose runs {stage.entry} tests"
        return

    yield from (f"{key} is there twice; allowed: once" for key in twice(stage.with_))
    for key in [*flat(stage.with_), *axes]:
        if not takes(entry, key):
            yield _not_taken(entry, key)


def condition_problems(words: SweepWords, axes: Axes) -> Iterator[str]:
    """Yield what cases, exclude and include name that is not there."""
    tested = ["of"] if any(stage.of for stage in words.stages.values()) else []
    known = sorted({"stage", *tested, *itertools.chain.from_iterable(axes.values())})
    cases = [case.when for case in words.cases]
    sections = {"cases": cases, "exclude": words.exclude, "include": words.include}
    for section, conditions in sections.items():
        for axis in [axis for when in conditions for axis in when if axis not in known]:
            yield f"{section}: {messages.unknown('axis', axis, known)}"
        for stage in [stage for when in conditions for stage in listed(when.get("stage", []))]:
            if not isinstance(stage, str) or stage not in words.stages:
                yield f"{section}: {messages.unknown('stage', stage, words.stages)}"


def include_problems(words: SweepWords) -> Iterator[str]:
    """Yield which cells to add have no stage, so that nobody would notice that they are not added."""
    for extra in words.include:
        if not isinstance(extra.get("stage"), str):
            yield f"include: given {messages.shown(extra)}, allowed: a cell with its stage, which is one name"


def override_problems(words: SweepWords, overrides: Overrides, wanted: Sequence[str], axes: Axes) -> Iterator[str]:
    """Yield what the command line names that no stage has."""
    for axis in overrides.axes:
        if axis not in SHARED_AXES and not any(axis in axes[stage] for stage in wanted):
            yield f"{axis}: no axis of this sweep"
    for word in overrides.words:
        name, _, text = word.partition("=")
        if problem := _no_value(text):
            yield f"{name}: given {messages.shown(text)!r}, {problem}"
        stage, key = stage_and_key(words, name)
        stages = [stage] if stage else wanted or list(words.stages)
        yield from _taken_by_none(words, [key], stages)

        # A setting that overrules an axis would make one run of all its cells, and n of status a lie.
        varied = [name for name in stages if axis_of(key, axes[name])]
        if varied:
            instead = {"seed": "seeds=0-4", "data": "data=NAME,NAME", "data.name": "data=NAME,NAME"}
            allowed = instead.get(key, "other values of the axis in a sweep file")
            yield f"{key}: an axis of {', '.join(varied)}; allowed: {allowed}"


def _no_value(text: str) -> str:
    """Say why a text is no value of a setting, as an entry says it of its own command line; empty where it is one."""
    try:
        value = load_yaml(text)
    except ValueError as error:
        return f"which is not YAML: {error}"
    nothing = value is None and text.strip().lower() != "null"
    return "which is no value; where none is allowed, it is written null" if nothing else ""


def axis_of(key: str, axes: Iterable[str]) -> str:
    """Return the axis that a setting would overrule; empty where it overrules none."""
    return next((axis for axis in axes if key in {axis, f"{axis}.name"}), "")


def size_problems(words: SweepWords, wanted: Sequence[str], axes: Axes) -> Iterator[str]:
    """Yield that the sweep is too large, before its cells are made."""
    runs: dict[str, int] = {}
    for stage in wanted:
        of = words.stages[stage].parents if words.stages[stage].of else ()
        runs[stage] = math.prod(map(len, axes[stage].values())) * (sum(runs.get(name, 0) for name in of) if of else 1)
    if sum(runs.values()) > MOST_VALUES:
        yield f"{sum(runs.values())} runs, allowed: at most {MOST_VALUES} in one sweep"


def stage_and_key(words: SweepWords, key: str) -> tuple[str, str]:
    """Split STAGE.key, a setting of that stage alone; the stage is empty where the key is for all stages.

    A stage may have the name of a group of settings: then shift.severities is the setting, unless that stage has one
    called severities.
    """
    stage, _, rest = key.partition(".")
    if stage not in words.stages:
        return "", key
    own = ENTRIES.get(words.stages[stage].entry)
    if own and not takes(own, rest) and any(takes(entry, key) for entry in _entries(words, words.stages)):
        return "", key
    return stage, rest


def takes(entry: type[RunSettings], key: str) -> bool:
    """Say whether a sweep may set this of an entry; what follows from the run that it tests may not be set."""
    if key.partition(".")[0] in entry.FROM_PARENT:
        return False
    return key in presets_of(entry) or (bool(key) and key == entry.PARENT) or key in every_setting(entry)


def _taken_by_none(words: SweepWords, keys: Iterable[str], stages: Iterable[str]) -> Iterator[str]:
    """Yield a problem for each setting that none of the stages has; one that has it is enough."""
    entries = _entries(words, stages)
    for key in keys:
        if entries and not any(takes(entry, key) for entry in entries):
            yield _not_taken(entries[0], key)


def _not_taken(entry: type[RunSettings], key: str) -> str:
    if key.partition(".")[0] in entry.FROM_PARENT:
        return f"{key}: that of the run that is tested; allowed: settings of the test itself"
    return messages.no_such_setting(key, [entry])


def _entries(words: SweepWords, stages: Iterable[str]) -> list[type[RunSettings]]:
    names = [words.stages[stage].entry for stage in stages]
    return [ENTRIES[name] for name in names if name in ENTRIES]
