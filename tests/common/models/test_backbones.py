"""Networks of timm behind the suite's inputs: sizes, channels, published weights, and what is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from common.failures import Refused
from common.models.backbones import Backbone, build_backbone
from common.models.weights import config_of
from common.models.zoo import parameter_count
from common.settings.models import CNN_BACKBONES, VIT_BACKBONES, CNNBackboneSettings, ViTBackboneSettings

GREY, COLOUR = ((1, 28, 28), [0.2], [0.4]), ((3, 32, 32), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3])
LISTED = (*CNN_BACKBONES, *VIT_BACKBONES)
TRAINED: list[tuple[str, dict[str, Any]]] = [  # in tests, at the size of small images
    *((name, {"input_size": 32}) for name in LISTED),
    *((name, {"stem": "small"}) for name in ("resnet18", "resnet34", "resnet50")),
]
LARGE = {"vit_small_patch16_224", "vit_base_patch16_224", "resnet34", "resnet50"}  # slow, and like a small one


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str, like: tuple[Any, ...] = COLOUR, *, classes: int = 5, fresh: bool = True, **given: Any) -> Backbone:
    kind = ViTBackboneSettings if name in VIT_BACKBONES else CNNBackboneSettings
    shape, mean, std = like
    return build_backbone(kind(name=name, **given), shape, classes, mean, std, fresh=fresh)


def images(like: tuple[Any, ...] = COLOUR, n: int = 2) -> Tensor:
    return torch.randn(n, *like[0], generator=torch.Generator().manual_seed(1))


def publish(name: str, classes: int = 7, **options: Any) -> Path:
    """A file of weights as if published: as timm makes the network, with figures of batch norms that are not 0."""
    torch.manual_seed(11)
    net = timm.create_model(name, num_classes=classes, **options)
    state = net.state_dict()
    for key, tensor in state.items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    path = Path(f"{name}.safetensors")
    save_file(state, path)
    return path


@pytest.fixture
def weights() -> Path:
    return publish("test_resnet")


# --- size -------------------------------------------------------------------------------------------------------

PARAMETERS = {  # with 10 classes, of colour images
    "resnet18": 11_181_642, "resnet34": 21_289_802, "resnet50": 23_528_522, "densenet121": 6_964_106,
    "mobilenetv3_small_050": 578_474, "efficientnet_b0": 4_020_358, "vit_tiny_patch16_224": 5_526_346,
    "vit_small_patch16_224": 21_669_514, "vit_base_patch16_224": 85_806_346, "deit_tiny_patch16_224": 5_526_346,
}  # fmt: skip
CASCADE = {"resnet50": 23.5, "resnet34": 21.3, "resnet18": 11.2}  # millions, as section C of the references has them


@pytest.mark.parametrize("name", LISTED)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        model = build(name, classes=10)
    assert parameter_count(model) == PARAMETERS[name]
    assert parameter_count(model) / 1e6 == pytest.approx(CASCADE.get(name, PARAMETERS[name] / 1e6), abs=0.05)
    assert model.size == (224, 224)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0"])
def test_parameters_are_those_of_torchvisions_network(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, num_classes=10)
    assert sum(weight.numel() for weight in theirs.parameters()) == PARAMETERS[name]


def test_parameters_of_a_vision_transformer_by_hand() -> None:
    """Projection, CLS token and positions; 12 blocks of norms, qkv, output, an MLP four times as wide; norm, head."""
    for width, name in ((192, "vit_tiny_patch16_224"), (384, "vit_small_patch16_224"), (768, "vit_base_patch16_224")):
        embed = (3 * 16 * 16 + 1) * width + width + (1 + 14 * 14) * width
        block = (
            4 * width
            + 3 * width * (width + 1)
            + width * (width + 1)
            + 4 * width * (width + 1)
            + width * (4 * width + 1)
        )
        assert embed + 12 * block + 2 * width + 10 * (width + 1) == PARAMETERS[name]


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


# --- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "given"), TRAINED)
@pytest.mark.parametrize("like", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_network_of_the_list_can_be_used_and_trained(
    name: str, given: dict[str, Any], like: tuple[Any, ...]
) -> None:
    torch.manual_seed(0)
    model = build(name, like, **given).eval()
    batch = images(like, n=3)
    with torch.no_grad():
        logits, features = model(batch), model.forward_features(batch)
        assert torch.equal(model.forward_head(features), logits)
    assert logits.shape == (3, 5)
    assert features.ndim == (3 if name in VIT_BACKBONES else 4)
    assert torch.equal(batch, images(like, n=3))
    with torch.no_grad():  # timm's blocks begin as the identity, behind factors of 0 that let no gradient in
        for weight in model.parameters():
            weight.add_(0.0 if weight.any() else 0.1)
    F.cross_entropy(model.train()(batch), torch.tensor([0, 1, 2])).backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize(("name", "given"), [each for each in TRAINED if each[0] not in LARGE])
def test_the_first_weights_depend_on_the_seed_alone(name: str, given: dict[str, Any]) -> None:
    def first(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return build(name, **given).state_dict()

    one, again, other = first(1), first(1), first(2)
    assert all(torch.equal(one[key], again[key]) for key in one)
    for key, tensor in one.items():
        constant = tensor.ndim < 2 or tensor.min() == tensor.max() or key in {"scale", "shift"}
        assert constant or not torch.equal(tensor, other[key]), key


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "convnext_atto", "mobilevit_xxs", "levit_128s", "test_efficientnet_gn"]
)
def test_other_networks_of_timm_fit_too(name: str) -> None:
    model = build(f"timm/{name}", input_size=64).eval()
    with torch.no_grad():
        logits, features = model(images()), model.forward_features(images())
        assert torch.equal(model.forward_head(features), logits)
        assert model.forward_head(features, pre_logits=True).shape[0] == 2
    assert logits.shape == (2, 5)
    assert model.training is False
    assert model.net.training is False


def test_it_comes_ready_to_be_trained() -> None:
    for size in (None, 64):
        model = build("timm/test_resnet", input_size=size)
        assert all(module.training for module in model.modules())


@pytest.mark.parametrize(("name", "given"), [each for each in TRAINED if each[0] not in LARGE])
def test_computing_again_changes_no_gradient(name: str, given: dict[str, Any]) -> None:
    def gradients(again: bool, *, off: bool = False) -> list[Tensor]:
        torch.manual_seed(0)
        model = build(name, **given).train()
        model.checkpointing = again
        if off:
            model.checkpointing = False
        assert model.checkpointing == (again and not off)
        torch.manual_seed(1)
        model(images(n=4)).square().sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    plain = gradients(False)
    torch.testing.assert_close(gradients(True), plain)
    torch.testing.assert_close(gradients(True, off=True), plain, rtol=0, atol=0)


def test_computing_again_is_what_the_network_then_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block's forward runs once, and once more in the backward pass; after it is turned off, once."""
    model: Any = build("timm/test_vit", input_size=32).train()
    calls: list[int] = []
    model.net.blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))
    for again, expected in ((True, 2), (False, 1)):
        calls.clear()
        model.checkpointing = again
        model(images()).sum().backward()
        assert len(calls) == expected


