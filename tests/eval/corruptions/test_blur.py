"""Filters, blurs and distortions against scipy, Pillow and loops over single pixels."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from eval.corruptions import blur, corrupted, digital, filters
from eval.corruptions.draws import ImageDraws

SIDES = [(32, 32), (8, 8), (28, 21), (64, 48)]
DRAWS = ImageDraws(0, "a", 1, torch.arange(2))


def fresh_draws() -> ImageDraws:
    return ImageDraws(0, "a", 1, torch.arange(2))


def random_images(height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    values = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (values * 255).round() / 255


def planes(images: Tensor) -> list[NDArray[np.float64]]:
    return list(images.flatten(0, 1).numpy())


def as_images(planes: list[NDArray[np.float64]], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(planes)).view(like.shape)


# --- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIDES, ids=str)
@pytest.mark.parametrize(("sigma", "truncate", "border"), [(0, 4, "nearest"), (0.7, 4, "nearest"), (6.4, 3, "reflect")])
def test_blurs_are_scipys(sigma: float, truncate: float, border: filters.Border, size: tuple[int, int]) -> None:
    images = random_images(*size)
    expected = [ndimage.gaussian_filter(plane, sigma, mode=border, truncate=truncate) for plane in planes(images)]
    result = filters.blurred(images, sigma, truncate=truncate, border=border)
    assert torch.allclose(result, as_images(expected, images), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 5), (7, 3)], ids=str)
@pytest.mark.parametrize("size", SIDES, ids=str)
def test_filters_are_scipys_correlation(size: tuple[int, int], kernel_size: tuple[int, int]) -> None:
    images = random_images(*size)
    kernel = torch.randn(kernel_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = [ndimage.correlate(plane, kernel.numpy(), mode="mirror") for plane in planes(images)]
    assert torch.allclose(filters.filtered(images, kernel), as_images(expected, images), atol=1e-12, rtol=0)


def zoomed_by_scipy(plane: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    cut = [math.ceil(side / factor) for side in plane.shape]
    top, left = ((side - length) // 2 for side, length in zip(plane.shape, cut, strict=True))
    grown = ndimage.zoom(plane[top : top + cut[0], left : left + cut[1]], factor, order=1)
    top, left = ((new - side) // 2 for side, new in zip(plane.shape, grown.shape, strict=True))
    return grown[top : top + plane.shape[0], left : left + plane.shape[1]]


@pytest.mark.parametrize("size", SIDES, ids=str)
@pytest.mark.parametrize("factor", [1, 1.01, 1.05, 1.25, 1.75, 2.25, 7])
def test_enlargements_are_scipys(factor: float, size: tuple[int, int]) -> None:
    images = random_images(*size)
    expected = [zoomed_by_scipy(plane, factor) for plane in planes(images)]
    assert torch.allclose(filters.enlarged(images, factor), as_images(expected, images), atol=1e-12, rtol=0)


@pytest.mark.parametrize("border", ["nearest", "reflect", "mirror"])
def test_samples_are_scipys(border: filters.Border) -> None:
    images = random_images(20, 30)
    down, across = fresh_draws().uniform(2, 20, 30, low=-15, high=45).unbind(1)
    expected = [
        ndimage.map_coordinates(images[place, channel].numpy(), [down[place], across[place]], order=1, mode=border)
        for place in range(2)
        for channel in range(3)
    ]
    assert torch.allclose(filters.sampled(images, down, across, border), as_images(expected, images), atol=1e-12)


@pytest.mark.parametrize(("radius", "sigma"), [(6, 1), (9, 2.5), (14, 12), (3.5, 2)])
def test_streaks_are_sums_of_moved_images(radius: float, sigma: float) -> None:
    images = random_images(20, 30)
    degrees = torch.tensor([-100.0, 37.0], dtype=torch.float64)
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    expected = np.zeros(images.shape)
    for place, angle in enumerate(np.deg2rad(degrees.numpy())):
        for step, weight in enumerate(weights / weights.sum()):
            rows = np.clip(np.arange(20) + np.round(step * np.sin(angle)).astype(int), 0, 19)
            columns = np.clip(np.arange(30) + np.round(step * np.cos(angle)).astype(int), 0, 29)
            expected[place] += weight * images[place].numpy()[:, rows][:, :, columns]
    assert np.abs(filters.streaked(images, radius, sigma, degrees).numpy() - expected).max() < 1e-4  # of 1/255 = 4e-3


def test_lengths_grow_with_images_larger_than_cifars_alone() -> None:
    sides = {8: 1, 28: 1, 32: 1, 64: 2, 224: 7}
    assert {side: filters.pixel_scale(torch.empty(1, 1, side, 2 * side)) for side in sides} == sides


# --- blurs --------------------------------------------------------------------------------------------------------


def test_disks_by_hand() -> None:
    edge, side = math.exp(-0.5 / 0.4**2), 1 / (1 + 2 * math.exp(-0.5 / 0.4**2))
    point = blur.soft_disk(0.3, 0.4, 1)
    assert point.shape == (3, 3)
    assert float(point[1, 1]) == pytest.approx(side**2)
    assert float(point[0, 1]) == pytest.approx(side**2 * edge)
    square = blur.soft_disk(1.5, 0.1, 1)
    assert torch.allclose(square[1:4, 1:4], torch.full((3, 3), 1 / 9, dtype=torch.float64))
    assert float(square.sum()) == pytest.approx(1)
    cross = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5
    assert torch.allclose(blur.soft_disk(1, 0.2, 1)[1:4, 1:4], cross.double(), atol=1e-5)


def test_a_blurred_image_enlarged_is_about_as_blurred_as_an_enlarged_one() -> None:
    """What the scale of lengths is for; around an edge, and in levels."""
    small = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    small[..., 16:] = 1
    large = small.repeat_interleave(7, 2).repeat_interleave(7, 3)
    for name, severity, tolerance in (("gaussian_blur", 5, 0.06), ("defocus_blur", 5, 0.09)):
        index = torch.arange(1)
        of_small = corrupted(small, index, name, severity, 0)
        of_large = corrupted(large, index, name, severity, 0)
        means = of_large.unflatten(2, (32, 7)).unflatten(4, (32, 7)).mean((3, 5))
        assert (means - of_small).abs().max() < tolerance
        assert (means - small).abs().max() > 3 * tolerance


def shuffled_as_published(image: NDArray[np.float64], across: Tensor, down: Tensor) -> None:
    """The original's loop, in place. Its swap of two views copies one pixel and leaves the other as it is."""
    for h in range(31, 1, -1):
        for w in range(31, 1, -1):
            image[h, w] = image[h + int(down[h, w]), w + int(across[h, w])]


