"""These adaptations change normalisation layers: bn_stats, adabn, tent."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.training.optim import uncompiled
from eval.adaptation.method import Adaptation, NotAdaptable, Source, entropy

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class BatchStatistics(Source):
    """Batch norms use the mean and variance of the test batch (Nado et al. 2020, Schneider et al. 2020 with N = 0)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.norms = _batch_norms("bn_stats", model)

    def forward(self, images: Tensor) -> Tensor:
        with _by_batch(self.norms):
            return super().forward(images)


class AdaBN(Source):
    """Batch norms use N/(N+n) of the source's mean and variance and n/(N+n) of the batch's (Schneider et al. 2020).

    n is the batch's size, N the `prior`; the batch's variance is the biased one, as in training. Schneider et al.
    choose N by the batch size, on corruptions held out for that; 16 is our middle, not theirs for all
    sizes. The first to bear the name (Li et al. 2017) differ: they take the statistics of the whole test set at once.
    """

    def __init__(self, model: nn.Module, *, prior: float = 16) -> None:
        super().__init__(model)
        if not prior >= 0:
            raise ValueError(f"prior: given {prior}, allowed: 0 or more images")
        self.prior = prior
        self.norms = _batch_norms("adabn", model)
        if any(norm.running_mean is None for norm in self.norms):
            raise NotAdaptable("adabn: given batch norms without source statistics, allowed: those that track them")

    def forward(self, images: Tensor) -> Tensor:
        with _mixed(self.norms, share=len(images) / (self.prior + len(images))):
            return super().forward(images)


class Tent(Adaptation):
    """Entropy of the predictions is minimised over the scales and shifts of all norms (Wang et al. 2021).

    Batch norms use the batch's statistics; a transformer's layer norms, and group norms, have none to exchange. The
    logits returned are those before the last step, as in the paper, where one pass is both test and update: episodic
    and with one step, tent says what bn_stats says (or the source, where there is no batch norm).

    Defaults: Adam at lr 0.001 is the paper's for CIFAR-10-C, with batches of 200; for ImageNet-C it is sgd
    at lr 0.00025 with batches of 64.
    """

    def __init__(
        self, model: nn.Module, *, optimizer: Literal["adam", "sgd"] = "adam", lr: float = 1e-3, steps: int = 1
    ) -> None:
        super().__init__(model)
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: given {optimizer}, allowed: {' | '.join(OPTIMIZERS)}")
        if not (0 < lr < math.inf) or steps < 1:
            raise ValueError(f"lr and steps: given {lr} and {steps}, allowed: lr above 0, 1 or more steps")
        self.optimizer_name, self.lr, self.steps = optimizer, lr, steps
        self.norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
        self.sources = _scales_and_shifts(model)
        if not self.sources:
            raise NotAdaptable(f"tent: the model has {_norms_in_words(model)}; needed: a norm with scale and shift")
        self.reset()

    def reset(self) -> None:
        self.adapted = {name: source.detach().clone().requires_grad_() for name, source in self.sources.items()}
        self.optimizer = OPTIMIZERS[self.optimizer_name](list(self.adapted.values()), self.lr)

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.steps):
            logits = self._step(images)
        return logits

    @torch.enable_grad()
    def _step(self, images: Tensor) -> Tensor:
        with _by_batch(self.norms):
            logits: Tensor = functional_call(self.model, self.adapted, (images,))
        loss = entropy(logits).mean()
        parameters = list(self.adapted.values())
        # Not backward(), which would leave gradients in the model. A norm that forward does not use has none.
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        self.optimizer.step()
        return logits.detach()


OPTIMIZERS: dict[str, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, lr: uncompiled(torch.optim.Adam)(parameters, lr=lr),
    "sgd": lambda parameters, lr: uncompiled(torch.optim.SGD)(parameters, lr=lr, momentum=0.9),
}


def _batch_norms(method: str, model: nn.Module) -> list[BatchNorm]:
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        raise NotAdaptable(f"{method}: the model has {_norms_in_words(model)}; needed: BatchNorm")
    return norms


def _norms_in_words(model: nn.Module) -> str:
    kinds = Counter(type(module).__name__ for module in model.modules() if "norm" in type(module).__name__.lower())
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no normalisation layer"


def _scales_and_shifts(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{place}.{name}" if place else name: parameter
        for place, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, parameter in module.named_parameters(recurse=False)
    }


@contextmanager
def _by_batch(norms: Sequence[BatchNorm]) -> Iterator[None]:
    """Make these norms use the batch's own statistics while this is open, and record none."""
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, training, tracking in before:
            norm.training, norm.track_running_stats = training, tracking


@contextmanager
def _mixed(norms: Sequence[BatchNorm], share: float) -> Iterator[None]:
    """Mix the batch's statistics, by `share`, into those that these norms use, while this is open."""
    sources = {norm: (norm.running_mean, norm.running_var) for norm in norms}

    def mix(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, BATCH_NORMS)
        mean, variance = sources[norm]
        assert mean is not None
        assert variance is not None

        # The variance is the biased one, as in training.
        features = inputs[0].float()
        others = [axis for axis in range(features.ndim) if axis != 1]
        batch_variance, batch_mean = torch.var_mean(features, dim=others, correction=0)
        norm.running_mean = (1 - share) * mean + share * batch_mean
        norm.running_var = (1 - share) * variance + share * batch_variance

    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_pre_hook(mix).remove)
        try:
            yield
        finally:
            for norm, (mean, variance) in sources.items():
                norm.running_mean, norm.running_var = mean, variance
