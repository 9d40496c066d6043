"""RunDir owns every path in a run folder, writes its files, and decides who may write.

    runs/<entry>/<data>-<model>-s<seed>-<hash>/
        config.yaml provenance.json log.txt heartbeat.json history.csv
        checkpoints/{last,previous}.pt  checkpoints/best.safetensors
        predictions/<set>.npz figures/ lock
        tensorboard/                  if log.tensorboard=true
        cells.csv reliability.csv     of a test under shift, which has no training
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

from common.failures import FolderLost, Refused
from common.files import atomic_write, guarded, read_json, write_json
from common.locks import LOCK, is_locked_by, is_taken, take_lock
from common.settings.yaml12 import dump_yaml

HEARTBEAT_SECONDS = 5.0  # at most one write in this time
DEAD_AFTER_SECONDS = 300.0  # a lock holder on another machine that has not written for so long is taken for dead
ASIDE = ".aside-"
LOCK_PATIENCE_SECONDS = 5.0  # another process may be looking at the lock, writing its name, or removing the folder


def headline(result: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return the name and the value of the number that sums up a result, as a share; None if it has none."""
    corrupted = (result.get("shift") or {}).get("corrupted") or {}
    if corrupted.get("accuracy") is not None:
        return "mean accuracy under corruption", corrupted["accuracy"]
    accuracy = (result.get("test") or {}).get("accuracy")
    return None if accuracy is None else ("test accuracy", accuracy)


