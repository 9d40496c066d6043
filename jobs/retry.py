"""Submit again what failed, as the sweep was last submitted: all of it, some classes of failure, or some runs.

    python jobs/retry.py sweep=cifar_all
    python jobs/retry.py sweep=cifar_all class=oom,timeout
    python jobs/retry.py sweep=cifar_all run=RUN,RUN             names, hashes or titles

Runs that could not start because of such a failure come along. What never failed is left to jobs/submit.py.
"""

import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from common.cli.command import DONE, answer, parse, runs_root
from common.failures import CLASSES, Refused
from common.settings import messages
from common.settings.field import Group, setting
from jobs.planning.plan import Chosen, make_plan
from jobs.planning.request import Asked, look, read_again
from jobs.planning.states import Standing, find_cell
from jobs.start import carry_on

RETRIED = (*CLASSES, "lost", "cancelled")


class RetryWords(Group):
    """Words of this command."""

    sweep: str = setting(..., "a sweep that was submitted")
    class_: str | None = setting(
        None, f"classes of failure, separated by commas: {', '.join(RETRIED)}; null is all", alias="class"
    )
    run: str | None = setting(None, "runs, separated by commas: names, hashes or titles; null is all that failed")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")


def main(argv: list[str] | None = None) -> int:
    return answer(_retry, argv, script="jobs/retry.py", about=__doc__, models=[RetryWords])


def _retry(argv: list[str]) -> int:
    words = parse(RetryWords, argv)
    classes = _classes(words.class_)
    asked = read_again(words.sweep, runs_root(words.root))
    standings, _ = look(asked)
    named = _named(asked, standings, words.run)
    chosen = _chosen(classes, named)

    # The same plan is made again to start them; here it says which of the chosen runs can start.
    start = make_plan(asked.sweep, standings, chosen=chosen).start
    for key in named - {cell.key for cell in start}:
        standing = standings[key]
        print(f"not taken up, {asked.sweep.cells[key].title}: {standing.state}. {standing.why}".rstrip(". "))
    if not start:
        failed = Counter(standing.cause for standing in standings.values() if standing.state == "failed")
        there = ", ".join(f"{count} {cause}" for cause, count in failed.items()) or "nothing failed"
        print(f"{asked.sweep.name}: nothing to retry ({there})")
        return DONE

    for cell in start:
        standing = standings[cell.key]
        print(f"again {cell.title}: {standing.cause if standing.state == 'failed' else 'after what it builds on'}")
    return carry_on(replace(asked, chosen=chosen))


def _classes(text: str | None) -> Collection[str]:
    classes = RETRIED if text is None else text.split(",")
    if unknown := [name for name in classes if name not in RETRIED]:
        raise Refused(messages.unknown("class", name, RETRIED) for name in unknown)
    return classes


def _named(asked: Asked, standings: Mapping[str, Standing], text: str | None) -> set[str]:
    """Return the keys of the runs that are named, by names, hashes or titles with commas between them."""
    names = text.split(",") if text else []
    return {find_cell(asked.sweep, standings, name.strip(), "run") for name in names}


def _chosen(classes: Collection[str], named: Collection[str]) -> Chosen:
    """Choose what failed, of these classes and runs; the plan starts blocked runs only after their parents."""

    def chosen(key: str, standing: Standing) -> bool:
        if standing.state == "failed":
            return standing.cause in classes and (not named or key in named)
        return standing.state == "blocked"

    return chosen


if __name__ == "__main__":
    sys.exit(main())
