"""Images from outside a data set, made like the packed ones: a photograph, a scan, a drawing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.image_file import read_image

if TYPE_CHECKING:
    import numpy as np

BRIGHT = 127  # a mean above it, out of 255, means a light background


def load_outside(path: Path, manifest: Mapping[str, Any]) -> "np.ndarray":
    """uint8 (channels, height, width) of the packed set that the manifest describes; Refused if it is no image.

    For sets of bright objects on black (see Published.dark_background), an image with a light background is inverted.
    """
    channels, height, width = manifest["shape"]
    image = read_image(path, (channels, height, width))
    return 255 - image if manifest["dark_background"] and image.mean() > BRIGHT else image
