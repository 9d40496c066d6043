"""FastCNN: its first layer against an independent eigendecomposition, its shapes and its start worked by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.fast_cnn import WHITENING_EPS, FastCNN, Group, Whitening
from common.models.zoo import parameter_count


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photographs(n: int, channels: int = 3, height: int = 9, width: int = 7) -> Tensor:
    """Images whose neighbouring pixels and channels agree, as those of photographs do."""
    rough = torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(n))
    rough = rough + 0.5 * rough.flip(1)
    return 4 * F.avg_pool2d(rough, 3, stride=1, padding=1) + 0.4 * rough


def covariance(images: Tensor) -> np.ndarray:
    """Of 2x2 patches, channel by channel, in numpy and in double precision."""
    windows = np.lib.stride_tricks.sliding_window_view(images.double().numpy(), (2, 2), axis=(2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * 4)
    return patches.T @ patches / len(patches)


# --- whitening --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_of_the_training_images_are_uncorrelated_and_of_variance_one(channels: int) -> None:
    images, layer = photographs(40, channels), Whitening(channels)
    assert not np.allclose(covariance(images), np.eye(4 * channels), atol=0.1)
    layer.learn(images)
    maps = layer(images)
    size = 4 * channels
    values = maps[:, :size].double().transpose(0, 1).flatten(1)
    found = (values @ values.T / values.shape[1]).numpy()
    variances = np.linalg.eigvalsh(covariance(images))
    np.testing.assert_allclose(found, np.diag(variances / (variances + WHITENING_EPS)), atol=1e-5)
    np.testing.assert_allclose(found, np.eye(size), atol=0.01)
    assert torch.equal(maps[:, size:], -maps[:, :size])


def test_the_axes_are_those_of_an_independent_decomposition() -> None:
    """Whatever the axes are called and whichever way they point, W^T W is the inverse of the covariance."""
    images, layer = photographs(700), Whitening(3)  # more than one part
    layer.learn(images)
    rows = layer.axes.double().flatten(1).numpy()
    expected = np.linalg.inv(covariance(images) + WHITENING_EPS * np.eye(12))
    np.testing.assert_allclose(rows.T @ rows, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_axes_are_a_function_of_the_images_whatever_their_order() -> None:
    images, first, again = photographs(30), Whitening(3), Whitening(3)
    first.learn(images)
    again.learn(images.flip(0))
    torch.testing.assert_close(again.axes, first.axes, rtol=1e-5, atol=1e-5)
    signs = first.axes.flatten(1)
    assert (signs.gather(1, signs.abs().argmax(1, keepdim=True)) > 0).all()


def test_images_that_are_all_alike_whiten_to_finite_numbers() -> None:
    layer = Whitening(1)
    layer.learn(torch.zeros(3, 1, 8, 8))
    assert layer.axes.isfinite().all()


def test_the_axes_are_weights_that_no_optimizer_moves() -> None:
    model = FastCNN((3, 32, 32), 10, channels=4)
    assert "whitening.axes" in model.state_dict()
    assert "whitening.axes" not in dict(model.named_parameters())


# --- shape ------------------------------------------------------------------------------------------------------


def test_parameters_for_cifar_by_hand() -> None:
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 256 * 256 + 2 * 256 * 256)
    shifts = 2 * (64 + 256 + 256)
    assert parameter_count(FastCNN((3, 32, 32), 10)) == convolutions + shifts + 256 * 10


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((3, 32, 32), (3, 3)), ((1, 28, 28), (3, 3)), ((3, 64, 64), (7, 7)), ((1, 8, 8), (1, 1)), ((3, 64, 20), (7, 2))],
)
def test_each_group_halves_the_grid_as_long_as_it_can(shape: tuple[int, int, int], grid: tuple[int, int]) -> None:
    model = FastCNN(shape, 10, channels=4).eval()
    features = model.forward_features(torch.randn(2, *shape))
    assert features.shape == (2, 16, *grid)
    assert model(torch.randn(2, *shape)).shape == (2, 10)


def test_the_larger_network_has_ten_layers_and_shortcuts() -> None:
    model = FastCNN((3, 32, 32), 10, channels=4, convolutions=3, residual=True)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 9
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^fast_cnn: given shape .* = \(3, 7, 32\) and 10 classes, allowed: .* 8x8"):
        FastCNN((3, 7, 32), 10)


# --- what it computes -------------------------------------------------------------------------------------------


def test_a_convolution_starts_as_the_identity_of_what_it_can_pass_on() -> None:
    group, features = Group(3, 8, 2, residual=False, pool=False), torch.randn(2, 3, 5, 5)
    assert torch.equal(group.first(features)[:, :3], features)
    assert group.first(features)[:, 3:].std() > 0
    narrower = Group(8, 3, 2, residual=False, pool=False)
    assert torch.equal(narrower.first(torch.ones(1, 8, 5, 5)), torch.ones(1, 3, 5, 5))


def test_a_shortcut_joins_before_the_last_gelu() -> None:
    """Where the further convolutions give nothing, the group's first half is left, once more through the GELU."""
    features = torch.randn(4, 3, 6, 6)
    for residual in (True, False):
        group = Group(3, 8, 3, residual=residual, pool=True)
        for convolution in group.others:
            convolution.weight.data.zero_()  # type: ignore[union-attr, operator]
        first = F.gelu(group.first_norm(F.max_pool2d(group.first(features), 2)))
        torch.testing.assert_close(group(features), F.gelu(first * residual))


def test_norms_shift_alone() -> None:
    model = FastCNN((3, 32, 32), 10, channels=4)
    assert not [name for name, _ in model.named_parameters() if "norm" in name and not name.endswith("bias")]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 6
    spread = norms[0](5 * torch.randn(64, 4, 8, 8) + 3)
    assert spread.std().item() == pytest.approx(1, rel=0.01)


def test_logits_are_a_ninth_of_the_maxima_through_the_head() -> None:
    model = FastCNN((3, 32, 32), 5, channels=4).eval()
    features = torch.randn(2, 16, 3, 3)
    expected = features.flatten(2).max(dim=2).values @ model.head.weight.T / 9
    torch.testing.assert_close(model.forward_head(features), expected)
