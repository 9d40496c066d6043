"""Files that are whole or not there: atomic writes, JSON, digests and checksums."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def checksum_of(path: Path, algorithm: str) -> str:
    """With the publishers' own algorithm: MD5 finds damage, it does not prove who made a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
    if durable:
        _flush_folder(path.parent)


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
    """The file's content; None where it is absent or not whole."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def expanded(text: str) -> Path:
    """Not every shell puts the home folder in place of ~ behind an equals sign, and no YAML file does."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~nobody
        return Path(text)


def digest_of(path: Path) -> str:
    """Of a file's content: other content, other digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