@pytest.mark.parametrize(("sigma", "times"), [(0.05, 1), (0.25, 2), (0.4, 2)])
def test_glass_blur_is_the_published_walk_over_the_pixels(sigma: float, times: int) -> None:
    images = random_images()
    result = blur.glass_blur(images, fresh_draws(), sigma, 1, times)
    draws = fresh_draws()
    moves = [[draws.integers(-1, 1, 32, 32) for _ in "xy"] for _ in range(times)]
    for place, image in enumerate(images.numpy().transpose(0, 2, 3, 1)):
        walked = np.floor(255 * ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest") + 1e-6) / 255
        for across, down in moves:
            shuffled_as_published(walked, across[place], down[place])
        expected = ndimage.gaussian_filter(walked, (sigma, sigma, 0), mode="nearest").transpose(2, 0, 1)
        assert np.allclose(result[place].numpy(), expected, atol=1e-12, rtol=0)


def test_glass_blur_moves_pixels_equally_often_in_all_directions_within_reach() -> None:
    places = torch.arange(64.0 * 64, dtype=torch.float64).view(1, 1, 64, 64).repeat(2, 1, 1, 1) / 255
    draws = ImageDraws(0, "a", 1, torch.arange(2))
    across, down = (draws.integers(-2, 2, 64, 64)[:, 3:62, 3:62] for _ in range(2))
    assert {(int(a), int(d)) for a, d in zip(across.flatten(), down.flatten(), strict=True)} == {
        (a, d) for a in range(-2, 2) for d in range(-2, 2)
    }
    image = (places % 1).clamp(0, 1)
    result = blur.glass_blur(image, ImageDraws(0, "a", 1, torch.arange(2)), 0.01, 1, 1)  # 64 pixels: a reach of 2
    rows, columns = torch.arange(3, 62)[:, None], torch.arange(3, 62)
    moved = image[torch.arange(2)[:, None, None], 0, rows + down, columns + across]
    assert (result[:, 0, 3:62, 3:62] - moved).abs().max() < 1 / 255 + 1e-9
    assert (result[:, 0, :3] - image[:, 0, :3]).abs().max() < 1 / 255 + 1e-9


ZOOM_STOPS = [1.06, 1.11, 1.16, 1.21, 1.26]


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("side", [32, 64])
def test_zoom_blur_is_the_published_mean(severity: int, side: int) -> None:
    images = random_images(side, side)
    factors = np.arange(1, ZOOM_STOPS[severity - 1], 0.01)
    expected = [
        (plane + sum(zoomed_by_scipy(plane, factor) for factor in factors)) / (len(factors) + 1)
        for plane in planes(images)
    ]
    result = corrupted(images, torch.arange(2), "zoom_blur", severity, 0)
    assert torch.equal((result * 255).round(), (as_images(expected, images) * 255 + 1e-6).floor())


def test_zoom_blur_below_cifars_size_moves_edges_by_as_many_pixels() -> None:
    images = random_images(8, 8)
    factors = [1, *(1 + 0.04 * step for step in range(1, 7))]
    expected = [(plane + sum(zoomed_by_scipy(plane, factor) for factor in factors)) / 8 for plane in planes(images)]
    assert torch.allclose(blur.zoom_blur(images, DRAWS, 6), as_images(expected, images), atol=1e-9)


# --- places -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("size", [(32, 32), (28, 33), (224, 224)], ids=str)
def test_pixelate_is_pillows_box_filter_there_and_back(size: tuple[int, int], severity: int) -> None:
    images = (random_images(*size) * 255).byte()
    share = [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1]
    result = corrupted(images, torch.arange(2), "pixelate", severity, 0)
    for image, ours in zip(images, result, strict=True):
        height, width = size
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        fewer = picture.resize((int(width * share), int(height * share)), Image.Resampling.BOX)
        expected = np.array(fewer.resize((width, height), Image.Resampling.BOX))
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), expected)


