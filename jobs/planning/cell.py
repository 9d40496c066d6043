"""A sweep is made of cells, one run each; each cell has a key, which names its run before the parent is finished.

A run that builds on another (its teacher, or the run it tests) has the digest of that run's weights in its name, which
nobody knows yet. The key of its cell is the name that it would have if the parent's key were that digest. The same
cell has the same key in every sweep, so nothing is trained or submitted twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.settings import messages
from common.settings.entries import RunSettings, run_name
from common.settings.field import Group, setting

# The way to a run, as strings: (entry, words) of its first forebear, ..., of the run itself.
Lineage = tuple[tuple[str, tuple[str, ...]], ...]


class Resources(Group):
    """A stage of a sweep asks for these; null is what the profile gives."""

    gpus: int | None = setting(None, "GPUs of one run, on one node", ge=0)
    cpus: int | None = setting(None, "CPU cores per task; a run on several GPUs has one task per GPU", ge=1)
    mem_gb: float | None = setting(None, "memory of one run in GiB", gt=0)
    time_min: int | None = setting(None, "time limit in minutes; what is not done by then is resumed", ge=1)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    stage: str
    at: Mapping[str, Any]  # axis: value
    entry: str
    words: tuple[str, ...]  # what follows the script's name, but for the parent
    settings: RunSettings  # the parent's digest is the parent's key
    key: str
    parent: str | None  # the parent's key
    resources: Resources

    @property
    def title(self) -> str:
        at = [f"{axis}={messages.one_line(messages.shown(value))}" for axis, value in self.at.items()]
        return " ".join([self.stage, *at])

    @property
    def parent_role(self) -> str:
        """Say in words what the parent is to this cell."""
        return "the run that it tests" if self.settings.PARENT == "run" else "its teacher"


@dataclass(frozen=True)
class Sweep:
    name: str
    about: str
    cells: Mapping[str, Cell]  # by key, parents before children
    stages: Mapping[str, tuple[str, ...]]  # stage: keys of its cells; a cell may belong to several stages
    parents: Mapping[str, tuple[str, ...]]  # stage: those that its runs build on
    notes: tuple[str, ...] = ()  # what is no mistake, but probably not meant
    unprepared: tuple[str, ...] = ()  # published sets that its runs need and that must be prepared first


def key_of(settings: RunSettings, parent: str | None) -> str:
    """Name a cell before its parent is finished; without a parent, the key is the name of the run."""
    return run_name(built_on(settings, parent) if parent else settings)


def run_on(cell: Cell, digest: str) -> str:
    """Name the cell's run, now that its parent's weights are known."""
    return run_name(built_on(cell.settings, digest))


def built_on(settings: RunSettings, digest: str) -> RunSettings:
    parent = dict(settings)[settings.PARENT].model_copy(update={"digest": digest})
    return settings.model_copy(update={settings.PARENT: parent})
