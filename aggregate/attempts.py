"""What attempts that failed have cost, as far as a run's log tells: a run's own times are those of epochs it kept.

A killed attempt writes no last line, so that all of this is the least that it can have been. Times are by the clock of
the machine; a log that jumps back counts as no time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from aggregate.collect import Run
from common.run_dir import RunDir

LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+ (.*)")
EPOCH = re.compile(r"epoch (\d+)/\d+: .*, (\d+\.\d) s$")


@dataclass
class LoggedAttempt:
    began: datetime
    ended: datetime
    epochs: dict[int, float] = field(default_factory=dict)  # epoch -> seconds

    @property
    def seconds(self) -> float:
        return max(0.0, (self.ended - self.began).total_seconds())


def lost_seconds(run: Run) -> float:
    """Of a finished run: its earlier attempts, but for the epochs that later ones went on from."""
    return _lost(_logged(run.path)) if run.provenance.get("earlier_attempts") else 0.0


def spent_seconds(folder: Path) -> float:
    """Of a run without a result: all of its attempts."""
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
    """By log.txt, in which each attempt begins with a line of its run's folder."""
    found: list[LoggedAttempt] = []
    try:
        with RunDir(folder).log.open(errors="replace") as file:
            for line in file:
                _read_line(line, found)
    except (OSError, ValueError):
        return found
    return found


def _read_line(line: str, found: list[LoggedAttempt]) -> None:
    matched = LINE.match(line)
    if not matched:
        return
    at, said = datetime.fromisoformat(matched[1]), matched[2]
    if said.startswith("run "):
        found.append(LoggedAttempt(at, at))
    if found:
        found[-1].ended = at
        if epoch := EPOCH.match(said):
            found[-1].epochs[int(epoch[1])] = float(epoch[2])
