"""One epoch: how a batch becomes a step. Optimizers, the course of the learning rate, averages of the weights.

The loop knows no method and no run folder: the method is an objective, written in the open in its entry.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.compute import Compute
from common.data.packed import Batch
from common.metrics import one_label, several_labels


class Loss(NamedTuple):
    """What an objective returns for a batch."""

    value: Tensor  # the mean over the batch
    logits: Tensor
    terms: dict[str, Tensor] = {}  # noqa: RUF012 - never written; named parts of the value, for history.csv


Objective = Callable[[nn.Module, Batch], Loss]


class EpochTotals:
    """What the steps of an epoch add up to. It stays on the device, so that no step waits for a number."""

    def __init__(self, classes: int, multi_label: bool, device: torch.device) -> None:
        shape = (classes, 2, 2) if multi_label else (classes, classes)
        self.counts = torch.zeros(shape, dtype=torch.int64, device=device)  # ([label,] true, predicted)
        self.sums: dict[str, Tensor] = {}
        self.images, self.steps, self.seconds = 0, 0, 0.0

    @torch.no_grad()
    def add(self, batch: Batch, loss: Loss, share: float) -> None:
        """A part of a step; `share` is the part's share of the step, so that means come out over images."""
        for name, value in {"loss": loss.value, **loss.terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * share
        if self.counts.ndim == 3:
            every_label = torch.arange(len(self.counts), device=batch.labels.device) * 4
            cells = (every_label + batch.labels * 2 + (loss.logits > 0)).flatten()
        else:
            cells = batch.labels * len(self.counts) + loss.logits.argmax(1)
        self.counts += torch.bincount(cells, minlength=self.counts.numel()).view_as(self.counts)
        self.images += len(batch)

    def end_step(self, grad_norm: Tensor) -> None:
        finite = torch.nan_to_num(grad_norm.detach().double(), nan=0.0, posinf=0.0)  # fp16 skips steps that overflow
        self.sums["grad_norm"] = self.sums.get("grad_norm", 0.0) + finite
        self.steps += 1

    def summary(self, compute: Compute) -> dict[str, Any]:
        """Means over the epoch, of all processes."""
        means = {
            name: compute.sum(value.clone()).item() / (self.steps * compute.world) for name, value in self.sums.items()
        }
        counts = compute.sum(self.counts.clone()).cpu().numpy()
        summarise = several_labels.summarise if counts.ndim == 3 else one_label.summarise
        return {**means, **summarise(counts), "images": self.images * compute.world}


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    rate_at: Callable[[int], float],
    backward: Callable[[nn.Module, Batch], None],
    clip_norm: float | None,
    totals: EpochTotals,
    after_step: Callable[[int], None],
) -> None:
    model.train()
    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(batch.step) * group.get("lr_factor", 1.0)
        backward(model, batch)
        scaler.unscale_(optimizer)
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or math.inf)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        totals.end_step(grad_norm)
        after_step(batch.step)


def backward(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    scale: Callable[[Tensor], Tensor],
    totals: EpochTotals,
    parts: int,
    compute: Compute,
    precision: str,
) -> None:
    """Gradients of a batch, computed in parts to need less memory. The totals see it only if all parts succeed."""
    pieces, losses = [*batch.parts(parts)], []
    for piece in pieces:
        last = piece is pieces[-1]  # several processes exchange gradients once per step
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
            with compute.autocast(precision):
                loss = objective(model, piece)
            scale(loss.value * (len(piece) / len(batch))).backward()
        losses.append(Loss(loss.value.detach(), loss.logits.detach(), {k: v.detach() for k, v in loss.terms.items()}))
    for piece, loss in zip(pieces, losses, strict=True):
        totals.add(piece, loss, len(piece) / len(batch))


def history_row(
    epoch: int, found: dict[str, Any], val: dict[str, float], *, rate: float, seconds: float, memory_mb: float
) -> dict[str, Any]:
    """A row of history.csv. Blank: not measured (no validation set, no distillation)."""
    names = ("loss", "accuracy", "precision", "recall", "f1_score")
    extra = {name: value for name, value in found.items() if name not in {*names, "images", "grad_norm", "kd_loss"}}
    return {
        "epoch": epoch,
        **{f"train_{name}": found[name] for name in names},
        **{f"val_{name}": val.get(name, "") for name in (*names, *(name for name in val if name not in names))},
        "kd_loss": found.get("kd_loss", ""),
        "learning_rate": rate,
        "epoch_time_sec": round(seconds, 3),
        "images_per_sec": round(found["images"] / max(seconds, 1e-9), 1),
        "gpu_memory_mb": round(memory_mb, 1),
        "grad_norm": found["grad_norm"],
        **extra,
    }


# --- what a model says of a set ---------------------------------------------------------------------------------


# --- how weights move -------------------------------------------------------------------------------------------
