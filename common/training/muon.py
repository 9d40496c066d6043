"""Muon is momentum whose step has no preferred direction (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)  # the published coefficients: steep at 0, and all of (0, 1] comes near 1
ITERATIONS = 5
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


class Muon(torch.optim.Optimizer):
    """Muon moves the groups that have `orthogonal` set, kernels and matrices; AdamW moves the others.

    A kernel counts as a matrix with one row for each output channel. Momentum is Nesterov's, and weight decay is
    decoupled from the gradient.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch hands one over
        for group in self.param_groups:
            direction = self._muon if group["orthogonal"] else self._adam
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(direction(weight, group["momentum"]), alpha=group["lr"])

    def _muon(self, weight: Tensor, momentum: float) -> Tensor:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].mul_(momentum).add_(gradient)
        return orthogonalised(gradient.add(state["momentum"], alpha=momentum))

    def _adam(self, weight: Tensor, _: float) -> Tensor:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - ADAM_BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - ADAM_BETAS[1])
        mean, square = (
            state[name] / (1 - beta ** state["step"]) for name, beta in zip(("mean", "square"), ADAM_BETAS, strict=True)
        )
        return mean / (square.sqrt() + ADAM_EPS)


def orthogonalised(step: Tensor) -> Tensor:
    """Return nearly U V^T of a matrix U S V^T (its singular value decomposition), by Newton-Schulz iterations.

    Singular values come out between about 0.7 and 1.2: the published iteration is fast, not exact. A tall matrix gets
    a longer step, so that its outputs change as much as those of a square one.
    """
    # The iteration needs singular values of at most 1, which a Frobenius norm of 1 ensures; short rows cost least.
    rows = len(step)
    matrix = step.float().reshape(rows, -1)
    tall = rows > matrix.shape[1]
    stretch = math.sqrt(max(1.0, rows / matrix.shape[1]))
    matrix = matrix.T if tall else matrix
    matrix = matrix / matrix.norm().clamp(min=1e-7)

    # The published iteration multiplies the matrix X by polynomials of X X^T, all of which commute. So they are
    # multiplied with one another first, at the size of X's short side, and X only once, at the end.
    gram, identity = matrix @ matrix.T, torch.eye(len(matrix), device=matrix.device)
    total = identity
    for _ in range(ITERATIONS):
        a, b, c = QUINTIC
        factor = a * identity + b * gram + c * gram @ gram
        total, gram = factor @ total, factor @ gram @ factor

    matrix = total @ matrix
    return ((matrix.T if tall else matrix) * stretch).reshape(step.shape).to(step.dtype)
