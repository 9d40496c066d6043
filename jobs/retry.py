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
    found, _ = look(asked)
    named = _named(asked, found, words.run)
    chosen = _chosen(classes, named)
    start = make_plan(asked.sweep, found, chosen=chosen).start
    for key in named - {cell.key for cell in start}:
        print(f"not taken up, {asked.sweep.cells[key].title}: {found[key].state}. {found[key].why}".rstrip(". "))
    if not start:
        failed = Counter(each.cause for each in found.values() if each.state == "failed")
        there = ", ".join(f"{count} {cause}" for cause, count in failed.items()) or "nothing failed"
        print(f"{asked.sweep.name}: nothing to retry ({there})")
        return DONE
    for cell in start:
        standing = found[cell.key]
        print(f"again {cell.title}: {standing.cause if standing.state == 'failed' else 'behind what it builds on'}")
    return carry_on(replace(asked, chosen=chosen))


def _classes(given: str | None) -> Collection[str]:
    classes = RETRIED if given is None else given.split(",")
    if unknown := [each for each in classes if each not in RETRIED]:
        raise Refused(messages.unknown("class", each, RETRIED) for each in unknown)
    return classes


def _named(asked: Asked, found: Mapping[str, Standing], given: str | None) -> set[str]:
    return {find_cell(asked.sweep, found, each.strip(), "run") for each in given.split(",")} if given else set()


def _chosen(classes: Collection[str], named: Collection[str]) -> Chosen:
    """What failed, of these classes and runs. The blocked follow their parents, which the plan sees to."""

    def chosen(key: str, standing: Standing) -> bool:
        if standing.state == "failed":
            return standing.cause in classes and (not named or key in named)
        return standing.state == "blocked"

    return chosen


if __name__ == "__main__":
    sys.exit(main())
