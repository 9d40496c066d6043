"""What a report is made of: the cells of a sweep, or the folders that a pattern matches."""

import glob
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregate.runs.collect import LeftOut, Run, collect
from aggregate.runs.methods import AskedRun, cell_of
from common.failures import Refused
from common.files import expanded
from common.run.run_dir import RunDir

STATUS = Path(__file__).parents[2] / "jobs" / "status.py"


@dataclass(frozen=True)
class Material:
    """What a report is made of."""

    name: str
    source: str
    runs: Sequence[Run]
    left_out: Sequence[LeftOut]
    cells: Sequence[AskedRun] = ()

    def counted(self) -> str:
        said = f"{len(self.runs)} runs counted, {len(self.left_out)} folders left out"
        missing = len(self.cells) - len(self.runs)
        return f"{said}, {missing} of {len(self.cells)} cells without a usable result" if self.cells else said


def of_sweep(given: str, root: Path) -> Material:
    """Its cells, as jobs/status.py tells of them: only files and commands cross between the stages of this suite."""
    command = [sys.executable, str(STATUS), f"sweep={given}", f"root={root}", "json=true"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        cells = [cell_of(facts) for facts in json.loads(told.stdout)]
    except (ValueError, KeyError, TypeError):
        said = told.stderr.strip().splitlines() or ["jobs/status.py said nothing"]
        raise Refused(said if told.returncode == 2 else [f"sweep: {said[-1]}"]) from None
    runs, left = collect(cell.run for cell in cells if cell.run and RunDir(cell.run).result.exists())
    name = Path(given).stem if given.endswith((".yaml", ".yml")) else given
    return Material(name, f"sweep {name}, {len(cells)} cells, under {root}", runs, left, cells)


def of_pattern(pattern: str) -> Material:
    found = glob.glob(str(expanded(pattern)))  # noqa: PTH207 - Path.glob takes no pattern that begins at the top
    folders = [path for path in map(Path, sorted(found)) if path.is_dir()]
    if not folders:
        raise Refused([f"runs: {pattern} matches no folder; expected run folders, such as 'runs/*/*'"])
    runs, left = collect(folders)
    return Material("runs", f"{len(folders)} folders of {pattern}", runs, left)
