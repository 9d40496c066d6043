"""Random changes to the images of a training batch: what is drawn for each image, and in which order it is applied.

Every image has its own draw, and images that drew the same operation are changed together. Each process draws for the
whole batch, on the CPU, so neither the number of processes nor a GPU changes a draw, and nothing waits for a GPU.
image_ops.py has the operations themselves, which draw nothing.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from common.compute import Draws
from common.data import image_ops as ops
from common.settings.entries import AugmentSettings


def augment(
    images: Tensor, settings: AugmentSettings, draws: Draws, fill: Tensor, flipped: Tensor | None = None
) -> Tensor:
    """Change uint8 images (n, c, h, w) of one or three channels; `fill` (c,) is the colour of holes.

    Every step draws its own numbers, always equally many, and draws none when it is off.
    flipped: which images are flipped left to right, where that is known before (see `alternating_flips`).
    """
    height, width = images.shape[-2:]

    # Geometry comes first. Another order of the steps would be another augmentation, with other results.
    if settings.crop_padding:
        places = 2 * settings.crop_padding + 1
        top, left = draws.integers(places), draws.integers(places)
        images = ops.crop(images, settings.crop_padding, top, left, settings.crop_border)
    if flipped is not None:
        images = ops.flip(images, flipped, dim=-1)
    elif settings.flip:
        images = ops.flip(images, draws.uniform() < settings.flip, dim=-1)
    if settings.flip_vertical:
        images = ops.flip(images, draws.uniform() < settings.flip_vertical, dim=-2)
    if settings.rotation_deg or settings.translation:
        images = _rotate_and_shift(images, settings, draws)

    # Colour is next; a policy may change both.
    images = _jitter(images, settings, draws)
    if settings.policy != "none":
        for step in POLICIES[settings.policy](settings, draws, height, width):
            images = apply(images, step)

    # Holes come last, so that no later step moves or recolours them.
    if settings.cutout:
        images = ops.fill_boxes(images, cutout_boxes(settings.cutout, draws, height, width), fill)
    if settings.erasing:
        images = ops.fill_boxes(images, erasing_boxes(settings.erasing, draws, height, width), fill)
    return images


def alternating_flips(settings: AugmentSettings, seed: int, epoch: int, total: int) -> Tensor | None:
    """Say which of `total` training images this epoch flips (arXiv:2404.00498); None where flips do not alternate.

    Every image is flipped in every other epoch, so that any two epochs in a row show both of its sides. One draw for
    all epochs decides which side an image shows first.
    """
    if not (settings.flip and settings.flip_alternates):
        return None
    first = Draws(seed, "flip", 0, 0, total=total).uniform() < settings.flip
    return first ^ bool(epoch % 2)


def mix(images: Tensor, targets: Tensor, settings: AugmentSettings, draws: Draws) -> tuple[Tensor, Tensor]:
    """Apply mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899) to images (n, c, h, w) and targets (n, classes).

    Both are float32. The partner of row i is row i ^ 1: batches are shuffled, so neighbours are random partners, and a
    process whose rows are even in number and begin at an even one needs no other process. An odd last row is its own
    partner. Each image has its own lambda (so the two of a pair differ) and, where both methods are on, its own choice
    between them.
    """
    if not (settings.mixup or settings.cutmix):
        return images, targets

    # Which images are mixed at all, and which of them by cutmix.
    height, width = images.shape[-2:]
    mixed = draws.uniform() < settings.mix_probability
    cut = torch.full(mixed.shape, bool(settings.cutmix))
    if settings.mixup and settings.cutmix:
        cut = draws.uniform() < 0.5

    # What mixup leaves of an image, and which box of it cutmix gives to the partner.
    kept = torch.ones(mixed.shape)
    boxes = torch.zeros(len(mixed), 4, dtype=torch.int64)
    if settings.mixup:
        kept = torch.where(mixed & ~cut, draws.beta(settings.mixup), kept)
    if settings.cutmix:
        boxes = torch.where((mixed & cut)[:, None], cutmix_boxes(settings.cutmix, draws, height, width), boxes)

    # A target is mixed by the area that was really pasted: boxes are clipped at the borders.
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    own_share = ops.on_device(kept * (1 - area / (height * width)), targets)[:, None]
    own_pixels = torch.where(ops.inside_boxes(images, boxes), 0.0, ops.per_image(kept, images))
    partner = (torch.arange(len(images), device=images.device) ^ 1).clamp_(max=len(images) - 1)
    return torch.lerp(images[partner], images, own_pixels), torch.lerp(targets[partner], targets, own_share)


# --- affine and colour --------------------------------------------------------------------------------------------


def _rotate_and_shift(images: Tensor, settings: AugmentSettings, draws: Draws) -> Tensor:
    """Turn and shift in one warp. Shifts are whole pixels, so that a shift alone does not blur."""
    height, width = images.shape[-2:]
    degrees = draws.uniform(-settings.rotation_deg, settings.rotation_deg)
    shifts = draws.uniform(-settings.translation, settings.translation, shape=(2,)) * torch.tensor([width, height])
    return ops.rotate_and_shift(images, degrees.double(), *shifts.round().double().unbind(1))


def _jitter(images: Tensor, settings: AugmentSettings, draws: Draws) -> Tensor:
    """Change colours, always in this order.

    torchvision's ColorJitter shuffles the order for each image, which would cost a pass for each.
    """
    for amount, operation in (
        (settings.brightness, ops.brightness),
        (settings.contrast, ops.contrast),
        (settings.saturation, ops.saturation),
    ):
        if amount:
            images = operation(images, draws.uniform(1 - amount, 1 + amount).double())
    if settings.hue:
        images = ops.hue(images, draws.uniform(-settings.hue, settings.hue).double())
    return images


# --- boxes: (n, 4) top, left, bottom, right, the last two outside -------------------------------------------------


def cutout_boxes(side: int, draws: Draws, height: int, width: int) -> Tensor:
    """Draw squares around any pixel (arXiv:1708.04552), so they may hang over the border."""
    top = draws.integers(height) - side // 2
    left = draws.integers(width) - side // 2
    return torch.stack([top, left, top + side, left + side], 1)


def erasing_boxes(probability: float, draws: Draws, height: int, width: int) -> Tensor:
    """Draw rectangles of 2-33 % of the area with an aspect ratio of 0.3-3.3 (arXiv:1708.04896), or empty ones.

    Where a rectangle would not fit, its aspect ratio is limited until it does, and its area stays. torchvision draws
    both anew instead, up to ten times, and so prefers small areas a little.
    """
    chosen = draws.uniform() < probability
    area = draws.uniform(0.02, 0.33).double() * height * width
    aspect = draws.uniform(math.log(0.3), math.log(3.3)).double().exp()
    aspect = aspect.clamp(area / width**2, height**2 / area)
    sides = torch.stack([area * aspect, area / aspect], 1).sqrt().round().clamp(min=1)
    room = torch.tensor([height, width]) - sides
    corner = torch.minimum((draws.uniform(shape=(2,)) * (room + 1)).floor(), room)  # a drawn 0.99999999 is 1.0 here
    return (torch.cat([corner, corner + sides], 1) * chosen[:, None]).long()


def cutmix_boxes(alpha: float, draws: Draws, height: int, width: int) -> Tensor:
    """Draw boxes of the image's own aspect ratio around any pixel, clipped at the borders."""
    half_side = (1 - draws.beta(alpha).double()).sqrt() / 2
    half_height, half_width = (half_side * height).long(), (half_side * width).long()
    y, x = draws.integers(height), draws.integers(width)
    corners = torch.stack([y - half_height, x - half_width, y + half_height, x + half_width], 1)
    return torch.minimum(corners.clamp(min=0), torch.tensor([height, width, height, width]))


