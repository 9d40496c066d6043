"""Contracts over all views, and averages worked by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.metrics.one_label import softmax
from common.metrics.several_labels import sigmoid
from eval.views import VIEWS, predict_with_views

COUNTS = {"none": 1, "flip": 2, "translate": 5, "flip_translate": 10, "multi_crop": 6, "shift": 3, "flip_shift": 6}


def test_every_view_is_counted_here() -> None:
    assert COUNTS.keys() == VIEWS.keys()


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 3, 32, 32), (1, 1, 28, 20), (1, 3, 224, 224)], ids=str)
@pytest.mark.parametrize("name", VIEWS)
def test_shapes_are_kept_and_the_image_itself_comes_first(name: str, shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    views = VIEWS[name](images)
    assert [view.shape for view in views] == [torch.Size(shape)] * COUNTS[name]
    assert torch.equal(views[0], images)
    assert torch.equal(images, before)
    assert all(not torch.equal(one, other) for place, one in enumerate(views) for other in views[:place]) or (
        name == "multi_crop" and shape[-1] == 8  # one pixel is cut off: the middle is a corner
    )


@pytest.mark.parametrize("name", VIEWS)
def test_of_a_plain_image_every_view_is_the_image(name: str) -> None:
    images = torch.full((2, 3, 16, 16), 0.37)
    assert all(torch.allclose(view, images) for view in VIEWS[name](images))


def test_shifts_by_a_pixel_repeat_the_edge() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    expected = {
        "itself": [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
        "down": [[0, 1, 2], [0, 1, 2], [3, 4, 5]],
        "up": [[3, 4, 5], [6, 7, 8], [6, 7, 8]],
        "left": [[1, 2, 2], [4, 5, 5], [7, 8, 8]],
        "right": [[0, 0, 1], [3, 3, 4], [6, 6, 7]],
    }
    assert [view.squeeze().tolist() for view in VIEWS["translate"](image)] == list(expected.values())


def test_reflected_shifts_mirror_the_edge() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    up_left, down_right = [[4, 5, 4], [7, 8, 7], [4, 5, 4]], [[4, 3, 4], [1, 0, 1], [4, 3, 4]]
    assert [view.squeeze().tolist() for view in VIEWS["shift"](image)[1:]] == [up_left, down_right]
    pairs = [pair for view in VIEWS["shift"](image) for pair in VIEWS["flip"](view)]
    assert all(torch.equal(*both) for both in zip(VIEWS["flip_shift"](image), pairs, strict=True))


def test_shifts_grow_with_the_image() -> None:
    image = torch.arange(32.0).view(1, 1, 32, 1).expand(1, 1, 32, 32)
    down = VIEWS["translate"](image)[1]
    assert down[0, 0, :4, 0].tolist() == [0, 0, 0, 1]


def test_shifts_and_mirror_images_are_all_pairs_of_both() -> None:
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pairs = [pair for view in VIEWS["translate"](images) for pair in VIEWS["flip"](view)]
    assert all(torch.equal(*both) for both in zip(VIEWS["flip_translate"](images), pairs, strict=True))


def test_crops_hold_their_corner_and_agree_with_torchvision() -> None:
    from torchvision.transforms.v2.functional import five_crop, resize

    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    *corners, middle = five_crop(images, [28, 28])
    expected = [resize(crop, [32, 32], antialias=False) for crop in (middle, *corners)]
    for found, other in zip(VIEWS["multi_crop"](images)[1:], expected, strict=True):
        torch.testing.assert_close(found, other)


# --- averages ---------------------------------------------------------------------------------------------------


def left_pixel(images: Tensor) -> Tensor:
    """Logits of two classes: 0 and the image's upper left pixel."""
    pixel = images[:, 0, 0, 0]
    return torch.stack([torch.zeros_like(pixel), pixel], dim=1)


@pytest.mark.parametrize(
    ("average", "multi_label", "expected"),
    [
        ("probabilities", False, (3 / 4 + 1 / 2) / 2),  # of logits ln 3 and, mirrored, 0
        ("logits", False, math.sqrt(3) / (1 + math.sqrt(3))),
        ("probabilities", True, (3 / 4 + 1 / 2) / 2),
        ("logits", True, math.sqrt(3) / (1 + math.sqrt(3))),
    ],
)
def test_an_average_worked_by_hand(average, multi_label: bool, expected: float) -> None:
    images = torch.tensor([math.log(3), 0.0]).view(1, 1, 1, 2)
    found = predict_with_views(left_pixel, images, VIEWS["flip"], average=average, multi_label=multi_label)
    assert found[0, 1].item() == pytest.approx(expected)
    assert found[0, 0].item() == pytest.approx(0.5 if multi_label else 1 - expected)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_averages_agree_with_numpy(name: str, multi_label: bool, average) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    images = torch.randn(5, 1, 8, 8)
    found = predict_with_views(model, images, VIEWS[name], multi_label=multi_label, average=average)
    probabilities = sigmoid if multi_label else softmax
    logits = np.stack([model(view).detach().numpy() for view in VIEWS[name](images)])
    expected = probabilities(logits.mean(0)) if average == "logits" else probabilities(logits).mean(0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_a_model_that_sees_no_difference_says_the_same() -> None:
    def mean_and_spread(images: Tensor) -> Tensor:  # the same for an image and its mirror image
        return torch.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], dim=1)

    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alone, both = (predict_with_views(mean_and_spread, images, VIEWS[name]) for name in ("none", "flip"))
    torch.testing.assert_close(alone, both)


def test_another_average_is_refused() -> None:
    with pytest.raises(ValueError, match=r"average: given mode, allowed: probabilities \| logits"):
        predict_with_views(left_pixel, torch.zeros(1, 1, 2, 2), VIEWS["none"], average="mode")  # type: ignore[arg-type]
