"""This module trains a model from the first step to the selected weights, with any objective.

A resumed run trusts the checkpoint, which is written last. So a run that was killed anywhere repeats what was lost,
and ends with the weights and the history that it would have had.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import nn

from common.cli.attempt import Attempt
from common.compute import Compute, distribute
from common.data.packed import Batches
from common.failures import Interrupted
from common.files import digest_of
from common.settings.entries import TrainingSettings
from common.training.checkpoint import SELECTION_RULES, beats, resume, save, score_of, write_best
from common.training.loop import EpochTotals, Objective, Training, train_epoch
from common.training.optim import WeightAverage, learning_rate, make_optimizer, refresh_batchnorm
from common.training.predict import validate

log = logging.getLogger("stillhouse")


@dataclass(frozen=True)
class Task:
    """The parts of a training that do not change while it runs."""

    objective: Objective
    train: Batches
    val: Batches | None
    attempt: Attempt
    compute: Compute
    running: nn.Module  # the model in the form that training calls: compiled, shared by several processes
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
    """Train the model, load the selected weights into it, and return facts about the selection and the cost.

    deployed: returns the part of the model that is validated and kept, where the rest only helps in training.
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

    # What runs shares the weights of `model`; those alone are saved, averaged and validated.
    resume(training, attempt.run, compute, needs_best=val is not None)
    running = distribute(model, compute, example=torch.zeros(2, *train.shape, device=compute.device))
    task = Task(objective, train, val, attempt, compute, running, deployed)

    while not is_over(training, task.settings):
        run_epoch(training, task)
    return {"selection": select(training, task), "cost": cost(training, task)}


def is_over(training: Training, settings: TrainingSettings) -> bool:
    """Say whether no epoch follows: all are done, or none was better for as many as patience allows."""
    if training.epoch >= settings.recipe.epochs:
        return True
    patience, improved = settings.recipe.patience, training.improved
    return patience is not None and bool(improved) and training.epoch - improved["epoch"] >= patience


def run_epoch(training: Training, task: Task) -> None:
    """Train for an epoch, or for what is left of it after the step that the last checkpoint holds."""
    settings, steps, epoch = task.settings, task.train.steps, training.epoch
    batches = task.train.shuffled(settings.augment, settings.seed, epoch, training.step)
    batches_with_bar = task.attempt.bar(batches, f"epoch {epoch + 1}/{settings.recipe.epochs}", steps, training.step)
    rates = [learning_rate(settings.recipe, epoch + (step + 0.5) / steps) for step in range(steps)]

    for _ in train_epoch(training, task.running, batches_with_bar, task.objective, rates, settings, task.compute):
        after_step(training, task)
    after_epoch(training, task, rates[-1])


def after_step(training: Training, task: Task) -> None:
    """Write the heartbeat, stop if somebody asked for it, and save when it is time."""
    attempt, recipe = task.attempt, task.settings.recipe
    if task.compute.first:
        attempt.run.beat(epoch=training.epoch, epochs=recipe.epochs, step=training.step, steps=task.train.steps)

    # All processes stop after the same step, even if the signal reached only one of them.
    if task.compute.any(attempt.stop_reason is not None):
        save(training, attempt.run, task.compute)
        raise Interrupted(
            f"{attempt.stop_reason or 'another process was told to stop'}; the same command goes on from here"
        )

    if attempt.minutes_since_save() > task.settings.compute.save_minutes:
        save(training, attempt.run, task.compute)
        attempt.saved()


def after_epoch(training: Training, task: Task, rate: float) -> None:
    """Validate, write the row of history.csv, keep the weights if they are the best so far, and save."""
    recipe, run, compute = task.settings.recipe, task.attempt.run, task.compute
    summary = training.totals.summary(compute)
    training.refuse_nan(summary["loss"])

    training.epoch, training.step = training.epoch + 1, 0
    if training.swa and training.epoch > recipe.epochs * (1 - recipe.swa):
        training.swa.update(training.model)

    val = task.validate(training.candidate)
    row = history_row(training, summary, val, rate, compute.peak_memory_mb())
    training.totals = EpochTotals(task.train.classes, task.train.multi_label, compute.device)
    if compute.first:
        # A killed run may have left rows of epochs that are repeated now.
        rows = [old for old in run.read_history() if int(old["epoch"]) < training.epoch]
        run.write_history([*rows, row])
        task.attempt.publish(row, recipe.epochs)

    # Patience goes by the epochs' own weights alone; the best of all may be an average, which is tried at the end.
    if task.val:
        score = keep_if_best(training, task, training.candidate, training.kind, val)
        if beats(score, training.improved):
            training.improved = {"epoch": training.epoch, "score": score}

    if training.epoch % task.settings.compute.save_every == 0 or is_over(training, task.settings):
        save(training, run, compute)
        task.attempt.saved()


