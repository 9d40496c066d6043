"""Views are the same images flipped, shifted or cropped; at test time, predictions are averaged over them.

A view is a pure function of a batch of normalised images (n, channels, height, width); it returns a list of such
batches, of the same shape and the images themselves first. Torch is loaded where it is used, so that a command which
only names the views does not wait for it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

View = Callable[["Tensor"], list["Tensor"]]

SHIFT = 1 / 16  # of the side: 2 pixels of 32, which random crops of CIFAR-10 with 4 pixels of padding cover
CROP = 7 / 8  # of the side, as the 224 pixels cut from 256 that networks for ImageNet are trained on


def itself(images: "Tensor") -> list["Tensor"]:
    return [images]


def with_mirror_image(images: "Tensor") -> list["Tensor"]:
    return [images, images.flip(-1)]


def with_shifts(images: "Tensor") -> list["Tensor"]:
    """Move the images down, up, left and right as well; what comes in repeats the edge."""
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    down, right = max(1, round(height * SHIFT)), max(1, round(width * SHIFT))
    wide = F.pad(images, (right, right, down, down), mode="replicate")
    places = [(down, right), (0, right), (2 * down, right), (down, 2 * right), (down, 0)]  # the first is the image
    return [wide[..., top : top + height, left : left + width] for top, left in places]


def with_shifts_and_mirror_images(images: "Tensor") -> list["Tensor"]:
    return [view for shifted in with_shifts(images) for view in with_mirror_image(shifted)]


def with_reflected_shifts(images: "Tensor") -> list["Tensor"]:
    """Move them up and left, and down and right, by one pixel as well; what comes in is mirrored (arXiv:2404.00498)."""
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    wide = F.pad(images, (1, 1, 1, 1), mode="reflect")
    return [images, wide[..., 2:, 2:], wide[..., :height, :width]]


def with_reflected_shifts_and_mirror_images(images: "Tensor") -> list["Tensor"]:
    return [view for shifted in with_reflected_shifts(images) for view in with_mirror_image(shifted)]


def with_crops(images: "Tensor") -> list["Tensor"]:
    """Cut out the middle and the four corners as well, each enlarged to the whole."""
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    crop_height, crop_width = round(height * CROP), round(width * CROP)
    bottom, right = height - crop_height, width - crop_width
    corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [images[..., top : top + crop_height, left : left + crop_width] for top, left in corners]
    return [images, *(F.interpolate(crop, (height, width), mode="bilinear") for crop in crops)]


VIEWS: dict[str, View] = {
    "none": itself,
    "flip": with_mirror_image,
    "translate": with_shifts,
    "flip_translate": with_shifts_and_mirror_images,
    "multi_crop": with_crops,
    "shift": with_reflected_shifts,
    "flip_shift": with_reflected_shifts_and_mirror_images,
}


def predict_with_views(
    model: Callable[["Tensor"], "Tensor"],
    images: "Tensor",
    view: View,
    *,
    multi_label: bool = False,
    average: Literal["probabilities", "logits"] = "probabilities",
) -> "Tensor":
    """Return probabilities (n, classes): the mean over the views, or those of the mean logits.

    multi_label: they are sigmoids of the logits, else their softmax.
    """
    import torch

    with torch.no_grad():
        logits = torch.stack([model(seen).float() for seen in view(images)])  # (views, n, classes)
        if average == "logits":
            logits = logits.mean(dim=0, keepdim=True)
        elif average != "probabilities":
            raise ValueError(f"average: given {average}, allowed: probabilities | logits")
        return (logits.sigmoid() if multi_label else logits.softmax(dim=-1)).mean(dim=0)
