"""The suite has one kind of lock: a file that keeps its folder, a run's or a ledger's, for one process.

The kernel releases the lock when its process ends, however it ends. So no lock outlives its owner.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common.failures import FolderLost

LOCK = "lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what a file system without locks answers


def take_lock(folder: Path) -> IO[str]:
    """Lock the folder until the returned file is closed; raise BlockingIOError if another process has the lock."""
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            _flock(file)
            if is_locked_by(folder, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # it was removed or renamed after it was opened: no other process would see this lock


def is_taken(folder: Path) -> bool:
    """Say whether a process holds the lock now; raise OSError if there is no lock file, or the file system has none."""
    with (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# The run folders that this process has locked, each with its open lock file.
_kept: dict[Path, IO[str]] = {}


@contextlib.contextmanager
def keep(folder: Path, lock: IO[str]) -> Iterator[None]:
    """Refuse every write into the folder, while the block runs, if it is no longer the folder of this lock."""
    _kept[folder] = lock
    try:
        yield
    finally:
        _kept.pop(folder, None)


def check_kept(folder: Path) -> None:
    """Raise FolderLost if the folder at this path is not the one that this process has locked."""
    if not (folder in _kept and is_locked_by(folder, _kept[folder])):
        raise FolderLost(f"{folder} was removed or replaced while this run worked in it")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. One that this process has locked is never made anew: its run is lost."""
    kept = next((above for above in (folder, *folder.parents) if above in _kept), None)
    if kept is None:
        folder.mkdir(parents=True, exist_ok=True)
        return

    check_kept(kept)
    for inner in reversed([path for path in (folder, *folder.parents) if kept in path.parents]):
        inner.mkdir(exist_ok=True)


def _flock(file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def is_locked_by(folder: Path, file: IO[str]) -> bool:
    """Say whether the lock file in the folder is still this open one, and was not removed or renamed with it."""
    try:
        return os.path.samestat((folder / LOCK).stat(), os.fstat(file.fileno()))
    except (FileNotFoundError, NotADirectoryError):
        return False
