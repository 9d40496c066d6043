"""Weather, drops and colours: against loops, scipy, colorsys, and what must hold of them."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from eval.corruptions import colour, corrupted, drops, weather
from eval.corruptions.draws import ImageDraws
from eval.corruptions.weather import plasma

INDEX = torch.arange(4)


def draws() -> ImageDraws:
    return ImageDraws(0, "a", 1, INDEX)


def plain(level: int, channels: int = 3, side: int = 32) -> Tensor:
    return torch.full((4, channels, side, side), level, dtype=torch.uint8)


def random_colours() -> Tensor:
    levels = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    levels[0, :, :4] = levels[0, :1, :4]  # some grey
    levels[1, :, :4] = 0  # some black
    return levels / 255.0


# --- colour -------------------------------------------------------------------------------------------------------


def by_colorsys(images: Tensor, change: Callable[[float, float, float], tuple[float, float, float]]) -> Tensor:
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in pixels]
    return torch.tensor(changed, dtype=torch.float64).view(4, 16, 16, 3).permute(0, 3, 1, 2)


@pytest.mark.parametrize("added", [0.05, 0.3])
def test_brightness_is_added_to_hsvs_value(added: float) -> None:
    images = random_colours().double()
    expected = by_colorsys(images, lambda hue, saturation, value: (hue, saturation, min(1, value + added)))
    assert torch.allclose(colour.brightness(images, draws(), added), expected, atol=1e-12)


@pytest.mark.parametrize(("factor", "added"), [(0.1, 0), (1.5, 0), (2.5, 0.2)])
def test_saturate_changes_hsvs_saturation(factor: float, added: float) -> None:
    images = random_colours().double()
    expected = by_colorsys(
        images, lambda hue, saturation, value: (hue, min(1, saturation * factor + added), value)
    )  # its hue of grey is 0, which is red
    assert torch.allclose(colour.saturate(images, draws(), factor, added), expected, atol=1e-12)


def test_contrast_keeps_the_mean_of_each_channel_and_scales_the_rest() -> None:
    images = random_colours().double()
    result = colour.contrast(images, draws(), 0.4)
    assert torch.allclose(result.mean((2, 3)), images.mean((2, 3)))
    assert torch.allclose(result.std((2, 3)), 0.4 * images.std((2, 3)))


# --- clouds -------------------------------------------------------------------------------------------------------


def plasma_by_loops(side: int, decay: float, fields: list[list[Tensor]]) -> NDArray[np.float64]:
    """Diamond-square on a torus, one point at a time; `fields`: the random parts of each octave, from -1 to 1."""
    points = {(0, 0): 0.0}
    diagonal, straight = [(-1, -1), (-1, 1), (1, -1), (1, 1)], [(-1, 0), (1, 0), (0, -1), (0, 1)]

    def mean(row: int, column: int, away: int, directions: list[tuple[int, int]]) -> float:
        return sum(points[(row + away * a) % side, (column + away * b) % side] for a, b in directions) / 4

    step, wobble = side, 1.0
    for middles, tops, lefts in fields:
        half, corners = step // 2, list(points)
        for field, down, across, directions in (
            (middles, half, half, diagonal), (tops, 0, half, straight), (lefts, half, 0, straight)
        ):  # fmt: skip
            points |= {
                (row + down, column + across): mean(row + down, column + across, half, directions)
                + wobble * float(field[row // step, column // step])
                for row, column in corners
            }
        step, wobble = half, wobble / decay**2
    values = np.array([[points[row, column] for column in range(side)] for row in range(side)])
    return (values - values.min()) / (values.max() - values.min())


def test_clouds_are_those_of_the_algorithm_point_by_point() -> None:
    stream = draws()
    stream.uniform(1, 1)
    fields = [[stream.uniform(side, side, low=-1, high=1)[2] for _ in "mtl"] for side in (1, 2, 4, 8)]
    assert np.allclose(plasma(draws(), 16, 16, 1.75)[2, 0].numpy(), plasma_by_loops(16, 1.75, fields), atol=1e-12)


def test_clouds_span_the_range_and_are_the_smoother_the_faster_the_decay() -> None:
    clouds = [plasma(draws(), 64, 64, decay) for decay in (1.5, 2, 3)]
    assert all(torch.equal(field.amax((1, 2, 3)), torch.ones(4, dtype=torch.float64)) for field in clouds)
    assert all(torch.equal(field.amin((1, 2, 3)), torch.zeros(4, dtype=torch.float64)) for field in clouds)
    roughness = [float(field.diff(dim=-1).abs().mean()) for field in clouds]
    assert roughness == sorted(roughness, reverse=True)
    assert plasma(draws(), 28, 20, 2).shape == (4, 1, 28, 20)


def test_fog_by_hand() -> None:
    images = torch.full((4, 3, 32, 32), 0.5, dtype=torch.float64)
    result = weather.fog(images, draws(), 0.75, 2.5)
    clouds = plasma(draws(), 32, 32, 2.5)
    assert torch.allclose(result, ((0.5 + 0.75 * clouds) * 0.5 / 1.25).expand(-1, 3, -1, -1))
    assert float(result.max()) == pytest.approx(0.5)  # under the thickest cloud it is as bright as before
    assert torch.equal(corrupted(plain(0), INDEX, "fog", 5, 0), plain(0))  # and black stays black


# --- snow and frost -----------------------------------------------------------------------------------------------


def test_snow_on_black_is_its_own_half_turn_over_a_lighter_ground() -> None:
    result = corrupted(plain(0), INDEX, "snow", 3, 0)
    assert torch.equal(result, result.flip(-2, -1))
    assert result.min() == 12  # a tenth of the whitened image, where black is 0.5: 12.75, cut off
    assert (result.flatten(1).amax(1) > 12).all()
    assert torch.equal(result, result[:, :1].expand(-1, 3, -1, -1))  # it is white


def test_snow_falls_more_down_than_across() -> None:
    result = corrupted(plain(0, channels=1), INDEX, "snow", 5, 0).double()
    assert result.diff(dim=-2).abs().mean() < 0.8 * result.diff(dim=-1).abs().mean()


def test_without_flakes_snow_whitens_as_published() -> None:
    images = random_colours().double()
    result = weather.snow(images, draws(), 0.0, 0.1, 1, 2.0, 8, 3, 0.9)  # nothing reaches a threshold of 2
    light = 1.5 * (0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2])[:, None] + 0.5
    assert torch.allclose(result, 0.9 * images + 0.1 * images.maximum(light))


def test_frost_adds_bluish_ice_to_what_is_kept_of_the_image() -> None:
    images = random_colours().double()
    black = torch.zeros_like(images)
    ice = weather.frost(black, draws(), 1.0, 1.0)
    assert torch.allclose(weather.frost(images, draws(), 0.75, 0.45), 0.75 * images + 0.45 * ice)
    assert (ice.amin() > 0.1) & (ice.amax() <= 1)
    assert (ice[:, 0] < ice[:, 1]).all()
    assert (ice[:, 1] < ice[:, 2]).all()
    assert ice.std((1, 2, 3)).min() > 0.05  # a texture, not a veil


# --- drops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("farthest", [3, 20, 100])
def test_distances_are_scipys(farthest: int) -> None:
    places = draws().uniform(1, 20, 30) < 0.02
    expected = [ndimage.distance_transform_edt(~plane) for plane in places[:, 0].numpy()]
    assert np.allclose(drops.distances_to(places, farthest)[:, 0].numpy(), np.minimum(expected, farthest))
    nowhere = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    assert (drops.distances_to(nowhere, farthest) == farthest).all()


def test_levels_are_spread_by_rank() -> None:
    levels = torch.tensor([[[[3.0, 3], [4, 9]]], [[[7, 7], [7, 7]]]], dtype=torch.float64)
    expected = [[0, 0, 128, 255], [0, 0, 0, 0]]  # 2, 3 and 4 of 4 pixels are at or below, so (n - 2) / 2 of 255
    assert drops.spread(levels).flatten(1).tolist() == expected


def test_water_brightens_and_mud_covers() -> None:
    ground = plain(100)
    water = corrupted(ground, INDEX, "spatter", 3, 0).int() - 100
    assert (water >= 0).all()
    assert water.flatten(2).amax(2).tolist() == [[87, 119, 119]] * 4  # half of 175, 238, 238, cut off
    assert 0.05 < (water > 0).double().mean() < 0.6
    mud = corrupted(ground, INDEX, "spatter", 4, 0)
    covered = (mud != 100).any(1)
    assert 0.005 < covered.double().mean() < 0.5
    assert (mud.permute(0, 2, 3, 1)[covered] < 100).all()
    deepest = mud.flatten(2).amin(2).amin(0)
    assert ((deepest - torch.tensor([63, 42, 20])).abs() <= 8).all()


def test_there_may_be_no_drop() -> None:
    images = random_colours().double()
    for muddy in (False, True):
        assert torch.equal(drops.spatter(images, draws(), 0.2, 0.01, 1, 0.7, 0.5, muddy), images)
