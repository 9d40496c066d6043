"""Contracts over all corruptions: what they keep, what they depend on, and that severity means something."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from common.data.publishers.catalog import CIFAR10_C_MD5
from eval import corruptions
from eval.corruptions import CORRUPTIONS, SEVERITIES, corrupted

UNDRAWN = {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate"
}  # fmt: skip

# (severity, the next one) between which the published strengths trade one effect for another, and pixels may come
# nearer to the clean image's again.
MAY_FALL = {
    "glass_blur": {(1, 2), (2, 3), (4, 5)},  # the same moves, more blurred, which brings strangers nearer to the mean
    "motion_blur": {(3, 4)},  # a longer kernel of the same sigma
    "frost": {(3, 4), (4, 5)},  # less of the image is kept, which darkens it against the ice
    "elastic_transform": {(1, 2), (2, 3), (3, 4), (4, 5)},  # less affine movement, more local
    "pixelate": {(2, 3)},  # of 8 pixels 6 are left, then 5, whose borders are others
    "spatter": {(3, 4)},  # from water to mud
    "saturate": {(2, 3)},  # from less colour to more
}


def smooth_colours(count: int, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    coarse = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255).round().byte()


def digits(count: int) -> Tensor:
    return torch.from_numpy(load_digits().images[:count]).mul(255 / 16).round().byte()[:, None]


def run(images: Tensor, name: str, severity: int = 5, seed: int = 0, first: int = 0) -> Tensor:
    return corrupted(images, torch.arange(first, first + len(images)), name, severity, seed)


def test_all_of_the_publishers_corruptions_are_here_at_all_severities() -> None:
    assert tuple(CORRUPTIONS)[:19] == tuple(name for name in CIFAR10_C_MD5 if name != "labels")
    assert set(corruptions._DEFINED) == set(CORRUPTIONS)
    assert {len(corruption.strengths) for corruption in CORRUPTIONS.values()} == {SEVERITIES}


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 32, 32), (1, 1, 28, 21), (1, 3, 40, 64)], ids=str)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_stay_images(name: str, shape: tuple[int, ...]) -> None:
    count, channels, height, width = shape
    images = smooth_colours(count, height, width, channels)
    before = images.clone()
    for severity in range(1, SEVERITIES + 1):
        result = run(images, name, severity)
        assert (result.shape, result.dtype) == (images.shape, torch.uint8)
        assert torch.equal(images, before)
        as_fractions = run(images.float() / 255, name, severity)
        assert as_fractions.dtype == torch.float32
        assert torch.equal(as_fractions, (result.double() / 255).float())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_images_are_corrupted_too(name: str) -> None:
    images = smooth_colours(1, 224, 224)
    result = run(images, name)
    assert result.shape == images.shape
    assert (result != images).float().mean() > 0.01


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    images = smooth_colours(7)
    for severity in range(1, SEVERITIES + 1):
        together = run(images, name, severity)
        alone = torch.cat([run(image[None], name, severity, first=place) for place, image in enumerate(images)])
        backwards = corrupted(images.flip(0), torch.arange(7).flip(0), name, severity, 0).flip(0)
        laid_out_by_channels = run(images.contiguous(memory_format=torch.channels_last), name, severity)
        assert torch.equal(together, alone)
        assert torch.equal(together, backwards)
        assert torch.equal(together, laid_out_by_channels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_the_device(name: str) -> None:
    for images in (smooth_colours(20), smooth_colours(2, 224, 224), digits(20)):
        for severity in range(1, SEVERITIES + 1):
            assert torch.equal(run(images.cuda(), name, severity).cpu(), run(images, name, severity))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_change_with_the_seed_the_place_and_the_severity_alone(name: str) -> None:
    images = smooth_colours(1).expand(3, -1, -1, -1)
    result = run(images, name)
    drawn = name not in UNDRAWN
    assert torch.equal(result, run(images, name))
    assert torch.equal(result, run(images, name, seed=1)) is not drawn
    assert torch.equal(result[0], result[1]) is not drawn
    assert torch.equal(result[2:], run(images[:1], name, first=2))


@pytest.mark.parametrize("images", [digits(200), smooth_colours(200)], ids=["digits", "smooth colours"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_distance_from_the_clean_image_rises_with_severity(name: str, images: Tensor) -> None:
    if name == "saturate" and images.shape[1] == 1:
        return  # a test of its own below
    results = [run(images, name, severity) for severity in range(1, SEVERITIES + 1)]
    distances = [float((result.double() - images).square().mean().sqrt()) for result in results]
    falls = {(place + 1, place + 2) for place in range(4) if distances[place] >= distances[place + 1]}
    assert min(distances) > 0
    assert falls <= MAY_FALL.get(name, set()), distances


def test_grey_has_no_saturation_to_change_until_red_is_added() -> None:
    images = digits(5)
    assert all(torch.equal(run(images, "saturate", severity), images) for severity in (1, 2, 3))
    for severity, added in ((4, 0.1), (5, 0.2)):
        darker = images * (1 - (0.587 + 0.114) * added)  # the other two channels are that much weaker
        assert (run(images, "saturate", severity) - darker).abs().max() <= 1


@pytest.mark.parametrize("name", ["brightness", "contrast", "defocus_blur", "zoom_blur", "pixelate", "gaussian_blur"])
def test_one_channel_comes_out_as_each_of_three_equal_ones(name: str) -> None:
    grey = smooth_colours(3, channels=1)
    assert torch.equal(run(grey.expand(-1, 3, -1, -1), name), run(grey, name).expand(-1, 3, -1, -1))


def test_results_are_cut_down_to_levels_as_in_the_publishers_files() -> None:
    images = torch.tensor([[0, 100], [50, 50]], dtype=torch.uint8).repeat(4, 4)[None, None]
    # mean 50: 50 -+ 50 * 0.75 is 12.5 and 87.5
    expected = torch.tensor([[12, 87], [50, 50]], dtype=torch.uint8).repeat(4, 4)[None, None]
    assert torch.equal(run(images, "contrast", 1), expected)


def test_what_is_no_corruption_is_refused() -> None:
    images, index = smooth_colours(2), torch.arange(2)
    with pytest.raises(
        ValueError, match=r"corruption: given motionblur, allowed: gaussian_noise, .*nearest: motion_blur"
    ):
        corrupted(images, index, "motionblur", 1, 0)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=rf"severity: given {severity}, allowed: 1, 2, 3, 4, 5"):
            corrupted(images, index, "fog", severity, 0)
    with pytest.raises(ValueError, match=r"images: given \(2, 2, 32, 32\), expected \(n, 1 or 3, height, width\)"):
        corrupted(images[:, :2], index, "fog", 1, 0)
    with pytest.raises(ValueError, match=r"images: given \(2, 3, 7, 32\), .* 8 pixels or more"):
        corrupted(images[:, :, :7], index, "fog", 1, 0)
    with pytest.raises(ValueError, match=r"images: given torch.int64, expected uint8, or fractions"):
        corrupted(images.long(), index, "fog", 1, 0)
    with pytest.raises(ValueError, match=r"index: given \(3,\), expected one place for each of 2 images"):
        corrupted(images, torch.arange(3), "fog", 1, 0)


def test_no_images_are_no_trouble() -> None:
    for name in CORRUPTIONS:
        assert run(smooth_colours(2)[:0], name).shape == (0, 3, 32, 32)
