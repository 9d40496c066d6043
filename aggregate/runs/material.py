"""This module gathers what a report is made of: the cells of a sweep, or the folders that a pattern matches."""

import glob
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aggregate.runs.cells import AskedRun, cell_of
from aggregate.runs.collect import LeftOut, Run, collect
from common.failures import Refused
from common.files import expanded
from common.run.run_dir import RunDir
from common.settings import messages
from common.settings.yaml12 import read_mapping

STATUS = Path(__file__).parents[2] / "jobs" / "status.py"
SWEEPS = STATUS.with_name("sweeps")


@dataclass(frozen=True)
class Material:
    """The runs of a report, the folders that were left out, and the cells if it is about a sweep."""

    name: str
    source: str
    runs: Sequence[Run]
    left_out: Sequence[LeftOut]
    cells: Sequence[AskedRun] = ()
    about: str = ""  # what its file says that the sweep is for

    def counted(self) -> str:
        counts = f"{len(self.runs)} runs counted, {len(self.left_out)} folders left out"
        missing = len(self.cells) - len(self.runs)
        return f"{counts}, {missing} of {len(self.cells)} cells without a usable result" if self.cells else counts


def of_sweep(sweep: str, root: Path) -> Material:
    """Gather the runs of a sweep; jobs/status.py is run for its cells, as no stage imports another."""
    command = [sys.executable, str(STATUS), f"sweep={sweep}", f"root={root}", "json=true"]
    status = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        cells = [cell_of(facts) for facts in json.loads(status.stdout)]
    except (ValueError, KeyError, TypeError):
        problems = status.stderr.strip().splitlines() or ["jobs/status.py said nothing"]
        raise Refused(problems if status.returncode == 2 else [f"sweep: {problems[-1]}"]) from None

    # A cell without a result is no folder that was left out: the table of unfinished cells says how it stands.
    runs, left_out = collect(cell.run for cell in cells if cell.run and _has_result(cell.run))
    name = Path(sweep).stem if sweep.endswith((".yaml", ".yml")) else sweep
    return Material(name, f"sweep {name}, {len(cells)} cells, under {root}", runs, left_out, cells, about(name, root))


def _has_result(folder: Path) -> bool:
    return os.path.lexists(RunDir(folder).result)  # unlike Path.exists, it does not fail where nobody may look


def about(sweep: str, root: Path) -> str:
    """Read what the file of the sweep says that it is for; the root remembers which file it was submitted from."""
    with suppress(Refused, TypeError, RecursionError):
        words = read_mapping(root / "jobs" / "sweeps" / f"{sweep}.yaml").get("words")
        named = [word.removeprefix("sweep=") for word in map(str, words or ()) if word.startswith("sweep=")]
        name = named[-1] if named else sweep
        path = expanded(name) if name.endswith((".yaml", ".yml")) else SWEEPS / f"{name}.yaml"
        return messages.one_line(str(read_mapping(path).get("about") or ""))
    return ""


def of_pattern(pattern: str) -> Material:
    paths = glob.glob(str(expanded(pattern)))  # noqa: PTH207 - Path.glob takes no pattern that begins at the top
    folders = [Path(path) for path in sorted(paths) if not os.path.isfile(path)]  # noqa: PTH113 - as in _has_result
    if not folders:
        raise Refused([f"runs: {pattern} matches no folder; expected run folders, such as 'runs/*/*'"])

    runs, left_out = collect(folders)
    return Material("runs", f"{len(folders)} folders of {pattern}", runs, left_out)
