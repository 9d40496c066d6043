"""Training from the first step to the selected weights. It knows no method: the entry hands it an objective.

Resuming is exact. A checkpoint holds everything that moves, at any step; randomness is counted, not stored; which
epoch is best is written in the best checkpoint itself. So a run killed anywhere repeats what was lost, and ends
with the weights and the history it would have had.
"""

import io
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from common.cli.attempt import Attempt
from common.compute import Compute, distribute, seed_model
from common.data.packed import Batch, Batches
from common.failures import Interrupted, NotFinite
from common.files import atomic_write, digest_of
from common.settings.entries import TrainingSettings
from common.training.loop import EpochTotals, Objective, backward, history_row, train_epoch
from common.training.optim import WeightAverage, learning_rate, make_optimizer, refresh_batchnorm
from common.training.predict import NAN_ADVICE, SELECTION_RULES, validate

log = logging.getLogger("stillhouse")

UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError, BadZipFile, SafetensorError)


# --- everything that moves --------------------------------------------------------------------------------------


@dataclass
class Training:
    """The state of a training: what a checkpoint holds is what `state_dict` lists."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    totals: EpochTotals
    ema: WeightAverage | None
    swa: WeightAverage | None
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch after them
    parts: int = 1  # pieces each batch is computed in; doubled when memory runs out
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
            "at": {"epoch": self.epoch, "step": self.step, "parts": self.parts},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        vars(self.totals).update(state["totals"])
        for name, saved in state["averages"].items():
            getattr(self, name).load_state_dict(saved)
        vars(self).update(state["at"])


@dataclass(frozen=True)
class Task:
    """What a training is about; nothing in it changes."""

    objective: Objective
    train: Batches
    val: Batches | None
    attempt: Attempt
    compute: Compute
    running: nn.Module  # the model as training calls it: compiled, over several processes
    deployed: Callable[[nn.Module], nn.Module]  # the part of the model that is kept

    @property
    def settings(self) -> TrainingSettings:
        return self.attempt.training

    def validate(self, model: nn.Module) -> dict[str, float]:
        return validate(self.deployed(model), self.val, self.settings.recipe) if self.val else {}


def fit(
    model: nn.Module,
    objective: Objective,
    train: Batches,
    val: Batches | None,
    attempt: Attempt,
    compute: Compute,
    deployed: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> dict[str, Any]:
    """Train the model, leave the selected weights in it, and say which they are and what they cost.

    deployed: the part of the model that is validated and kept, where the rest of it only helps in training.
    """
    recipe = attempt.training.recipe
    training = Training(
        model,
        make_optimizer(model, recipe),
        torch.amp.GradScaler(compute.device.type, enabled=recipe.precision == "fp16"),
        EpochTotals(train.classes, train.multi_label, compute.device),
        WeightAverage(model, recipe.ema) if recipe.ema else None,
        WeightAverage(model, None) if recipe.swa else None,
        parts=recipe.accumulate,
    )
    if compute.first:
        attempt.add_provenance(**compute.facts())
        held_out = len(val.rows) if val else 0
        log.info("%d training and %d validation images, on %s", len(train.rows), held_out, compute)
    resume(training, attempt, compute, needs_best=val is not None)
    running = distribute(model, compute, example=torch.zeros(2, *train.shape, device=compute.device))
    task = Task(objective, train, val, attempt, compute, running, deployed)
    while training.epoch < recipe.epochs and not out_of_patience(training, recipe.patience):
        run_epoch(training, task)
    return {"selection": select(training, task), "cost": cost(training, task)}


def out_of_patience(training: Training, patience: int | None) -> bool:
    return patience is not None and bool(training.best) and training.epoch - training.best["epoch"] >= patience


def run_epoch(training: Training, task: Task) -> None:
    recipe, seed, epoch = task.settings.recipe, task.settings.seed, training.epoch
    batches = task.train.shuffled(task.settings.augment, seed, epoch, training.step)
    before, began = training.totals.seconds, time.perf_counter()

    def after_step(step: int) -> None:
        training.step = step + 1
        training.totals.seconds = before + time.perf_counter() - began
        finish_step(training, task)

    train_epoch(
        task.running,
        task.attempt.bar(batches, f"epoch {epoch + 1}/{recipe.epochs}", task.train.steps, training.step),
        training.optimizer,
        training.scaler,
        rate_at=lambda step: learning_rate(recipe, epoch + (step + 0.5) / task.train.steps),
        backward=partial(backward_within_memory, training, task),
        clip_norm=recipe.clip_norm,
        totals=training.totals,
        after_step=after_step,
    )
    finish_epoch(training, task)


def backward_within_memory(training: Training, task: Task, model: nn.Module, batch: Batch) -> None:
    """Gradients of a step; when memory runs out the parts are halved and the step starts over."""
    while True:
        seed_model(task.settings.seed, "model", training.epoch, batch.step, task.compute.rank)
        scale, precision = training.scaler.scale, task.settings.recipe.precision
        try:
            return backward(
                model, batch, task.objective, scale, training.totals, training.parts, task.compute, precision
            )
        except torch.OutOfMemoryError:
            if task.compute.world > 1 or training.parts * 2 > len(batch):
                raise  # the other processes are in the middle of a sum; or there is nothing left to halve
        training.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        training.parts *= 2
        log.warning("out of memory: going on with each batch in %d parts", training.parts)


def finish_step(training: Training, task: Task) -> None:
    attempt, recipe = task.attempt, task.settings.recipe
    if training.ema:
        training.ema.update(training.model)
    if task.compute.first:
        attempt.run.beat(epoch=training.epoch, epochs=recipe.epochs, step=training.step, steps=task.train.steps)
    if task.compute.any(attempt.stop_reason is not None):
        save(training, task)
        raise Interrupted(
            f"{attempt.stop_reason or 'another process was told to stop'}; the same command goes on from here"
        )
    if attempt.minutes_since_save() > task.settings.compute.save_minutes:
        save(training, task)


def finish_epoch(training: Training, task: Task) -> None:
    """Everything that follows the last step of an epoch. What is written last is what a resumed run trusts."""
    recipe = task.settings.recipe
    found = training.totals.summary(task.compute)
    _refuse_nan(found["loss"], training)
    training.epoch, training.step = training.epoch + 1, 0
    if training.swa and training.epoch > recipe.epochs * (1 - recipe.swa):
        training.swa.update(training.model)
    val = task.validate(training.candidate)
    row = history_row(
        training.epoch,
        found,
        val,
        rate=training.optimizer.param_groups[0]["lr"],
        seconds=training.totals.seconds,
        memory_mb=task.compute.peak_memory_mb(),
    )
    training.totals = EpochTotals(task.train.classes, task.train.multi_label, task.compute.device)
    if task.compute.first:
        rows = [old for old in task.attempt.run.read_history() if int(old["epoch"]) < training.epoch]
        task.attempt.run.write_history([*rows, row])
        task.attempt.publish(row, recipe.epochs)
    if task.val:
        keep_if_best(training, task, training.candidate, training.kind, val)
    if training.epoch % task.settings.compute.save_every == 0 or training.epoch == recipe.epochs:
        save(training, task)


def _refuse_nan(loss: float, training: Training) -> None:
    if not math.isfinite(loss):
        raise NotFinite(f"the training loss is {loss} in epoch {training.epoch + 1}; {NAN_ADVICE}")


# --- checkpoints ------------------------------------------------------------------------------------------------


def save(training: Training, task: Task) -> None:
    if training.totals.steps:
        _refuse_nan(training.totals.sums["loss"].item(), training)
    if not all(weights.isfinite().all() for weights in training.model.parameters()):
        raise NotFinite(f"weights are no numbers after epoch {training.epoch}, step {training.step}; {NAN_ADVICE}")
    if task.compute.first:
        content = io.BytesIO()
        torch.save(training.state_dict(), content)
        task.attempt.run.rotate_checkpoint(content.getbuffer())
    task.attempt.saved()


def resume(training: Training, attempt: Attempt, compute: Compute, needs_best: bool) -> None:
    """Go on from the newest checkpoint that can be read; from the start if there is none, or no best beside it."""
    run = attempt.run
    for path in filter(Path.exists, (run.last, run.previous)):
        try:
            state = read_checkpoint(path, compute)
        except UNREADABLE as error:
            log.warning("%s cannot be read (%s)", path, (str(error) or type(error).__name__).splitlines()[0])
            continue
        training.best = read_best(run.best)
        if needs_best and state["at"]["epoch"] and not training.best:
            log.warning("%s is missing or cannot be read: starting again", run.best)
            return
        training.load_state_dict(state)
        log.info("resuming after epoch %d, step %d", training.epoch, training.step)
        return


def read_checkpoint(path: Path, compute: Compute) -> dict[str, Any]:
    """What `save` wrote. Its parts carry checksums, which torch writes but does not compare."""
    with ZipFile(path) as parts:
        if damaged := parts.testzip():
            raise BadZipFile(f"checksum of {damaged}")
    return torch.load(path, map_location=compute.device, weights_only=True)


def keep_if_best(training: Training, task: Task, model: nn.Module, kind: str, val: dict[str, float]) -> None:
    """Better is a better score (recipe.select), then a lower validation loss."""
    select = task.settings.recipe.select
    score = [-val["loss"] if select == "loss" else val[select], -val["loss"]]
    if not training.best or score > training.best["score"]:
        write_best(training, task, model, {"epoch": training.epoch, "weights": kind, "score": score})


def write_best(training: Training, task: Task, model: nn.Module, facts: dict[str, Any]) -> None:
    training.best = facts
    if task.compute.first:
        tensors = {name: tensor.contiguous() for name, tensor in task.deployed(model).state_dict().items()}
        with atomic_write(task.attempt.run.best) as file:
            file.write(safetensors.torch.save(tensors, {"best": json.dumps(facts)}))


def read_best(path: Path) -> dict[str, Any]:
    """What the best checkpoint says of itself; nothing if it is absent or damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return json.loads(file.metadata()["best"])
    except UNREADABLE:
        return {}


