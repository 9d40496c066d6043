"""What a student learns from a teacher's tokens."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.vit import Outputs, ViT


class StudentWithProjectors(nn.Module):
    """A student with what distilling tokens needs: of each taught block, a projector to the teacher's width.

    The projectors are the student's alone. One on the teacher's side could be trained too, and then the cheapest way to
    agree is that both say nothing.
    """

    def __init__(self, student: ViT, layers: Sequence[int], hidden: int, teacher_width: int) -> None:
        super().__init__()
        self.student, self.layers = student, tuple(layers)
        width = student.norm.normalized_shape[0]
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, teacher_width))
            for _ in self.layers
        )

    def forward(self, images: Tensor, with_tokens: bool = False) -> Any:
        """Logits; with_tokens: also the taught blocks' tokens, as they are and projected.

        All through forward, because DistributedDataParallel synchronises the gradients of nothing else.
        """
        if not with_tokens:
            return self.student(images)
        outputs = cast(Outputs, self.student(images, layers=self.layers))
        tokens = [outputs.tokens[layer] for layer in self.layers]
        return outputs.logits, tokens, [project(each) for project, each in zip(self.projectors, tokens, strict=True)]


def on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """The teacher's tokens where the student has its own: (batch, dim, rows, columns) to (batch, n, dim)."""
    if maps.shape[2:] != grid:
        maps = F.interpolate(maps, grid, mode="bilinear", antialias=True)
    return maps.flatten(2).transpose(1, 2)


def related(tokens: Tensor, kind: str, chosen: Tensor | None = None) -> Tensor:
    """Whose likeness is compared: tokens within an image, images by their mean token, or chosen tokens of the batch."""
    if kind == "token":
        return tokens
    if kind == "sample":
        return tokens.mean(dim=1)
    return tokens.flatten(0, 1)[chosen]


@torch.no_grad()
def spread(projected: Tensor) -> dict[str, Tensor]:
    """Signs of collapse: the mean deviation of the tokens' numbers, and how many directions they fill.

    The latter is the participation ratio of the covariance's eigenvalues, (sum l)^2 / sum l^2: 1 if all lie on a line.
    """
    tokens = projected.detach().flatten(0, -2).float()
    centred = tokens - tokens.mean(dim=0)
    covariance = centred.T @ centred / len(tokens)
    directions = covariance.trace() ** 2 / covariance.square().sum().clamp(min=1e-20)
    return {"token_deviation": centred.square().mean(dim=0).sqrt().mean(), "token_directions": directions}
