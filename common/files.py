"""This module writes files so that a reader finds them whole or not at all, and computes digests of them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any


def checksum_of(path: Path, algorithm: str) -> str:
    """Return the checksum by the publisher's algorithm. MD5 finds damage; it does not prove who made a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    durable: the file survives a power cut that comes after the block.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

    # The new name is an entry of the folder, which has to reach the disk too.
    if durable:
        _flush_folder(path.parent)


# Folders that a process works in, each with the check that it is still the same folder.
_guards: dict[Path, Callable[[], None]] = {}


@contextlib.contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Make no file in the folder while the block runs unless `check` returns, and never make the folder anew."""
    _guards[folder] = check
    try:
        yield
    finally:
        _guards.pop(folder, None)


def _make_folder(folder: Path) -> None:
    owner = next((above for above in (folder, *folder.parents) if above in _guards), None)
    if owner is None:
        folder.mkdir(parents=True, exist_ok=True)
        return

    _guards[owner]()
    for inner in reversed([path for path in (folder, *folder.parents) if owner in path.parents]):
        inner.mkdir(exist_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with atomic_write(path, durable=durable) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a file that holds an object; None if it is absent, damaged or holds anything else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # the last one: nested too deeply
        return None
    return content if isinstance(content, dict) else None


def expanded(text: str) -> Path:
    """Return the path with ~ replaced: not every shell does so after an equals sign, and YAML never does."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # the home of an unknown user, as in ~nobody
        return Path(text)


def digest_of(path: Path) -> str:
    """Return a short fingerprint of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
