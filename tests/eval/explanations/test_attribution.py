"""GradCAM and attention against numbers worked by hand, and that they leave the model as they found it."""

import math
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.models.adaptive_cnn import AdaptiveCNN
from common.models.vit import ViT
from eval.explanations import attribution
from eval.explanations.layers import as_maps, hooked, transformer_of


class Sums(nn.Module):
    """Maps 1 and 2 are the image and its negative; logit 0 is 8 mean1 + 16 mean2, logit 1 is 4 mean1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.linear = nn.Linear(2, 2, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.linear.weight.data = torch.tensor([[8.0, 16.0], [4.0, 0.0]])

    def forward_features(self, images: Tensor) -> Tensor:
        return self.conv(images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.linear(pooled)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def own_vit(**options: object) -> ViT:
    torch.manual_seed(0)
    return ViT((1, 8, 8), 3, patch=4, width=12, depth=2, heads=2, stem_width=0, **options).eval()  # type: ignore[arg-type]


def timm_vit(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    small = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 12, "depth": 2, "num_heads": 2}
    return VisionTransformer(**small, num_classes=3, **options).eval()  # type: ignore[arg-type]


def images(n: int = 2, size: int = 8) -> Tensor:
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "adaptive_cnn": lambda: AdaptiveCNN((1, 8, 8), 3).eval(),
    "vit": own_vit,
    "timm vit": timm_vit,
}


# --- GradCAM ----------------------------------------------------------------------------------------------------


def test_gradcam_of_a_linear_network_is_what_the_formula_gives() -> None:
    image = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    maps = attribution.gradcam(Sums(), image.repeat(2, 1, 1, 1), torch.tensor([0, 1]))
    # Each mean is over 4 cells, so the weights of class 0 are 8/4 and 16/4: relu(2 x + 4 (-x)) = relu(-2 x).
    assert torch.equal(maps[0], torch.tensor([[0.0, 4.0], [0.0, 0.0]]))
    # Of class 1 they are 1 and 0: relu(x).
    assert torch.equal(maps[1], torch.tensor([[1.0, 0.0], [3.0, 0.0]]))


def test_gradcam_of_a_transformer_cuts_at_the_last_blocks_norm() -> None:
    """The same by hand, from the block's own parts."""
    model, batch = own_vit(), images(1)
    tokens = model.blocks[0](model._embed(batch))
    last = model.blocks[1]
    normed = last.norm1(tokens).detach().requires_grad_()  # type: ignore[operator]
    tokens = tokens.detach() + last.attention(normed)  # type: ignore[operator]
    tokens = tokens + last.mlp(last.norm2(tokens))  # type: ignore[operator]
    logit = model.cls_head(model.norm(tokens)[:, 0])[0, 2]
    (slopes,) = torch.autograd.grad(logit, normed)
    weights = slopes[0, 1:].mean(dim=0)
    expected = (normed[0, 1:] @ weights).relu().view(2, 2)
    assert torch.allclose(attribution.gradcam(model, batch, torch.tensor([2]))[0], expected, atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradcam_of_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    model, batch, classes = NETWORKS[name](), images(3), torch.tensor([0, 1, 2])
    together = attribution.gradcam(model, batch, classes)
    alone = [attribution.gradcam(model, batch[i : i + 1], classes[i : i + 1])[0] for i in range(3)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)
    assert together.shape[0] == 3
    assert (together >= 0).all()


def test_gradcam_works_where_gradients_are_off_and_weights_are_frozen() -> None:
    for build in NETWORKS.values():
        model, batch, classes = build(), images(), torch.tensor([0, 1])
        expected = attribution.gradcam(model, batch, classes)
        with torch.no_grad():
            assert torch.equal(attribution.gradcam(model.requires_grad_(False), batch, classes), expected)


def test_a_head_may_work_in_place() -> None:
    class InPlace(Sums):
        def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
            return super().forward_head(features.mul_(1.0), pre_logits)

    batch, classes = images(), torch.tensor([0, 1])
    assert torch.equal(attribution.gradcam(InPlace(), batch, classes), attribution.gradcam(Sums(), batch, classes))


def test_features_of_one_cell_have_no_map() -> None:
    assert attribution.has_maps(Sums(), images(1, size=2))
    assert not attribution.has_maps(Sums(), images(1, size=1))
    why = "for these images its last grid is 1x1, where one cell is the whole image"
    assert attribution.why_no_maps(Sums(), images(1, size=1)) == why
    assert attribution.has_maps(own_vit(), images(1))


def test_features_with_channels_last_are_turned() -> None:
    """Swin's are (batch, height, width, channels), which nothing but its own word tells apart."""
    torch.manual_seed(0)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, embed_dim=12, depths=(1, 1), num_heads=(1, 2), num_classes=3
    )
    batch = torch.randn(1, 3, 64, 64)
    assert attribution.gradcam(swin.eval(), batch, torch.tensor([0])).shape == (1, 8, 8)
    assert transformer_of(swin) is None
    assert not attribution.has_attention(swin)


# --- attention --------------------------------------------------------------------------------------------------


