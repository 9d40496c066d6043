"""The suite's ViT against numbers worked by hand, and against timm's with its weights copied over."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.models.vit import Outputs, ViT, derive_patch

TINY = {"patch": 4, "width": 24, "depth": 3, "heads": 3, "stem_width": 8}
SHAPE = (1, 12, 12)


def tiny(seed: int = 0, **changes: object) -> ViT:
    torch.manual_seed(seed)
    return ViT(SHAPE, 5, **(TINY | changes))  # type: ignore[arg-type]


def images(n: int = 4, side: int = 12, seed: int = 7) -> Tensor:
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


# --- size -------------------------------------------------------------------------------------------------------


def by_hand(channels: int, stem: int, patch: int, tokens: int, classes: int, width: int = 192, depth: int = 12) -> int:
    half = stem // 2
    convolutions = 9 * channels * half + 2 * half + 9 * half * stem + 2 * stem  # without biases, with batch norms
    patches = patch**2 * stem * width + width
    block = (width * 3 * width + 3 * width) + (width**2 + width) + (2 * width * 2 * width + 3 * width) + 4 * width
    prefix_and_positions = width + (tokens + 1) * width
    return convolutions + patches + depth * block + prefix_and_positions + 2 * width + (width * classes + classes)


@pytest.mark.parametrize(
    ("shape", "patch", "stem", "pinned"),
    [((1, 28, 28), 4, 96, 3_913_690), ((3, 32, 32), 4, 192, 4_338_346), ((1, 28, 28), 7, 32, 3_876_154)],
)
def test_parameters_by_hand(shape: tuple[int, int, int], patch: int, stem: int, pinned: int) -> None:
    with torch.device("meta"):
        model = ViT(shape, 10, patch=patch, stem_width=stem)
    tokens = (shape[1] // patch) * (shape[2] // patch)
    assert sum(weight.numel() for weight in model.parameters()) == pinned
    assert by_hand(shape[0], stem, patch, tokens, 10) == pinned


@given(st.integers(1, 24), st.integers(1, 12), st.integers(1, 12))
def test_a_derived_patch_divides_the_image_into_few_enough_squares(patch: int, rows: int, columns: int) -> None:
    shape = (3, patch * rows, patch * columns)
    try:
        found = derive_patch(shape)
    except ValueError:
        assert not 4 <= rows * columns <= 64
        return
    assert shape[1] % found == 0 == shape[2] % found
    assert 4 <= shape[1] * shape[2] / found**2 <= 64
    smaller = [p for p in range(1, found) if shape[1] % p == 0 == shape[2] % p]
    assert all(shape[1] * shape[2] / p**2 > 64 for p in smaller)


def test_derived_patches_of_the_published_sets() -> None:
    sides = {8: 1, 28: 4, 32: 4, 64: 8, 96: 12, 128: 16, 224: 28}
    assert {side: derive_patch((3, side, side)) for side in sides} == sides
    with pytest.raises(
        ValueError, match=r"given images of 37x37, which no patch .* \(model\.patch\) that divides both"
    ):
        derive_patch((3, 37, 37))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 5}, "vit: given patch=5 for images of 12x12, allowed: a side that divides both"),
        ({"heads": 5}, "vit: given width=24 and heads=5, allowed: heads that divide the width"),
        ({"inference": "avg"}, "vit: given inference=avg without dist_token, allowed: cls"),
        ({"inference": "mean", "dist_token": True}, "vit: given inference=mean, allowed: cls, dist, avg"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        tiny(**changes)


# --- timm's weights ---------------------------------------------------------------------------------------------


def timms(distilled: bool, side: int = 12) -> nn.Module:
    torch.manual_seed(3)
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    options = {"img_size": side, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 24, "depth": 3}
    return kind(**options, num_heads=3, mlp_ratio=2.0).eval()


def with_weights_of(theirs: nn.Module, distilled: bool) -> ViT:
    ours = tiny(stem_width=0, dist_token=distilled, inference="avg" if distilled else "cls").eval()
    their = theirs.state_dict()
    renamed = {
        "positions": their["pos_embed"],
        "prefix_tokens": torch.cat([their["cls_token"], *([their["dist_token"]] if distilled else [])], dim=1),
    }
    names = {"patch_embed.proj": "project", "norm": "norm", "head": "cls_head", "head_dist": "dist_head"}
    inside = {"attn.qkv": "attention.qkv", "attn.proj": "attention.out", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    inside |= {"norm1": "norm1", "norm2": "norm2"}
    names |= {f"blocks.{i}.{a}": f"blocks.{i}.{b}" for i in range(3) for a, b in inside.items()}
    for name, tensor in their.items():
        module, _, kind = name.rpartition(".")
        if module in names:
            renamed[f"{names[module]}.{kind}"] = tensor
    ours.load_state_dict(renamed)
    return ours


@pytest.mark.parametrize("distilled", [False, True])
@torch.no_grad()
def test_logits_and_tokens_are_timms(distilled: bool) -> None:
    theirs = timms(distilled)
    ours = with_weights_of(theirs, distilled)
    outputs = ours(images(), layers=(0, -1))
    assert isinstance(outputs, Outputs)
    torch.testing.assert_close(outputs.logits, theirs(images()), rtol=1e-4, atol=1e-5)
    expected = theirs.get_intermediate_layers(images(), n=[0, 2])
    for layer, tokens in zip((0, -1), expected, strict=True):
        torch.testing.assert_close(outputs.tokens[layer], tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.forward_features(images()), theirs.forward_features(images()), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_is_timms() -> None:
    theirs = timms(distilled=False)
    expected: list[Tensor] = []
    for block in theirs.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, weights: expected.append(weights))
    theirs(images())
    ours = with_weights_of(theirs, distilled=False)
    maps = ours.attention_maps(images())
    for mine, their in zip(maps, expected, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.sum(-1), torch.ones(4, 3, 10))
    assert not [module for module in ours.modules() if module._forward_hooks]


@pytest.mark.parametrize("distilled", [False, True])
@torch.no_grad()
def test_positions_for_another_size_are_timms(distilled: bool) -> None:
    theirs = timms(distilled)
    ours = with_weights_of(theirs, distilled)
    theirs.set_input_size((20, 20))
    torch.testing.assert_close(ours(images(side=20)), theirs(images(side=20)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="given images of 14x14, allowed: sides that 4 divides"):
        ours(images(side=14))


# --- heads ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_each_rule_reads_its_heads() -> None:
    model = tiny(dist_token=True, inference="avg").eval()
    cls, dist = model(images(), layers=())[1:3]
    assert not torch.allclose(cls, dist)
    for rule, expected in (("cls", cls), ("dist", dist), ("avg", (cls + dist) / 2)):
        model.inference = rule
        assert torch.equal(model(images()), expected)
        features = model.forward_features(images())
        assert torch.equal(model.forward_head(features), expected)
        embedding = {"cls": features[:, 0], "dist": features[:, 1], "avg": (features[:, 0] + features[:, 1]) / 2}[rule]
        assert torch.equal(model.forward_head(features, pre_logits=True), embedding)


@pytest.mark.parametrize(("dist_token", "rule"), [(False, "cls"), (True, "avg")])
def test_gradients_reach_every_parameter(dist_token: bool, rule: str) -> None:
    model = tiny(dist_token=dist_token, inference=rule, drop_path=0.0, cls_dropout=0.0).train()
    model(images()).square().sum().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_out_of_range_is_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"given layer {layer}, allowed: 0 to 2, or -3 to -1 from the end"):
        tiny()(images(), layers=(layer,))


def test_weights_depend_on_the_seed_alone() -> None:
    one, same, other = (tiny(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["positions"], other["positions"])


# --- what is drawn in training ----------------------------------------------------------------------------------


def test_cls_dropout_reads_the_mean_patch() -> None:
    model = tiny(cls_dropout=1.0, drop_path=0.0)
    always = model.train()(images())
    features = model.eval().forward_features(images())
    # the stem's batch norm answers otherwise in training, so compare on the same features
    expected = model.cls_head(features[:, 1:].mean(dim=1))
    torch.testing.assert_close(model.train()._read(features)[0], expected)
    assert always.shape == expected.shape
    assert not torch.allclose(model.eval().forward_head(features), expected)


def test_cls_dropout_draws_for_each_image() -> None:
    model = tiny(cls_dropout=0.3).train()
    features = model.eval().forward_features(images(1)).expand(4000, -1, -1)
    torch.manual_seed(0)
    found = model.train()._read(features)[0][:, 0]
    usual, dropped = found.unique().tolist() if len(found.unique()) == 2 else (found.min(), found.max())
    shares = torch.tensor([(found - value).abs().lt(1e-5).float().mean() for value in (usual, dropped)])
    assert sorted(shares.tolist()) == pytest.approx([0.3, 0.7], abs=0.03)


def test_drop_path_skips_whole_images_and_keeps_the_mean() -> None:
    drop = tiny(drop_path=0.4).blocks[-1].drop_path
    branch = torch.ones(5000, 2, 3)
    torch.manual_seed(0)
    found = drop.train()(branch)
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    assert found.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(branch), branch)
    assert [block.drop_path.probability for block in tiny(drop_path=0.4).blocks] == pytest.approx([0, 0.2, 0.4])


def test_computing_again_gives_the_same_gradients() -> None:
    """Bit for bit, though drop path draws: what was drawn is drawn again."""
    plain = tiny(drop_path=0.5).train()
    again = copy.deepcopy(plain)
    again.checkpointing = True
    for model in (plain, again):
        torch.manual_seed(5)
        model(images()).square().sum().backward()
    pairs = zip(plain.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one.grad, two.grad) for one, two in pairs if one.grad is not None and two.grad is not None)
    assert again.positions.grad is not None


def test_half_precision_stays_near() -> None:
    model = tiny().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(images())
    torch.testing.assert_close(half.float(), model(images()), rtol=0.1, atol=0.05)
