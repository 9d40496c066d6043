"""Feature maps, gradients and embeddings against what torch, numpy and scikit-learn say of the same network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

from common.data.packed import Batch
from common.models.adaptive_cnn import AdaptiveCNN
from common.models.vit import ViT
from eval.explanations import activations


@pytest.fixture
def cnn() -> AdaptiveCNN:
    torch.manual_seed(0)
    return AdaptiveCNN((1, 16, 16), 3).eval()


@pytest.fixture
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT((1, 16, 16), 3, patch=4, width=12, depth=4, heads=2, stem_width=4, dist_token=True).eval()


def batch_of(n: int = 4, *, multi_label: bool = False) -> Batch:
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % 3
    targets = torch.randint(2, (n, 3), generator=random).float() if multi_label else F.one_hot(labels, 3).float()
    return Batch(0, torch.randn(n, 1, 16, 16, generator=random), labels, targets)


# --- feature maps -----------------------------------------------------------------------------------------------


def test_a_map_is_kept_as_it_was_although_the_next_layer_works_in_place(cnn: AdaptiveCNN) -> None:
    images = batch_of().images
    found = activations.feature_maps(cnn, images, {"stem.1": cnn.stem[1], "stem.2": cnn.stem[2]})
    assert torch.equal(found["stem.1"], cnn.stem[1](cnn.stem[0](images)))
    assert (found["stem.1"] < 0).any()
    assert torch.equal(found["stem.2"], found["stem.1"].relu())


def test_tokens_become_maps_in_the_order_of_the_patches(vit: ViT) -> None:
    images = batch_of().images
    found = activations.feature_maps(vit, images, {"blocks.0": vit.blocks[0], "project": vit.project})
    tokens = vit.blocks[0](vit._embed(images))
    assert found["blocks.0"].shape == (4, 12, 4, 4)
    assert torch.equal(found["blocks.0"][:, :, 1, 2], tokens[:, 2 + 4 + 2])  # after CLS and DIST, row 1, column 2
    assert found["project"].shape == (4, 12, 4, 4)


def test_layers_come_in_the_order_in_which_they_are_called(cnn: AdaptiveCNN) -> None:
    shapes = activations.map_shapes(cnn, batch_of().images)
    names = list(shapes)
    assert (
        names.index("stem.0") < names.index("stem") < names.index("stages.0.0.residual.0") < names.index("stages.1.1")
    )
    assert shapes["stem.0"] == (32, 16, 16)
    assert "classifier" not in names
    assert "pool" not in names  # a single cell is no map


def test_the_layers_that_tell_most(cnn: AdaptiveCNN, vit: ViT) -> None:
    images = batch_of().images
    assert activations.telling_layers(cnn, activations.map_shapes(cnn, images)) == ["stages.0", "stages.1", "stages.2"]
    assert activations.telling_layers(vit, activations.map_shapes(vit, images)) == [
        "stem",
        "blocks.0",
        "blocks.2",
        "blocks.3",
    ]


def test_heads_are_not_taken_for_maps() -> None:
    """timm's attention passes (batch, heads, tokens, dim) through its norms of queries and keys."""
    from timm.models.vision_transformer import VisionTransformer

    small = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 12, "depth": 1, "num_heads": 2}
    shapes = activations.map_shapes(VisionTransformer(**small, qk_norm=True).eval(), torch.zeros(1, 1, 8, 8))
    assert shapes["blocks.0"] == (12, 2, 2)
    assert not [name for name in shapes if "q_norm" in name]


def test_the_liveliest_channels_come_first() -> None:
    maps = np.zeros((2, 4, 3, 3))
    maps[:, 1] = 100  # bright, but the same everywhere
    maps[0, 2], maps[0, 3, 0, 0] = 9, 5
    assert activations.liveliest(maps, 3).tolist() == [2, 3, 0]


def test_the_first_filters(cnn: AdaptiveCNN) -> None:
    found = activations.first_filters(cnn)
    assert found
    assert found[0] == "stem.0"
    assert np.array_equal(found[1], cnn.stem[0].weight.detach().numpy())  # type: ignore[union-attr]
    assert activations.first_filters(nn.Linear(2, 2)) is None


# --- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multi_label", [False, True])
def test_gradients_are_those_of_a_backward_pass(cnn: AdaptiveCNN, multi_label: bool) -> None:
    batch = batch_of(multi_label=multi_label)
    flow = activations.gradient_flow(cnn, batch, multi_label=multi_label)
    assert all(weight.grad is None for weight in cnn.parameters())
    loss = (
        F.binary_cross_entropy_with_logits(cnn(batch.images), batch.targets)
        if multi_label
        else F.cross_entropy(cnn(batch.images), batch.labels)
    )
    loss.backward()
    for layer, mean, largest in flow:
        gradient = cnn.get_parameter(f"{layer}.weight").grad
        assert gradient is not None
        assert mean == pytest.approx(gradient.abs().mean().item(), rel=1e-4)
        assert largest == pytest.approx(gradient.abs().max().item(), rel=1e-4)


def test_gradients_name_every_layer(cnn: AdaptiveCNN, vit: ViT) -> None:
    for model in (cnn, vit):
        layers = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
        named = [each.layer for each in activations.gradient_flow(model, batch_of())]
        assert layers <= set(named)
        assert len(named) == len(set(named))
    assert {"prefix_tokens", "positions"} <= set(named)


def test_a_head_that_does_not_answer_has_no_gradient(vit: ViT) -> None:
    flow = {each.layer: each for each in activations.gradient_flow(vit, batch_of())}
    assert vit.inference == "cls"
    assert (flow["dist_head"].mean, flow["dist_head"].largest) == (0, 0)
    assert flow["cls_head"].mean > 0


def test_measuring_changes_nothing(cnn: AdaptiveCNN) -> None:
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    with torch.no_grad():
        activations.gradient_flow(cnn, batch_of())
    activations.map_shapes(cnn, batch_of().images)
    activations.embed(cnn, [batch_of()])
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    assert not cnn.training
    assert not any(module._forward_hooks for module in cnn.modules())


# --- embeddings -------------------------------------------------------------------------------------------------


def test_embeddings_are_what_the_classifier_reads(cnn: AdaptiveCNN) -> None:
    batches = [batch_of(4), batch_of(2)]
    found = activations.embed(cnn, batches)
    logits: Tensor = cnn.classifier(torch.from_numpy(found))
    assert found.shape == (6, cnn.plan.stages[-1].width)
    assert torch.allclose(logits, torch.cat([cnn(batch.images) for batch in batches]), atol=1e-6)


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    points = np.random.default_rng(0).normal(size=(40, 6)) * [9, 5, 3, 1, 1, 1]
    plane, shares = activations.principal_plane(points.astype(np.float32))
    u, s, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs(plane), np.abs(u[:, :2] * s[:2]), atol=1e-4)
    assert np.allclose(shares, s[:2] ** 2 / (s**2).sum(), atol=1e-6)
    assert np.allclose(plane, PCA(2).fit_transform(points), atol=1e-4)


def test_neighbours_stay_together_and_the_seed_decides() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat([0, 1], 15)
    points = (random.normal(size=(30, 5)) + groups[:, None] * 50).astype(np.float32)
    plane = activations.neighbour_plane(points, seed=3)
    assert np.array_equal(plane, activations.neighbour_plane(points, seed=3))
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=-1) + np.eye(30) * 1e9
    assert (groups[distances.argmin(axis=1)] == groups).all()


def test_few_points_are_enough_for_neighbours() -> None:
    points = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert np.isfinite(activations.neighbour_plane(points, seed=0)).all()