def test_a_network_that_cannot_compute_again_says_so_and_goes_on_without() -> None:
    model = build("timm/pit_ti_224")
    with pytest.raises(
        ValueError, match=r"^recipe\.checkpointing=true is not possible with this network; allowed: false$"
    ):
        model.checkpointing = True
    assert not model.checkpointing
    model.checkpointing = False


# --- published weights ------------------------------------------------------------------------------------------


def as_theirs(name: str, path: Path, **options: Any) -> torch.nn.Module:
    net: torch.nn.Module = timm.create_model(name, num_classes=7, **options)
    net.load_state_dict(load_file(path))
    return net.eval()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@torch.no_grad()
def test_weights_of_a_file_see_images_as_they_were_trained(name: str, suffix: str) -> None:
    """Normalised by the data set's figures on the outside, by the weights' own (all 0.5) on the inside."""
    path = publish(name)
    if suffix == "pth":
        torch.save({"state_dict": load_file(path)}, path.with_suffix(".pth"))
    model = build(f"timm/{name}", pretrained=True, weights=str(path.with_suffix(f".{suffix}")), classes=7).eval()
    own = config_of(name)
    raw = torch.rand(2, *own.input_size, generator=torch.Generator().manual_seed(2))
    _, mean, std = COLOUR
    ours = (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = (raw - torch.tensor(own.mean)[:, None, None]) / torch.tensor(own.std)[:, None, None]
    torch.testing.assert_close(model(ours), as_theirs(name, path)(expected), rtol=1e-3, atol=1e-4)
    assert model.knows_classes
    assert model.weights == path.with_suffix(f".{suffix}")


def test_other_classes_get_a_new_classifier_and_keep_the_rest(weights: Path) -> None:
    published = load_file(weights)
    torch.manual_seed(0)
    model = build("timm/test_resnet", pretrained=True, weights=str(weights))
    found = model.net.state_dict()
    same = {name for name, tensor in published.items() if torch.equal(tensor, found[name])}
    assert set(published) - same == {"fc.weight", "fc.bias"}
    assert not model.knows_classes


def test_the_new_classifier_depends_on_the_seed_alone_and_is_what_scratch_would_begin_with(weights: Path) -> None:
    def classifier(seed: int, **given: Any) -> Tensor:
        torch.manual_seed(seed)
        model: Any = build("timm/test_resnet", **given)
        weight: Tensor = model.net.fc.weight
        return weight

    published = {"pretrained": True, "weights": str(weights)}
    assert torch.equal(classifier(0, **published), classifier(0, **published))
    assert torch.equal(classifier(0, **published), classifier(0))
    assert not torch.equal(classifier(0, **published), classifier(1, **published))


@pytest.mark.parametrize("classes", [5, 7])
def test_the_network_does_not_hold_the_file_too(classes: int, weights: Path) -> None:
    model: Any = build("timm/test_resnet", pretrained=True, weights=str(weights), classes=classes)
    assert "state_dict" not in model.net.pretrained_cfg
    assert "state_dict" not in model.net.default_cfg


def test_weights_without_a_classifier() -> None:
    """As those of self-supervised networks are published."""
    path = publish("test_vit", classes=0)
    found = build("timm/test_vit", pretrained=True, weights=str(path)).net.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in load_file(path).items())


