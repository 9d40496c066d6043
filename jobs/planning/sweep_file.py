"""What a sweep file may say, and how its axes and conditions are read. What becomes of it is in sweep.py."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from common.settings.field import Group, setting
from common.settings.yaml12 import load_yaml
from jobs.planning.cell import Resources

Values = dict[str, Any]


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


class Case(Group):
    """Settings and resources of the cells that match."""

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


# --- reading its values ------------------------------------------------------------------------------------------


def values_of(axis: str, given: Any) -> list[Any]:
    """`0-4`, `0-4,7`, a list, or a single value. ValueError where it is none of these, or says a value twice."""
    if isinstance(given, str) and axis == "seed":
        found: list[Any] = [number for part in given.split(",") for number in _span(part)]
    elif isinstance(given, str):
        found = [load_yaml(part) for part in given.split(",")]
    else:
        found = list(given) if isinstance(given, list) else [given]
    if not found or any(isinstance(value, dict) or value is None for value in found):
        raise ValueError("allowed: a list of values")
    if len({json.dumps(value) for value in found}) < len(found):
        raise ValueError("which says a value twice")
    return found


def _span(part: str) -> list[int]:
    first, dash, last = part.strip().partition("-")
    if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
        raise ValueError("allowed: whole numbers and ranges of them, such as 0-4 or 0-2,7")
    return list(range(int(first), int(last) + 1)) if dash else [int(first)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{recipe: {epochs: 5}} and {recipe.epochs: 5} are the same."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def matches(when: Mapping[str, Any], stage: str, at: Mapping[str, Any]) -> bool:
    here = {"stage": stage, **at}
    return all(name in here and here[name] in listed(wanted) for name, wanted in when.items())


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def as_text(value: Any) -> str:
    """As in a word of the command line, which YAML reads back as the same value."""
    return value if isinstance(value, str) and _as_it_is(value) else json.dumps(value)


@functools.cache
def _as_it_is(text: str) -> bool:
    return bool(text) and load_yaml(text) == text
