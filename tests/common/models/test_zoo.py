"""The contract of every network by its name, and the facts about it against counts by hand and published ones."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.compute import Compute
from common.failures import Refused
from common.models.zoo import MODELS, FlopCount, build_model, measure_speed, model_facts, parameter_count
from common.settings.entries import ComputeSettings
from common.settings.models import AdaptiveCNNSettings, AnyModel, FastCNNSettings, TimmSettings, ViTSettings

LIKE: dict[str, Any] = {"shape": [3, 32, 32], "classes": list("abcde"), "mean": [0.5] * 3, "std": [0.25] * 3}
SETTINGS: dict[str, AnyModel] = {
    "adaptive_cnn": AdaptiveCNNSettings(),
    "fast_cnn": FastCNNSettings(),
    "vit": ViTSettings(),
    "timm": TimmSettings(name="timm/test_vit", input_size=32),
}
SETTINGS |= {name: TimmSettings(name=name, input_size=32) for name in MODELS if name not in SETTINGS}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(settings: AnyModel, seed: int = 0, **like: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(settings, LIKE | like).eval()


# --- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_network_keeps_the_contract(name: str) -> None:
    """Logits by one call or by its two halves, an embedding on the way, a gradient for every weight, and facts."""
    model: Any = build(SETTINGS[name])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (2, 5)
    features = model.forward_features(images)
    assert features.ndim in {3, 4}
    assert torch.equal(model.forward_head(features), logits)
    embedding = model.forward_head(features, pre_logits=True)
    assert embedding.ndim == 2
    assert len(embedding) == 2
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None] == []
    facts = model_facts(SETTINGS[name], model, (3, 32, 32))
    assert facts["name"] == SETTINGS[name].name
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["flops"] > facts["parameters"] / 100
    assert facts["flops"] == flops_by_torch(model, torch.zeros(1, 3, 32, 32))
    assert not model.training


@pytest.mark.parametrize(
    "name", ["adaptive_cnn", "fast_cnn", "vit", "timm", "mobilenetv3_small_050", "vit_tiny_patch16_224"]
)
def test_the_seed_decides_the_first_weights(name: str) -> None:
    first, again, other = (build(SETTINGS[name], seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_what_does_not_fit_is_refused_and_says_which_setting() -> None:
    with pytest.raises(Refused, match=r"^model: vit: given patch=5 for images of 32x32, allowed: a side that divides"):
        build(ViTSettings(patch=5))
    with pytest.raises(Refused, match=r"^model: adaptive_cnn: given shape .* = \(1, 4, 4\)"):
        build(AdaptiveCNNSettings(), shape=[1, 4, 4], mean=[0.5], std=[0.5])


# --- facts ------------------------------------------------------------------------------------------------------


def flops(settings: AnyModel, model: nn.Module, shape: tuple[int, int, int]) -> int:
    return model_facts(settings, model, shape)["flops"]


def flops_by_torch(model: nn.Module, *inputs: Any) -> int:
    """Of torch's own counter, with attention as separate products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(*inputs)
    return counter.get_total_flops()


class Products(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, n, n)
        return torch.baddbmm(x, x, x.mT, beta=2) + torch.einsum("bij,bkj->bik", x, x) + x @ x[0] + x[0] @ x[0, 0]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 7, 5)),
        (nn.Conv1d(4, 6, 3, bias=False), (2, 4, 9)),
        (nn.Linear(3, 4, bias=False), (2, 5, 3)),
        (nn.Linear(3, 4), (2, 3)),
        (Products(), (2, 3, 3)),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, nn.Module) else str(len(given)),
)
def test_flops_are_those_of_torchs_own_counter(model: nn.Module, shape: tuple[int, ...]) -> None:
    with torch.no_grad(), FlopCount() as count:
        model(torch.zeros(shape))
    assert count.total == flops_by_torch(model, torch.zeros(shape)) > 0