class RunDir:
    def __init__(self, path: Path) -> None:
        self.path = path

        # How the run began, and where it stands.
        self.config = path / "config.yaml"
        self.provenance = path / "provenance.json"
        self.log = path / "log.txt"
        self.heartbeat = path / "heartbeat.json"
        self.history = path / "history.csv"
        self.tensorboard = path / "tensorboard"
        self._last_beat = 0.0
        self._lock: IO[str] | None = None  # the open lock file, while this process has the folder

        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.previous = self.checkpoints / "previous.pt"
        self.best = self.checkpoints / "best.safetensors"

        # What came out of it.
        self.cells = path / "cells.csv"
        self.reliability = path / "reliability.csv"
        self.figures = path / "figures"
        self.failure = path / "failure.json"
        self.result = path / "result.json"

    def predictions(self, name: str) -> Path:
        return self.path / "predictions" / f"{name}.npz"

    def evaluation(self, name: str) -> Path:
        """Return the folder where the scripts of eval/ write what they find out about the finished run."""
        return self.path / "evaluation" / name

    def finished(self) -> dict[str, Any] | None:
        """Return the result, if there is one: it is the only sign of success."""
        return read_json(self.result)

    # --- one writer ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the folder for this process while the block runs; refuse, and say who has it, if another process does.

        The kernel's lock ends with its process, so on one machine (containers included) it is exact. Some cluster
        file systems keep locks to one node: there a holder on another node counts as alive while its heartbeat is
        fresh. It counts as dead if SLURM has requeued that very job here.

        A process that does not get the lock removes nothing. If the block raises Refused, the folder is removed if
        it was bare when the lock was taken, because then everything in it is this process's own.
        """
        made: set[Path] = set()
        unmade = None

        try:
            with self._take_lock(made) as file:
                # The kernel has granted the lock; on a file system that keeps it to one node, that is not enough.
                holder = self.holder()
                if self._foreign_and_alive(holder):
                    raise Refused([self._locked_by(holder)])
                was_bare = self.is_bare()
                _overwrite(file, json.dumps(_me()))

                self._lock = file
                try:
                    with guarded(self.path, self.check_folder):
                        yield
                except Refused:
                    if was_bare and is_locked_by(self.path, file):
                        unmade = self.set_aside()  # who waits at the old name finds it free
                    raise
                finally:
                    self._lock = None
                    with contextlib.suppress(OSError):  # a full disk must not hide what went wrong before
                        _overwrite(file, "")
        finally:
            # Not before the lock is closed: until then a network file system keeps a file in the folder.
            if unmade:
                self._remove(unmade, made)

    def check_folder(self) -> None:
        """Raise FolderLost if the folder at this path is not the one that this process has locked."""
        if not (self._lock and is_locked_by(self.path, self._lock)):
            raise FolderLost(f"{self.path} was removed or replaced while this run worked in it")

    def check_whole(self) -> None:
        """Raise FolderLost if the folder is not the one that was locked, or has no settings any more."""
        self.check_folder()
        if not self.config.is_file():
            raise FolderLost(f"{self.config} was removed while this run worked in its folder")

    def _take_lock(self, made: set[Path]) -> IO[str]:
        """Return the open and locked file; add the folders that are made for it to `made`."""
        end = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                made |= _make_folders(self.path)
                return take_lock(self.path)

            # Refuse at once if the holder named there is at work. One without a name may only be looking at the lock.
            except BlockingIOError:
                holder = self.holder()  # read once: a moment later the holder may be gone, and its name with it
                if _is_there(holder) or time.monotonic() > end:
                    raise Refused([self._locked_by(holder)]) from None

            # The folder may have been removed after it was made; then it is made again.
            except OSError as error:
                if not isinstance(error, FileNotFoundError) or time.monotonic() > end:
                    raise Refused([f"root: {self.path} cannot be written: {error.strerror}"]) from None

            time.sleep(0.01)

    def is_bare(self) -> bool:
        """Say whether the folder holds nothing but its lock."""
        return all(path.name == LOCK for path in self.path.iterdir())

    def _remove(self, unmade: Path, made: set[Path]) -> None:
        """Remove the folder of a run that was refused, and the folders above it that were made for it alone."""
        shutil.rmtree(unmade, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run is there by now
            for folder in self.path.parents:
                if folder not in made:
                    break
                folder.rmdir()

    def holder(self) -> dict[str, Any] | None:
        """Return what the holder of the lock wrote about itself, even if it was killed; None if nobody has the lock."""
        return read_json(self.path / LOCK)

    def is_locked(self) -> bool | None:
        """Say whether a process of this machine works in the folder; None if this machine cannot know."""
        holder, lock = self.holder(), self.path / LOCK
        try:
            if not lock.stat().st_size:
                return False  # given back
            return is_taken(self.path) if holder and holder.get("boot") == _me()["boot"] else None
        except OSError:  # no lock yet, or a file system without
            return None

    def _foreign_and_alive(self, holder: dict[str, Any] | None) -> bool:
        me = _me()
        if not holder or holder.get("boot") == me["boot"]:
            return False
        if holder.get("slurm_job") and holder["slurm_job"] == me["slurm_job"]:
            return False
        touched = [path.stat().st_mtime for path in (self.heartbeat, self.path / LOCK) if path.exists()]
        return time.time() - max(touched) < DEAD_AFTER_SECONDS

    def _locked_by(self, holder: dict[str, Any] | None) -> str:
        pid, host, since = ((holder or {}).get(name, "unknown") for name in ("pid", "host", "since"))
        return f"{self.path} is locked by pid {pid} on {host} since {since}"

    def leftovers(self) -> list[Path]:
        """List the temporary files of killed attempts; with a result, the failure and the spare checkpoint as well."""
        temporary = [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]
        unneeded = [self.failure, self.previous] if self.finished() is not None else []
        return temporary + [path for path in unneeded if path.exists()]

    def clear_leftovers(self) -> None:
        """Remove what an earlier attempt has left. Only the holder of the lock may do this."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Clear the leftovers, but wait for nobody: leave them if a process has the folder, or if it is read-only."""
        if not self.leftovers():
            return
        with contextlib.suppress(OSError), take_lock(self.path):
            if not self._foreign_and_alive(self.holder()):
                self.clear_leftovers()

    def set_aside(self) -> Path:
        """Rename the folder, so that the run can start anew and nothing is lost. Only the holder of the lock may."""
        name = f"{self.path.name}{ASIDE}{time.strftime('%Y%m%d-%H%M%S')}"
        for number in itertools.count():  # there may be one of the same second
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
        self._write_beat(progress)

    def beat_first(self) -> None:
        """Say that an attempt has begun; until its first step, the run stands where the last attempt left it."""
        self._write_beat(read_json(self.heartbeat) or {})

    def _write_beat(self, progress: Mapping[str, Any]) -> None:
        content = {**progress, "time": time.time(), "pid": os.getpid(), "host": socket.gethostname()}
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
        """Write `last`, and keep the checkpoint before it as `previous`, in case `last` cannot be read one day."""
        with atomic_write(self.last) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if self.last.exists():
                self.last.replace(self.previous)  # if the run is killed here, the next attempt finds `previous`


def finished_runs(root: Path, folders: str) -> list[RunDir]:
    """List the finished runs whose folders fit the pattern `entry/name`, without those that were set aside."""
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
    """Say whether the process that a lock names may still hold it: one of this machine must be running."""
    if not holder:
        return False
    return holder.get("boot") != _me()["boot"] or Path(f"/proc/{holder.get('pid')}").exists()


def _make_folders(folder: Path) -> set[Path]:
    """Make the folder and those above it; return those that this process has made."""
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
