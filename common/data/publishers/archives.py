"""Reading files where they lie: in a folder, a zip (an .npz is one) or a tar.

Nothing is extracted, so no path in an archive can lead anywhere, and an array is read block by block, however large it
is. What is not as announced is Refused with the name of the file, what it holds and what is expected.
"""

import contextlib
import io
import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from common.data.integrity import NPY_DAMAGES
from common.data.packing import Part
from common.failures import Refused

if TYPE_CHECKING:
    import numpy as np

BLOCK_BYTES = 1 << 24
SHOWN = 12  # names of what an archive holds instead
# All that the archives' readers raise for damage; RuntimeError for an encrypted zip.
DAMAGES = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@contextlib.contextmanager
def open_member(source: Path, name: str) -> Iterator[IO[bytes]]:
    """Open the file `name` of a folder, or of an archive, where it may lie in any folder."""
    opened = _in_folder if source.is_dir() else _in_zip if source.suffix in {".npz", ".zip"} else _in_tar
    try:
        with opened(source, name) as file:
            yield file
    except DAMAGES as error:
        raise Refused([f"{source}: {name} cannot be read: {getattr(error, 'strerror', None) or error}"]) from None


@contextlib.contextmanager
def _in_folder(source: Path, name: str) -> Iterator[IO[bytes]]:
    with (source / name).open("rb") as file:
        yield file


@contextlib.contextmanager
def _in_zip(source: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(source) as archive:
        members = {Path(member).name: member for member in archive.namelist()}
        if name not in members:
            raise _missing(source, name, list(members))
        with archive.open(members[name]) as file:
            yield file


@contextlib.contextmanager
def _in_tar(source: Path, name: str) -> Iterator[IO[bytes]]:
    names = []
    with tarfile.open(source) as archive:
        for member in archive:
            names.append(Path(member.name).name)
            file = content_of(archive, member) if names[-1] == name else None
            if file:
                with file:
                    yield file
                return
    raise _missing(source, name, names)


def content_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes] | None:
    """Open a file of a tar, or the file of it that a link stands for; None for a folder."""
    try:
        return archive.extractfile(member)
    except (KeyError, RecursionError):
        raise tarfile.ReadError(f"it is a link to {member.linkname}, which leads to no file of the archive") from None


def _missing(source: Path, name: str, names: list[str]) -> Refused:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return Refused([f"{source}: holds no {name}, but {', '.join(names[:SHOWN]) or 'nothing'}{more}"])


# --- arrays -----------------------------------------------------------------------------------------------------


def read_labels(source: Path, name: str, columns: int | None = None) -> "np.ndarray":
    """Read labels as int64 (n,), or (n, columns) if columns are asked for; they are stored as any whole numbers."""
    import numpy as np

    with open_member(source, name) as file:
        try:
            labels = np.lib.format.read_array(io.BytesIO(file.read()), allow_pickle=False)
        except NPY_DAMAGES as error:  # a pickle too: it could run code
            raise Refused([f"{source}: {name} is not a whole .npy file of plain numbers: {error}"]) from None

    # A column more or less would be read as other labels, without a word.
    rest = () if columns is None else (columns,)
    if labels.dtype.kind not in "iu" or labels.ndim == 0 or labels.shape[1:] != rest:
        expected = f"whole numbers of the shape {('n', *rest)}".replace("'", "")
        raise Refused([f"{source}: {name} holds {labels.dtype} {labels.shape}, expected {expected}"])
    return labels.astype(np.int64)


def image_part(source: Path, name: str, labels: "np.ndarray", image_shape: tuple[int, ...]) -> Part:
    """Make a part of uint8 images (n, height, width) or (n, height, width, channels); their pixels are read later."""
    height, width, channels = (*image_shape, 1)[:3]
    with open_member(source, name) as file:
        _check_images(source, name, file, (len(labels), *image_shape))
    return Part(labels, (channels, height, width), _blocks(source, name, len(labels), image_shape))


def _check_images(source: Path, name: str, file: IO[bytes], expected: tuple[int, ...]) -> None:
    """Check what the header says, and leave the file where the pixels begin."""
    import numpy as np

    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except NPY_DAMAGES as error:
        raise Refused([f"{source}: {name} is not a .npy file: {error}"]) from None
    if (shape, dtype.str, fortran_order) != (expected, "|u1", False):
        order = " in Fortran's order" if fortran_order else ""
        raise Refused([f"{source}: {name} holds {dtype} {shape}{order}, expected uint8 {expected}"])


def _blocks(source: Path, name: str, n: int, image_shape: tuple[int, ...]) -> Iterator["np.ndarray"]:
    with open_member(source, name) as file:
        _check_images(source, name, file, (n, *image_shape))
        for rows in read_rows(file, f"{source}: {name}", n, math.prod(image_shape)):
            images = rows.reshape(len(rows), *image_shape)
            yield images[:, None] if len(image_shape) == 2 else images.transpose(0, 3, 1, 2)


def read_rows(file: IO[bytes], where: str, n: int, size: int) -> Iterator["np.ndarray"]:
    """Yield the n images of `size` bytes that the rest of a file must hold: uint8 (some, size) at a time."""
    import numpy as np

    at_once = max(1, BLOCK_BYTES // size)
    for start in range(0, n, at_once):
        count = min(at_once, n - start)
        content = file.read(count * size)
        if len(content) != count * size:
            raise Refused([f"{where} ends after {start + len(content) // size} images, expected {n}"])
        yield np.frombuffer(content, np.uint8).reshape(count, size)
    if file.read(1):  # where the file ends, a zip compares its checksum too
        raise Refused([f"{where} goes on after {n} images, expected no more"])
