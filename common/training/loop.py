"""This module trains a model for one epoch: it turns batches into steps, and adds up what they show.

The loop knows no method and no file. The method is a function, the objective, which each entry writes in the open.
The caller of `train_epoch` has its turn after every step, to save or to stop.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.compute import Compute, seed_model
from common.data.packed import Batch
from common.failures import NAN_ADVICE, NotFinite
from common.metrics import one_label, several_labels
from common.settings.entries import TrainingSettings
from common.training.optim import WeightAverage

log = logging.getLogger("stillhouse")


class Loss(NamedTuple):
    """The value that an objective returns for a batch."""

    value: Tensor  # the mean over the batch
    logits: Tensor
    terms: dict[str, Tensor] = {}  # noqa: RUF012 - never written; named parts of the value, for history.csv


Objective = Callable[[nn.Module, Batch], Loss]


class EpochTotals:
    """The sums over the steps of an epoch. They stay on the device, so that no step waits for a number."""

    def __init__(self, classes: int, multi_label: bool, device: torch.device) -> None:
        shape = (classes, 2, 2) if multi_label else (classes, classes)
        self.counts = torch.zeros(shape, dtype=torch.int64, device=device)  # ([label,] true, predicted)
        self.sums: dict[str, Tensor] = {}
        self.images, self.steps, self.seconds = 0, 0, 0.0

    @torch.no_grad()
    def add(self, batch: Batch, loss: Loss, share: float) -> None:
        """Add a part of a step. `share` is its share of the step's images, so that sums become means over images."""
        for name, value in {"loss": loss.value, **loss.terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * share

        # Each decision is the number of its cell in the table of counts.
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
        """Return the means over the epoch and over all processes."""
        means = {
            name: compute.sum(value.clone()).item() / (self.steps * compute.world) for name, value in self.sums.items()
        }
        counts = compute.sum(self.counts.clone()).cpu().numpy()
        summarise = several_labels.summarise if counts.ndim == 3 else one_label.summarise
        return {**means, **summarise(counts), "images": self.images * compute.world}


@dataclass
class Training:
    """This state is everything that moves while a model is trained; a checkpoint holds its `state_dict`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    totals: EpochTotals
    ema: WeightAverage | None
    swa: WeightAverage | None
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch after them
    parts: int = 1  # pieces each batch is computed in; doubled when memory runs out
    improved: dict[str, Any] = field(default_factory=dict)  # the last epoch whose own weights beat all before them
    best: dict[str, Any] = field(default_factory=dict)  # read from the best checkpoint, where it is kept

    @property
    def kind(self) -> str:
        return "ema" if self.ema else "raw"

    @property
    def candidate(self) -> nn.Module:
        return self.ema.model if self.ema else self.model

    def state_dict(self) -> dict[str, Any]:
        averages = {name: average.state_dict() for name, average in (("ema", self.ema), ("swa", self.swa)) if average}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "totals": vars(self.totals),
            "averages": averages,
            "at": {"epoch": self.epoch, "step": self.step, "parts": self.parts, "improved": self.improved},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        vars(self.totals).update(state["totals"])
        for name, saved in state["averages"].items():
            getattr(self, name).load_state_dict(saved)
        vars(self).update({"improved": self.best, **state["at"]})  # checkpoints had no `improved` before it was needed

    def refuse_nan(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise NotFinite(f"the training loss is {loss} in epoch {self.epoch + 1}; {NAN_ADVICE}")


def train_epoch(
    training: Training,
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    rates: Sequence[float],
    settings: TrainingSettings,
    compute: Compute,
) -> Iterator[None]:
    """Take one step for each batch, and give the caller its turn after each step.

    model: `training.model` in the form that is called, which may be compiled or shared by several processes.
    rates: the learning rate of every step of the epoch.
    """
    optimizer, scaler, totals = training.optimizer, training.scaler, training.totals
    began = time.perf_counter() - totals.seconds  # a resumed epoch goes on counting
    model.train()

    for batch in batches:
        for group in optimizer.param_groups:
            group["lr"] = rates[batch.step] * group.get("lr_factor", 1.0)

        # Clipping measures the gradients in their true size, without the factor that keeps them in fp16's range.
        backward(training, model, batch, objective, settings, compute)
        scaler.unscale_(optimizer)
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), settings.recipe.clip_norm or math.inf)

        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if training.ema:
            training.ema.update(training.model)

        # The caller may save now, so all that a checkpoint holds must be up to date.
        totals.end_step(grad_norm)
        totals.seconds = time.perf_counter() - began
        training.step = batch.step + 1
        yield


def backward(
    training: Training,
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    settings: TrainingSettings,
    compute: Compute,
) -> None:
    """Compute the gradients of a step. When memory runs out, halve the parts and start the step again."""
    while True:
        # Every try draws the same random numbers.
        seed_model(settings.seed, "model", training.epoch, batch.step, compute.rank)
        try:
            return _backward_in_parts(training, model, batch, objective, settings.recipe.precision, compute)
        except torch.OutOfMemoryError:
            if compute.world > 1 or training.parts * 2 > len(batch):
                raise  # the other processes are in the middle of a sum; or there is nothing left to halve

        # The failed try left the gradients of its first parts, and cached memory in blocks of its own sizes.
        training.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        training.parts *= 2
        log.warning("out of memory: going on with each batch in %d parts", training.parts)


def _backward_in_parts(
    training: Training, model: nn.Module, batch: Batch, objective: Objective, precision: str, compute: Compute
) -> None:
    """Add up the gradients of the parts of a batch."""
    pieces, losses = [*batch.parts(training.parts)], []
    for piece in pieces:
        share = len(piece) / len(batch)
        last = piece is pieces[-1]  # several processes exchange gradients once per step
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
            with compute.autocast(precision):
                loss = objective(model, piece)
            training.scaler.scale(loss.value * share).backward()

        # Without their graphs, which would keep the memory of every part until the last.
        terms = {name: term.detach() for name, term in loss.terms.items()}
        losses.append(Loss(loss.value.detach(), loss.logits.detach(), terms))

    # The totals see the batch only now that all parts have succeeded: a failed try would count images twice.
    for piece, loss in zip(pieces, losses, strict=True):
        training.totals.add(piece, loss, len(piece) / len(batch))
