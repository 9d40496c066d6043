"""The suite's ViT against numbers worked by hand, and against timm's with its weights copied over."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.models.vit import Attention, Block, DropPath, Outputs, ViT, derive_patch

TINY = {"patch": 4, "width": 24, "depth": 3, "heads": 3, "stem_width": 8}
SHAPE = (1, 12, 12)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed: int = 0, **changes: object) -> ViT:
    torch.manual_seed(seed)
    return ViT(SHAPE, 5, **(TINY | changes))  # type: ignore[arg-type]


def images(n: int = 4, height: int = 12, width: int = 12) -> Tensor:
    return torch.randn(n, 1, height, width, generator=torch.Generator().manual_seed(7))


def without_gradient(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}


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


@settings(deadline=None)
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
        ({"patch": 5}, "patch=5 for images of 12x12, allowed: a side that divides both"),
        ({"patch": 0}, "patch=0 for images of 12x12, allowed: a side that divides both"),
        ({"heads": 5}, "width=24 and heads=5, allowed: heads that divide the width"),
        ({"heads": 0}, "width=24 and heads=0, allowed: heads that divide the width"),
        ({"depth": 0}, "depth=0, allowed: 1 or more blocks"),
        ({"mlp_ratio": 0.04}, r"mlp_ratio=0\.04 of width=24, allowed: a ratio that leaves the MLP 1 or more"),
        ({"stem_width": -1}, "stem_width=-1, allowed: 1 or more, or 0 for no convolutions"),
        ({"drop_path": 1.0}, r"drop_path=1\.0, allowed: from 0 to below 1"),
        ({"cls_dropout": 1.1}, r"cls_dropout=1\.1, allowed: from 0 to 1"),
        ({"inference": "avg"}, "inference=avg without dist_token, allowed: cls"),
        ({"inference": "dist"}, "inference=dist without dist_token, allowed: cls"),
        ({"inference": "mean", "dist_token": True}, "inference=mean, allowed: cls, dist, avg"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^vit: given {message}$"):
        tiny(**changes)


@pytest.mark.parametrize(("shape", "classes"), [((0, 12, 12), 5), ((1, 0, 12), 5), ((1, 12, 12), 1)])
def test_images_that_are_none_are_refused(shape: tuple[int, int, int], classes: int) -> None:
    given = rf"= \({shape[0]}, {shape[1]}, {shape[2]}\) and {classes} classes"
    with pytest.raises(ValueError, match=given + ", allowed: 1 or more channels and pixels, 2 or more classes"):
        ViT(shape, classes, patch=4)


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
@pytest.mark.parametrize("size", [(20, 20), (8, 24)])
@torch.no_grad()
def test_images_of_another_size_are_answered_as_by_timm(distilled: bool, size: tuple[int, int]) -> None:
    theirs = timms(distilled)
    ours = with_weights_of(theirs, distilled)
    theirs.set_input_size(size)
    torch.testing.assert_close(ours(images(4, *size)), theirs(images(4, *size)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(2, 12), (6, 2), (5, 3)])
@torch.no_grad()
def test_positions_of_an_oblong_grid_are_stretched_as_by_timm(grid: tuple[int, int]) -> None:
    """Also where only the shape of the grid is another, not the number of its patches."""
    model = ViT((1, 8, 24), 5, patch=4, width=4, depth=1, heads=1, stem_width=0, dist_token=True)
    expected = resample_abs_pos_embed(model.positions, list(grid), old_size=[2, 6], num_prefix_tokens=2)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.eval()(torch.zeros(1, 1, 4 * grid[0], 4 * grid[1]))  # black patches, which project to zero
    torch.testing.assert_close(seen[0][:, 2:], expected[:, 2:])
    torch.testing.assert_close(seen[0][:, :2], expected[:, :2] + model.prefix_tokens)


@pytest.mark.parametrize(("height", "width"), [(14, 12), (12, 14)])
def test_images_that_patches_do_not_cover_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"given images of {height}x{width}, allowed: sides that 4 divides"):
        tiny()(images(4, height, width))


# --- attention --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_maps_are_what_fused_attention_mixes_by() -> None:
    torch.manual_seed(0)
    attention = Attention(24, heads=3)
    tokens = torch.randn(2, 7, 24)
    value = attention.qkv(tokens)[..., 48:].unflatten(-1, (3, 8)).transpose(1, 2)  # a head's 8 numbers lie together
    mixed = (attention.weights(tokens) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.out(mixed), attention(tokens))


def test_looking_at_attention_in_training_shows_evaluation_and_leaves_no_trace() -> None:
    model = tiny(drop_path=0.5)
    model(images())  # moves the running statistics away from where they start
    expected = model.eval().attention_maps(images())
    model.train()
    model.stem[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    draws = torch.get_rng_state()
    maps = model.attention_maps(images())
    assert all(torch.equal(one, two) for one, two in zip(maps, expected, strict=True))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), draws)


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


@pytest.mark.parametrize(
    ("rule", "dist_token", "silent"),
    [("cls", False, None), ("avg", True, None), ("cls", True, "dist_head"), ("dist", True, "cls_head")],
)
def test_a_loss_on_the_logits_trains_all_but_the_head_that_is_not_read(
    rule: str, dist_token: bool, silent: str | None
) -> None:
    model = tiny(dist_token=dist_token, inference=rule)
    F.cross_entropy(model(images()), torch.arange(4)).backward()
    assert without_gradient(model) == ({f"{silent}.weight", f"{silent}.bias"} if silent else set())


@pytest.mark.parametrize("rule", ["cls", "dist", "avg"])
def test_a_loss_on_the_outputs_trains_both_heads_whatever_the_rule(rule: str) -> None:
    model = tiny(dist_token=True, inference=rule)
    outputs = model(images(), layers=())
    (F.cross_entropy(outputs.cls, torch.arange(4)) + outputs.dist.square().mean()).backward()
    assert without_gradient(model) == set()


@torch.no_grad()
def test_outputs_are_those_of_forward_and_tokens_go_by_the_layer_asked_for() -> None:
    model = tiny().eval()
    nothing, some = model(images(), layers=()), model(images(), layers=(2, 0, -1))
    assert nothing.dist is None
    assert nothing.tokens == {}
    assert torch.equal(nothing.logits, model(images()))
    assert torch.equal(some.logits, some.cls)
    assert list(some.tokens) == [2, 0, -1]
    assert all(tokens.shape == (4, 9, 24) for tokens in some.tokens.values())
    assert torch.equal(some.tokens[2], some.tokens[-1])
    assert torch.equal(model.norm(some.tokens[2]), model.forward_features(images())[:, 1:])


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_out_of_range_is_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"given layer {layer}, allowed: 0 to 2, or -3 to -1 from the end"):
        tiny()(images(), layers=(layer,))


# --- initial weights --------------------------------------------------------------------------------------------


def test_initial_weights_are_a_function_of_the_seed() -> None:
    one, other = tiny(1).state_dict(), tiny(2).state_dict()
    same = tiny(1, drop_path=0.3, cls_dropout=0.0).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name, weight in one.items() if weight.ndim >= 2]
    assert len(drawn) == 2 + 1 + 2 + 3 * 4 + 1  # stem, patches, CLS token and positions, blocks, head
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_initial_weights_are_small_normals_and_the_stem_is_hes() -> None:
    torch.manual_seed(0)
    model = ViT((3, 32, 32), 10, patch=4, width=96, depth=1, stem_width=96, dist_token=True)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert weight.eq(0 if name.endswith("bias") else 1).all(), name
        elif name.startswith("stem"):
            assert weight.std().item() == pytest.approx((2 / (9 * len(weight))) ** 0.5, rel=0.05), name
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.15), name


# --- what is drawn in training ----------------------------------------------------------------------------------


def test_cls_dropout_reads_the_mean_patch() -> None:
    """Without convolutions, whose batch norms would answer otherwise in training."""
    model = tiny(stem_width=0, cls_dropout=1.0, drop_path=0.0)
    features = model.eval().forward_features(images())
    cls, mean_patch = features[:, 0], features[:, 1:].mean(dim=1)
    torch.testing.assert_close(model.forward_head(features), model.cls_head(cls))
    model.train()
    torch.testing.assert_close(model(images()), model.cls_head(mean_patch))
    torch.testing.assert_close(model(images(), layers=()).cls, model.cls_head(mean_patch))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), mean_patch)


def test_cls_dropout_leaves_the_dist_token_alone() -> None:
    model = tiny(stem_width=0, cls_dropout=1.0, drop_path=0.0, dist_token=True)
    outputs = model(images(), layers=())
    features = model.eval().forward_features(images())
    torch.testing.assert_close(outputs.cls, model.cls_head(features[:, 2:].mean(dim=1)))
    torch.testing.assert_close(outputs.dist, model.dist_head(features[:, 1]))


@torch.no_grad()
def test_cls_dropout_draws_for_each_image() -> None:
    model = tiny(cls_dropout=0.3)
    features = model.eval().forward_features(images(1)).expand(4000, -1, -1)
    torch.manual_seed(0)
    found = model.train().forward_head(features, pre_logits=True)
    dropped = found.isclose(features[0, 1:].mean(dim=0)).all(dim=1)
    assert found[~dropped].eq(features[0, 0]).all()
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.03)  # four standard errors


def test_drop_path_skips_whole_images_and_keeps_the_mean() -> None:
    drop = DropPath(0.4)
    branch = torch.ones(5000, 2, 3)
    torch.manual_seed(0)
    found = drop.train()(branch)
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    assert found.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(branch), branch)
    assert [block.drop_path.probability for block in tiny(drop_path=0.4).blocks] == pytest.approx([0, 0.2, 0.4])


@torch.no_grad()
def test_a_block_drops_its_two_branches_independently() -> None:
    torch.manual_seed(0)
    block = Block(24, heads=3, hidden=48, drop_path=0.5)
    tokens = torch.randn(1, 5, 24).expand(64, -1, -1)

    def answer(attention: int, mlp: int) -> Tensor:  # a branch that stays counts double
        between = tokens[0] + 2 * attention * block.attention(block.norm1(tokens[:1]))[0]
        return between + 2 * mlp * block.mlp(block.norm2(between))

    found = block.train()(tokens)
    answers = [answer(attention, mlp) for attention in (0, 1) for mlp in (0, 1)]
    times = [int((found - one).abs().amax(dim=(1, 2)).lt(1e-5).sum()) for one in answers]
    assert sum(times) == 64
    assert min(times) > 0


@torch.no_grad()
def test_evaluation_draws_nothing() -> None:
    model = tiny(drop_path=0.5, cls_dropout=0.5).eval()
    before = torch.get_rng_state()
    assert torch.equal(model(images()), model(images()))
    assert torch.equal(torch.get_rng_state(), before)


# --- how it is computed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "blocks"),
    [
        pytest.param(lambda model: model(images()), 3, id="forward"),
        pytest.param(lambda model: model.forward_features(images()), 3, id="features"),
        pytest.param(lambda model: model(images(), layers=(1,)).tokens[1], 2, id="tokens"),
    ],
)
def test_computing_again_gives_the_same_gradients(answer: Callable[[ViT], Tensor], blocks: int) -> None:
    """Bit for bit, though drop path draws: what was drawn is drawn again, in as many blocks as have a gradient."""
    plain = tiny(drop_path=0.5)
    again = copy.deepcopy(plain)
    again.checkpointing = True
    calls: list[int] = []
    for number, block in enumerate(again.blocks):
        block.register_forward_pre_hook(lambda _module, _inputs, number=number: calls.append(number))
    for model in (plain, again):
        torch.manual_seed(5)
        answer(model).square().sum().backward()
    assert calls == [0, 1, 2, *reversed(range(blocks))]
    assert without_gradient(again) == without_gradient(plain)
    pairs = zip(plain.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one.grad, two.grad) for one, two in pairs if one.grad is not None)
    assert "positions" not in without_gradient(plain)


def test_half_precision_stays_near_and_trains() -> None:
    model = tiny(drop_path=0.0, cls_dropout=0.0)
    expected = model(images()).detach()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images())
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)
    F.cross_entropy(logits.float(), torch.arange(4)).backward()
    assert without_gradient(model) == set()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@torch.no_grad()
def test_channels_last_computes_the_same() -> None:
    model = tiny().eval()
    expected = model(images())
    model.to(memory_format=torch.channels_last)
    moved = model(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
