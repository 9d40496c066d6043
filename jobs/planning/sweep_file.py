"""This module defines what a sweep file may say, and reads its axes and conditions; sweep.py makes cells of it."""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, field_validator

from common.settings import messages
from common.settings.field import Group, setting
from common.settings.yaml12 import load_yaml
from jobs.planning.cell import Resources

Values = dict[str, Any]
MOST_VALUES = 100_000  # of an axis, and runs of a sweep: what a machine can still plan
SPAN = re.compile(r"(?P<first>[0-9]{1,18})(-(?P<last>[0-9]{1,18}))?")
SHARED_AXES = {"seed", "data"}  # every sweep may be asked for these, whether its file has them or not


# --- the file ---------------------------------------------------------------------------------------------------


class StageWords(Group):
    """One stage: an entry, run once for each combination of the axes."""

    entry: str = setting(..., "script that every run of the stage starts: train_cnn, distill_kd, ...")
    teacher: str | Values | None = setting(
        None, "stage whose runs teach this one's, or {stage: NAME, axis: value} to fix some of its axes"
    )
    of: str | list[str] | None = setting(None, "stages whose runs this one tests, each of them once")
    axes: Values = setting({}, "axes of this stage alone, beside those of the sweep")
    with_: Values = Field(default={}, alias="with", description="settings of every run of the stage")
    resources: Resources = Resources()

    @field_validator("teacher", mode="before")
    @classmethod
    def teacher_is_a_stage(cls, teacher: Any) -> Any:
        name = teacher.get("stage") if isinstance(teacher, dict) else teacher
        if teacher is not None and not isinstance(name, str):
            raise ValueError(f"given {messages.shown(teacher)}, allowed: STAGE, or {{stage: STAGE, axis: value}}")
        return teacher

    @field_validator("of", mode="before")
    @classmethod
    def of_are_stages(cls, of: Any) -> Any:
        if of is not None and not all(isinstance(name, str) for name in listed(of)):
            raise ValueError(f"given {messages.shown(of)}, allowed: STAGE, or a list of stages")
        return of

    @property
    def parents(self) -> tuple[str, ...]:
        """Name the stage that teaches this one, or those whose runs it tests."""
        teacher = self.teacher.get("stage", "") if isinstance(self.teacher, dict) else self.teacher
        return tuple(listed(teacher or self.of or []))

    @property
    def fixed(self) -> Values:
        """Return the axes of the teacher that have one value, whatever this stage's is."""
        words = self.teacher if isinstance(self.teacher, dict) else {}
        return {axis: value for axis, value in words.items() if axis != "stage"}


class Case(Group):
    """Cells that match have these settings and resources."""

    when: Values = setting(..., "axis: value, or a list of values; stage: NAME")
    with_: Values = Field(default={}, alias="with", description="settings of these runs")
    resources: Resources = Resources()


class SweepWords(Group):
    """A sweep file."""

    about: str = setting("", "one line on what the sweep is for")
    axes: Values = setting({}, "name: values, as a list or as a range of whole numbers such as 0-4")
    with_: Values = Field(default={}, alias="with", description="settings of every stage that has them")
    stages: dict[str, StageWords] = setting(..., "name: what runs; a stage comes after the one that teaches it")
    cases: list[Case] = setting([], "exceptions for some cells")
    exclude: list[Values] = setting([], "cells to leave out")
    include: list[Values] = setting([], "cells to add, each with its stage and a value for every axis")

    @field_validator("stages", mode="before")
    @classmethod
    def stages_are_mappings(cls, stages: Any) -> Any:
        form = "a mapping such as {cnn: {entry: train_cnn}}"
        if not isinstance(stages, dict) or not all(isinstance(name, str) for name in stages):
            raise ValueError(f"given {messages.shown(stages)}, allowed: {form}")
        wrong = [name for name, stage in stages.items() if not isinstance(stage, dict | StageWords)]
        if wrong:
            given = ", ".join(f"{name}: {messages.shown(stages[name])}" for name in wrong)
            raise ValueError(f"given {given}, allowed: {form}")
        return stages


@dataclass(frozen=True)
class Overrides:
    """The words of the command line that change a sweep file."""

    axes: Values = field(default_factory=dict)
    only: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # key=value, for every stage that has the setting; STAGE.key=value for one


# --- reading its values ------------------------------------------------------------------------------------------


def values_of(axis: str, text_or_list: Any) -> list[Any]:
    """Read `0-4`, `0-4,7`, a list, or a single value; ValueError where it is none of these, or says a value twice."""
    values: list[Any]
    if isinstance(text_or_list, str) and axis == "seed":
        spans = [_span(part) for part in text_or_list.split(",")]
        if sum(map(len, spans)) > MOST_VALUES:
            raise ValueError(f"allowed: at most {MOST_VALUES} values")
        values = [number for span in spans for number in span]
    elif isinstance(text_or_list, str):
        try:
            values = [load_yaml(part) for part in text_or_list.split(",")]
        except ValueError:
            raise ValueError("allowed: values with commas between them, without brackets") from None
    else:
        values = listed(text_or_list)

    if not values or any(isinstance(value, dict) or value is None for value in values):
        raise ValueError("allowed: a list of values")
    if any(isinstance(part, list | dict) for value in values for part in listed(value) if isinstance(value, list)):
        raise ValueError("allowed: a list of values, each of them single or a list of single ones")
    if axis == "data" and not all(isinstance(value, str) for value in values):
        raise ValueError("allowed: names of data sets, as in mnist,cifar10")
    if len({json.dumps(value) for value in values}) < len(values):
        raise ValueError("which says a value twice")
    return values


def _span(part: str) -> range:
    span = SPAN.fullmatch(part.strip())
    first, last = (int(span["first"]), int(span["last"] or span["first"])) if span else (0, -1)
    if last < first:
        raise ValueError("allowed: whole numbers and ranges of them, such as 0-4 or 0-2,7")
    return range(first, last + 1)


def unfit(tree: Any) -> str:
    """Say what a file holds that no sweep can; empty where it may be read on. How much it holds, its reader limits."""
    values = [tree]
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values.extend(value.values() if isinstance(value, dict) else value)
        elif value is not None and not isinstance(value, str | int | float):
            return f"holds {messages.shown(value)}, allowed: text, numbers, true, false, null, lists and mappings"
    return ""


def twice(tree: Mapping[str, Any]) -> list[str]:
    """List the settings that are said both ways, {recipe: {epochs: 5}} and {recipe.epochs: 5}."""
    return [name for name, count in Counter(_names(tree)).items() if count > 1]


def _names(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write {recipe: {epochs: 5}} as {recipe.epochs: 5}, which means the same."""
    settings: dict[str, Any] = {}
    for name, value in tree.items():
        settings |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return settings


def matches(when: Mapping[str, Any], stage: str, at: Mapping[str, Any]) -> bool:
    here = {"stage": stage, **at}
    return all(name in here and here[name] in listed(wanted) for name, wanted in when.items())


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def as_text(value: Any) -> str:
    """Write a value as a word of the command line has it: YAML reads it back as the same value."""
    return value if isinstance(value, str) and _means_itself(value) else json.dumps(value)


@functools.cache
def _means_itself(text: str) -> bool:
    return bool(text) and load_yaml(text) == text
