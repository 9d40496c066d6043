"""Show where every run of a sweep stands, and why.

    python jobs/status.py sweep=cifar_all                  counts, mean test accuracy, what runs, what failed
    python jobs/status.py sweep=cifar_all watch=true       again every five seconds
    python jobs/status.py sweep=cifar_all json=true
    python jobs/status.py sweep=cifar_all why=RUN          a run's name, hash or title: its end, and what mends it

The sweep is looked at as it was last submitted. Run folders tell most; where the scheduler does not answer, all.
"""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from common.cli.command import DONE, FAILED, answer, parse, runs_root
from common.files import read_json
from common.run.run_dir import RunDir
from common.settings.field import Group, setting
from jobs.planning.cell import Cell, Sweep
from jobs.planning.request import Asked, look, read_again
from jobs.planning.states import Standing, find_cell
from jobs.planning.table import print_table, said

WATCH_SECONDS = 5.0
TRACE_LINES = 12

ADVICE = {
    "oom": "memory=small, or a larger max_mem_gb in the profile; python jobs/submit.py takes it up again with more",
    "timeout": "a larger max_time_min in the profile; it goes on from its checkpoint",
    "nan": "a smaller recipe.lr, or recipe.precision=bf16 instead of fp16",
    "data": "python jobs/prepare.py data=NAME verify=true, then prepare it again",
    "config": "the message names the setting",
    "disk": "python jobs/prune.py frees checkpoints of finished runs",
    "bug": "the traceback names the line",
}


class StatusWords(Group):
    """Words of this command."""

    sweep: str = setting(..., "a sweep that was submitted")
    watch: bool = setting(False, "look again every five seconds until all is over")
    json_: bool = setting(False, "machine-readable", alias="json")
    why: str | None = setting(None, "a run: its name, its hash, or its title, such as 'cnn seed=0 data=digits'")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")


def main(argv: list[str] | None = None) -> int:
    return answer(_status, argv, script="jobs/status.py", about=__doc__, models=[StatusWords])


def _status(argv: list[str]) -> int:
    words = parse(StatusWords, argv)
    root = runs_root(words.root)
    asked = read_again(words.sweep, root)
    with suppress(BrokenPipeError, KeyboardInterrupt):  # status | head; the end of a watch
        return _look_on(asked, words)
    return DONE


def _look_on(asked: Asked, words: StatusWords) -> int:
    while True:
        standings, _ = look(asked)
        if words.why is not None:
            return _explain(asked.sweep, standings, words.why)
        if words.json_:
            print(json.dumps([_facts(cell, standings[key]) for key, cell in asked.sweep.cells.items()], indent=1))
        else:
            print_table(asked.sweep, standings)

        # The watch ends when nothing can change any more; a run that waits may still be started.
        states = {standing.state for standing in standings.values()}
        if not words.watch or states <= {"done", "failed", "blocked"}:
            return FAILED if states & {"failed", "blocked"} else DONE
        time.sleep(WATCH_SECONDS)


def _facts(cell: Cell, standing: Standing) -> dict[str, Any]:
    test = (standing.result or {}).get("test", {})
    # The keys are for programs: they stay as they are.
    return {
        "stage": cell.stage,
        "axes": dict(cell.at),
        "key": cell.key,
        "run": str(standing.run) if standing.run else None,
        "state": standing.state,
        "cause": standing.cause or None,
        "why": standing.why or None,
        "epoch": standing.epoch and standing.epoch[0],
        "epochs": standing.epoch and standing.epoch[1],
        "job": standing.task,
        "test_accuracy": test.get("accuracy"),
    }


# --- one run ------------------------------------------------------------------------------------------------------


def _explain(sweep: Sweep, standings: Mapping[str, Standing], name: str) -> int:
    """Print where one run stands, how it failed, and what mends it."""
    key = find_cell(sweep, standings, name, "why")
    cell, standing = sweep.cells[key], standings[key]
    print(f"{cell.title}: {standing.state}. {said(standing)}".rstrip(". "))
    if standing.run:
        print(f"folder: {standing.run}")
        failure = read_json(RunDir(standing.run).failure) if standing.state == "failed" else None
        for line in str((failure or {}).get("traceback", "")).rstrip().splitlines()[-TRACE_LINES:]:
            print(f"  {line}")

    # A blocked run has the cause of the one that it builds on: the same advice mends both.
    if standing.state in {"failed", "blocked"}:
        print(f"mend: {ADVICE.get(standing.cause, 'it goes on where it was')}")
        print(f"then: python jobs/submit.py sweep={sweep.name}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
