"""Read the words of a submission, open the sweep that they name, and look where its cells stand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.cli.command import check, data_root, read_words, runs_root
from common.failures import Refused
from common.files import expanded
from common.settings.field import Group, setting
from jobs.machine import scheduler
from jobs.planning.cell import Sweep
from jobs.planning.ledger import Batch, Ledger
from jobs.planning.plan import Chosen
from jobs.planning.states import Outside, Standing, standings
from jobs.planning.sweep import open_sweep, sweep_names
from jobs.planning.sweep_file import Overrides


class SubmitWords(Group):
    """Words of this command; every other word is a setting of the runs."""

    sweep: str = setting(..., "shipped sweep (jobs/sweeps/) or a YAML file")
    cluster: str | None = setting(
        None, "profile (slurm/profiles/ or a file), or local; null is $STILLHOUSE_CLUSTER, else local without SLURM"
    )
    seeds: str | int | None = setting(None, "seeds instead of the sweep's, such as 0-4 or 0,3")
    data: str | None = setting(None, "data sets instead of the sweep's, separated by commas")
    only: str | None = setting(None, "stages, separated by commas; their teachers come along")
    slots: int | None = setting(None, "runs at a time on this machine; null is its GPUs, else 1", ge=1)
    retry: Literal["all", "machine", "none"] = setting(
        "all", "failed runs to take up again: all, those that the machine failed, or none"
    )
    prepare: bool = setting(
        False, "first get what is missing of published data sets and weights, as jobs/prepare.py does"
    )
    dry_run: bool = setting(False, "print the plan, the scripts and the expected hours, do nothing")
    ask: bool = setting(False, "with dry_run: also ask the scheduler (sbatch --test-only)")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")


@dataclass(frozen=True)
class Asked:
    """A sweep, and the words in which it was asked for."""

    words: SubmitWords
    sweep: Sweep
    root: Path
    data_dir: Path
    ledger: Ledger
    typed: tuple[str, ...]  # the words as they were typed
    chosen: Chosen | None = None  # what of it is to start; None is everything that can


def read_sweep(argv: Sequence[str]) -> Asked:
    """Read the words of a submission, and the sweep that they name; Refused with every problem at once."""
    own = [word for word in argv if word.partition("=")[0] in SubmitWords.model_fields or "=" not in word]
    rest = tuple(word for word in argv if word not in own)
    values, problems = read_words(own, (SubmitWords,))
    for word in [word for word in own if "=" not in word and (word in sweep_names() or _is_file(word))]:
        problems[word] += f"; a sweep is named by sweep={word}"
    words, wrong = check(SubmitWords, {key: str(value) if key in _TEXTS else value for key, value in values.items()})
    problems |= {key: problem for key, problem in wrong.items() if key not in problems}
    if words is None or problems:
        raise Refused(problems.values())

    # All other words are settings: whether a stage has them, the sweep must say.
    root, data_dir = runs_root(words.root), data_root(words.data_dir)
    axes: dict[str, Any] = {"seed": words.seeds} if words.seeds is not None else {}
    axes |= {"data": words.data} if words.data is not None else {}
    only = tuple(words.only.split(",")) if words.only else ()
    sweep = open_sweep(words.sweep, Overrides(axes, only, rest), data_dir, root)
    return Asked(words, sweep, root, data_dir, Ledger(root), tuple(argv))


_TEXTS = {"seeds", "data", "only", "sweep"}


def read_again(sweep: str, root: Path) -> Asked:
    """Read a sweep as it was last submitted under that root."""
    return read_sweep([*Ledger(root).words_of(sweep), f"root={root}"])


def look(asked: Asked) -> tuple[dict[str, Standing], list[Batch]]:
    """Return where every cell stands, with all that can be known."""
    batches = asked.ledger.batches()
    if not any(batch.job for batch in batches):
        return standings(asked.sweep, asked.root, Outside(batches, queue={})), batches
    outside = Outside(batches, scheduler.queue(), logs=asked.ledger.slurm)
    where = standings(asked.sweep, asked.root, outside)
    gone = [standing.task for standing in where.values() if standing.state == "failed" and standing.task]
    if gone:  # accounting is asked for these alone: of all that ever ran it would take minutes
        where = standings(asked.sweep, asked.root, replace(outside, ended=scheduler.ended(gone)))
    return where, batches


def lasting_words(asked: Asked) -> list[str]:
    """Return the words of this submission such that they mean the same on another day and in another folder."""
    words = asked.words
    paths = {name: str(text) for name, text in (("sweep", words.sweep), ("cluster", words.cluster)) if _is_file(text)}
    paths |= {"root": str(asked.root), "data_dir": str(asked.data_dir)}
    passing = {"retry", "prepare", "dry_run", "ask", *paths}
    kept = [word for word in asked.typed if word.partition("=")[0] not in passing]
    return [*kept, *(f"{name}={expanded(path).absolute()}" for name, path in paths.items())]


def _is_file(name_or_path: str | None) -> bool:
    return name_or_path is not None and name_or_path.endswith((".yaml", ".yml"))
