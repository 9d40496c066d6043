from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.models.adaptive_cnn import (
    AdaptiveCNN,
    Plan,
    ResidualBlock,
    SqueezeExcite,
    Stage,
    derive_plan,
)
from common.models.zoo import parameter_count


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_paper(shape: tuple[int, int, int], classes: int) -> AdaptiveCNN:
    """A model that has shapes but no numbers, so that 224x224 costs nothing."""
    with torch.device("meta"):
        return AdaptiveCNN(shape, classes).eval()


# The reference networks


@pytest.mark.parametrize(("shape", "count"), [((1, 28, 28), 709_034), ((3, 32, 32), 17_629_514)])
def test_the_reference_networks_have_exactly_their_parameters(shape: tuple[int, int, int], count: int) -> None:
    assert parameter_count(on_paper(shape, classes=10)) == count


def test_the_plan_for_mnist() -> None:
    assert derive_plan((1, 28, 28), 10) == Plan(
        stem_width=32,
        stem_stride=1,
        stem_pool=True,
        stages=(Stage(32, 2, (14, 14)), Stage(64, 2, (7, 7)), Stage(128, 2, (4, 4))),
        hidden=64,
    )


def test_the_plan_for_cifar() -> None:
    assert derive_plan((3, 32, 32), 10) == Plan(
        stem_width=64,
        stem_stride=1,
        stem_pool=False,
        stages=(Stage(64, 2, (32, 32)), Stage(128, 3, (16, 16)), Stage(256, 3, (8, 8)), Stage(512, 3, (4, 4))),
        hidden=256,
    )


def test_parameter_count_leaves_out_frozen_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    assert parameter_count(model) == 5 * 2 + 2


# The rule on other data sets


@pytest.mark.parametrize(
    ("shape", "classes", "first_grid", "last_grid", "millions", "mega_macs"),
    [
        pytest.param((1, 8, 8), 10, (8, 8), (4, 4), (0.1, 0.3), (3, 5), id="digits"),
        pytest.param((1, 28, 28), 10, (14, 14), (4, 4), (0.7, 0.72), (20, 25), id="mnist"),
        pytest.param((1, 28, 28), 47, (28, 28), (4, 4), (17, 18), (600, 700), id="emnist: many classes"),
        pytest.param((3, 28, 28), 9, (28, 28), (4, 4), (17, 18), (600, 700), id="medmnist in colour"),
        pytest.param((3, 32, 32), 100, (32, 32), (4, 4), (17, 18), (750, 800), id="cifar100"),
        pytest.param((1, 64, 64), 2, (32, 32), (4, 4), (17, 18), (750, 800), id="grey but not small"),
        pytest.param((3, 64, 64), 200, (32, 32), (4, 4), (17, 18), (750, 800), id="tiny_imagenet"),
        pytest.param((3, 96, 96), 10, (48, 48), (6, 6), (17, 18), (1700, 1900), id="stl10"),
        pytest.param((3, 224, 224), 1000, (56, 56), (7, 7), (17, 19), (2300, 2600), id="imagenet"),
        pytest.param((3, 448, 448), 10, (56, 56), (7, 7), (17, 18), (2300, 2700), id="very large"),
        pytest.param((3, 8, 8), 10, (8, 8), (4, 4), (0.9, 1.1), (20, 25), id="tiny in colour"),
        pytest.param((1, 9, 31), 10, (5, 16), (2, 4), (0.7, 0.72), (9, 12), id="odd and oblong"),
        pytest.param((3, 57, 33), 10, (57, 33), (8, 5), (17, 18), (1500, 1800), id="odd in colour"),
        pytest.param((4, 32, 128), 10, (16, 64), (2, 8), (17, 18), (750, 800), id="oblong, four channels"),
    ],
)
def test_size_and_cost_of_the_derived_network(
    shape: tuple[int, int, int],
    classes: int,
    first_grid: tuple[int, int],
    last_grid: tuple[int, int],
    millions: tuple[float, float],
    mega_macs: tuple[float, float],
) -> None:
    model = on_paper(shape, classes)
    grids: list[tuple[int, ...]] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _module, _inputs, features: grids.append(tuple(features.shape[2:])))
    with FlopCounterMode(display=False) as flops:
        logits = model(torch.zeros(1, *shape, device="meta"))

    assert logits.shape == (1, classes)
    assert grids == [stage.grid for stage in model.plan.stages]
    assert (grids[0], grids[-1]) == (first_grid, last_grid)
    assert millions[0] < parameter_count(model) / 1e6 < millions[1]
    assert mega_macs[0] < flops.get_total_flops() / 2e6 < mega_macs[1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 13, 17, 29, 33, 65, 113, 225, 500])
def test_every_size_gets_a_sensible_plan(channels: int, side: int) -> None:
    plan = derive_plan((channels, side, side + 3), 10)
    areas = [height * width for height, width in (stage.grid for stage in plan.stages)]
    assert areas[0] <= 56 * 56
    assert areas == sorted(areas, reverse=True)
    assert 2 <= len(plan.stages) <= 4
    assert 4 <= areas[-1] <= 8 * 8
    assert plan.stem_stride == 1 or plan.stem_pool