def test_weights_with_two_classifiers() -> None:
    path = publish("pit_ti_distilled_224")
    found = build("timm/pit_ti_distilled_224", pretrained=True, weights=str(path)).net.state_dict()
    changed = {name for name, tensor in load_file(path).items() if not torch.equal(tensor, found[name])}
    assert changed == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_weights_under_the_names_of_their_authors_are_translated() -> None:
    """ConvNeXt's, whose blocks and classifier timm calls otherwise."""
    own = load_file(publish("convnext_atto", classes=1000))
    words = {"stem.": "downsample_layers.0.", "head.norm.": "norm.", "head.fc.": "head.", ".conv_dw.": ".dwconv.",
             ".mlp.fc1.": ".pwconv1.", ".mlp.fc2.": ".pwconv2."}  # fmt: skip
    theirs = {}
    for key, tensor in own.items():
        for ours, author in words.items():
            key = key.replace(ours, author)
        stage, _, rest = key.removeprefix("stages.").partition(".")
        key = key.replace(f"{stage}.blocks.", f"{stage}.") if ".blocks." in key else key
        key = f"downsample_layers.{stage}.{rest.removeprefix('downsample.')}" if ".downsample." in key else key
        theirs[key] = tensor
    assert not theirs.keys() & {"stem.0.weight", "head.fc.weight"}
    torch.save({"model": theirs}, "authors.pth")
    found = build("timm/convnext_atto", pretrained=True, weights="authors.pth").net.state_dict()
    changed = {name for name, tensor in own.items() if not torch.equal(tensor.flatten(), found[name].flatten())}
    assert changed == {"head.fc.weight", "head.fc.bias"}


def test_positions_are_interpolated_to_another_size() -> None:
    path = publish("test_vit")
    model: Any = build("timm/test_vit", pretrained=True, weights=str(path), input_size=64)
    published = load_file(path)
    assert model.net.pos_embed.shape != published["pos_embed"].shape
    expected = resample_abs_pos_embed(published["pos_embed"], (4, 4), num_prefix_tokens=1)
    torch.testing.assert_close(model.net.pos_embed.data, expected)
    assert torch.equal(model.net.cls_token, published["cls_token"])


@torch.no_grad()
def test_grey_images_stand_for_three_equal_colours(weights: Path) -> None:
    given: dict[str, Any] = {"pretrained": True, "weights": str(weights), "classes": 7}
    grey = build("timm/test_resnet", ((1, 32, 32), [0.3], [0.2]), **given).eval()
    colour = build("timm/test_resnet", ((3, 32, 32), [0.3] * 3, [0.2] * 3), **given).eval()
    one = images(((1, 32, 32),))
    torch.testing.assert_close(grey(one), colour(one.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


def test_grey_images_are_normalised_by_the_mean_over_colours() -> None:
    """ImageNet's (.485, .456, .406) and (.229, .224, .225): 0.449 and 0.226; a grey level of 0.449 becomes 0."""
    model = build("resnet18", ((1, 64, 64), [0.2], [0.4]), pretrained=True, fresh=False)
    level = torch.full((1, 1, 224, 224), (0.449 - 0.2) / 0.4)
    torch.testing.assert_close(model.fitted(level), torch.zeros(1, 1, 224, 224), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.fitted(level + 0.226 / 0.4), torch.ones(1, 1, 224, 224), rtol=1e-5, atol=1e-6)


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
        Refused, match=r"weights of resnet18 \(timm/resnet18\.a1_in1k\) are not in the hub's cache here"
    ):
        build("resnet18", pretrained=True)
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    weights.rename(snapshot / "model.safetensors")
    model = build("timm/test_resnet", pretrained=True, classes=7)
    assert model.weights == snapshot / "model.safetensors"
    found = model.net.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in load_file(snapshot / "model.safetensors").items())


