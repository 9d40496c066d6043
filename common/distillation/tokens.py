"""This module brings a student's tokens and those of its teacher into forms that can be compared."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.vit import Outputs, ViT


class StudentWithProjectors(nn.Module):
    """A student with a projector to the teacher's width for each block that is taught.

    Only the student has projectors. If those of a teacher were trained too, the cheapest way to agree would be that
    both say nothing.
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
        """Return logits; with_tokens: also the tokens of the taught blocks, as they are and projected.

        All of it goes through forward, because DistributedDataParallel synchronises no other gradients.
        """
        if not with_tokens:
            return self.student(images)
        outputs = cast(Outputs, self.student(images, layers=self.layers))
        tokens = [outputs.tokens[layer] for layer in self.layers]
        projected = [project(block) for project, block in zip(self.projectors, tokens, strict=True)]
        return outputs.logits, tokens, projected


def on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample the teacher's tokens onto the student's grid: (batch, dim, rows, columns) to (batch, n, dim)."""
    if maps.shape[2:] != grid:
        maps = F.interpolate(maps, grid, mode="bilinear", antialias=True)
    return maps.flatten(2).transpose(1, 2)


def related(tokens: Tensor, kind: str, chosen: Tensor | None = None) -> Tensor:
    """Return the items to relate: tokens of each image, images by their mean token, or chosen tokens of the batch."""
    if kind == "token":
        return tokens
    if kind == "sample":
        return tokens.mean(dim=1)
    return tokens.flatten(0, 1)[chosen]


@torch.no_grad()
def spread(projected: Tensor) -> dict[str, Tensor]:
    """Return two signs of collapse: the mean deviation of the tokens, and how many directions they fill.

    The number of directions is the participation ratio of the eigenvalues l of the covariance, (sum l)^2 / sum l^2. It
    is 1 if all tokens lie on a line.
    """
    tokens = projected.detach().flatten(0, -2).float()
    centred = tokens - tokens.mean(dim=0)
    covariance = centred.T @ centred / len(tokens)
    directions = covariance.trace() ** 2 / covariance.square().sum().clamp(min=1e-20)
    return {"token_deviation": centred.square().mean(dim=0).sqrt().mean(), "token_directions": directions}
