"""Losses as plain functions of (logits, targets): formula, reduction and source in each docstring."""

import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0, *, multi_label: bool = False) -> Tensor:
    """What every supervised training minimises, mean over the batch; targets (n, classes) may be mixed.

    One label each: cross entropy against (1 - s) t + s / classes (Szegedy et al. 2016). Several labels: binary cross
    entropy, mean over labels too, against (1 - s) t + s / 2.
    """
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)
