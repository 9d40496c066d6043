"""Free what finished runs do not need any more, and what killed processes left behind.

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
    """What has been freed, or would be."""

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
    runs = _runs_of(asked) if asked else _runs_under(root)
    needed = _needed_weights(ledger, root) if words.best else None
    for run in runs:
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
    found, _ = look(asked)
    return [RunDir(each.run) for each in found.values() if each.run and each.run.is_dir()]


def _free_run(run: RunDir, needed: Mapping[str, str] | None, freed: Freed) -> None:
    """needed: why weights of a digest are still needed; None: keep all best weights."""
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
    """Digests of weights that unfinished runs of any sweep build on, and which runs they are.

    The digest "" stands for all, where a sweep cannot be read and so may need any.
    """
    needed: dict[str, str] = {}
    for name in ledger.sweeps():
        try:
            asked = read_again(name, root)
        except Refused as refused:
            needed[""] = f"the sweep {name} may need it, and cannot be read: {one_line(str(refused))}"
            continue
        found, _ = look(asked)
        for key, cell in asked.sweep.cells.items():
            if found[key].state == "done":
                continue
            result = found[cell.parent].result if cell.parent else None
            digest = result["selection"]["digest"] if result else _named(cell.settings)
            if digest:
                needed.setdefault(digest, f"{cell.title} of {name} builds on it, and is not finished")
    return needed


def _named(settings: RunSettings) -> str | None:
    """Of a run that the words name, which is no cell of the sweep."""
    return dict(settings)[settings.PARENT].digest if settings.PARENT else None


# --- jobs ---------------------------------------------------------------------------------------------------------


def _free_jobs(ledger: Ledger, sweep: str | None, freed: Freed) -> None:
    if sweep is None:
        for path in [*_old(ledger.folder, ".*.tmp"), *_old(ledger.folder, "*/.*.tmp")]:
            freed.take(TEMPORARY, path)
    pickles = sorted(ledger.slurm.glob("*/*.pkl"))
    if sweep is not None:
        mine = {batch.job for batch in ledger.batches() if batch.sweep == sweep}
        pickles = [path for path in pickles if _array_of(path) in mine]
    if not pickles:
        return
    queue = scheduler.queue()
    if queue is None:
        freed.kept[f"{len(pickles)} {PICKLES}"] = "the scheduler does not answer whether they have ended"
        return
    live = {task.partition("_")[0] for task, queued in queue.items() if queued.live}
    for path in pickles:
        if _array_of(path) not in live:
            freed.take(PICKLES, path)


def _array_of(pickle: Path) -> str:
    """One task of an array may run what is pickled for another."""
    return pickle.parent.name.partition("_")[0]


if __name__ == "__main__":
    sys.exit(main())
