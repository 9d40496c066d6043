"""Losses against numbers worked by hand, their limits, and other implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from common.training.losses import hard_distillation, label_loss, relation_divergence, soft_distillation, token_distance

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
LABELS = torch.tensor([0, 2])
HARD = F.one_hot(LABELS, 3).float()


def test_by_hand() -> None:
    """log(e^2 + 1 + e^-1) - 2 for the first image, log 3 for the second."""
    expected = (math.log(math.e**2 + 1 + math.exp(-1)) - 2 + math.log(3)) / 2
    assert label_loss(LOGITS, HARD).item() == pytest.approx(expected, rel=1e-6)


def test_smoothing_by_hand() -> None:
    """Equal logits cost log 3 whatever the target; the first image pays 0.1/3 of the distances to the others too."""
    log_sum = math.log(math.e**2 + 1 + math.exp(-1))
    first = 0.9 * (log_sum - 2) + 0.1 / 3 * ((log_sum - 2) + log_sum + (log_sum + 1))
    expected = (first + math.log(3)) / 2
    assert label_loss(LOGITS, HARD, 0.1).item() == pytest.approx(expected, rel=1e-6)


def test_as_timm_has_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 5, generator=generator)
    labels = torch.randint(5, (16,), generator=generator)
    one_hot = F.one_hot(labels, 5).float()
    assert label_loss(logits, one_hot, 0.2).item() == pytest.approx(
        LabelSmoothingCrossEntropy(0.2)(logits, labels).item(), abs=1e-6
    )
    mixed = 0.3 * one_hot + 0.7 * one_hot.roll(1, 0)
    assert label_loss(logits, mixed).item() == pytest.approx(SoftTargetCrossEntropy()(logits, mixed).item(), abs=1e-6)


def test_a_mixed_target_costs_its_shares() -> None:
    other = HARD.roll(1, 0)
    mixed = label_loss(LOGITS, 0.25 * HARD + 0.75 * other)
    assert mixed.item() == pytest.approx(
        0.25 * label_loss(LOGITS, HARD).item() + 0.75 * label_loss(LOGITS, other).item(), rel=1e-6
    )


def test_several_labels_by_hand() -> None:
    """Logits 0 cost log 2 each; a logit of log 3 is a probability of 3/4."""
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    expected = (math.log(2) + math.log(4 / 3) + math.log(4) + math.log(2)) / 4
    assert label_loss(logits, targets, multi_label=True).item() == pytest.approx(expected, rel=1e-6)
    smooth = (0.9 * 0 + 0.1 / 2 * 1, 0.9 * 1 + 0.1 / 2)  # what 0 and 1 become
    by_hand = sum(
        -(t * math.log(p) + (1 - t) * math.log(1 - p))
        for t, p in ((smooth[1], 0.5), (smooth[1], 0.75), (smooth[0], 0.75), (smooth[0], 0.5))
    )
    assert label_loss(logits, targets, 0.1, multi_label=True).item() == pytest.approx(by_hand / 4, rel=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_being_certain_and_right_costs_nothing(multi_label: bool) -> None:
    certain = (HARD * 2 - 1) * 100
    assert label_loss(certain, HARD, multi_label=multi_label).item() == pytest.approx(0, abs=1e-12)


# --- distillation -----------------------------------------------------------------------------------------------


def test_soft_distillation_by_hand() -> None:
    """At T = 2, logits (2 log 3, 0) are probabilities 3/4 and 1/4."""
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert soft_distillation(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_soft_distillation_as_deit_has_it() -> None:
    """DeiT divides by the number of elements, so classes times batchmean."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 16, 5, generator=generator)
    temperature = 3.0
    deit = (
        F.kl_div(
            F.log_softmax(student / temperature, 1),
            F.log_softmax(teacher / temperature, 1),
            reduction="sum",
            log_target=True,
        )
        * temperature**2
        / student.numel()
    )
    assert soft_distillation(student, teacher, temperature).item() == pytest.approx(5 * deit.item(), abs=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_student_like_its_teacher_has_nothing_to_learn(multi_label: bool) -> None:
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = soft_distillation(logits, logits.detach(), 4.0, multi_label=multi_label)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_soft_distillation_at_a_high_temperature_matches_centred_logits() -> None:
    """Hinton et al. 2015, section 2.1: T^2 KL tends to the squared distance of centred logits over 2 C."""
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = (gap**2).sum(1).mean() / (2 * 5)
    assert soft_distillation(student, teacher, 1e4).item() == pytest.approx(expected.item(), rel=1e-3)


def test_soft_distillation_of_several_labels_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    one = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # the second label agrees
    found = soft_distillation(student, teacher, 2.0, multi_label=True)
    assert found.item() == pytest.approx(4 * one / 2, rel=1e-6)


def test_hard_distillation_is_the_label_loss_of_what_the_teacher_decides() -> None:
    teacher = torch.tensor([[1.0, 3.0, 2.0], [0.1, 0.0, -1.0]])
    decided = F.one_hot(torch.tensor([1, 0]), 3).float()
    assert hard_distillation(LOGITS, teacher).item() == pytest.approx(label_loss(LOGITS, decided).item(), rel=1e-6)
    several = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert hard_distillation(LOGITS, teacher, multi_label=True).item() == pytest.approx(
        label_loss(LOGITS, several, multi_label=True).item(), rel=1e-6
    )


def test_token_distance_by_hand() -> None:
    """Same way, across, and against: 0, 1 and 2; lengths do not matter."""
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    teacher = torch.tensor([[[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]])
    assert token_distance(student, teacher).item() == pytest.approx(1.0)
    assert token_distance(student, 7 * student).item() == pytest.approx(0, abs=1e-6)


def test_relation_divergence_by_hand() -> None:
    """Two items: at right angles for the teacher, alike for the student, T = 1: rows (e, 1) and (1, 1), normalised."""
    teacher, student = torch.eye(2)[None], torch.ones(1, 2, 2)
    p = math.e / (math.e + 1)
    expected = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert relation_divergence(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-5)


def test_relations_do_not_see_rotation_length_or_width() -> None:
    generator = torch.Generator().manual_seed(3)
    teacher = torch.randn(2, 6, 4, generator=generator)
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=generator))[0][:4]
    assert relation_divergence(3 * teacher @ rotation, teacher, 0.1).item() == pytest.approx(0, abs=1e-5)
    assert relation_divergence(torch.randn(2, 6, 9, generator=generator), teacher, 0.1).item() > 0.1
    assert math.isfinite(relation_divergence(torch.zeros(2, 6, 9), teacher, 0.01).item())
