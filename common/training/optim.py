"""This module moves weights: it has the optimizers, the schedules of the learning rate, and averages of weights."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from common.settings.entries import RecipeSettings
from common.training.muon import Muon


def make_optimizer(model: nn.Module, recipe: RecipeSettings) -> torch.optim.Optimizer:
    if recipe.optimizer == "muon":
        return uncompiled(Muon)(_muon_groups(model, recipe), lr=recipe.lr, momentum=recipe.momentum)
    groups = _decay_groups(model, recipe)
    if recipe.optimizer == "sgd":
        return uncompiled(torch.optim.SGD)(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return uncompiled(kind)(groups, lr=recipe.lr)


def uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return the optimizer's class without the wrappers that keep torch's compiler out of its methods.

    The first call of a wrapper imports the whole compiler, which doubles the CPU time of a short run. Nothing here
    compiles an optimizer.
    """
    methods = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    return type(kind.__name__, (kind,), {**bare, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def _decay_groups(model: nn.Module, recipe: RecipeSettings) -> list[dict[str, Any]]:
    """Return groups that decay all parameters, or matrices and kernels only: biases and norms have one dimension.

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
    """Return decay and rate factor of biases. A step decays by rate times decay, so the factor divides the decay."""
    decay = recipe.weight_decay / recipe.bias_lr if recipe.decay_all else 0.0
    return {"weight_decay": decay, "lr_factor": recipe.bias_lr}


def _muon_groups(model: nn.Module, recipe: RecipeSettings) -> list[dict[str, Any]]:
    """Return two groups: kernels and matrices before the classifier, which Muon moves, and all the rest."""
    # The classifier is every linear layer as wide as the last; a distilled ViT has two.
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
    """Return the learning rate at a moment of training, counted in epochs: linear warm-up, then the schedule."""
    warmup_epochs = recipe.warmup * recipe.epochs
    if epoch < warmup_epochs:
        return recipe.lr * epoch / warmup_epochs
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        return recipe.lr * recipe.step_factor ** math.floor(epoch / recipe.step_epochs)

    # Both curves fall from 1 to 0 over what is left after the warm-up.
    way = min((epoch - warmup_epochs) / (recipe.epochs - warmup_epochs), 1.0)
    left = 1 - way if recipe.schedule == "linear" else (1 + math.cos(math.pi * way)) / 2
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * left)


class WeightAverage:
    """A copy of a model that follows it: by an exponential average (EMA), or as the mean of all it was shown (SWA).

    Buffers follow too. For EMA, batch-norm statistics average as weights do. For SWA they do not belong to the mean of
    the weights, so `refresh_batchnorm` must measure them again.
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
        """Return the weight of the newest; for EMA at least 9/(n + 10), so that a short run soon forgets its start."""
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
    """Measure the running statistics of batch norms again: the mean over one pass of training batches."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return

    # Without a momentum, torch takes the plain mean over all batches.
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in images:
        model(batch)

    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
