"""CIFAR-10.1 and CIFAR-10-C: further images of CIFAR-10's classes, to evaluate models that learned from CIFAR-10.

Both come as .npy files of uint8 (n, 32, 32, 3) and of labels (n,).
"""

from collections.abc import Mapping
from pathlib import Path

from common.data.packing import Part
from common.data.publishers.archives import image_part, read_labels
from common.failures import Refused
from common.settings.shift import PUBLISHED_CORRUPTIONS, SEVERITIES

IMAGE_SHAPE = (32, 32, 3)
CIFAR10_C_ARCHIVE = "CIFAR-10-C.tar"
CIFAR10_C_LABELS = "labels.npy"


def read_cifar10_1(paths: Mapping[str, Path], *, version: str) -> dict[str, Part]:
    """Read the one set of images, all for the test. Format: https://github.com/modestyachts/CIFAR-10.1."""
    images, labels = (paths[f"cifar10.1_{version}_{kind}.npy"] for kind in ("data", "labels"))
    return {"test": image_part(images.parent, images.name, read_labels(labels.parent, labels.name), IMAGE_SHAPE)}


def read_cifar10_c(paths: Mapping[str, Path]) -> dict[str, Part]:
    """Read a part for each corruption: the test images at severity 1, the same ones at 2, and so on to 5.

    Every corruption has the same labels. README.txt in the archive describes the format.
    """

    def where(name: str) -> Path:
        return paths[CIFAR10_C_ARCHIVE] if CIFAR10_C_ARCHIVE in paths else paths[name].parent

    source = where(CIFAR10_C_LABELS)
    labels = read_labels(source, CIFAR10_C_LABELS)
    if len(labels) % SEVERITIES:
        raise Refused([f"{source}: {CIFAR10_C_LABELS} holds {len(labels)} labels, expected {SEVERITIES} times as many"])
    return {
        name: image_part(where(f"{name}.npy"), f"{name}.npy", labels, IMAGE_SHAPE) for name in PUBLISHED_CORRUPTIONS
    }