def test_flops_of_a_small_transformer_by_hand() -> None:
    settings = ViTSettings(
        patch=4, width=8, depth=3, heads=2, mlp_ratio=2.0, stem_width=6, dist_token=True, inference="avg"
    )
    model = build(settings, shape=[1, 12, 8], mean=[0.5], std=[0.5])
    cells, patches = 12 * 8, 3 * 2
    tokens = patches + 2
    stem = cells * 9 * (1 * 3 + 3 * 6)
    project = patches * 6 * 4 * 4 * 8
    block = (
        tokens * 8 * (3 * 8 + 8 + 2 * 16) + 2 * tokens * tokens * 8
    )  # qkv, out, mlp; queries x keys, weights x values
    heads = 2 * 8 * 5
    assert flops(settings, model, (1, 12, 8)) == 2 * (stem + project + 3 * block + heads)


def test_flops_of_the_adaptive_network_by_hand() -> None:
    """8x8 grey, 5 classes: stem 1 to 32 at 8x8, two blocks of 32 there, two of 64 at 4x4, 64 to 32 to 5."""
    settings = AdaptiveCNNSettings()
    model = build(settings, shape=[1, 8, 8], mean=[0.5], std=[0.5])
    gates = 2 * (2 * 32 * 2) + 2 * (2 * 64 * 4)
    first = 64 * 9 * (1 * 32 + 4 * 32 * 32)
    second = 16 * 9 * (32 * 64 + 3 * 64 * 64) + 16 * 32 * 64
    assert flops(settings, model, (1, 8, 8)) == 2 * (first + second + gates + 64 * 32 + 32 * 5)


@pytest.mark.parametrize(
    ("name", "published_gmacs"),
    [("resnet18", 1.82), ("efficientnet_b0", 0.39), ("vit_tiny_patch16_224", 1.26)],
)
def test_flops_are_twice_the_published_multiply_adds(name: str, published_gmacs: float) -> None:
    """At 224 pixels with 1,000 classes, as far as the two decimals go; of the transformer attention is included."""
    settings = TimmSettings(name=name)
    classes = [str(number) for number in range(1000)]
    found = flops(settings, build(settings, shape=[3, 224, 224], classes=classes), (3, 224, 224))
    assert found == pytest.approx(2e9 * published_gmacs, abs=2e9 * 0.0075)


def test_flops_count_one_image_whatever_kernel_attention_would_take() -> None:
    settings = SETTINGS["timm"]
    model: Any = build(settings)
    fused = flops(settings, model, (3, 32, 32))
    for block in model.net.blocks:
        block.attn.fused_attn = not block.attn.fused_attn
    assert flops(settings, model, (3, 32, 32)) == fused


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_model_as_it_was(training: bool) -> None:
    settings = AdaptiveCNNSettings()
    model = build(settings, shape=[1, 8, 8], mean=[0.5], std=[0.5]).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model_facts(settings, model, (1, 8, 8))
    found = measure_speed(model, (1, 8, 8), Compute(torch.device("cpu"), ComputeSettings()))
    assert model.training == training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert found.keys() == {"latency_ms", "images_per_sec", "speed_batch"}
    assert found["latency_ms"] > 0
    assert found["images_per_sec"] > 0
    assert 1 <= found["speed_batch"] <= 256


def test_frozen_weights_are_not_counted() -> None:
    model = build(AdaptiveCNNSettings(), shape=[1, 8, 8], mean=[0.5], std=[0.5])
    every = parameter_count(model)
    model.classifier.requires_grad_(False)  # type: ignore[union-attr]
    assert parameter_count(model) == every - (64 * 32 + 32 + 32 * 5 + 5)


WITHOUT_TRITON = """
import logging, sys
sys.modules["triton"] = None
from torch import nn
from common.settings.models import AdaptiveCNNSettings
from common.models.zoo import model_facts
print(model_facts(AdaptiveCNNSettings(), nn.Linear(4, 3, bias=False), (4,))["flops"])
logging.getLogger("torch.utils.flop_counter").warning("another line")
"""


def test_torch_says_nothing_of_triton_where_it_is_missing() -> None:
    """As in an image. What else it has to say is still heard."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True)
    assert done.stdout == "24\n", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.endswith("another line")
