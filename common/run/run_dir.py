"""A run folder: the one owner of every path in it, of how files get there, and of who may write.

    runs/<entry>/<data>-<model>-s<seed>-<hash>/
        config.yaml provenance.json log.txt heartbeat.json history.csv
        checkpoints/{last,previous}.pt  checkpoints/best.safetensors
        predictions/<set>.npz figures/ lock
        tensorboard/                  where it is wanted
        cells.csv reliability.csv     of a test under shift, which is not trained
        failure.json      an attempt failed (and no later one succeeded)
        result.json       written last: the run is finished

A reader never sees half a file: every write goes to a temporary name, is flushed to the disk and renamed.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from common.failures import Refused
from common.files import atomic_write, read_json, write_json
from common.locks import LOCK, is_taken, take_lock
from common.settings.yaml12 import dump_yaml

HEARTBEAT_SECONDS = 5.0  # at most one write in this time
DEAD_AFTER_SECONDS = 300.0  # a lock holder on another machine that has not written for so long is taken for dead
ASIDE = ".aside-"
LOCK_PATIENCE_SECONDS = 0.5  # for who only looks at a lock, has it but not yet written a name, or removes its folder


def headline(result: Mapping[str, Any]) -> tuple[str, float] | None:
    """What a result says in one number, as a share: its name and its value."""
    corrupted = (result.get("shift") or {}).get("corrupted") or {}
    if corrupted.get("accuracy") is not None:
        return "mean accuracy under corruption", corrupted["accuracy"]
    accuracy = (result.get("test") or {}).get("accuracy")
    return None if accuracy is None else ("test accuracy", accuracy)


class RunDir:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.provenance = path / "provenance.json"
        self.log = path / "log.txt"
        self.heartbeat = path / "heartbeat.json"
        self.history = path / "history.csv"
        self.cells = path / "cells.csv"
        self.reliability = path / "reliability.csv"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.previous = self.checkpoints / "previous.pt"
        self.best = self.checkpoints / "best.safetensors"
        self.figures = path / "figures"
        self.tensorboard = path / "tensorboard"
        self.failure = path / "failure.json"
        self.result = path / "result.json"
        self._last_beat = 0.0

    def predictions(self, name: str) -> Path:
        return self.path / "predictions" / f"{name}.npz"

    def evaluation(self, name: str) -> Path:
        """Folder of what was found out about the finished run: eval/ writes there."""
        return self.path / "evaluation" / name

    def finished(self) -> dict[str, Any] | None:
        """The result, if there is one: the only sign of success."""
        return read_json(self.result)

    # --- one writer ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against every other writer, or refuse, saying who has it.

        The kernel's lock ends with its process, however that dies, so on one machine (containers included) it is
        exact. Some cluster file systems keep it to one node; there a foreign holder counts as alive while its
        heartbeat is fresh, unless SLURM has requeued that very job here, which proves that it is gone.

        A refusal of the lock removes nothing. Where the work under it is Refused, the folder is taken away again if
        it was bare when the lock was taken, so that all in it is the holder's own.
        """
        made: set[Path] = set()
        unmade = None
        try:
            with self._take_lock(made) as file:
                if self._foreign_and_alive():
                    raise Refused([self._holder_text()])
                was_bare = self.is_bare()
                _overwrite(file, json.dumps(_me()))
                try:
                    yield
                except Refused:
                    unmade = self.set_aside() if was_bare else None  # others wait at the old name, and find it free
                    raise
                finally:
                    with contextlib.suppress(OSError):  # a full disk must not hide what went wrong before
                        _overwrite(file, "")
        finally:
            if unmade:  # only now: a network file system keeps a file in the folder while the lock is open
                self._remove(unmade, made)

    def _take_lock(self, made: set[Path]) -> IO[str]:
        """The open and locked file; the folders that are made for it are added to `made`."""
        end = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                made |= _make_folders(self.path)
                return take_lock(self.path)
            except BlockingIOError:
                if _is_there(self.holder()) or time.monotonic() > end:
                    raise Refused([self._holder_text()]) from None
            except OSError as error:
                if not isinstance(error, FileNotFoundError) or time.monotonic() > end:
                    raise Refused([f"root: {self.path} cannot be written: {error.strerror}"]) from None
            time.sleep(0.01)

    def is_bare(self) -> bool:
        """Whether nothing is in the folder but its lock."""
        return all(path.name == LOCK for path in self.path.iterdir())

    def _remove(self, unmade: Path, made: set[Path]) -> None:
        """What is left of a run that never came to be, and the folders above that were made for it alone."""
        shutil.rmtree(unmade, ignore_errors=True)
        with contextlib.suppress(OSError):  # by now another run lives there
            for folder in self.path.parents:
                if folder not in made:
                    break
                folder.rmdir()

    def holder(self) -> dict[str, Any] | None:
        """What the holder of the lock says of itself, or said before it was killed; None where it was given back."""
        return read_json(self.path / LOCK)

    def is_locked(self) -> bool | None:
        """Whether a process of this machine works in the folder; None where that cannot be known from here."""
        holder, lock = self.holder(), self.path / LOCK
        try:
            if not lock.stat().st_size:
                return False  # given back
            return is_taken(self.path) if holder and holder.get("boot") == _me()["boot"] else None
        except OSError:  # no lock yet, or a file system without
            return None

    def _foreign_and_alive(self) -> bool:
        holder, me = self.holder(), _me()
        if not holder or holder.get("boot") == me["boot"]:
            return False
        if holder.get("slurm_job") and holder["slurm_job"] == me["slurm_job"]:
            return False
        touched = [path.stat().st_mtime for path in (self.heartbeat, self.path / LOCK) if path.exists()]
        return time.time() - max(touched) < DEAD_AFTER_SECONDS

    def _holder_text(self) -> str:
        pid, host, since = ((self.holder() or {}).get(name, "unknown") for name in ("pid", "host", "since"))
        return f"{self.path} is locked by pid {pid} on {host} since {since}"

    def clear_leftovers(self) -> None:
        """Temporary files of a killed attempt. Only for the holder of the lock."""
        for leftover in [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]:
            leftover.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Give the folder another name, so that the run can start anew and nothing is lost. Only for the holder."""
        name = f"{self.path.name}{ASIDE}{time.strftime('%Y%m%d-%H%M%S')}"
        for number in itertools.count():  # of two in the same second, one name has a number
            aside = self.path.with_name(f"{name}-{number}" if number else name)
            if not aside.exists():
                break
        self.path.rename(aside)
        return aside

    # --- what is written while training ------------------------------------------------------------------------

    def write_config(self, settings: dict[str, Any]) -> None:
        with atomic_write(self.config) as file:
            file.write(dump_yaml(settings).encode())

    def beat(self, **progress: Any) -> None:
        """Say that the run is alive and where it stands; cheap enough to call at every step."""
        now = time.monotonic()
        if now - self._last_beat < HEARTBEAT_SECONDS:
            return
        self._last_beat = now
        content = {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname(), **progress}
        write_json(self.heartbeat, content, durable=False)

    def read_history(self) -> list[dict[str, str]]:
        if not self.history.exists():
            return []
        with self.history.open(newline="") as file:
            return list(csv.DictReader(file))

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["epoch"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self.history) as file:
            file.write(text.getvalue().encode())

    def rotate_checkpoint(self, content: bytes | memoryview) -> None:
        """Write `last`; the one before it stays as `previous`, for the day that `last` cannot be read."""
        with atomic_write(self.last) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if self.last.exists():
                self.last.replace(self.previous)  # killed here, the next attempt finds `previous`


def finished_runs(root: Path, folders: str) -> list[RunDir]:
    """All under a root whose folder fits the pattern `entry/name`, but for those that were set aside."""
    runs = (RunDir(folder) for folder in sorted(root.glob(folders)) if ASIDE not in folder.name)
    return [run for run in runs if run.result.is_file()]


def _me() -> dict[str, Any]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": boot,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _is_there(holder: dict[str, Any] | None) -> bool:
    """Whether the holder of a lock is the one who is named in it: of this machine, a process that was killed is not."""
    if not holder:
        return False
    return holder.get("boot") != _me()["boot"] or Path(f"/proc/{holder.get('pid')}").exists()


def _make_folders(folder: Path) -> set[Path]:
    """Make the folder and those above it; returns those that were made by this process and no other."""
    made = set()
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with contextlib.suppress(FileExistsError):
            missing.mkdir()
            made.add(missing)
    return made


def _overwrite(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
