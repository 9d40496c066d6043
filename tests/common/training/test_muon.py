"""Muon: its iteration against the published one and the decomposition, its steps by hand and against torch's AdamW."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.models.adaptive_cnn import AdaptiveCNN
from common.models.fast_cnn import FastCNN
from common.models.vit import ViT
from common.settings.entries import RecipeSettings
from common.training.muon import Muon, orthogonalised
from common.training.optim import make_optimizer


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def published(matrix: Tensor) -> Tensor:
    """X <- a X + (b A + c A A) X with A = X X^T, five times, in double precision."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("shape", [(4, 4), (3, 40), (16, 16), (64, 576)], ids=str)
def test_the_iteration_is_the_published_one(shape: tuple[int, int]) -> None:
    matrix = random(*shape)
    torch.testing.assert_close(orthogonalised(matrix).double(), published(matrix), rtol=1e-3, atol=1e-4)


def test_every_direction_gets_about_the_same_length() -> None:
    matrix = random(12, 40) * torch.logspace(-1, 0, 12)[:, None]
    found = orthogonalised(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    lengths = torch.diagonal(u.T @ found @ v.T)
    assert 0.6 < lengths.min() <= lengths.max() < 1.3
    torch.testing.assert_close(u @ torch.diag(lengths) @ v, found, rtol=1e-3, atol=1e-3)


def test_a_tall_matrix_is_its_transpose_stretched() -> None:
    matrix = random(40, 10)
    torch.testing.assert_close(orthogonalised(matrix), orthogonalised(matrix.T).T * 2)


def test_a_kernel_is_a_matrix_with_a_row_for_each_channel_it_makes() -> None:
    kernel = random(6, 4, 3, 3)
    assert torch.equal(orthogonalised(kernel), orthogonalised(kernel.flatten(1)).view(6, 4, 3, 3))
    assert torch.equal(orthogonalised(torch.zeros(4, 4)), torch.zeros(4, 4))


def test_two_steps_by_hand() -> None:
    """v = m v + g; w = (1 - lr decay) w - lr O(g + m v)."""
    weight = nn.Parameter(random(3, 5))
    expected, speed = weight.detach().clone(), torch.zeros(3, 5)
    optimizer = Muon([{"params": [weight], "weight_decay": 0.1}], lr=0.02, momentum=0.6)
    for seed in (1, 2):
        weight.grad = random(3, 5, seed=seed)
        optimizer.step()
        speed = 0.6 * speed + weight.grad
        expected = (1 - 0.02 * 0.1) * expected - 0.02 * orthogonalised(weight.grad + 0.6 * speed)
        torch.testing.assert_close(weight.detach(), expected)


def test_the_others_move_as_torchs_adamw_moves_them() -> None:
    ours, theirs = (nn.Parameter(random(7)) for _ in range(2))
    group = {"params": [ours], "weight_decay": 0.1, "orthogonal": False}
    optimizers = [Muon([group], lr=0.02, momentum=0.6), torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.1)]
    for seed in range(5):
        ours.grad, theirs.grad = random(7, seed=seed), random(7, seed=seed)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_it_goes_on_from_its_state() -> None:
    def trained(
        first: nn.Module, steps: range, state: dict[str, Any] | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        model = copy.deepcopy(first)
        optimizer = make_optimizer(model, RecipeSettings(optimizer="muon", lr=0.02, bias_lr=0.1))
        if state:
            optimizer.load_state_dict(state)
        for seed in steps:
            for weight in model.parameters():
                weight.grad = random(*weight.shape, seed=seed)
            optimizer.step()
        return model, copy.deepcopy(optimizer.state_dict())

    start = FastCNN((1, 8, 8), 3, channels=2)
    whole, _ = trained(start, range(6))
    resumed, _ = trained(*(lambda half: (half[0], range(3, 6), half[1]))(trained(start, range(3))))
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


NETWORKS = {
    "fast_cnn": (lambda: FastCNN((3, 32, 32), 10, channels=4), {"head.weight"}),
    "adaptive_cnn": (lambda: AdaptiveCNN((1, 8, 8), 10), {"classifier.3.weight"}),
    "vit": (
        lambda: ViT((1, 8, 8), 10, patch=2, width=24, depth=1, heads=2, dist_token=True, inference="avg"),
        {"cls_head.weight", "dist_head.weight", "prefix_tokens", "positions"},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_moves_kernels_and_matrices_but_those_of_classifiers_and_tokens(name: str) -> None:
    build, left_to_adam = NETWORKS[name]
    model = build()
    names = {id(weight): name for name, weight in model.named_parameters()}
    settings = RecipeSettings(optimizer="muon", lr=0.2, bias_lr=0.05, weight_decay=0.1)
    inner, others = make_optimizer(model, settings).param_groups
    assert (inner["orthogonal"], others["orthogonal"]) == (True, False)
    assert (inner["weight_decay"], others["weight_decay"]) == (0.1, 2.0)
    assert others["lr_factor"] == 0.05
    assert {names[id(weight)] for weight in others["params"] if weight.ndim > 1} == left_to_adam
    assert all(weight.ndim > 1 for weight in inner["params"])
    assert len(inner["params"]) + len(others["params"]) == len(names)


def test_its_length_is_a_matter_of_the_rate_alone() -> None:
    assert orthogonalised(random(8, 8)).norm().item() == pytest.approx(
        orthogonalised(1e-4 * random(8, 8)).norm().item(), rel=1e-4
    )
    assert math.isfinite(orthogonalised(1e-12 * random(8, 8)).norm().item())
