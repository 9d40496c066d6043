"""Image files from outside a data set, made like the packed images: a photograph, a scan, a drawing.

Numpy is imported where it is used, so that a command which refuses its file names does not wait for it.
"""

import contextlib
import glob
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.failures import Refused
from common.files import expanded

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# What Pillow may open. Others that it knows start programs (Ghostscript for PostScript), and the kind of a file is told
# by its content, not by its name.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
BRIGHT = 127  # a mean above it, out of 255, means a light background
BLOCK_BYTES = 1 << 27  # of images that wait to be written
READ_AT_ONCE = 64  # images at most; decoding releases Python's lock, so threads share the work
PROBLEMS_SHOWN = 20
NO_IMAGE = f"not an image of a kind that is read ({', '.join(FORMATS)})"


# Limits on one image, below those of Pillow, which warns beyond 89 million pixels and refuses beyond twice as many.
MOST_PIXELS = 80_000_000
MOST_BYTES = 2 << 30  # of memory while it is decoded, and of all images that are decoded at once
PLAIN_PIXEL, WIDE_PIXEL = 12, 28  # bytes with all copies that are made; measured were 8 and 24 at most
WIDE_FORMATS = ("JPEG2000", "WEBP")  # whose decoders keep copies of their own


class Memory:
    """Memory that threads share: whoever wants some waits until there is enough of it."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._returned = threading.Condition()

    @contextlib.contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        """Take so many bytes, at most the limit, for the length of the block."""
        with self._returned:
            self._returned.wait_for(lambda: needed <= self._free)
            self._free -= needed
        try:
            yield
        finally:
            with self._returned:
                self._free += needed
                self._returned.notify_all()


DECODING = Memory(MOST_BYTES)


# --- one file ---------------------------------------------------------------------------------------------------


def load_outside(path: Path, manifest: Mapping[str, Any]) -> "np.ndarray":
    """Read an image as uint8 (channels, height, width) of the packed set that the manifest describes; or Refused.

    For sets of bright objects on black (see Published.dark_background), an image with a light background is inverted.
    """
    channels, height, width = manifest["shape"]
    image = read_image(path, (channels, height, width))
    return 255 - image if manifest["dark_background"] and image.mean() > BRIGHT else image


def read_image(path: Path, shape: tuple[int, int, int]) -> "np.ndarray":
    """Read an image as uint8 (channels, height, width); Refused if it is none.

    It is turned upright and resized until its shorter side fits; then its middle is cut out.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    # Of a large image Pillow warns between its limit and twice that; here it is refused.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

    channels, height, width = shape
    try:
        with Image.open(path, formats=FORMATS) as image, DECODING.taken(_bytes_to_decode(image)):
            ImageOps.exif_transpose(image, in_place=True)
            plain = _plain(image, channels)
            # Pillow's resampling widens with the reduction, so it does not alias.
            fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        raise Refused([f"{path}: {NO_IMAGE}"]) from None
    except OSError as error:
        raise Refused([f"{path}: cannot be read: {error.strerror or error}"]) from None
    except Exception as error:  # noqa: BLE001 - on damaged files Pillow's decoders raise nearly anything
        raise Refused([f"{path}: cannot be read as an image: {error or type(error).__name__}"]) from None

    # Pillow's own memory is read-only, hence the copy.
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1).copy()


def _bytes_to_decode(image: "Image.Image") -> int:
    """Return about how much memory it takes to read an image; ValueError if that is beyond our limits.

    The image is only opened: its header has told its size, and no pixel is decoded.
    """
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise ValueError(f"it has {size}, allowed: {MOST_PIXELS:,} pixels in all; make it smaller first")

    # Pixels of 16 bits and transparent ones are copied more often than plain ones.
    wide = image.mode.startswith("I") or image.has_transparency_data or image.format in WIDE_FORMATS
    needed = pixels * (WIDE_PIXEL if wide else PLAIN_PIXEL)
    if needed > MOST_BYTES:
        raise ValueError(f"to decode it takes {needed:,} bytes, allowed: {MOST_BYTES:,}; make it smaller first")
    return needed


