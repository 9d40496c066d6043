"""Networks of timm behind the suite's inputs: sizes, channels, published weights, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from common.failures import Refused
from common.models.backbones import Backbone, build_backbone
from common.models.settings import CNN_BACKBONES, VIT_BACKBONES, CNNBackboneSettings, ViTBackboneSettings
from common.models.weights import fetch_weights, find_weights
from common.models.zoo import parameter_count

GREY, COLOUR = ((1, 28, 28), [0.2], [0.4]), ((3, 32, 32), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


def build(name: str, like: tuple[Any, ...] = COLOUR, *, classes: int = 5, fresh: bool = True, **given: Any) -> Backbone:
    kind = ViTBackboneSettings if "vit" in name or "deit" in name else CNNBackboneSettings
    shape, mean, std = like
    return build_backbone(kind(name=name, **given), shape, classes, mean, std, fresh=fresh)


def images(like: tuple[Any, ...] = COLOUR, n: int = 2) -> Tensor:
    return torch.randn(n, *like[0], generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """As if published: those of timm's tiny test network, for 7 classes."""
    torch.manual_seed(11)
    path = tmp_path / "test_resnet.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), path)
    return path


# --- size -------------------------------------------------------------------------------------------------------

MILLIONS = {  # with 10 classes; the ResNets as the cascade of the references has them
    "resnet18": 11.2, "resnet34": 21.3, "resnet50": 23.5, "densenet121": 6.96, "mobilenetv3_small_050": 0.58,
    "efficientnet_b0": 4.02, "vit_tiny_patch16_224": 5.53, "deit_tiny_patch16_224": 5.53,
    "vit_small_patch16_224": 21.7, "vit_base_patch16_224": 85.8,
}  # fmt: skip


@pytest.mark.parametrize("name", [*CNN_BACKBONES, *VIT_BACKBONES])
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        model = build(name, classes=10)
    assert parameter_count(model) / 1e6 == pytest.approx(MILLIONS[name], rel=0.005)
    assert model.size == (224, 224)


def test_a_resnet_for_small_images_is_the_known_one() -> None:
    """ResNet-18 of CIFAR-10 repositories: 11,173,962 parameters, 3x3 first, nothing pooled, at 32 pixels."""
    model = build("resnet18", classes=10, stem="small")
    assert parameter_count(model) == 11_173_962
    assert model.size == (32, 32)
    assert model.eval().forward_features(images()).shape == (2, 512, 4, 4)
    assert parameter_count(build("resnet18", GREY, classes=2, stem="small")) == 11_173_962 - 2 * 9 * 64 - 8 * 513


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_efficientnet", "timm/test_convnext"])
@pytest.mark.parametrize("like", [GREY, COLOUR])
@torch.no_grad()
def test_images_are_resized_on_the_way_in(name: str, like: tuple[Any, ...]) -> None:
    model = build(name, like, input_size=64).eval()
    resized = F.interpolate(images(like), (64, 64), mode="bicubic", antialias=True)
    assert torch.equal(model(images(like)), model.net(resized))
    assert torch.equal(model(images(like)), model(resized))
    assert torch.equal(model.forward_head(model.forward_features(images(like))), model(images(like)))
    assert model.forward_head(model.forward_features(images(like)), pre_logits=True).ndim == 2


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_efficientnet"])
def test_computing_again_changes_no_gradient(name: str) -> None:
    def gradients(again: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = build(name, input_size=32).train()
        model.checkpointing = again
        assert model.checkpointing == again
        model(images(n=4)).square().sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(again, plain)


# --- published weights ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_weights_of_a_file_see_images_as_they_were_trained(weights: Path) -> None:
    """Normalised by the data set's figures on the outside, by the weights' own (all 0.5) on the inside."""
    model = build("timm/test_resnet", pretrained=True, weights=str(weights), classes=7).eval()
    theirs = timm.create_model("test_resnet", num_classes=7).eval()
    theirs.load_state_dict(safetensors.torch.load_file(weights))
    raw = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(2))
    _, mean, std = COLOUR
    ours = (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    own = timm.get_pretrained_cfg("test_resnet")
    expected = (raw - torch.tensor(own.mean)[:, None, None]) / torch.tensor(own.std)[:, None, None]
    torch.testing.assert_close(model(ours), theirs(expected), rtol=1e-3, atol=1e-4)


def test_other_classes_get_a_new_classifier_and_keep_the_rest(weights: Path) -> None:
    published = safetensors.torch.load_file(weights)
    torch.manual_seed(0)
    model = build("timm/test_resnet", pretrained=True, weights=str(weights))
    found = model.net.state_dict()
    same = {name for name, tensor in published.items() if torch.equal(tensor, found[name])}
    assert set(published) - same == {"fc.weight", "fc.bias"}


@torch.no_grad()
def test_grey_images_stand_for_three_equal_colours(weights: Path) -> None:
    grey = build("timm/test_resnet", ((1, 32, 32), [0.3], [0.2]), pretrained=True, weights=str(weights), classes=7)
    colour = build(
        "timm/test_resnet", ((3, 32, 32), [0.3] * 3, [0.2] * 3), pretrained=True, weights=str(weights), classes=7
    )
    one = images(((1, 32, 32),))
    torch.testing.assert_close(grey.eval()(one), colour.eval()(one.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


def test_a_checkpoint_needs_no_published_weights(weights: Path) -> None:
    trained = build("timm/test_resnet", pretrained=True, weights=str(weights))
    again = build("timm/test_resnet", pretrained=True, weights="/gone", fresh=False)
    again.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images()), trained.eval()(images()))


def test_the_hubs_cache_is_searched_and_nothing_else(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        Refused, match=r"weights of test_resnet \(timm/test_resnet\.r160_in1k\) are not in the hub's cache"
    ):
        build("timm/test_resnet", pretrained=True)
    with pytest.raises(Refused, match=r"run: python jobs/prepare\.py weights=resnet18; or give model\.weights=FILE"):
        build("resnet18", pretrained=True)
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "model.safetensors").write_bytes(weights.read_bytes())
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    assert find_weights("timm/test_resnet").read_bytes() == weights.read_bytes()


class RunsCode:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return (Path.touch, (Path("ran"),))


def save_plain(path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=7).state_dict(), path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: path.write_bytes(pickle.dumps(RunsCode(), protocol=2)),
            "asks to run code when it is loaded; allowed: tensors",
        ),
        (
            lambda path: torch.save({"net": RunsCode()}, path),
            "asks to run code when it is loaded; allowed: tensors alone",
        ),
        (lambda path: path.write_bytes(b"PK\3\4 and no more"), "is not a whole file of weights"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no tensors"),
        (save_plain, "is of another architecture"),
    ],
)
def test_files_that_are_not_the_networks_weights_are_refused(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(Refused, match=message):
        build("timm/test_resnet", pretrained=True, weights=str(path))
    assert not Path("ran").exists()


def test_what_a_network_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"given drop_path=0\.1, allowed with densenet121: 0"):
        build("densenet121", drop_path=0.1)
    with pytest.raises(ValueError, match=r"given stem=small, allowed with this network: own"):
        build("timm/resnetv2_50", stem="small")
    with pytest.raises(Refused, match=r"weights: timm has none of test_resnet\.x, allowed: test_resnet\.r160_in1k"):
        fetch_weights("test_resnet.x")
