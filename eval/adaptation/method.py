"""Every adaptation has a forward and an exact reset; the source adapts nothing."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class NotAdaptable(ValueError):
    """The method needs what this model does not have."""


class Adaptation(ABC):
    """A subclass that cannot forget exactly must raise in `reset`; none of those below is one."""

    def __init__(self, model: nn.Module) -> None:
        if any(module.training for module in model.modules()):
            raise ValueError("model: given one in training mode, allowed: model.eval(), so that nothing is dropped out")
        self.model = model

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) of a batch; the method may learn from its images."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches, as if none had been seen."""


class Source(Adaptation):
    """The model as it was trained is what every adaptation is compared with."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def reset(self) -> None:
        """Nothing is kept."""


def entropy(logits: Tensor) -> Tensor:  # (n,) in nats
    log_probabilities = logits.float().log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)