# --- what is refused --------------------------------------------------------------------------------------------


def without(*gone: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: tensor for key, tensor in state.items() if key not in gone}


@pytest.mark.parametrize(
    "classes", [5, 7]
)  # timm is strict by itself with as many classes as the file has, and only then
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (without("conv1.0.weight", "layer1.0.conv1.weight"), r"it has no conv1\.0\.weight, layer1\.0\.conv1\.weight"),
        (without("bn1.running_mean"), r"it has no bn1\.running_mean"),
        (without("fc.bias"), r"it has no fc\.bias"),
        (
            lambda state: state | {f"layer1.{block}.conv1.weight": torch.ones(1) for block in range(4, 9)},
            r"it has also layer1\.4\.conv1\.weight, layer1\.5\.conv1\.weight, layer1\.6\.conv1\.weight and 2 more",
        ),
        (
            lambda state: state | {"layer1.0.conv2.weight": torch.ones(2, 2)},
            r"size mismatch for layer1\.0\.conv2\.weight: .*",
        ),
    ],
    ids=["matrices missing", "figures missing", "bias missing", "deeper", "wider"],
)
def test_a_file_of_another_architecture(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], difference: str, classes: int, weights: Path
) -> None:
    save_file(change(load_file(weights)), "changed.safetensors")
    message = rf"^model\.weights: changed\.safetensors is of another architecture than test_resnet: {difference}$"
    with pytest.raises(Refused, match=message):
        build("timm/test_resnet", pretrained=True, weights="changed.safetensors", classes=classes)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_convnext", "timm/dla46_c"])
def test_another_networks_file_altogether(name: str, weights: Path) -> None:
    """Whatever a network's translation makes of it."""
    with pytest.raises(Refused, match=rf"^model\.weights: {weights} is of another architecture than {name[5:]}: "):
        build(name, pretrained=True, weights=str(weights))


def test_another_networks_file_where_timm_takes_every_file() -> None:
    """DLA is never loaded strictly: of a file without a classifier not one tensor fits, and timm says nothing."""
    path = publish("test_resnet", classes=0)
    message = r"another architecture than dla46_c: it has no base_layer\.0\.weight, level0\.0\.weight, .* and \d+ more$"
    with pytest.raises(Refused, match=message):
        build("timm/dla46_c", pretrained=True, weights=str(path))
    own = publish("dla46_c")
    assert build("timm/dla46_c", pretrained=True, weights=str(own), classes=7).knows_classes


def test_options_that_a_network_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"^given drop_path=0\.1, allowed with densenet121: 0$"):
        build("densenet121", drop_path=0.1)
    with pytest.raises(ValueError, match=r"^given stem=small, allowed with this network: own \(it has no first"):
        build("timm/resnetv2_50", stem="small")
    with pytest.raises(ValueError, match=r"^given resnet18\.wrong, allowed: resnet18, resnet18\."):
        build("timm/resnet18.wrong")
    four = ((4, 32, 32), [0.5] * 4, [0.5] * 4)
    with pytest.raises(ValueError, match=r"^given images of 4 channels, allowed with pretrained=true: 1 or 3$"):
        build("resnet18", four, pretrained=True)
    assert build("timm/test_resnet", four)(images(four)).shape == (2, 5)


@pytest.mark.parametrize("listed", LISTED)
def test_dropout_and_drop_path_reach_the_network(listed: str) -> None:
    with torch.device("meta"):
        path: dict[str, Any] = {} if listed == "densenet121" else {"drop_path": 0.25}
        model = build(listed, dropout=0.5, **path)
    rates: list[Any] = [part.drop_prob for part in model.modules() if hasattr(part, "drop_prob")]
    assert (max(rates) if path else 0.25) == pytest.approx(0.25, abs=0.03)  # some stop short of it at the last
    dropped = {getattr(model.net, "drop_rate", None)} | {
        part.p for part in model.modules() if type(part) is torch.nn.Dropout
    }
    assert 0.5 in dropped


@pytest.mark.parametrize(
    ("name", "size", "own"), [("inception_v3", 32, 299), ("halonet26t", 32, 256), ("efficientformer_l1", 160, 224)]
)
def test_a_size_that_a_network_cannot_work_at_is_refused_before_training(name: str, size: int, own: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^given input_size={size}, allowed with {name}: null, its own {own}, or another"
    ):
        build(f"timm/{name}", input_size=size)


def test_too_little_memory_is_no_wrong_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("timm.models.resnet.ResNet.forward", exhausted)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        build("timm/test_resnet", input_size=64)