def test_pixelate_takes_ever_more_of_the_smallest_images() -> None:
    images = (random_images(8, 8) * 255).byte()
    results = [corrupted(images, torch.arange(2), "pixelate", severity, 0) for severity in range(1, 6)]
    assert [len(result[0, 0].unique(dim=0)) for result in results] == [7, 6, 5, 4, 3]


def affine_by_scipy(plane: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map that takes (26, 26), (26, 6), (6, 6) to the moved corners, all written (x, y), of a 32 x 32 plane."""
    corners = np.array([[26, 26, 1], [26, 6, 1], [6, 6, 1]])
    forward = np.vstack([np.linalg.solve(corners, moved).T, [0, 0, 1]])
    back = np.linalg.inv(forward)
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])  # scipy's places are (row, column)
    return ndimage.affine_transform(plane, swap @ back @ swap, order=1, mode="mirror")


@pytest.mark.parametrize("strength", [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.1, 0.03, 0.03)], ids=str)
def test_elastic_transform_is_scipys(strength: tuple[float, float, float]) -> None:
    images = random_images()
    shift, sigma, jitter = (32 * share for share in strength)
    draws = fresh_draws()
    moved = np.array([[26, 26], [26, 6], [6, 6]]) + draws.uniform(3, 2, low=-jitter, high=jitter).numpy()
    noise = [draws.uniform(1, 32, 32, low=-1, high=1).numpy()[:, 0] for _ in "xy"]
    result = digital.elastic_transform(images, fresh_draws(), *strength)
    rows, columns = np.mgrid[:32, :32]
    for place in range(2):
        across, down = (
            shift * ndimage.gaussian_filter(field[place], sigma, mode="reflect", truncate=3) for field in noise
        )
        for channel in range(3):
            turned = affine_by_scipy(images[place, channel].numpy(), moved[place])
            places = [rows + down, columns + across]
            expected = ndimage.map_coordinates(turned, places, order=1, mode="reflect")
            assert np.allclose(result[place, channel].numpy(), expected, atol=1e-9, rtol=0)
