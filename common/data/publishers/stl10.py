"""STL-10's binary files: images of 96 pixels as raw bytes, labels from 1 on. The unlabelled images are left out.

Format: https://cs.stanford.edu/~acoates/stl10/. An image is stored channel by channel, and a channel column by column,
not row by row.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.packing import Part
from common.data.publishers.archives import open_member, read_rows
from common.failures import Refused

if TYPE_CHECKING:
    import numpy as np

ARCHIVE = "stl10_binary.tar.gz"
SHAPE = (3, 96, 96)
BYTES = 3 * 96 * 96
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def read_stl10(paths: Mapping[str, Path]) -> dict[str, Part]:
    """Read the labelled images from the archive, or from the files that it unpacks to."""
    return {part: _part(paths, f"{part}_X.bin", f"{part}_y.bin") for part in ("train", "test")}


def _part(paths: Mapping[str, Path], images_name: str, labels_name: str) -> Part:
    import numpy as np

    archive = paths.get(ARCHIVE)
    source = archive or paths[labels_name].parent
    with open_member(source, labels_name) as file:
        labels = np.frombuffer(file.read(), np.uint8).astype(np.int64)
    if len(labels) and (labels.min() < 1 or labels.max() > len(CLASSES)):
        limits = f"labels run from {labels.min()} to {labels.max()}"
        raise Refused([f"{source}: {labels_name}: {limits}, expected 1 to {len(CLASSES)}"])
    return Part(labels - 1, SHAPE, _blocks(archive or paths[images_name].parent, images_name, len(labels)))


def _blocks(source: Path, name: str, n: int) -> Iterator["np.ndarray"]:
    with open_member(source, name) as file:
        for rows in read_rows(file, f"{source}: {name}", n, BYTES):
            yield rows.reshape(len(rows), *SHAPE).swapaxes(2, 3)