def history_row(
    training: Training, summary: dict[str, Any], val: dict[str, float], rate: float, memory_mb: float
) -> dict[str, Any]:
    """Return a row of history.csv. A blank cell was not measured: no validation set, or no distillation."""
    names = ("loss", "accuracy", "precision", "recall", "f1_score")

    # The terms of the objective and the other scores of validation follow the columns that every history has.
    extra = {name: value for name, value in summary.items() if name not in {*names, "images", "grad_norm", "kd_loss"}}
    val_names = [*names, *(name for name in val if name not in names)]
    seconds = training.totals.seconds

    return {
        "epoch": training.epoch,
        **{f"train_{name}": summary[name] for name in names},
        **{f"val_{name}": val.get(name, "") for name in val_names},
        "kd_loss": summary.get("kd_loss", ""),
        "learning_rate": rate,
        "epoch_time_sec": round(seconds, 3),
        "images_per_sec": round(summary["images"] / max(seconds, 1e-9), 1),
        "gpu_memory_mb": round(memory_mb, 1),
        "grad_norm": summary["grad_norm"],
        **extra,
    }


# --- which weights are kept -------------------------------------------------------------------------------------


def keep_if_best(training: Training, task: Task, model: nn.Module, kind: str, val: dict[str, float]) -> list[float]:
    """Write the weights as the best ones if they beat all before them on validation, and return their score."""
    score = score_of(val, task.settings.recipe.select)
    if beats(score, training.best):
        facts = {"epoch": training.epoch, "weights": kind, "score": score}
        write_best(training, task.deployed(model), facts, task.attempt.run, task.compute)
    return score


def select(training: Training, task: Task) -> dict[str, Any]:
    """Compare the averaged weights with the best so far, and load the winner into the model."""
    run, compute = task.attempt.run, task.compute
    averaged = average_with_fresh_norms(training, task)

    # Without a validation set nothing can be compared: the average is taken if there is one, else the last weights.
    if task.val and averaged:
        keep_if_best(training, task, averaged, "swa", task.validate(averaged))
    if not task.val:
        facts = {"epoch": training.epoch, "weights": "swa" if averaged else training.kind}
        write_best(training, task.deployed(averaged or training.candidate), facts, run, compute)

    # Every process loads what the first one has written.
    compute.barrier()
    kept = safetensors.torch.load_file(run.best, str(compute.device))
    task.deployed(training.model).load_state_dict(kept)

    rule = SELECTION_RULES[task.settings.recipe.select] if task.val else "last epoch"
    chosen = {"rule": rule, "epoch": training.best["epoch"], "weights": training.best["weights"]}
    return {**chosen, "digest": digest_of(run.best)}


def average_with_fresh_norms(training: Training, task: Task) -> nn.Module | None:
    """Return the averaged model after measuring its batch norms on a pass of training images; None without one."""
    if training.swa is None or not training.swa.count:
        return None
    recipe, model = task.settings.recipe, training.swa.model
    batches = task.train.shuffled(task.settings.augment, task.settings.seed, recipe.epochs)
    with task.compute.autocast(recipe.precision):
        refresh_batchnorm(model, (batch.images for batch in batches))
    return model


def cost(training: Training, task: Task) -> dict[str, Any]:
    """Return what the training cost, over all attempts."""
    seconds = sum(float(row["epoch_time_sec"]) for row in task.attempt.run.read_history())
    return {
        "epochs": training.epoch,
        "train_seconds": round(seconds, 3),
        "peak_gpu_memory_mb": round(task.compute.peak_memory_mb(), 1),
        "peak_ram_mb": round(task.compute.peak_ram_mb(), 1),
        "parts": training.parts,
    }
