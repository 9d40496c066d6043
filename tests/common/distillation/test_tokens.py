"""Tokens of students and teachers, against numbers worked by hand."""

from typing import Any

import pytest
import torch

from common.distillation.tokens import StudentWithProjectors, on_grid, related, spread
from common.models.vit import ViT


def vit(seed: int = 0, **changes: Any) -> ViT:
    torch.manual_seed(seed)
    return ViT((1, 12, 12), 5, **({"patch": 4, "width": 24, "depth": 3, "heads": 3, "stem_width": 8} | changes))


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 12, 12, generator=torch.Generator().manual_seed(7))


def test_a_finer_grid_is_averaged_onto_a_coarser_one_by_hand() -> None:
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    assert on_grid(fine, (4, 4)).flatten().tolist() == fine.flatten().tolist()
    coarse = on_grid(fine, (2, 2)).view(2, 2)
    # antialiased bilinear from 4 to 2: weights 3/7, 3/7, 1/7 of the three nearest of a side
    weights = torch.tensor([[3.0, 3.0, 1.0, 0.0], [0.0, 1.0, 3.0, 3.0]]) / 7
    torch.testing.assert_close(coarse, weights @ fine[0, 0] @ weights.T)


def test_what_is_related() -> None:
    tokens = torch.arange(12.0).view(2, 3, 2)
    assert related(tokens, "token") is tokens
    assert related(tokens, "sample").tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert related(tokens, "random", torch.tensor([5, 0])).tolist() == [[10.0, 11.0], [0.0, 1.0]]


def test_spread_by_hand() -> None:
    """Two numbers of deviation 1, uncorrelated: two directions. On a line: one. All equal: deviation 0."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    signs = spread(square)
    assert (signs["token_deviation"].item(), signs["token_directions"].item()) == (1.0, 2.0)
    assert spread(square[:, :1].expand(4, 2))["token_directions"].item() == pytest.approx(1.0)
    assert spread(torch.ones(4, 2))["token_deviation"].item() == 0.0


def test_a_student_with_projectors_answers_as_its_student_and_projects_its_blocks() -> None:
    student = vit(drop_path=0.0, cls_dropout=0.0).eval()
    taught_student = StudentWithProjectors(student, (1, 2), hidden=16, teacher_width=40).eval()
    assert torch.equal(taught_student(images()), student(images()))
    logits, tokens, projected = taught_student(images(), with_tokens=True)
    assert torch.equal(logits, student(images()))
    assert [block.shape for block in tokens] == [(4, 9, 24)] * 2
    assert [block.shape for block in projected] == [(4, 9, 40)] * 2
    torch.testing.assert_close(projected[1], taught_student.projectors[1](tokens[1]))