# --- policies -----------------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    change: Callable[[Tensor, Tensor], Tensor]  # (images, magnitudes) -> images
    weakest: float = 0.0  # the magnitude that changes nothing
    signed: bool = False  # whether the magnitude goes either way


OPERATIONS = {
    "identity": Operation(lambda images, _: images),
    "shear_x": Operation(ops.shear_x, signed=True),
    "shear_y": Operation(ops.shear_y, signed=True),
    "translate_x": Operation(ops.translate_x, signed=True),
    "translate_y": Operation(ops.translate_y, signed=True),
    "rotate": Operation(ops.rotate, signed=True),
    "brightness": Operation(lambda images, change: ops.brightness(images, 1 + change), signed=True),
    "color": Operation(lambda images, change: ops.saturation(images, 1 + change), signed=True),
    "contrast": Operation(lambda images, change: ops.contrast(images, 1 + change), signed=True),
    "sharpness": Operation(lambda images, change: ops.sharpness(images, 1 + change), signed=True),
    "posterize": Operation(ops.posterize, weakest=8.0),
    "solarize": Operation(lambda images, share: ops.solarize(images, 255 * share), weakest=1.0),
    "autocontrast": Operation(lambda images, _: ops.autocontrast(images)),
    "equalize": Operation(lambda images, _: ops.equalize(images)),
    "invert": Operation(lambda images, _: ops.invert(images)),
}
NAMES = list(OPERATIONS)
WITHOUT_INVERT = len(NAMES) - 1  # RandAugment and TrivialAugment choose from all operations but the last


