"""Every batched operation against torchvision on each image alone, and against small cases worked by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from common.data import image_ops as ops

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 33, 20), (1, 3, 5), (3, 2, 9)]
BILINEAR = InterpolationMode.BILINEAR


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def example_images(channels: int, height: int, width: int) -> Tensor:
    """Noise, a smooth slope, few values, a narrow range, and images of one value: eight in all."""
    generator = torch.Generator().manual_seed(height * width + channels)
    noise = torch.randint(0, 256, (3, channels, height, width), generator=generator)
    slope = torch.arange(height * width).view(1, 1, height, width) * 255 // (height * width)
    slope = (slope + 40 * torch.arange(channels).view(1, -1, 1, 1)) % 256
    few = noise[:1] % 2 * 200 + 17
    narrow = noise[1:2] % 23 + 90
    flat = torch.tensor([0, 255])[:, None, None, None].expand(2, channels, height, width)
    return torch.cat([noise, slope, few, narrow, flat]).to(torch.uint8)


def one_by_one(images: Tensor, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    return torch.stack([change(image, number) for number, image in enumerate(images)])


def assert_nearly_equal(ours: Tensor, theirs: Tensor, *, share: float) -> None:
    """At most one grey level apart, and at most this share of the pixels."""
    assert ours.dtype == theirs.dtype == torch.uint8
    apart = (ours.int() - theirs.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() <= share


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def images(request: pytest.FixtureRequest) -> Tensor:
    return example_images(*request.param)


# --- place ----------------------------------------------------------------------------------------------------------


def test_crop_is_pad_and_crop(images: Tensor) -> None:
    height, width = images.shape[-2:]
    top, left = torch.tensor([0, 1, 2, 3, 4, 5, 6, 3]), torch.tensor([6, 5, 4, 0, 2, 1, 0, 3])
    expected = one_by_one(
        images, lambda image, i: tv.crop(tv.pad(image, [3] * 4), int(top[i]), int(left[i]), height, width)
    )
    assert torch.equal(ops.crop(images, 3, top, left), expected)
    wide = torch.from_numpy(np.pad(images.numpy(), [(0, 0), (0, 0), (3, 3), (3, 3)], mode="reflect"))
    mirrored = [tv.crop(wide[i], int(top[i]), int(left[i]), height, width) for i in range(len(images))]
    assert torch.equal(ops.crop(images, 3, top, left, "reflect"), torch.stack(mirrored))
    assert torch.equal(expected[-1], images[-1])


def test_flip_mirrors_the_chosen_ones(images: Tensor) -> None:
    chosen = torch.arange(len(images)) % 3 == 0
    for dim, flip in ((-1, tv.horizontal_flip), (-2, tv.vertical_flip)):
        expected = one_by_one(images, lambda image, i, flip=flip: flip(image) if chosen[i] else image)
        assert torch.equal(ops.flip(images, chosen, dim), expected)


@pytest.mark.parametrize("largest_deg", [15.0, 180.0])
def test_rotate_and_shift_is_one_bilinear_affine(images: Tensor, largest_deg: float) -> None:
    degrees = torch.linspace(-largest_deg, largest_deg, 8, dtype=torch.float64)
    right, down = doubles(0, 1, -2, 0, 3, -1, 2, 0.4), doubles(1, 0, 2, -3, 0, -1, 0, -1.3)
    expected = one_by_one(
        images,
        lambda image, i: tv.affine(
            image, float(degrees[i]), [float(right[i]), float(down[i])], 1.0, [0.0, 0.0], interpolation=BILINEAR
        ),
    )
    assert_nearly_equal(ops.rotate_and_shift(images, degrees, right, down), expected, share=0.01)


def test_whole_pixel_shifts_do_not_blur() -> None:
    image = example_images(3, 6, 7)[:1]
    shifted = ops.rotate_and_shift(image, doubles(0), doubles(2), doubles(-1))
    assert torch.equal(shifted[..., :-1, 2:], image[..., 1:, :-2])
    assert shifted[..., -1, :].sum() == 0
    assert shifted[..., :2].sum() == 0


def away_from_ties(sources: Tensor, height: int, width: int) -> Tensor:
    """(n, 1, h, w): where no source coordinate, in pixels, is midway between two. There, rounding may go either way."""
    x, y = torch.arange(width) + 0.5 - width / 2, torch.arange(height) + 0.5 - height / 2
    points = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)], -1).double()
    coordinates = torch.einsum("nij,hwj->nihw", sources, points) + (doubles(width, height)[:, None, None] - 1) / 2
    return ((coordinates.frac().abs() - 0.5).abs() > 1e-4).all(1, keepdim=True)


def test_rotate_is_torchvisions_nearest(images: Tensor) -> None:
    degrees = doubles(-135, -90, -30, -3.3, 0, 12.7, 90, 180)
    expected = one_by_one(images, lambda image, i: tv.rotate(image, float(degrees[i])))
    cos, sin, none = degrees.deg2rad().cos(), degrees.deg2rad().sin(), torch.zeros(8)
    sources = torch.stack([cos, -sin, none, sin, cos, none], 1).view(8, 2, 3)
    sure = away_from_ties(sources, *images.shape[-2:]).expand_as(images)
    assert sure.float().mean() > 0.5
    assert torch.equal(ops.rotate(images, degrees)[sure], expected[sure])


@pytest.mark.parametrize("operation", [ops.translate_x, ops.translate_y])
def test_translate_is_torchvisions_nearest(images: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    pixels = doubles(-40, -6.9, -2.0, -0.99, 0.0, 0.99, 3.7, 14.5)
    along_x = operation is ops.translate_x

    def shifted(image: Tensor, i: int) -> Tensor:
        shift = [int(pixels[i]), 0] if along_x else [0, int(pixels[i])]
        return tv.affine(image, 0.0, shift, 1.0, [0.0, 0.0])

    assert torch.equal(operation(images, pixels), one_by_one(images, shifted))


@pytest.mark.parametrize("operation", [ops.shear_x, ops.shear_y])
def test_shear_is_torchvisions_nearest_about_the_corner(
    images: Tensor, operation: Callable[[Tensor, Tensor], Tensor]
) -> None:
    slopes = doubles(-0.99, -0.3, -0.09, 0.0, 0.13, 0.231, 0.61, 0.97)
    along_x = operation is ops.shear_x

    def sheared(image: Tensor, i: int) -> Tensor:
        degrees = math.degrees(math.atan(slopes[i]))
        return tv.affine(image, 0.0, [0, 0], 1.0, [degrees, 0.0] if along_x else [0.0, degrees], center=[0, 0])

    height, width = images.shape[-2:]
    one, none = torch.ones(8), torch.zeros(8)
    rows = [one, slopes, slopes * height / 2, none, one, none]
    if not along_x:
        rows = [one, none, none, slopes, one, slopes * width / 2]
    sure = away_from_ties(torch.stack(rows, 1).view(8, 2, 3), height, width).expand_as(images)
    assert sure.float().mean() > 0.5
    assert torch.equal(operation(images, slopes)[sure], one_by_one(images, sheared)[sure])


# --- colour -----------------------------------------------------------------------------------------------------------

FACTORS = doubles(0.0, 0.1, 0.55, 1.0, 1.3, 1.63, 1.9, 2.0)
EXACT = {
    "brightness": (ops.brightness, tv.adjust_brightness, FACTORS),
    "posterize": (ops.posterize, lambda image, bits: tv.posterize(image, int(bits)), doubles(8, 7, 6, 5, 4, 3, 2, 0)),
    "solarize": (ops.solarize, tv.solarize, doubles(255, 254.5, 0, 127.5, 17, 90, 199, 217)),
    "autocontrast": (lambda images, _: ops.autocontrast(images), lambda image, _: tv.autocontrast(image), FACTORS),
    "equalize": (lambda images, _: ops.equalize(images), lambda image, _: tv.equalize(image), FACTORS),
    "invert": (lambda images, _: ops.invert(images), lambda image, _: tv.invert(image), FACTORS),
}
# With the share of pixels that may differ at all. Blends round alike but for fused products, which vary by machine; by
# contrast, a flat image (one of eight) may then change as a whole. Rounding instead of cutting off changes half.
WITHIN_ONE_LEVEL = {
    "contrast": (ops.contrast, tv.adjust_contrast, FACTORS, 0.15),
    "saturation": (ops.saturation, tv.adjust_saturation, FACTORS, 0.02),
    "sharpness": (ops.sharpness, tv.adjust_sharpness, FACTORS, 0.02),
    "hue": (ops.hue, tv.adjust_hue, doubles(-0.5, -0.31, -0.1, 0, 0.02, 0.17, 0.4, 0.5), 0.02),
}


@pytest.mark.parametrize("name", EXACT)
def test_equals_torchvision(images: Tensor, name: str) -> None:
    ours, theirs, parameters = EXACT[name]
    before = images.clone()
    expected = one_by_one(images, lambda image, i: theirs(image, float(parameters[i])))
    assert torch.equal(ours(images, parameters), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", WITHIN_ONE_LEVEL)
def test_is_within_a_level_of_torchvision(images: Tensor, name: str) -> None:
    ours, theirs, parameters, share = WITHIN_ONE_LEVEL[name]
    for turn in range(0, 8, 3):  # other images meet other parameters
        turned, before = parameters.roll(turn), images.clone()
        expected = one_by_one(images, lambda image, i, turned=turned: theirs(image, float(turned[i])))
        assert_nearly_equal(ours(images, turned), expected, share=share)
        assert torch.equal(images, before)


def test_hue_of_every_kind_of_colour() -> None:
    """All orders of the channels, ties of two, greys and edges of the cube, turned by 16 angles."""
    levels = torch.tensor([0, 1, 60, 128, 254, 255])
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 12, 18).to(torch.uint8)
    turns = torch.linspace(-0.5, 0.5, 16, dtype=torch.float64)
    expected = torch.cat([tv.adjust_hue(colours, float(turn)) for turn in turns])
    assert_nearly_equal(ops.hue(colours.expand(16, -1, -1, -1), turns), expected, share=0.02)


def test_a_third_of_the_circle_makes_red_green() -> None:
    red = torch.tensor([200, 10, 10], dtype=torch.uint8).view(1, 3, 1, 1)
    assert ops.hue(red, doubles(1 / 3)).flatten().tolist() == [10, 200, 10]
    assert ops.hue(red, doubles(-1 / 3)).flatten().tolist() == [10, 10, 200]


def test_sharpness_by_hand() -> None:
    """A lone 130 among zeros: blur of the centre is 130 * 5 / 13 = 50, so factor 0 gives 50, factor 0.5 gives 90."""
    image = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    image[:, :, 1, 1] = 130
    sharpened = ops.sharpness(image, doubles(0, 0.5))
    assert sharpened[:, 0, 1, 1].tolist() == [50, 90]
    assert sharpened.sum() == 140


def test_equalize_by_hand() -> None:
    """512 pixels, half of them 3, half 200: step (512 - 256) // 255 = 1, so 3 -> 0 and 200 -> min(256, 255)."""
    image = torch.tensor([3, 200], dtype=torch.uint8).repeat(256).view(1, 1, 16, 32)
    assert ops.equalize(image).flatten()[:2].tolist() == [0, 255]
    few = image[..., :8, :8]  # step 32 // 255 = 0: stays
    assert torch.equal(ops.equalize(few), few)


