"""The ledger is the memory of all submissions under one root; every sweep there appends to the same file.

    <root>/jobs/
        ledger.jsonl         before each submission a line with what it is for; after it, one with SLURM's number
        sweeps/NAME.yaml     how each sweep was last asked for: status, retry and cancel need only its name
        slurm/               submitit's scripts, pickles and logs
        logs/                what runs of the local engine printed
        local/NAME/lock      the process that runs a sweep on this machine, while it does
        local/NAME/leave_out-*.json     runs that this process is to stop, or not to start
        lock                 one submission at a time

The line before is what makes a submission safe to kill: its job is found again by the token in its name.
"""

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from common.failures import Refused
from common.files import atomic_write, read_json, write_json
from common.locks import LOCK, take_lock
from common.settings.messages import nearest
from common.settings.yaml12 import dump_yaml, read_mapping
from jobs.machine.processes import lives, this_process

DAMAGE_SHOWN = 5  # numbers of damaged lines in a note
STEWARD = "steward"  # in place of a stage, of the job that submits again; it has no cells


@dataclass(frozen=True)
class Batch:
    """Cells that were submitted together, as an array or a single job."""

    token: str  # the job's name ends with it
    sweep: str
    stage: str
    keys: tuple[str, ...]
    needs: dict[str, int | float | None]  # gpus, cpus, mem_gb, time_min
    profile: str
    submitted: float
    escalation: int = 0
    job: str | None = None
    void: bool = False  # it never reached the scheduler

    def task(self, number: int) -> str:
        """Return the scheduler's name of the cell with that number; a single job, as the steward's, has no numbers."""
        assert self.job
        return self.job if len(self.keys) <= 1 else f"{self.job}_{number}"


@dataclass(frozen=True)
class News:
    """A later line tells more of a batch."""

    token: str
    job: str | None = None
    void: bool = False


A_BATCH, ITS_NEWS = TypeAdapter(Batch), TypeAdapter(News)


