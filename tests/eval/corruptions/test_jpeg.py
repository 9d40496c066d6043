"""JPEG against Pillow's encoder and decoder, and its parts against numbers worked by hand."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, JpegImagePlugin
from scipy.fft import dctn
from torch import Tensor

from eval.corruptions import corrupted, jpeg

QUALITIES = [80, 65, 58, 50, 40]


def pictures(channels: int, height: int, width: int, count: int = 8) -> Tensor:
    """Smooth colours with edges and a little noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(count, channels, 5, 5, generator=generator), (height, width), mode="bicubic")
    edges = F.interpolate(torch.rand(count, channels, 4, 4, generator=generator), (height, width)).round()
    noise = 0.03 * torch.randn(count, channels, height, width, generator=generator)
    return ((0.7 * coarse + 0.3 * edges + noise).clamp(0, 1) * 255).round().byte()


def by_pillow(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    return decoded[None] if decoded.ndim == 2 else decoded.permute(2, 0, 1)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (8, 8), (33, 49), (97, 64)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_is_pillows(channels: int, size: tuple[int, int]) -> None:
    images = pictures(channels, *size)
    for severity, quality in enumerate(QUALITIES, 1):
        result = corrupted(images, torch.arange(len(images)), "jpeg_compression", severity, 0)
        expected = torch.stack([by_pillow(image, quality) for image in images])
        difference = (result.int() - expected.int()).abs().double()
        loss = float((images.int() - expected.int()).abs().double().mean())
        # libjpeg's transform is in whole numbers, so here and there a coefficient falls to the next step
        assert difference.mean() < min(0.7, loss / 8)
        assert (difference <= 1).double().mean() > 0.85


@pytest.mark.parametrize("quality", [*QUALITIES, 5, 100])
def test_the_steps_are_pillows(quality: int) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    opened = Image.open(file)
    assert isinstance(opened, JpegImagePlugin.JpegImageFile)
    luminance, chrominance = (opened.quantization[place] for place in (0, 1))
    assert jpeg.steps_at(jpeg.LUMINANCE_STEPS, quality).flatten().tolist() == list(luminance)
    assert jpeg.steps_at(jpeg.CHROMINANCE_STEPS, quality).flatten().tolist() == list(chrominance)


def test_blocks_are_coded_one_by_one_by_the_cosine_transform() -> None:
    planes = pictures(1, 16, 8, count=1).double()
    steps = np.array(jpeg.LUMINANCE_STEPS)
    expected = []
    for block in planes[0, 0].numpy().reshape(2, 8, 8):
        multiples = np.round(dctn(block - 128, norm="ortho") / steps) * steps
        expected.append(np.clip(np.round(dctn(multiples, type=3, norm="ortho") + 128), 0, 255))
    assert np.array_equal(jpeg.coded(planes, jpeg.LUMINANCE_STEPS, 50)[0, 0].numpy(), np.concatenate(expected))


def test_a_plain_image_keeps_its_level_where_the_first_step_allows() -> None:
    """The first coefficient of a plain block is 8 times its level, and its step is 16 at quality 50."""
    images = torch.tensor([100, 101], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 8, 8)
    result = corrupted(images, torch.arange(2), "jpeg_compression", 4, 0)
    assert result.flatten(1)[:, 0].tolist() == [100, 100]  # -27 * 8 / 16 = -13.5, away from zero to -14
    assert len(result.unique()) == 1


def test_colours_at_half_resolution_by_hand() -> None:
    plane = torch.tensor([[10.0, 12, 1, 2], [11, 12, 2, 2]], dtype=torch.float64)[None, None]
    assert jpeg._halved(plane)[0, 0].tolist() == [[11, *[2] * 7]]  # (45 + 1) / 4 and (7 + 2) / 4, cut off
    row = torch.tensor([[[[0.0, 100]]]], dtype=torch.float64)
    assert jpeg._doubled(row)[0, 0].tolist() == [[0, 25, 75, 100]] * 2