def _plain(image: "Image.Image", channels: int) -> "Image.Image":
    """Convert any mode to 8 bits, grey or RGB; what is transparent lies on white."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are fractions, which have no fixed range; convert it to 8 or 16 bits first")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """Map 0..65535 to 0..255, rounded: 257 steps become one. Pillow reads some 16-bit files into 32 bits."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels run from {pixels.min()} to {pixels.max()}; convert it to 8 or 16 bits first")
    return Image.fromarray(((pixels.astype(np.int32) + 128) // 257).astype(np.uint8))


# --- many of them -----------------------------------------------------------------------------------------------


def find_images(names: Sequence[str]) -> list[Path]:
    """List the files that names, folders and patterns (`photos/*.png`, `**/*.png`) stand for, each once; or Refused.

    A folder stands for every file in it and in its folders, in the order of their names, except hidden ones.
    """
    paths: dict[str, Path] = {}  # absolute name -> as the user wrote it
    problems: list[str] = []
    for name in names:
        try:
            for path in _files_of(name):
                paths.setdefault(os.path.abspath(path), path)  # noqa: PTH100 - resolve() would take a link for its target
        except Refused as refused:
            problems += refused.problems
        except (OSError, ValueError) as error:  # a name too long for any file, or with a null in it
            problems.append(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}")

    # Only now, so that the user sees the problems of all names at once.
    if problems:
        raise Refused(shortened(problems))
    return list(paths.values())


def _files_of(name: str) -> list[Path]:
    path = expanded(name)
    if path.is_dir():
        return _files_in(path)
    if os.path.lexists(path):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - of any root
    if not matches:
        raise Refused([f"{name}: no file matches" if glob.has_magic(name) else f"{name}: no such file or folder"])
    return [file for match in matches for file in (_files_in(match) if match.is_dir() else [match])]


def _files_in(folder: Path) -> list[Path]:
    problems: list[str] = []

    def cannot_be_read(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    files = []
    for parent, folders, names in os.walk(folder, onerror=cannot_be_read):
        # os.walk goes into what is left in its own list, in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]

    if problems or not files:
        raise Refused(problems or [f"{folder}: holds no files (hidden ones do not count); expected images"])
    return files


def load_all_outside(paths: Sequence[Path], manifest: Mapping[str, Any]) -> "np.ndarray":
    """Read images as uint8 (n, channels, height, width); Refused with every file that is no image.

    The images go into a temporary file that is mapped: each is decoded once, and few are in memory at any time.
    """
    import numpy as np

    problems: list[str] = []
    with tempfile.TemporaryFile() as file:
        for image in _images(paths, manifest, problems):
            if not problems:
                file.write(image.tobytes())
        if problems:
            raise Refused(shortened(problems))
        file.flush()
        return np.memmap(file, dtype=np.uint8, mode="r", shape=(len(paths), *manifest["shape"]))


def _images(paths: Sequence[Path], manifest: Mapping[str, Any], problems: list[str]) -> Iterator["np.ndarray"]:
    """Yield the images in order; one that cannot be read is left out and adds to the problems."""
    from tqdm import tqdm

    def read(path: Path) -> "np.ndarray | Refused":
        try:
            return load_outside(path, manifest)
        except Refused as refused:
            return refused

    # No bar where it would last no longer than a second, nor into a file.
    bar = tqdm(total=len(paths), desc="reading", unit=" images", disable=None, leave=False, delay=1)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(paths), count := read_at_once(manifest["shape"])):
            for image in pool.map(read, paths[start : start + count]):
                if isinstance(image, Refused):
                    problems += image.problems
                else:
                    yield image
                bar.update()


def read_at_once(shape: Sequence[int]) -> int:
    """Return how many images of a shape are read before the first of them is written: few where they are large."""
    return max(1, min(READ_AT_ONCE, BLOCK_BYTES // math.prod(shape)))


def shortened(problems: Sequence[str]) -> list[str]:
    """Keep the first problems, and say how many there are beyond them."""
    hidden = len(problems) - PROBLEMS_SHOWN
    return [*problems[:PROBLEMS_SHOWN], *([f"... and {hidden:,} more like these"] if hidden > 0 else [])]
