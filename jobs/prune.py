"""Free what finished runs do not need any more, and what killed processes have left.

    python jobs/prune.py dry_run=true                what it would free
    python jobs/prune.py sweep=cifar_all             of this sweep's runs alone
    python jobs/prune.py best=true                   their best weights too, but for those that others still need

Results, histories, predictions and logs stay. A finished run without its weights can be read, but not evaluated again.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.cli.command import DONE, FAILED, answer, parse, runs_root
from common.failures import Refused
from common.run.run_dir import RunDir
from common.settings.entries import ENTRIES, RunSettings
from common.settings.field import Group, setting
from common.settings.messages import one_line
from jobs.machine import scheduler
from jobs.planning.ledger import Ledger
from jobs.planning.request import Asked, look, read_again

TEMPORARY_AGE_S = 24 * 3600  # a younger one may be of a writer on another machine
SHOWN = 20  # runs in a list

CHECKPOINTS, BEST = "checkpoints of finished runs", "best weights of finished runs"
TEMPORARY, PICKLES = "temporary files", "pickles of ended jobs"


class PruneWords(Group):
    """Words of this command."""

    sweep: str | None = setting(None, "a sweep that was submitted; null is every run under root")
    dry_run: bool = setting(False, "print what would be freed, do nothing")
    best: bool = setting(
        False, "also the best weights of finished runs, but for those that an unfinished run of any sweep builds on"
    )
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")


@dataclass
class Freed:
    """The account of what has been freed, or would be, and what was kept."""

    dry: bool
    size: Counter[str] = field(default_factory=Counter)  # by kind, bytes
    files: Counter[str] = field(default_factory=Counter)
    kept: dict[str, str] = field(default_factory=dict)  # what: why
    broken: list[str] = field(default_factory=list)

    def take(self, kind: str, path: Path) -> None:
        try:
            size = path.stat().st_size
            if not self.dry:
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self.broken.append(f"{path} cannot be removed: {error.strerror}")
            return
        self.size[kind] += size
        self.files[kind] += 1


def main(argv: list[str] | None = None) -> int:
    return answer(_prune, argv, script="jobs/prune.py", about=__doc__, models=[PruneWords])


def _prune(argv: list[str]) -> int:
    words = parse(PruneWords, argv)
    root = runs_root(words.root)
    asked = read_again(words.sweep, root) if words.sweep else None
    freed, ledger = Freed(words.dry_run), Ledger(root)

    # Other sweeps may build on a run of this one, so all sweeps are asked which weights they need.
    needed = _needed_weights(ledger, root) if words.best else None
    for run in _runs_of(asked) if asked else _runs_under(root):
        _free_run(run, needed, freed)

    if ledger.folder.is_dir():
        with ledger.lock():  # what is being submitted at this moment is not in the queue yet
            _free_jobs(ledger, asked.sweep.name if asked else None, freed)
    return _tell(freed)


def _tell(freed: Freed) -> int:
    verb = "would free" if freed.dry else "freed"
    for kind in (CHECKPOINTS, BEST, TEMPORARY, PICKLES):
        if freed.files[kind]:
            print(f"{verb} {freed.size[kind] / 1e6:.1f} MB: {freed.files[kind]} {kind}")
    if not freed.files:
        print("nothing to free")

    # What was kept is said with its reason: somebody may wait for the space.
    for what, why in list(freed.kept.items())[:SHOWN]:
        print(f"kept {what}: {why}")
    if len(freed.kept) > SHOWN:
        print(f"kept: and {len(freed.kept) - SHOWN} more")
    for problem in freed.broken:
        print(problem, file=sys.stderr)
    return FAILED if freed.broken else DONE


# --- runs ---------------------------------------------------------------------------------------------------------


def _runs_under(root: Path) -> list[RunDir]:
    return [RunDir(path) for entry in ENTRIES for path in sorted((root / entry).glob("*")) if path.is_dir()]


def _runs_of(asked: Asked) -> list[RunDir]:
    standings, _ = look(asked)
    folders = [standing.run for standing in standings.values() if standing.run]
    return [RunDir(folder) for folder in folders if folder.is_dir()]


def _free_run(run: RunDir, needed: Mapping[str, str] | None, freed: Freed) -> None:
    """Remove from one run what is not needed; needed: as in _superfluous."""
    wanted = list(_superfluous(run, needed, freed))
    if not wanted:
        return
    try:
        with run.lock():
            for kind, path in wanted:
                freed.take(kind, path)
    except Refused as refused:
        freed.kept[run.path.name] = one_line(str(refused))


def _superfluous(run: RunDir, needed: Mapping[str, str] | None, freed: Freed) -> Iterator[tuple[str, Path]]:
    """Yield the files of a run that are not needed, with their kinds.

    needed: the digests of weights that are still needed, and why; None keeps all best weights.
    """
    result = run.finished()
    if result is not None:
        yield from ((CHECKPOINTS, path) for path in (run.last, run.previous) if path.exists())
        if needed is not None and run.best.exists():
            why = needed.get(str(result.get("selection", {}).get("digest"))) or needed.get("")
            if why:
                freed.kept[run.path.name] = why
            else:
                yield BEST, run.best
    yield from ((TEMPORARY, path) for path in [*_old(run.path, ".*.tmp"), *_old(run.path, "*/.*.tmp")])


def _old(folder: Path, pattern: str) -> Iterator[Path]:
    for path in folder.glob(pattern):
        try:
            if time.time() - path.stat().st_mtime > TEMPORARY_AGE_S:
                yield path
        except FileNotFoundError:  # renamed meanwhile: its writer lives
            continue


def _needed_weights(ledger: Ledger, root: Path) -> dict[str, str]:
    """Return the digests of weights that unfinished runs of any sweep build on, each with the reason.

    A sweep that cannot be read may need any weights: the digest "" stands for all of them.
    """
    needed: dict[str, str] = {}
    for name in ledger.sweeps():
        try:
            asked = read_again(name, root)
        except Refused as refused:
            needed[""] = f"the sweep {name} may need it, and cannot be read: {one_line(str(refused))}"
            continue

        standings, _ = look(asked)
        for key, cell in asked.sweep.cells.items():
            if standings[key].state == "done":
                continue

            # The run that it builds on is a cell of the sweep, or one that the words name.
            result = standings[cell.parent].result if cell.parent else None
            digest = result["selection"]["digest"] if result else _named_digest(cell.settings)
            if digest:
                needed.setdefault(digest, f"{cell.title} of {name} builds on it, and is not finished")
    return needed


def _named_digest(settings: RunSettings) -> str | None:
    """Return the digest of the weights of a run that the settings name, if they name one."""
    return dict(settings)[settings.PARENT].digest if settings.PARENT else None


# --- jobs ---------------------------------------------------------------------------------------------------------


def _free_jobs(ledger: Ledger, sweep: str | None, freed: Freed) -> None:
    """Remove what submissions have left: of one sweep, or of all."""
    if sweep is None:
        for path in [*_old(ledger.folder, ".*.tmp"), *_old(ledger.folder, "*/.*.tmp")]:
            freed.take(TEMPORARY, path)

    pickles = sorted(ledger.slurm.glob("*/*.pkl"))
    if sweep is not None:
        mine = {batch.job for batch in ledger.batches() if batch.sweep == sweep}
        pickles = [path for path in pickles if _array_of(path) in mine]
    if not pickles:
        return

    # A job that is requeued reads its pickle again, so only those of ended jobs may go.
    queue = scheduler.queue()
    if queue is None:
        freed.kept[f"{len(pickles)} {PICKLES}"] = "the scheduler does not answer whether they have ended"
        return
    live = {task.partition("_")[0] for task, queued in queue.items() if queued.live}
    for path in pickles:
        if _array_of(path) not in live:
            freed.take(PICKLES, path)


def _array_of(pickle: Path) -> str:
    """Return the id of the array that a pickle belongs to; one task may run what is pickled for another."""
    return pickle.parent.name.partition("_")[0]


if __name__ == "__main__":
    sys.exit(main())
