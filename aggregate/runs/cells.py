"""This module reads the cells of a sweep from what jobs/status.py tells of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.settings import messages


@dataclass(frozen=True)
class AskedRun:
    """One run that a sweep asks for, whether or not it has a result."""

    stage: str
    at: tuple[tuple[str, Any], ...]  # axis, value; without the seed
    seed: int
    run: Path | None
    state: str
    why: str = ""

    @property
    def place(self) -> tuple[Any, ...]:
        """The stage and the axes: cells that share them differ in the seed alone."""
        return (self.stage, *self.at)

    @property
    def title(self) -> str:
        return " ".join([self.stage, *(f"{axis}={messages.shown(value)}" for axis, value in self.at)])

    @property
    def label(self) -> str:
        """The name of a method without runs in tables, which name the data set elsewhere."""
        axes = [f"{axis}={messages.shown(value)}" for axis, value in self.at if axis not in {"data", "of"}]
        return " ".join([str(dict(self.at).get("of", self.stage)), *axes])


def cell_of(facts: Mapping[str, Any]) -> AskedRun:
    """Make a cell of one entry of jobs/status.py's JSON; its cause of failure stands before the reason."""
    axes = dict(facts["axes"])
    seed = int(axes.pop("seed", 0))

    parts = [f"({facts['cause']})"] if facts.get("cause") else []
    parts += [str(facts["why"])] if facts.get("why") else []
    run = Path(facts["run"]) if facts["run"] else None
    return AskedRun(
        str(facts["stage"]), tuple(axes.items()), seed, run, str(facts["state"]), messages.one_line(" ".join(parts))
    )
