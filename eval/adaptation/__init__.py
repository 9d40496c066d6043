"""Test-time adaptation fits a trained classifier to the images it is tested on, without their labels.

An adaptation wraps a model. `forward(images) -> logits` sees a batch of images and nothing else; `reset()` forgets all
batches so far. The model itself is never changed: what adapts is kept beside it, and while a batch passes through, only
the mode and the statistics of its batch norms are exchanged and put back. So a reset is exact, bit for bit.

Every method is for tasks with one label per image. bn_stats, adabn, tent and lame mix the images of a batch: what they
say of one depends on its company, so state the batch size, and shuffle the set unless its order is what is studied.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eval.adaptation.method import Adaptation, NotAdaptable, Source
from eval.adaptation.norms import AdaBN, BatchStatistics, Tent
from eval.adaptation.outputs import LAME, T3A

__all__ = ["ADAPTATIONS", "Adaptation", "NotAdaptable", "adapt", "run"]

ADAPTATIONS: dict[str, type[Adaptation]] = {
    "source": Source,
    "bn_stats": BatchStatistics,
    "adabn": AdaBN,
    "tent": Tent,
    "t3a": T3A,
    "lame": LAME,
}


def adapt(name: str, model: nn.Module, options: Mapping[str, Any] | None = None) -> Adaptation:
    """Wrap the model in the method of that name; raise ValueError if it is unknown, NotAdaptable if they do not fit."""
    if name not in ADAPTATIONS:
        raise ValueError(f"adaptation: given {name}, allowed: {' | '.join(ADAPTATIONS)}")
    options, method = dict(options or {}), ADAPTATIONS[name]
    allowed = [option for option in inspect.signature(method).parameters if option != "model"]
    if unknown := [option for option in options if option not in allowed]:
        raise ValueError(f"{name}: given option {', '.join(unknown)}, allowed: {', '.join(allowed) or 'none'}")
    return method(model, **options)


def run(
    adaptation: Adaptation, batches: Iterable[Tensor], protocol: Literal["episodic", "continual"] = "episodic"
) -> Tensor:
    """Return logits (n, classes) of all batches in their order.

    episodic: each batch meets the source model; continual: the whole set is one stream, and only its start does.
    """
    if protocol not in ("episodic", "continual"):
        raise ValueError(f"protocol: given {protocol}, allowed: episodic | continual")
    logits = []
    for index, images in enumerate(batches):
        if protocol == "episodic" or index == 0:
            adaptation.reset()
        logits.append(adaptation.forward(images))
    if not logits:
        raise ValueError("batches: given none, allowed: 1 or more")
    return torch.cat(logits)
