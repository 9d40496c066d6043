"""One epoch: how a batch becomes a step. Optimizers, the course of the learning rate, averages of the weights.

The loop knows no method and no run folder: the method is an objective, written in the open in its entry.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common import metrics, multilabel
from common.attempt import Attempt
from common.compute import Compute
from common.config import RecipeSettings
from common.data.packed import Batch, Batches, Data
from common.failures import NotFinite
from common.muon import Muon
from common.run_dir import atomic_write

NAN_ADVICE = (
    "the last checkpoint is from before it. Try a lower recipe.lr, more recipe.warmup, or recipe.precision=fp32"
)

SELECTION_RULES = {
    "accuracy": "highest validation accuracy, then lowest validation loss",
    "auc": "highest validation AUC, then lowest validation loss",
    "f1_score": "highest validation macro F1, then lowest validation loss",
    "loss": "lowest validation loss",
}


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
        summarise = multilabel.summarise if counts.ndim == 3 else metrics.summarise
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


@torch.no_grad()
def infer(model: nn.Module, batches: Batches, precision: str = "fp32") -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) and labels (n,) of all rows in order, in every process."""
    model.eval()
    compute, total = batches.compute, len(batches.rows)
    rows = []
    for batch in batches.in_order():
        with compute.autocast(precision):
            rows.append(model(batch.images).float())
    mine = torch.cat(rows) if rows else torch.zeros(0, batches.classes, device=compute.device)
    return compute.gather(mine, total).cpu().numpy(), batches.labels[batches.rows].numpy()


def validate(model: nn.Module, batches: Batches, recipe: RecipeSettings) -> dict[str, float]:
    """What history.csv says of the validation images, and the score that decides which weights are kept."""
    logits, labels = infer(model, batches, recipe.precision)
    if not np.isfinite(logits).all():
        raise NotFinite(f"a validation image has logits that are no numbers; {NAN_ADVICE}")
    if batches.multi_label:
        found = {"loss": multilabel.nll(logits, labels), **multilabel.summarise(multilabel.counts(labels, logits > 0))}
    else:
        confusion = metrics.confusion_matrix(labels, logits.argmax(1), batches.classes)
        found = {"loss": metrics.nll(logits, labels), **metrics.summarise(confusion)}
    if recipe.select == "auc":
        aucs = (multilabel.auc if batches.multi_label else metrics.one_vs_rest_auc)(logits, labels)
        found["auc"] = metrics.macro_auc(aucs) or 0.0  # none where only one class occurs
    return found


def report(model: nn.Module, data: Data, attempt: Attempt) -> dict[str, Any]:
    """Every metric on validation and test; the logits stay in predictions/. Only here are the test images read."""
    val, thresholds = None, None
    if data.val:
        val = _report_part(model, data.val, "val", attempt)
        thresholds = val.get("thresholds")
    return {"val": val, "test": _report_part(model, data.open_test(), "test", attempt, thresholds)}


def _report_part(
    model: nn.Module, batches: Batches, name: str, attempt: Attempt, thresholds: Any = None
) -> dict[str, Any]:
    logits, labels = infer(model, batches, attempt.training.recipe.precision)
    if batches.compute.first:
        with atomic_write(attempt.run.predictions(name)) as file:
            np.savez_compressed(file, logits=logits, labels=labels)
    if batches.multi_label and name == "val":
        thresholds = multilabel.choose_thresholds(logits, labels)
    return metrics.evaluate(logits, labels, batches.class_names, batches.task, thresholds)


# --- how weights move -------------------------------------------------------------------------------------------


def make_optimizer(model: nn.Module, recipe: RecipeSettings) -> torch.optim.Optimizer:
    if recipe.optimizer == "muon":
        return uncompiled(Muon)(_muon_groups(model, recipe), lr=recipe.lr, momentum=recipe.momentum)
    groups = _decay_groups(model, recipe)
    if recipe.optimizer == "sgd":
        return uncompiled(torch.optim.SGD)(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return uncompiled(kind)(groups, lr=recipe.lr)


def uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The same optimizer without the wrappers that keep torch's compiler out of its methods.

    Their first call imports all of that compiler, which doubles the CPU time of a short run, and nothing here
    compiles an optimizer.
    """
    methods = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    return type(kind.__name__, (kind,), {**bare, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def _decay_groups(model: nn.Module, recipe: RecipeSettings) -> list[dict[str, Any]]:
    """Weight decay for all parameters, or for matrices and kernels only: biases and norms have one dimension.

    The first group has the recipe's own learning rate.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.decay_all and recipe.bias_lr == 1:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], **_bias_rates(recipe)},
    ]


def _bias_rates(recipe: RecipeSettings) -> dict[str, Any]:
    """A step decays by rate times decay, so a decay is divided by what its rate is multiplied by."""
    decay = recipe.weight_decay / recipe.bias_lr if recipe.decay_all else 0.0
    return {"weight_decay": decay, "lr_factor": recipe.bias_lr}


def _muon_groups(model: nn.Module, recipe: RecipeSettings) -> list[dict[str, Any]]:
    """Kernels and matrices but for the classifier's, which are the linear layers as wide as the last; and the rest."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    classes = next((layer.out_features for layer in reversed(layers) if isinstance(layer, nn.Linear)), 0)
    inner = {
        id(layer.weight) for layer in layers if not (isinstance(layer, nn.Linear) and layer.out_features == classes)
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in inner], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if id(p) not in inner], "orthogonal": False, **_bias_rates(recipe)},
    ]


def learning_rate(recipe: RecipeSettings, epoch: float) -> float:
    """The learning rate at a moment of training, counted in epochs: linear warm-up, then the schedule."""
    warmup_epochs = recipe.warmup * recipe.epochs
    if epoch < warmup_epochs:
        return recipe.lr * epoch / warmup_epochs
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        return recipe.lr * recipe.step_factor ** math.floor(epoch / recipe.step_epochs)
    way = (epoch - warmup_epochs) / (recipe.epochs - warmup_epochs)
    left = 1 - min(way, 1.0) if recipe.schedule == "linear" else (1 + math.cos(math.pi * min(way, 1.0))) / 2
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * left)


class WeightAverage:
    """A second copy of a model that follows the first: exponentially (EMA), or as the mean of all it was shown (SWA).

    Buffers follow too. For EMA, running batch-norm statistics average as weights do; for SWA they belong to other
    weights than the mean, so `refresh_batchnorm` must measure them anew.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        self.count += 1
        for mean, new in zip(_tensors(self.model), _tensors(source), strict=True):
            if mean.is_floating_point() and self.count > 1:
                mean.lerp_(new, self._weight_of_newest())
            else:
                mean.copy_(new)

    def _weight_of_newest(self) -> float:
        """For EMA never less than 9/(n + 10), so that the first weights of a short run are soon forgotten."""
        return 1 / self.count if self.decay is None else max(1 - self.decay, 9 / (self.count + 10))

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.count = state["count"]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


@torch.no_grad()
def refresh_batchnorm(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Running statistics of the weights as they are: the mean over one pass of training batches."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the plain mean over all batches seen
        norm.train()
    for batch in images:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
