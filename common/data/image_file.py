"""One image file of any kind -> the pixels of one packed image, the same for folders of images and outside images."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.failures import Refused

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


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
    except Exception as error:  # noqa: BLE001 - on damaged files Pillow's decoders raise nearly anything
        raise Refused([f"{path}: cannot be read as an image: {error or type(error).__name__}"]) from None
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1).copy()  # Pillow's own is read-only


def _plain(image: "Image.Image", channels: int) -> "Image.Image":
    """8 bits, grey or RGB, whatever the file's mode; what is transparent lies on white."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are fractions, which have no fixed range; convert it to 8 or 16 bits first")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """0..65535 to 0..255, rounded: 257 steps become one. Pillow reads some 16-bit files into 32 bits."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels run from {pixels.min()} to {pixels.max()}; convert it to 8 or 16 bits first")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
