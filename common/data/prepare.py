"""Preparing a data set: the publisher's files, or a folder of images, become a packed set under the data folder.

A set is packed into a scratch folder beside its place and renamed into it when it is whole: whatever interrupts a
preparation, a folder with the set's name holds the whole set or is not there.
"""

import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.data import image_folder
from common.data.integrity import MANIFEST, checked_manifest
from common.data.packing import Part, is_packed, pack
from common.data.publishers.catalog import DATASETS, Published
from common.data.publishers.checksums import locate
from common.data.publishers.download import fetch
from common.failures import DataError, Refused
from common.files import read_json

DOWNLOADS = ".downloads"  # under the data folder; kept, so that force=true needs no network; may be deleted


def prepare(
    name: str, data_dir: Path, *, source: Path | None = None, mirror: str | None = None, force: bool = False
) -> Path:
    """Return the packed folder of a published set; pack it if it is not there. Several processes may ask at once."""
    published = DATASETS[name]
    folder = data_dir / name
    if _is_there(folder) and not force:
        return folder

    # The source is recorded by name and checksum, of the archive or of what was found unpacked from it.
    paths = _files(name, published, data_dir, source, mirror)
    known = {file.name: file.checksum for whole in published.files for file in (whole, *whole.unpacked)}
    about = {
        "name": name,
        "title": published.title,
        "task": published.task,
        "dark_background": published.dark_background,
        "source": {file: known.get(file) for file in paths},  # of a folder without checksums, none
        "url": published.url,
        "licence": published.licence,
        "citation": published.citation,
    }

    classes = published.read_classes(paths) if published.read_classes else published.classes
    _install(folder, published.read(paths), classes, about, force=force)
    return folder


def prepare_folder(
    name: str,
    data_dir: Path,
    *,
    source: Path,
    settings: image_folder.FolderSettings,
    licence: str = "not stated",
    force: bool = False,
) -> Path:
    """Return the packed folder of the user's own images; pack them if it is not there.

    What is there already must have been packed with these settings; else Refused.
    """
    folder = data_dir / name
    made_with = asdict(settings)
    if _is_there(folder) and not force:
        _check_same_settings(folder, made_with)
        return folder

    # A manifest has the same keys for every set; whatever a publisher would say is not known here.
    listing = image_folder.list_images(source, settings)
    about = {
        "name": name,
        "title": name,
        "task": "multi-class",
        "dark_background": False,
        "source": {},
        "made_with": made_with,
        "url": None,
        "licence": licence,
        "citation": None,
    }

    _install(folder, image_folder.as_parts(listing, settings), listing.classes, about, force=force)
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a packed set; DataError with the command that prepares it again if it is damaged."""
    manifest, problems = checked_manifest(folder)
    if problems:
        raise damaged(folder, manifest, problems)
    return manifest


def damaged(folder: Path, manifest: Mapping[str, Any], problems: Sequence[str]) -> DataError:
    """Return what is to be raised for a packed set that is not as its manifest says."""
    command = f"python jobs/prepare.py data={folder.name}"
    if folder.name not in DATASETS:
        made_with = manifest.get("made_with")
        size = made_with.get("size", "N") if isinstance(made_with, dict) else "N"
        command = f"python jobs/prepare.py data=image_folder name={folder.name} source=DIR size={size}"
    command += f" data_dir={shlex.quote(str(folder.parent))} force=true"
    return DataError(f"{'; '.join(problems)}; to prepare {folder.name} again: {command}")


def _files(
    name: str, published: Published, data_dir: Path, source: Path | None, mirror: str | None
) -> Mapping[str, Path]:
    if not published.files:
        return {}
    if source is not None:
        return locate(published.files, source, published.mirrors[0])
    _make(data_dir)
    return fetch(published.files, [mirror] if mirror else published.mirrors, data_dir / DOWNLOADS / name)


def _is_there(folder: Path) -> bool:
    """Say whether the set is packed already; Refused if its folder is something else, which is never touched."""
    if is_packed(folder):
        return True
    if folder.is_dir() and not any(folder.iterdir()):
        return False

    if folder.exists():
        raise Refused(
            [
                f"data_dir: {folder} is there but is no packed set (it has no {MANIFEST}); "
                "move it away, or give another data_dir="
            ]
        )
    return False


def _check_same_settings(folder: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a set that was packed with other settings: it would be taken for what was asked for."""
    manifest = read_json(folder / MANIFEST) or {}
    packed = manifest.get("made_with", {})
    differing = [
        f"{key}: given {value}, but {folder} was packed with {packed.get(key)}; "
        "expected the same, another name=, or force=true to pack it again"
        for key, value in asked.items()
        if packed.get(key) != value
    ]
    if differing:
        raise Refused(differing)


def _install(
    folder: Path, parts: Mapping[str, Part], classes: Sequence[str], about: Mapping[str, Any], *, force: bool
) -> None:
    _make(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        packed = Path(scratch, "packed")
        packed.mkdir()
        pack(packed, parts, classes, about)
        _put_in_place(packed, folder, Path(scratch, "replaced"), force=force)


def _make(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused([f"data_dir: {data_dir} cannot be made: {error.strerror}"]) from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise Refused([f"data_dir: {data_dir} cannot be written by this user"])


def _put_in_place(packed: Path, folder: Path, replaced: Path, *, force: bool) -> None:
    """Rename the packed set into its place.

    That fails where a folder with content is. Then another process was faster, or force replaces what is there.
    """
    try:
        packed.rename(folder)
    except OSError:
        if not is_packed(folder):
            raise
        if force:
            folder.rename(replaced)
            packed.rename(folder)
