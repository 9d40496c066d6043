"""One image file of any kind -> the pixels of one packed image. Folders of images and single outside images share it."""

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from common.compose import Refused

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# What Pillow's many decoders are known to raise on damaged files, besides OSError.
DECODER_ERRORS = (SyntaxError, ValueError, TypeError, EOFError, LookupError, struct.error, zlib.error, OverflowError)


def read_image(path: Path, shape: tuple[int, int, int]) -> "np.ndarray":
    """uint8 (channels, height, width): upright, its shorter side resized to fit, its middle cut out; or Refused."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    channels, height, width = shape
    try:
        with Image.open(path) as image:
            plain = _plain(ImageOps.exif_transpose(image), channels)
            # Pillow's resampling widens with the reduction, so it does not alias.
            fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        raise Refused([f"{path}: not an image of a kind Pillow can read"]) from None
    except OSError as error:
        raise Refused([f"{path}: cannot be read: {error.strerror or error}"]) from None
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise Refused([f"{path}: cannot be read as an image: {error or type(error).__name__}"]) from None
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)


def _plain(image: "Image.Image", channels: int) -> "Image.Image":
    """8 bits, grey or RGB, whatever the file's mode; what is transparent lies on white."""
    from PIL import Image

    if image.mode in {"I", "F"}:
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no fixed range; convert it to 8 or 16 bits first")
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """0..65535 to 0..255, rounded: 257 steps become one."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