def _strongest(height: int, width: int) -> dict[str, float]:
    """Return the largest magnitudes of AutoAugment and RandAugment; shifts were published for images of 331 pixels."""
    colour = {"brightness": 0.9, "color": 0.9, "contrast": 0.9, "sharpness": 0.9, "posterize": 4.0, "solarize": 0.0}
    shifts = {"translate_x": 150.0 / 331.0 * width, "translate_y": 150.0 / 331.0 * height}
    return {"shear_x": 0.3, "shear_y": 0.3, "rotate": 30.0, **shifts, **colour}


def _strongest_wide() -> dict[str, float]:
    """Return the largest magnitudes of TrivialAugment's wide space; shifts are in pixels for images of any size."""
    colour = {"brightness": 0.99, "color": 0.99, "contrast": 0.99, "sharpness": 0.99, "posterize": 2.0, "solarize": 0.0}
    return {"shear_x": 0.99, "shear_y": 0.99, "rotate": 135.0, "translate_x": 32.0, "translate_y": 32.0, **colour}


class Step(NamedTuple):
    """One step of a policy, which has one operation for each image of a batch."""

    operations: Tensor  # (n,) places in OPERATIONS
    magnitudes: Tensor  # (n,) float64, with the sign


def apply(images: Tensor, step: Step) -> Tensor:
    """Sort the images by operation, change each run of them at once, and put them back in place."""
    order = step.operations.argsort(stable=True)
    counts = step.operations.bincount(minlength=len(OPERATIONS)).tolist()
    image_runs = images[ops.on_device(order, images)].split(counts)
    magnitude_runs = step.magnitudes[order].split(counts)
    changed = [
        operation.change(run, magnitudes)
        for operation, run, magnitudes in zip(OPERATIONS.values(), image_runs, magnitude_runs, strict=True)
        if len(run)
    ]
    return torch.cat(changed)[ops.on_device(order.argsort(), images)]


def _steps(strongest: dict[str, float], bins: int, operations: Tensor, levels: Tensor, draws: Draws) -> list[Step]:
    """Turn operations and levels (n, steps) into steps.

    Magnitudes rise with the level in equal bins; half of those that go either way become negative.
    """
    scales = [torch.linspace(op.weakest, strongest.get(name, op.weakest), bins) for name, op in OPERATIONS.items()]
    scales[NAMES.index("posterize")].round_()
    magnitudes = torch.stack(scales).double()[operations, levels]
    negative = draws.integers(2, shape=operations.shape[1:]).bool()
    signed = torch.tensor([operation.signed for operation in OPERATIONS.values()])[operations]
    magnitudes = torch.where(signed & negative, -magnitudes, magnitudes)
    return [Step(*step) for step in zip(operations.unbind(1), magnitudes.unbind(1), strict=True)]


def autoaugment(_settings: AugmentSettings, draws: Draws, height: int, width: int) -> list[Step]:
    """Draw a sub-policy of CIFAR-10 for each image (arXiv:1805.09501); each of its two operations has a probability."""
    names = torch.tensor([[NAMES.index(name) for name, _, _ in pair] for pair in SUB_POLICIES])
    probabilities = torch.tensor([[probability for _, probability, _ in pair] for pair in SUB_POLICIES])
    levels = torch.tensor([[level for _, _, level in pair] for pair in SUB_POLICIES])
    drawn = draws.integers(len(SUB_POLICIES))
    skipped = draws.uniform(shape=(2,)) >= probabilities[drawn]
    operations = names[drawn].masked_fill(skipped, NAMES.index("identity"))
    return _steps(_strongest(height, width), 10, operations, levels[drawn], draws)


def randaugment(settings: AugmentSettings, draws: Draws, height: int, width: int) -> list[Step]:
    """Draw any operations, one after the other, all of the same strength (arXiv:1909.13719)."""
    operations = draws.integers(WITHOUT_INVERT, shape=(settings.randaugment_ops,))
    levels = torch.full_like(operations, settings.randaugment_magnitude)
    return _steps(_strongest(height, width), 31, operations, levels, draws)


def trivialaugment(_settings: AugmentSettings, draws: Draws, _height: int, _width: int) -> list[Step]:
    """Draw one operation of any strength (TrivialAugmentWide, arXiv:2103.10158)."""
    operations = draws.integers(WITHOUT_INVERT, shape=(1,))
    return _steps(_strongest_wide(), 31, operations, draws.integers(31, shape=(1,)), draws)


POLICIES: dict[str, Callable[[AugmentSettings, Draws, int, int], list[Step]]] = {
    "autoaugment": autoaugment,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
}

SUB_POLICIES = (  # (operation, probability, level out of 10), twice; operations without a strength have level 0
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
