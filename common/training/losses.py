"""Losses are plain functions of (logits, targets); each docstring gives formula, reduction and source."""

import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0, *, multi_label: bool = False) -> Tensor:
    """Return the supervised loss, mean over the batch. Targets t (n, classes) may be mixed; s is the smoothing.

    With one label per image: cross entropy against (1 - s) t + s / classes (Szegedy et al. 2016). With several: binary
    cross entropy against (1 - s) t + s / 2, mean over labels too.
    """
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


# --- distillation -----------------------------------------------------------------------------------------------


def soft_distillation(student: Tensor, teacher: Tensor, temperature: float, *, multi_label: bool = False) -> Tensor:
    """Return T^2 KL(teacher_T || student_T), summed over classes, mean over images (Hinton et al. 2015).

    It is 0 where the two agree. T^2 keeps the gradient as large as that of the label loss, whatever T is. With several
    labels, each label has a two-way distribution of its own, and the mean is over labels too.
    """
    if multi_label:
        divergence = _binary_divergence(teacher / temperature, student / temperature).mean()
    else:
        target, guess = F.log_softmax(teacher / temperature, dim=1), F.log_softmax(student / temperature, dim=1)
        divergence = F.kl_div(guess, target, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def _binary_divergence(target: Tensor, guess: Tensor) -> Tensor:
    """Return the KL of Bernoulli distributions, from logits: p (log p - log q) + (1 - p)(log(1 - p) - log(1 - q))."""
    yes = F.logsigmoid(target) - F.logsigmoid(guess)
    no = F.logsigmoid(-target) - F.logsigmoid(-guess)
    return target.sigmoid() * yes + (-target).sigmoid() * no


def hard_distillation(student: Tensor, teacher: Tensor, *, multi_label: bool = False) -> Tensor:
    """Return the cross entropy against the teacher's decisions (Touvron et al. 2021), mean over images."""
    if multi_label:
        return F.binary_cross_entropy_with_logits(student, (teacher > 0).to(student.dtype))
    return F.cross_entropy(student, teacher.argmax(dim=1))


def token_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cosine of tokens (batch, n, dim) at the same place, mean over all; 0 for equal directions."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def relation_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) between the rows of two tables of likeness, mean over rows.

    The items (..., n, dim) may have two different widths. A row of softmax(cosines / temperature) says which items an
    item is like.
    """
    target, guess = _likeness(teacher, temperature), _likeness(student, temperature)
    return F.kl_div(guess.flatten(0, -2), target.flatten(0, -2), reduction="batchmean", log_target=True)


def _likeness(items: Tensor, temperature: float) -> Tensor:  # (..., n, n) log probabilities
    unit = F.normalize(items.float(), dim=-1)
    return F.log_softmax(unit @ unit.transpose(-2, -1) / temperature, dim=-1)
