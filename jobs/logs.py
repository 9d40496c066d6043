"""Show the end of a run's log, and follow what comes after it.

    python jobs/logs.py sweep=cifar_all run=RUN                  a run's name, its hash, or its title
    python jobs/logs.py sweep=cifar_all run=RUN follow=true      until the run ends

If a run ended before it could write a log, what it printed is shown instead: this machine or SLURM has kept it.
"""

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from common.cli.command import DONE, FAILED, answer, parse, runs_root
from common.run.run_dir import RunDir
from common.settings.field import Group, setting
from jobs.planning.cell import Sweep
from jobs.planning.ledger import Ledger
from jobs.planning.request import Asked, look, read_again
from jobs.planning.states import Standing, find_cell

LOOK_SECONDS = 1.0
ASK_SECONDS = 5.0  # between two questions where the run stands
END = 2**20  # bytes in which the last lines are looked for


class LogsWords(Group):
    """Words of this command."""

    sweep: str = setting(..., "a sweep that was submitted")
    run: str = setting(..., "a run: its name, its hash, or its title, such as 'cnn seed=0 data=digits'")
    follow: bool = setting(False, "go on until the run ends")
    lines: int = setting(40, "lines of the end", ge=0)
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")


def main(argv: list[str] | None = None) -> int:
    return answer(_logs, argv, script="jobs/logs.py", about=__doc__, models=[LogsWords])


def _logs(argv: list[str]) -> int:
    words = parse(LogsWords, argv)
    asked = read_again(words.sweep, runs_root(words.root))
    standings, _ = look(asked)
    key = find_cell(asked.sweep, standings, words.run, "run")

    # The reader may close the pipe (logs | head) or press Ctrl-C: neither is a failure.
    with suppress(BrokenPipeError, KeyboardInterrupt):
        if words.follow:
            return _follow(replace(asked, sweep=_with_parents_only(asked.sweep, key)), key, words.lines)

        standing = standings[key]
        path = _log_of(standing, key, asked.ledger)
        if path is None:
            print(f"{asked.sweep.cells[key].title}: {standing.state}, no log yet. {standing.why}".rstrip(". "))
        else:
            _Tail(path).show(words.lines)
    return DONE


def _with_parents_only(sweep: Sweep, key: str) -> Sweep:
    """Keep only what decides where one run stands, so that asking again and again costs little."""
    cells = {}
    at: str | None = key
    while at:
        cells[at] = sweep.cells[at]
        at = sweep.cells[at].parent
    return replace(sweep, cells=dict(reversed(cells.items())))


def _follow(asked: Asked, key: str, lines: int) -> int:
    """Print what is written to the log until the run ends."""
    tail: _Tail | None = None
    while True:
        standings, _ = look(asked)
        standing = standings[key]
        over = _over(standing, tail is not None)
        end = time.monotonic() + (0 if over else ASK_SECONDS)

        # The file is read every second; where the run stands, which may ask SLURM, is looked up less often.
        while True:
            path = _log_of(standing, key, asked.ledger)
            if path and (tail is None or path != tail.path):  # what the machine kept comes before the run's own
                tail = _Tail(path)
                tail.show(lines)
            elif tail:
                tail.go_on()
            if time.monotonic() >= end:
                break
            time.sleep(LOOK_SECONDS)

        if over:
            print(f"{asked.sweep.cells[key].title}: {standing.state}. {standing.why}".rstrip(". "))
            return DONE if standing.state == "done" else FAILED


def _over(standing: Standing, begun: bool) -> bool:
    """Say whether the run has ended; one that waits again after it ran was stopped."""
    return standing.state in {"done", "failed", "blocked"} or (begun and standing.state == "waiting")


def _log_of(standing: Standing, key: str, ledger: Ledger) -> Path | None:
    """Choose the best log there is: the run's own, else what it printed here, else what it printed as a job."""
    candidates = [RunDir(standing.run).log] if standing.run else []
    candidates.append(ledger.logs / f"{key}.txt")
    if standing.task:
        folder = ledger.slurm / standing.task
        candidates += [folder / f"{standing.task}_0_log.{kind}" for kind in ("err", "out")]
    return next((path for path in candidates if path.is_file() and path.stat().st_size), None)


@dataclass
class _Tail:
    path: Path
    shown: int = 0  # bytes

    def show(self, lines: int) -> None:
        print(f"# {self.path}")
        with self.path.open("rb") as file:
            self.shown = self.path.stat().st_size
            file.seek(max(0, self.shown - END))
            text = file.read(min(self.shown, END)).decode(errors="replace")
        kept = text.splitlines(keepends=True)
        sys.stdout.write("".join(kept[len(kept) - lines :] if lines < len(kept) else kept))
        sys.stdout.flush()

    def go_on(self) -> None:
        """Print what was written since; all of it if the file has been replaced by a shorter one."""
        try:
            with self.path.open("rb") as file:
                size = self.path.stat().st_size
                file.seek(self.shown if size >= self.shown else 0)
                new = file.read()
                self.shown = file.tell()
        except FileNotFoundError:  # set aside; the next look finds the new one
            return
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
