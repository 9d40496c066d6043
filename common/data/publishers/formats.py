"""Readers of the publishers' formats: MNIST's, CIFAR's, and the digits of scikit-learn.

Every reader is a function of {file name: path} that returns {"train": Part, "test": Part}. The checksums have been
checked before; what is checked here is the structure, so that a broken file is Refused by name and never half read.
"""

import gzip
import math
import pickle
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.packing import Part
from common.data.publishers.archives import DAMAGES, content_of
from common.failures import Refused

if TYPE_CHECKING:
    import numpy as np

IDX_UBYTE = 0x08  # the type code of unsigned bytes
CIFAR_SHAPE = (3, 32, 32)
DIGITS_TEST = 360  # images, 20 % of 1797


# --- idx: MNIST and its relatives -------------------------------------------------------------------------------


def read_mnist(paths: Mapping[str, Path]) -> dict[str, Part]:
    """Read the four idx files, gzipped or not. Format: http://yann.lecun.com/exdb/mnist/ (at the end of the page)."""
    return {
        "train": _idx_part(paths, "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": _idx_part(paths, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    }


def _idx_part(paths: Mapping[str, Path], images_name: str, labels_name: str) -> Part:
    import numpy as np

    images = read_idx(paths.get(images_name) or paths[images_name + ".gz"], dimensions=3)
    labels = read_idx(paths.get(labels_name) or paths[labels_name + ".gz"], dimensions=1)
    if len(images) != len(labels):
        raise Refused([f"{images_name} holds {len(images)} images, but {labels_name} {len(labels)} labels"])
    return Part.of(images[:, None], labels.astype(np.int64))


def read_idx(path: Path, dimensions: int) -> "np.ndarray":
    """Read an idx file of unsigned bytes.

    It holds two zero bytes, the type, the number of dimensions, their sizes as big-endian 32-bit numbers, the values.
    """
    import numpy as np

    content = _decompressed(path) if path.suffix == ".gz" else path.read_bytes()
    start = 4 + 4 * dimensions
    magic = bytes([0, 0, IDX_UBYTE, dimensions])
    if content[:4] != magic or len(content) < start:
        raise Refused([f"{path}: not idx: begins with {content[:start].hex()}, expected {magic.hex()} and the sizes"])
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise Refused([f"{path}: holds {len(content) - start} values, its header says {math.prod(shape)} {shape}"])
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _decompressed(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Refused([f"{path}: not a whole gzip file: {error}"]) from None


# --- CIFAR: pickles of Python 2 ---------------------------------------------------------------------------------


def read_cifar10(paths: Mapping[str, Path]) -> dict[str, Part]:
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return _read_cifar(paths, "cifar-10-python.tar.gz", batches, b"labels")


def read_cifar100(paths: Mapping[str, Path]) -> dict[str, Part]:
    """Read the 100 fine classes; the 20 coarse ones are left out."""
    return _read_cifar(paths, "cifar-100-python.tar.gz", {"train": ["train"], "test": ["test"]}, b"fine_labels")


def _read_cifar(
    paths: Mapping[str, Path], archive: str, batches: Mapping[str, Sequence[str]], label_key: bytes
) -> dict[str, Part]:
    """Read the batches of each set. Their format is described at https://www.cs.toronto.edu/~kriz/cifar.html."""
    import numpy as np

    names = [name for group in batches.values() for name in group]
    contents = _members(paths[archive], names) if archive in paths else {n: paths[n].read_bytes() for n in names}
    parts = {}
    for part, group in batches.items():
        images, labels = zip(*(_cifar_batch(contents[name], name, label_key) for name in group), strict=True)
        parts[part] = Part.of(np.concatenate(images), np.concatenate(labels))
    return parts


def _members(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Read files of an archive in one pass."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # Nothing is extracted, so no path in the archive can lead anywhere.
            for member in tar:
                name = Path(member.name).name
                if name in names and (file := content_of(tar, member)):
                    contents[name] = file.read()
    except DAMAGES as error:
        raise Refused([f"{archive}: not a whole tar.gz archive: {error}"]) from None

    absent = [name for name in names if name not in contents]
    if absent:
        raise Refused([f"{archive}: holds no {', '.join(absent)}"])
    return contents


def _cifar_batch(content: bytes, name: str, label_key: bytes) -> tuple["np.ndarray", "np.ndarray"]:
    import numpy as np

    batch = load_plain_pickle(content, name)
    images = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(label_key) if isinstance(batch, dict) else None
    if not isinstance(images, np.ndarray) or images.shape[1:] != (math.prod(CIFAR_SHAPE),):
        raise Refused([f"{name}: holds no images of {math.prod(CIFAR_SHAPE)} bytes under 'data': not a CIFAR batch"])
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(n) is int for n in labels):
        raise Refused([f"{name}: '{label_key.decode()}' is not a list of {len(images)} numbers: not a CIFAR batch"])
    return images.reshape(-1, *CIFAR_SHAPE), np.array(labels, dtype=np.int64)


class _PlainUnpickler(pickle.Unpickler):
    """Loads dicts, lists, numbers, bytes and arrays of bytes, and calls nothing else that a pickle may ask for."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(BytesIO(content), encoding="bytes")
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        # What an array of bytes needs, and no more. `numpy.core` is what these files have; numpy has moved it since.
        allowed = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": _byte_type,
        }
        if f"{module}.{name}" not in allowed:
            raise Refused(
                [f"{self._name}: asks to load {module}.{name}, allowed: {', '.join(allowed)}; such a file may run code"]
            )
        return allowed[f"{module}.{name}"]


def _byte_type(code: bytes | str, *_: Any) -> "np.dtype[Any]":
    """Return the one type in these files (the further arguments are a form that numpy has given up)."""
    import numpy as np

    if code not in (b"u1", "u1"):
        raise pickle.UnpicklingError(f"array of type {code!r}, expected bytes (u1)")
    return np.dtype(np.uint8)


def load_plain_pickle(content: bytes, name: str) -> Any:
    """Load a Python 2 pickle of plain data, its text as bytes; Refused if it is broken or asks for anything more."""
    try:
        return _PlainUnpickler(content, name).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
        raise Refused([f"{name}: not a whole pickle: {type(error).__name__} {error}"]) from None


# --- digits: embedded in scikit-learn ---------------------------------------------------------------------------


def read_digits(_: Mapping[str, Path]) -> dict[str, Part]:
    """Read scikit-learn's 1797 digits. They come without a split: every class gives its share of 360 test images."""
    import numpy as np

    # The file is read here, because importing scikit-learn takes seconds.
    rows = np.loadtxt(_scikit_learn() / "datasets" / "data" / "digits.csv.gz", dtype=np.uint8, delimiter=",")
    images = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)  # published as 0 to 16
    labels = rows[:, -1].astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    test[_digits_test_rows(labels)] = True
    return {"train": Part.of(images[~test], labels[~test]), "test": Part.of(images[test], labels[test])}


def _scikit_learn() -> Path:
    """Return the folder of the installed package, which is not imported."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise Refused(["data=digits: its images come with scikit-learn, which is not installed"])
    return Path(package.origin).parent


def _digits_test_rows(labels: "np.ndarray") -> "np.ndarray":
    """Choose the rows of the test set, from every class its share."""
    import numpy as np

    # Shares are rounded down; the classes that lost most by it give one image more.
    shares = np.bincount(labels) * DIGITS_TEST / len(labels)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: DIGITS_TEST - counts.sum()]] += 1

    # numpy promises that RandomState's stream never changes; scikit-learn's splitters promise nothing.
    random = np.random.RandomState(0)
    return np.concatenate(
        [random.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(counts)]
    )