class Ledger:
    def __init__(self, root: Path) -> None:
        self._damage_said = False
        self.folder = root / "jobs"
        self.path = self.folder / "ledger.jsonl"
        self.slurm = self.folder / "slurm"
        self.logs = self.folder / "logs"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other submissions out: two at once would both find the same cells free."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = take_lock(self.folder)
        except BlockingIOError:
            raise Refused([f"root: another submission to {self.folder} is under way; wait for it"]) from None
        except OSError as error:
            raise Refused([f"root: {self.folder} cannot be written: {error.strerror}"]) from None
        with file:
            yield

    # --- submissions ------------------------------------------------------------------------------------------

    def batches(self) -> list[Batch]:
        """List all submissions, the earliest first; what is no record is passed over, and said once."""
        batches: dict[str, Batch] = {}
        damaged: list[int] = []
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []

        # A batch has one line of intent, and later a short one with the same token: its job, or that it is void.
        for number, line in enumerate(lines, start=1):
            try:
                facts = json.loads(line)
                if "keys" in facts:
                    batch = A_BATCH.validate_python(facts)
                    batches.setdefault(batch.token, batch)
                    continue
                news = ITS_NEWS.validate_python(facts)
            except (ValueError, TypeError, RecursionError):  # half a line of a writer that was killed
                damaged.append(number)
                continue
            if known := batches.get(news.token):
                batches[news.token] = replace(known, job=news.job or known.job, void=news.void or known.void)

        self._say_damage(damaged)
        return list(batches.values())

    def _say_damage(self, numbers: Sequence[int]) -> None:
        if not numbers or self._damage_said:
            return
        self._damage_said = True
        lines = ", ".join(map(str, numbers[:DAMAGE_SHOWN])) + (", ..." if len(numbers) > DAMAGE_SHOWN else "")
        what = "is no whole record and is" if len(numbers) == 1 else "are no whole records and are"
        print(f"note: {self.path}: line {lines} {what} passed over; jobs of it are not known", file=sys.stderr)

    def intend(self, batch: Batch) -> None:
        self._append({name: value for name, value in asdict(batch).items() if name not in {"job", "void"}})

    def submitted(self, token: str, job: str) -> None:
        self._append({"token": token, "job": job})

    def void(self, token: str) -> None:
        self._append({"token": token, "void": True})

    def _append(self, facts: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(("" if self._ends_line() else "\n") + json.dumps(facts) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_line(self) -> bool:
        """Say whether the file ends with a line break; a killed writer may have left half a line."""
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    # --- sweeps -----------------------------------------------------------------------------------------------

    def remember(self, sweep: str, words: Sequence[str], cluster: str | None = None) -> None:
        """Write down how a sweep was asked for, and where it went, which the words need not say."""
        with atomic_write(self._sweep(sweep)) as file:
            file.write(dump_yaml({"words": list(words), "cluster": cluster, "asked": time.time()}).encode())

    def cluster_of(self, sweep: str) -> str | None:
        """Return where the sweep was last submitted to; None where it never was."""
        try:
            cluster = read_mapping(self._sweep(sweep)).get("cluster")
        except Refused:
            return None
        return cluster if isinstance(cluster, str) else None

    def sweeps(self) -> list[str]:
        """List all sweeps that were ever submitted."""
        return sorted(path.stem for path in (self.folder / "sweeps").glob("*.yaml"))

    def words_of(self, name_or_path: str) -> list[str]:
        """Return the words that a sweep was last submitted with; Refused where it never was."""
        known = self.sweeps()
        sweep = Path(name_or_path).stem if name_or_path.endswith((".yaml", ".yml")) else name_or_path
        if sweep not in known:
            there = f"; there are: {', '.join(known)}{nearest(sweep, known)}" if known else ""
            raise Refused([f"sweep: {name_or_path} was never submitted under {self.folder.parent}{there}"])

        words = read_mapping(self._sweep(sweep)).get("words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise Refused([f"sweep: {self._sweep(sweep)} has no words of a submission; submit {sweep} again"])
        return words

    # --- the local engine -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def working_here(self, sweep: str) -> Iterator[None]:
        """Keep other processes from running the sweep, and say which one does: whoever cancels it must find it.

        The lock is the kernel's: it goes with its process, and of two that start at once only one has it.
        """
        folder = self._worker(sweep)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = take_lock(folder)
        except BlockingIOError:
            raise Refused([self._taken(sweep, read_json(folder / LOCK))]) from None
        except OSError as error:
            raise Refused([f"root: {folder} cannot be written: {error.strerror}"]) from None

        with file:
            if other := self.worker_here(sweep):  # where the file system has no locks
                raise Refused([self._taken(sweep, other)])
            self.runs_to_leave_out(sweep)  # what the process before this one was told, and did not live to hear
            _overwrite(file, json.dumps(this_process()))
            try:
                yield
            finally:
                _overwrite(file, "")

    def worker_here(self, sweep: str) -> dict[str, Any] | None:
        """Return the process of this machine that runs the sweep, if one does."""
        process = read_json(self._worker(sweep) / LOCK)
        return process if process and "pid" in process and lives(process) else None

    def leave_out(self, sweep: str, keys: Sequence[str]) -> None:
        """Tell the process that runs the sweep here to stop these runs, or not to start them."""
        write_json(self._worker(sweep) / f"leave_out-{uuid.uuid4().hex}.json", {"keys": list(keys)})

    def runs_to_leave_out(self, sweep: str) -> set[str]:
        """Return the keys of the runs that were named so since this was last asked."""
        keys: set[str] = set()
        for path in self._worker(sweep).glob("leave_out-*.json"):
            keys |= set((read_json(path) or {}).get("keys", ()))
            path.unlink(missing_ok=True)
        return keys

    def _taken(self, sweep: str, process: dict[str, Any] | None) -> str:
        pid, host = ((process or {}).get(name, "unknown") for name in ("pid", "host"))
        return f"sweep: pid {pid} on {host} runs {sweep}; wait for it, or cancel it"

    def _worker(self, sweep: str) -> Path:
        return self.folder / "local" / sweep

    def _sweep(self, sweep: str) -> Path:
        return self.folder / "sweeps" / f"{sweep}.yaml"


def _overwrite(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def latest(batches: Sequence[Batch]) -> dict[str, tuple[Batch, int]]:
    """Return for every cell the batch that it was last submitted with, and its number there."""
    return {key: (batch, number) for batch in batches if not batch.void for number, key in enumerate(batch.keys)}


def attempts(batches: Sequence[Batch]) -> dict[str, int]:
    """Count how often each cell was submitted."""
    counts: dict[str, int] = {}
    for batch in batches:
        for key in () if batch.void else batch.keys:
            counts[key] = counts.get(key, 0) + 1
    return counts
