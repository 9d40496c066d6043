"""A report's folder may hold a user's own files: a report neither replaces nor removes what no report has written.

The list beside the report names its files, each with the digest of what was written. A file that differs from it has
been changed since, and is the user's.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from aggregate.figures.album import FOLDER
from common.failures import Refused
from common.files import digest_of, read_json, write_json

LIST = "report-files.json"
ABOUT = "what aggregate/report.py has written here: it replaces and removes only these files, as long as they are so"
NAMED = 3  # files of a refusal

Digests = Mapping[str, Sequence[str]]  # file, with / between folders: what reports have made of it


@contextmanager
def report_folder(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write a report into; when the block ends well, its files move to `folder`.

    Refused if that would replace a user's file and force does not say so; nothing is changed then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as drafts:
        yield Path(drafts)
        _publish(Path(drafts), folder, force=force)


def _publish(drafts: Path, folder: Path, *, force: bool) -> None:
    earlier = _read_list(folder, force=force)
    names = sorted(path.relative_to(drafts).as_posix() for path in drafts.rglob("*") if path.is_file())
    written = {name: [digest_of(drafts / name)] for name in names}
    if not force:
        _refuse_to_replace(folder, earlier, written)

    # A report that is killed below leaves files of two reports: until it is done, both are in the list.
    both = {name: [*earlier.get(name, ()), *written.get(name, ())] for name in {**earlier, **written}}
    _write_list(folder, both)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (drafts / name).replace(folder / name)

    for name, digests in earlier.items():
        if name not in written and _is_one_of(folder / name, digests):
            (folder / name).unlink()
    _write_list(folder, written)


def _refuse_to_replace(folder: Path, earlier: Digests, written: Digests) -> None:
    foreign = [
        name
        for name, digests in written.items()
        if os.path.lexists(folder / name) and not _is_one_of(folder / name, [*earlier.get(name, ()), *digests])
    ]
    if foreign:
        more = f" and {len(foreign) - NAMED} more" if len(foreign) > NAMED else ""
        raise Refused(
            [
                f"out: {folder} has a {', '.join(foreign[:NAMED])}{more} that no report has written, or that was "
                "changed since; move it away, name another folder, or replace it by force=true"
            ]
        )


def _is_one_of(path: Path, digests: Sequence[str]) -> bool:
    """Say whether a file is as a report left it; what cannot be read is not."""
    try:
        return path.is_file() and not path.is_symlink() and digest_of(path) in digests
    except OSError:
        return False


# --- the list ---------------------------------------------------------------------------------------------------


def _read_list(folder: Path, *, force: bool) -> Digests:
    path = folder / LIST
    if not os.path.lexists(path):
        return {}

    files = (read_json(path) or {}).get("files")
    if isinstance(files, dict) and all(isinstance(digests, list) for digests in files.values()):
        return {name: digests for name, digests in files.items() if _is_of_a_report(name)}
    if force:
        return {}
    raise Refused([f"out: {path} is not the list of a report's files; move it away, or replace it by force=true"])


def _is_of_a_report(name: str) -> bool:
    """Say whether a report may have a file of that name; a list that was edited could name any file of the user's."""
    parts = PurePosixPath(name).parts
    return ".." not in parts and (len(parts) == 1 or (len(parts) == 2 and parts[0] == FOLDER))


def _write_list(folder: Path, files: Digests) -> None:
    write_json(folder / LIST, {"about": ABOUT, "files": files}, durable=False)