def select(training: Training, task: Task) -> dict[str, Any]:
    """The last candidate, the averaged weights, against the best so far; then the winner into the model."""
    averaged = average_with_fresh_norms(training, task)
    if task.val and averaged:
        keep_if_best(training, task, averaged, "swa", task.validate(averaged))
    if not task.val:
        facts = {"epoch": training.epoch, "weights": "swa" if averaged else training.kind}
        write_best(training, task, averaged or training.candidate, facts)
    task.compute.barrier()
    kept = safetensors.torch.load_file(task.attempt.run.best, str(task.compute.device))
    task.deployed(training.model).load_state_dict(kept)
    rule = SELECTION_RULES[task.settings.recipe.select] if task.val else "last epoch"
    chosen = {"rule": rule, "epoch": training.best["epoch"], "weights": training.best["weights"]}
    return {**chosen, "digest": digest_of(task.attempt.run.best)}


def cost(training: Training, task: Task) -> dict[str, Any]:
    seconds = sum(float(row["epoch_time_sec"]) for row in task.attempt.run.read_history())
    return {
        "epochs": training.epoch,
        "train_seconds": round(seconds, 3),
        "peak_gpu_memory_mb": round(task.compute.peak_memory_mb(), 1),
        "peak_ram_mb": round(task.compute.peak_ram_mb(), 1),
        "parts": training.parts,
    }


def average_with_fresh_norms(training: Training, task: Task) -> nn.Module | None:
    if training.swa is None or not training.swa.count:
        return None
    recipe, model = task.settings.recipe, training.swa.model
    batches = task.train.shuffled(task.settings.augment, task.settings.seed, recipe.epochs)
    with task.compute.autocast(recipe.precision):
        refresh_batchnorm(model, (batch.images for batch in batches))
    return model