def test_rollout_of_two_blocks_and_three_tokens() -> None:
    first = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
    apart = torch.tensor([[0.25, -0.25, 0.0], [0.0, 0.0, 0.0], [-0.2, 0.2, 0.0]])
    second = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    blocks = [torch.stack([first + apart, first - apart])[None], second.expand(1, 2, 3, 3)]
    # With the identity added and halved, the first is [.75 .125 .125 | 0 1 0 | .1 .1 .8]
    # and the second [.5 .25 .25 | .5 .5 0 | 0 0 1]; the product, second times first:
    expected = torch.tensor([[0.4, 0.3375, 0.2625], [0.375, 0.5625, 0.0625], [0.1, 0.1, 0.8]])
    assert torch.allclose(attribution.rollout(blocks)[0], expected, atol=1e-6)


def test_the_maps_of_timm_are_its_softmax_of_queries_and_keys() -> None:
    model, batch = timm_vit(), images()
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(batch)))
    first = model.blocks[0]
    query, key, _ = first.attn.qkv(first.norm1(tokens)).view(2, 5, 3, 2, 6).permute(2, 0, 3, 1, 4)
    expected = (query @ key.mT / math.sqrt(6)).softmax(dim=-1)
    maps = attribution.attention_maps(model, batch)
    assert torch.allclose(maps[0], expected, atol=1e-6)
    assert len(maps) == 2
    assert all(torch.allclose(each.sum(-1), torch.ones(2, 2, 5), atol=1e-6) for each in maps)


@pytest.mark.parametrize(
    ("model", "readers"),
    [
        (own_vit(), [0]),
        (own_vit(dist_token=True, inference="dist"), [1]),
        (own_vit(dist_token=True, inference="avg"), [0, 1]),
        (timm_vit(), [0]),
        (timm_vit(reg_tokens=2), [0]),
        (timm_vit(global_pool="avg"), [1, 2, 3, 4]),
        (timm_vit(global_pool="avg", class_token=False), [0, 1, 2, 3]),
    ],
)
def test_the_tokens_that_answer_are_those_with_a_gradient(model: nn.Module, readers: list[int]) -> None:
    features = model.forward_features(images(1)).detach().requires_grad_()  # type: ignore[operator]
    (slopes,) = torch.autograd.grad(model.forward_head(features)[0, 0], features)  # type: ignore[operator]
    transformer = transformer_of(model)
    assert transformer
    assert slopes[0].abs().sum(dim=1).nonzero().flatten().tolist() == readers == transformer.readers


def test_what_the_readers_see_lies_as_the_patches_do() -> None:
    transformer = transformer_of(own_vit(dist_token=True, inference="avg"))
    assert transformer
    weights = torch.zeros(1, 6, 6)
    weights[0, 0] = torch.tensor([9.0, 9.0, 0.0, 2.0, 4.0, 6.0])
    weights[0, 1] = torch.tensor([9.0, 9.0, 2.0, 4.0, 6.0, 8.0])
    assert torch.equal(attribution.seen_by_readers(weights, transformer), torch.tensor([[[1.0, 3.0], [5.0, 7.0]]]))


@pytest.mark.parametrize("name", ["vit", "timm vit"])
def test_patches_are_the_picture_they_were_cut_from(name: str) -> None:
    """Light falls on one patch; the grid must show it where it is."""
    model = NETWORKS[name]()
    projection = model.project if isinstance(model, ViT) else model.patch_embed.proj  # type: ignore[union-attr]
    batch = torch.zeros(1, 1, 8, 8)
    batch[0, 0, :4, 4:] = 1
    projected = projection(batch)  # type: ignore[operator]
    tokens = torch.cat([torch.zeros(1, 1, 12), projected.flatten(2).mT], dim=1)
    assert torch.equal(as_maps(tokens, transformer_of(model)), projected)  # type: ignore[arg-type]


def test_who_has_attention() -> None:
    assert attribution.has_attention(own_vit())
    assert attribution.has_attention(timm_vit())
    assert not attribution.has_attention(AdaptiveCNN((1, 8, 8), 3))


# --- nothing stays ----------------------------------------------------------------------------------------------


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def fused(model: nn.Module) -> list[bool]:
    return [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_left_as_it_was(name: str, training: bool) -> None:
    model, batch = NETWORKS[name](), images()
    model.eval()
    attribution.gradcam(model, batch, torch.tensor([0, 1]))
    before, model_fused = {key: value.clone() for key, value in model.state_dict().items()}, fused(model)
    model.train(training and name != "adaptive_cnn")  # batch norms follow whatever passes in training
    was = model.training
    attribution.gradcam(model, batch, torch.tensor([0, 1]))
    if attribution.has_attention(model):
        attribution.attention_maps(model, batch)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training == was
    assert hooks_of(model) == 0
    assert fused(model) == model_fused
    assert all(weight.grad is None for weight in model.parameters())


def test_hooks_and_the_fused_kernel_come_back_after_an_error() -> None:
    model = timm_vit()
    model.blocks[0].attn.fused_attn, model.blocks[1].attn.fused_attn = True, False
    model.head = nn.Linear(99, 3)  # so that it breaks after the blocks have run
    for fails in (
        lambda: attribution.attention_maps(model, images()),
        lambda: attribution.gradcam(model, images(), torch.tensor([0, 1])),
    ):
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            fails()
        assert hooks_of(model) == 0
        assert fused(model) == [True, False]


def test_hooks_go_when_what_is_inside_fails() -> None:
    model = Sums()
    with pytest.raises(KeyError, match="inside"), hooked({"conv": model.conv}, lambda _name, _output: None):
        assert hooks_of(model) == 1
        raise KeyError("inside")
    assert hooks_of(model) == 0
