"""The publishers' files: what they are called, what they must hash to, and finding them under a folder."""

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
    unpacked: tuple["File", ...] = ()  # what it holds; all of them together stand in for it
    sha256: str = ""  # in place of md5, where that is what is listed
    # What it unpacks to, where nobody lists checksums of the content: stands in for it, and only its reader checks it.
    folder: str = ""

    @property
    def algorithm(self) -> str:
        return "sha256" if self.sha256 else "md5"

    @property
    def checksum(self) -> str:
        return self.sha256 or self.md5


def locate(files: Sequence[File], source: Path, origin: str) -> dict[str, Path]:
    """Name -> path of every file, or of what it unpacks to, all intact; else Refused, with where they are published."""
    if not source.is_dir():
        raise Refused([f"source: {source} is not a folder; expected one that holds {_listed(files)}"])
    if not os.access(source, os.R_OK | os.X_OK):
        raise Refused([f"source: {source} cannot be read by this user"])
    names = {each.name for file in files for each in (file, *file.unpacked)}
    candidates = _candidates(source, names, {file.folder for file in files if file.folder})
    found: dict[str, Path] = {}
    problems: list[str] = []
    for file in files:
        paths, trouble = _whole_or_unpacked(file, candidates)
        found |= paths
        problems += trouble or ([] if paths else [_missing(file, source, origin)])
    if problems:
        raise Refused(problems)
    return found


def _candidates(source: Path, names: set[str], folder_names: set[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {name: [] for name in names | folder_names}
    if source.resolve().name in folder_names:
        found[source.resolve().name].append(source)
    for folder, subfolders, filenames in os.walk(source, followlinks=True):
        if len(Path(folder).relative_to(source).parts) == SEARCH_DEPTH:
            subfolders.clear()
        subfolders.sort()
        for name in [*names.intersection(filenames), *folder_names.intersection(subfolders)]:
            found[name].append(Path(folder, name))
    return found


def _whole_or_unpacked(file: File, candidates: dict[str, list[Path]]) -> tuple[dict[str, Path], list[str]]:
    """The paths to use, or the faults of what was found; neither where nothing was found."""
    path, problems = _intact(file, candidates[file.name])
    if path:
        return {file.name: path}, []
    if file.folder and candidates[file.folder]:
        return {file.folder: candidates[file.folder][0]}, []
    parts = {part.name: _intact(part, candidates[part.name]) for part in file.unpacked}
    intact = {name: path for name, (path, _) in parts.items() if path}
    if parts and len(intact) == len(parts):
        return intact, []
    problems += [problem for _, wrong in parts.values() for problem in wrong]
    absent = [name for name in parts if not candidates[name]]
    if absent and len(absent) < len(parts):
        problems.append(f"source: of what {file.name} holds there is no {', '.join(absent)}; expected all of it")
    return {}, problems


def _intact(file: File, candidates: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The checksum also tells apart equally named files of different sets, such as MNIST's and Fashion-MNIST's."""
    problems = []
    for path in candidates:
        try:
            found = checksum_of(path, file.algorithm)
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if found == file.checksum:
            return path, []
        problems.append(
            f"{path}: {file.algorithm} is {found}, expected {file.checksum}: a damaged copy, or another data set's file"
        )
    return None, problems


def _missing(file: File, source: Path, origin: str) -> str:
    inside = [part.name for part in file.unpacked] or [f"a folder {file.folder}"] * bool(file.folder)
    unpacked = f" (nor {', '.join(inside)})" if inside else ""
    url = f"{origin.rstrip('/')}/{file.name}"
    return f"source: {source} holds no {file.name}{unpacked}, searched {SEARCH_DEPTH} folders deep; published at {url}"


def _listed(files: Sequence[File]) -> str:
    return ", ".join(file.name for file in files)
