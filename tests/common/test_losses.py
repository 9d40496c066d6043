"""Losses against numbers worked by hand, their limits, and other implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from common.losses import label_loss

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
    assert mixed.item() == pytest.approx(0.25 * label_loss(LOGITS, HARD) + 0.75 * label_loss(LOGITS, other), rel=1e-6)


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
