"""The publishers' files: their names, their checksums, and how they are found under a folder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.failures import Refused
from common.files import checksum_of

SEARCH_DEPTH = 3  # source=DIR may hold the files themselves or, say, MNIST/raw/


@dataclass(frozen=True)
class File:
    name: str
    md5: str = ""  # what most publishers list
    size: int | None = None  # bytes
    unpacked: tuple["File", ...] = ()  # what it holds; all of them together can replace it
    sha256: str = ""  # in place of md5, where that is what is listed
    # What it unpacks to, where nobody lists checksums of the content: can replace it, and only its reader checks it.
    folder: str = ""

    @property
    def algorithm(self) -> str:
        return "sha256" if self.sha256 else "md5"

    @property
    def checksum(self) -> str:
        return self.sha256 or self.md5


def locate(files: Sequence[File], source: Path, origin: str) -> dict[str, Path]:
    """Map the name of every file, or of what it unpacks to, to an intact copy; Refused if a file has none."""
    if not source.is_dir():
        raise Refused([f"source: {source} is not a folder; expected one that holds {_listed(files)}"])
    if not os.access(source, os.R_OK | os.X_OK):
        raise Refused([f"source: {source} cannot be read by this user"])

    # One walk for all files: a folder of data can be large, and lie on a slow disk.
    names = {file.name for whole in files for file in (whole, *whole.unpacked)}
    candidates = _candidates(source, names, {file.folder for file in files if file.folder})

    paths: dict[str, Path] = {}
    problems: list[str] = []
    for file in files:
        intact, faults = _whole_or_unpacked(file, candidates)
        paths |= intact
        problems += faults or ([] if intact else [_missing(file, source, origin)])
    if problems:
        raise Refused(problems)
    return paths


def _candidates(source: Path, names: set[str], folder_names: set[str]) -> dict[str, list[Path]]:
    """List for each name the files, or folders, of that name under the source."""
    candidates: dict[str, list[Path]] = {name: [] for name in names | folder_names}
    if source.resolve().name in folder_names:
        candidates[source.resolve().name].append(source)
    for folder, subfolders, filenames in os.walk(source, followlinks=True):
        if len(Path(folder).relative_to(source).parts) == SEARCH_DEPTH:
            subfolders.clear()
        subfolders.sort()
        for name in [*names.intersection(filenames), *folder_names.intersection(subfolders)]:
            candidates[name].append(Path(folder, name))
    return candidates


def _whole_or_unpacked(file: File, candidates: dict[str, list[Path]]) -> tuple[dict[str, Path], list[str]]:
    """Return the paths to use, or the faults of the candidates; neither where there are no candidates."""
    path, problems = _intact(file, candidates[file.name])
    if path:
        return {file.name: path}, []
    if file.folder and candidates[file.folder]:
        return {file.folder: candidates[file.folder][0]}, []

    # Its content replaces an archive only as a whole: with a part missing, the set would be another one.
    parts = {part.name: _intact(part, candidates[part.name]) for part in file.unpacked}
    intact = {name: path for name, (path, _) in parts.items() if path}
    if parts and len(intact) == len(parts):
        return intact, []

    problems += [problem for _, faults in parts.values() for problem in faults]
    absent = [name for name in parts if not candidates[name]]
    if absent and len(absent) < len(parts):
        problems.append(f"source: of what {file.name} holds there is no {', '.join(absent)}; expected all of it")
    return {}, problems


def _intact(file: File, candidates: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """Return the first candidate that has the checksum of the file; if there is none, the faults of all."""
    problems = []
    for path in candidates:
        try:
            checksum = checksum_of(path, file.algorithm)
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
            continue

        # A name proves nothing: MNIST's and Fashion-MNIST's files have the same ones.
        if checksum == file.checksum:
            return path, []
        fault = f"{file.algorithm} is {checksum}, expected {file.checksum}"
        problems.append(f"{path}: {fault}: a damaged copy, or another data set's file")
    return None, problems


def _missing(file: File, source: Path, origin: str) -> str:
    content = ", ".join(part.name for part in file.unpacked)
    if file.folder and not content:
        content = f"a folder {file.folder}"
    unpacked = f" (nor {content})" if content else ""
    url = f"{origin.rstrip('/')}/{file.name}"
    return f"source: {source} holds no {file.name}{unpacked}, searched {SEARCH_DEPTH} folders deep; published at {url}"


def _listed(files: Sequence[File]) -> str:
    return ", ".join(file.name for file in files)