def test_no_operation_looks_at_the_other_images() -> None:
    images, other = example_images(3, 9, 7), example_images(3, 9, 7).flip(0).flip(-1)
    other[2] = images[2]
    for ours, _, parameters in [*EXACT.values(), *(row[:3] for row in WITHIN_ONE_LEVEL.values())]:
        alone = ours(images[2:3], parameters[2:3])[0]
        assert torch.equal(ours(images, parameters)[2], alone)
        assert torch.equal(ours(other, parameters)[2], alone)


# --- rectangles -------------------------------------------------------------------------------------------------------


def test_boxes_are_clipped_at_the_borders() -> None:
    images = torch.zeros(5, 3, 4, 6, dtype=torch.uint8)
    fill = torch.tensor([7, 8, 9], dtype=torch.uint8)
    boxes = torch.tensor([[-2, -3, 2, 1], [3, 4, 9, 9], [1, 1, 3, 4], [2, 2, 2, 5], [-9, -9, 99, 99]])
    filled = ops.fill_boxes(images, boxes, fill)
    assert filled[:, 0].ne(0).sum((1, 2)).tolist() == [2, 2, 6, 0, 24]
    assert filled[0, :, 1, 0].tolist() == [7, 8, 9]
    assert filled[1, 0, 3, 4:].tolist() == [7, 7]
    assert torch.equal(filled[2], tv.erase(images[2], 1, 1, 2, 3, fill[:, None, None]))
    assert images.sum() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*EXACT, *WITHIN_ONE_LEVEL])
def test_a_gpu_agrees(name: str) -> None:
    images = example_images(3, 33, 20)
    operation, _, parameters = (EXACT | WITHIN_ONE_LEVEL)[name][:3]
    assert_nearly_equal(operation(images.cuda(), parameters).cpu(), operation(images, parameters), share=0.15)
