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


# --- distillation -----------------------------------------------------------------------------------------------


def soft_distillation(student: Tensor, teacher: Tensor, temperature: float, *, multi_label: bool = False) -> Tensor:
    """T^2 KL(teacher_T || student_T), summed over classes, mean over images (Hinton et al. 2015); 0 where they agree.

    T^2 keeps its gradient as large as the label loss's, whatever T is. With several labels: the same of each label's
    two-way distribution, mean over labels, as the label loss is.
    """
    if multi_label:
        divergence = _binary_divergence(teacher / temperature, student / temperature).mean()
    else:
        target, guess = F.log_softmax(teacher / temperature, dim=1), F.log_softmax(student / temperature, dim=1)
        divergence = F.kl_div(guess, target, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def _binary_divergence(target: Tensor, guess: Tensor) -> Tensor:
    """KL of two Bernoulli distributions given by their logits: p (log p - log q) + (1 - p)(log(1 - p) - log(1 - q))."""
    yes = F.logsigmoid(target) - F.logsigmoid(guess)
    no = F.logsigmoid(-target) - F.logsigmoid(-guess)
    return target.sigmoid() * yes + (-target).sigmoid() * no


def hard_distillation(student: Tensor, teacher: Tensor, *, multi_label: bool = False) -> Tensor:
    """Cross entropy against what the teacher decides (Touvron et al. 2021), mean over images."""
    if multi_label:
        return F.binary_cross_entropy_with_logits(student, (teacher > 0).to(student.dtype))
    return F.cross_entropy(student, teacher.argmax(dim=1))


def token_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine between tokens (batch, n, dim) of equal places, mean over all: 0 where they point the same way."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def relation_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) between the rows of two tables of likeness, mean over rows (batchmean).

    Items (..., n, dim), of any two widths: a row of softmax(cosines / temperature) says whom an item is like.
    """
    target, guess = _likeness(teacher, temperature), _likeness(student, temperature)
    return F.kl_div(guess.flatten(0, -2), target.flatten(0, -2), reduction="batchmean", log_target=True)


def _likeness(items: Tensor, temperature: float) -> Tensor:  # (..., n, n) log probabilities
    unit = F.normalize(items.float(), dim=-1)
    return F.log_softmax(unit @ unit.transpose(-2, -1) / temperature, dim=-1)
