"""Arrays that lie beside a run, read as what nobody vouches for."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# What numpy and zipfile raise on files with a few bytes changed: RuntimeError where a member seems to be encrypted,
# MemoryError where a shape has become huge, TypeError where the file holds one array without a name.
DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(RuntimeError, MemoryError, TypeError),
)
NUMBERS = "biuf"  # kinds of dtype


def read_arrays(path: Path, names: Sequence[str]) -> list[np.ndarray] | None:
    """Those of these names; None where the file is absent, damaged, or lacks one of them as numbers."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:  # numpy leaves a damaged one open
            arrays = [kept[name] for name in names]
    except DAMAGED:
        return None
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in NUMBERS for array in arrays):
        return None
    return arrays