@pytest.mark.parametrize(
    ("shape", "classes", "width"),
    [((1, 32, 32), 32, 32), ((1, 32, 33), 32, 64), ((1, 32, 32), 33, 64), ((2, 32, 32), 32, 64)],
)
def test_where_narrow_ends(shape: tuple[int, int, int], classes: int, width: int) -> None:
    assert derive_plan(shape, classes).stem_width == width


@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 7, 28), 10), ((3, 32, 7), 10), ((0, 32, 32), 10), ((3, 32, 32), 1)]
)
def test_what_it_cannot_be_built_for_is_refused(shape: tuple[int, int, int], classes: int) -> None:
    given = rf"= \({shape[0]}, {shape[1]}, {shape[2]}\) and {classes} classes"
    with pytest.raises(ValueError, match=given + ", allowed: 1 or more channels, 8x8 pixels or larger, 2 or more"):
        AdaptiveCNN(shape, classes)


# The layers


def test_a_strided_stem_reads_every_pixel() -> None:
    model = AdaptiveCNN((1, 225, 231), 10)
    assert model.plan.stem_stride == 4
    images = torch.randn(1, 1, 225, 231, requires_grad=True)
    model.stem[0](images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.ne(0).all()


def test_squeeze_excite_by_hand() -> None:
    """With zero weights every gate is sigmoid(0) = 1/2; the shape stays."""
    layer = SqueezeExcite(16)
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    features = torch.arange(2 * 16 * 3 * 5, dtype=torch.float32).reshape(2, 16, 3, 5)
    assert torch.equal(layer(features), features / 2)
    assert [tuple(weight.shape) for weight in layer.parameters()] == [(1, 16), (16, 1)]


def test_squeeze_excite_gates_by_the_mean_of_each_image() -> None:
    layer = SqueezeExcite(16)
    nn.init.constant_(layer.get_parameter("gate.0.weight"), 1 / 16)
    nn.init.ones_(layer.get_parameter("gate.2.weight"))
    features = torch.stack([torch.full((16, 2, 2), 1.0), torch.full((16, 2, 2), 3.0)])
    expected = features * torch.sigmoid(torch.tensor([1.0, 3.0]))[:, None, None, None]
    torch.testing.assert_close(layer(features), expected)


def test_a_block_whose_residual_is_silent_passes_positive_features_through() -> None:
    block = ResidualBlock(32, 32, stride=1).eval()
    nn.init.zeros_(block.get_parameter("residual.4.weight"))
    features = torch.rand(2, 32, 4, 4)
    assert torch.equal(block(features), features)


def test_dropout_sits_between_the_two_classifier_layers() -> None:
    kinds = [type(layer) for layer in AdaptiveCNN((1, 8, 8), 10, dropout=0.1).classifier]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert AdaptiveCNN((1, 8, 8), 10, dropout=0.1).classifier[2].p == 0.1


def test_dropout_acts_in_training_only() -> None:
    model = AdaptiveCNN((1, 8, 8), 10, dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.randn(4, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


# Initial weights


def weights(seed: int, dropout: float = 0.3) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return AdaptiveCNN((1, 8, 8), 10, dropout).state_dict()


def test_initial_weights_are_a_function_of_the_seed() -> None:
    one, same, other = weights(1), weights(1, dropout=0.0), weights(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name, weight in one.items() if weight.ndim >= 2]
    assert len(drawn) == 20  # stem, 4 blocks of 2 convolutions and 2 SE layers, 1 shortcut, 2 classifier layers
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_initial_weights_follow_he_by_fan_out_and_batch_norm_is_the_identity() -> None:
    torch.manual_seed(0)
    model = AdaptiveCNN((1, 28, 28), 10)
    large = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.weight.numel() > 8000]
    assert len(large) >= 12
    for conv in large:
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


# Behaviour


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 9, 11)])
def test_gradient_reaches_every_parameter(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = AdaptiveCNN(shape, 10)
    nn.functional.cross_entropy(model(torch.randn(8, *shape)), torch.arange(8)).backward()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


def test_in_evaluation_an_image_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    model = AdaptiveCNN((1, 28, 28), 10)
    images = torch.randn(6, 1, 28, 28) * torch.arange(1, 7)[:, None, None, None]
    model(images * 2 + 1)  # moves the running statistics away from where they start
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)
        assert (model(images)[2] - model(images)[3]).abs().max() > 1e-2


def test_channels_last_computes_the_same() -> None:
    torch.manual_seed(0)
    model = AdaptiveCNN((1, 8, 8), 10).eval()
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        moved = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_bf16_autocast_in_channels_last_is_close_and_trains() -> None:
    torch.manual_seed(0)
    model = AdaptiveCNN((1, 8, 8), 10, dropout=0.0).to(memory_format=torch.channels_last)
    images = torch.randn(8, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    expected = model(images).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
    logits.float().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
