import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.compute import Compute
from common.data.packed import Batch
from common.settings.entries import ComputeSettings, RecipeSettings
from common.training.loop import EpochTotals, Loss, backward, train_epoch
from common.training.optim import WeightAverage, learning_rate, make_optimizer, refresh_batchnorm

CPU = Compute(torch.device("cpu"), ComputeSettings())


def recipe(**fields: object) -> RecipeSettings:
    return RecipeSettings(**{"epochs": 10, "lr": 0.4, **fields})  # type: ignore[arg-type]


def a_batch(n: int, classes: int = 3, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    return Batch(0, torch.randn(n, 1, 4, 4, generator=draw), labels, F.one_hot(labels, classes).float())


def plain_loss(model: nn.Module, batch: Batch) -> Loss:
    logits = model(batch.images)
    return Loss(F.cross_entropy(logits, batch.targets), logits)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


# --- the learning rate ------------------------------------------------------------------------------------------


def test_cosine_worked_by_hand() -> None:
    cosine = recipe(schedule="cosine", warmup=0.2, final_lr=0.1)
    assert learning_rate(cosine, 0.5) == pytest.approx(0.1)  # a quarter of the warm-up
    assert learning_rate(cosine, 2) == pytest.approx(0.4)
    assert learning_rate(cosine, 6) == pytest.approx(0.4 * (0.1 + 0.9 * 0.5))  # half way: cos(pi/2) = 0
    assert learning_rate(cosine, 10) == pytest.approx(0.04)


def test_steps_worked_by_hand() -> None:
    steps = recipe(schedule="step", step_epochs=4, step_factor=0.5)
    assert [learning_rate(steps, epoch) for epoch in (0, 3.99, 4, 8)] == pytest.approx([0.4, 0.4, 0.2, 0.1])


def test_a_line_worked_by_hand() -> None:
    """Up for a fifth of ten epochs, then down to a tenth of the peak: a triangle."""
    line = recipe(schedule="linear", warmup=0.2, final_lr=0.1)
    rates = [learning_rate(line, epoch) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.22, 0.04])


def test_constant_and_warmup_alone() -> None:
    assert learning_rate(recipe(schedule="constant"), 9.9) == 0.4
    assert learning_rate(recipe(warmup=0.5), 2.5) == pytest.approx(0.2)


@given(st.floats(0, 10), st.sampled_from(["cosine", "linear", "step", "constant"]), st.floats(0, 0.99))
def test_a_rate_is_never_negative_nor_above_the_peak(epoch: float, schedule: str, warmup: float) -> None:
    assert 0 <= learning_rate(recipe(schedule=schedule, warmup=warmup), epoch) <= 0.4 + 1e-12


# --- steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_give_the_gradient_of_the_whole_batch(parts: int) -> None:
    model, batch = linear(), a_batch(7)
    plain_loss(model, batch).value.backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    totals = EpochTotals(3, False, torch.device("cpu"))
    backward(model, batch, plain_loss, lambda loss: loss, totals, parts, CPU, "fp32")
    totals.end_step(torch.tensor(1.0))
    for expected, parameter in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-7)
    assert totals.summary(CPU)["loss"] == pytest.approx(plain_loss(model, batch).value.item(), rel=1e-6)
    assert totals.summary(CPU)["images"] == 7


def test_a_failed_part_leaves_the_totals_alone() -> None:
    totals = EpochTotals(3, False, torch.device("cpu"))
    seen = []

    def fails_late(model: nn.Module, batch: Batch) -> Loss:
        seen.append(len(batch))
        if len(seen) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return plain_loss(model, batch)

    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        backward(linear(), a_batch(6), fails_late, lambda loss: loss, totals, 3, CPU, "fp32")
    assert seen == [2, 2]
    assert totals.counts.sum() == 0


def test_totals_worked_by_hand() -> None:
    totals = EpochTotals(2, False, torch.device("cpu"))
    labels = torch.tensor([0, 1, 1, 0])
    logits = torch.tensor([[2.0, 0], [2.0, 0], [0, 2.0], [2.0, 0]])  # predicted 0 0 1 0
    batch = Batch(0, torch.zeros(4, 1), labels, F.one_hot(labels).float())
    totals.add(batch, Loss(torch.tensor(0.5), logits, {"kd_loss": torch.tensor(3.0)}), 1.0)
    totals.end_step(torch.tensor(2.0))
    totals.add(batch, Loss(torch.tensor(1.5), logits, {"kd_loss": torch.tensor(5.0)}), 1.0)
    totals.end_step(torch.tensor(math.inf))  # a step that fp16 skipped
    found = totals.summary(CPU)
    assert (found["loss"], found["kd_loss"], found["grad_norm"]) == (1.0, 4.0, 1.0)
    assert (found["accuracy"], found["images"]) == (0.75, 8)
    assert totals.counts.tolist() == [[4, 0], [2, 2]]


def one_epoch(model: nn.Module, settings: RecipeSettings, steps: int = 3) -> list[float]:
    """Learning rates seen by the steps."""
    optimizer = make_optimizer(model, settings)
    totals, rates = EpochTotals(3, False, torch.device("cpu")), []
    train_epoch(
        model,
        [Batch(step, b.images, b.labels, b.targets) for step in range(steps) for b in [a_batch(8, seed=step)]],
        optimizer,
        torch.amp.GradScaler("cpu", enabled=False),
        rate_at=lambda step: learning_rate(settings, step),
        backward=lambda m, batch: backward(m, batch, plain_loss, lambda loss: loss, totals, 1, CPU, "fp32"),
        clip_norm=settings.clip_norm,
        totals=totals,
        after_step=lambda _: rates.append(optimizer.param_groups[0]["lr"]),
    )
    return rates


def test_sgd_with_nesterov_worked_by_hand() -> None:
    """Two steps on one parameter against the update written out: v = m v + g; w -= lr (g + m v)."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    optimizer = make_optimizer(model, recipe(optimizer="sgd", momentum=0.9, weight_decay=0.1))
    weight, speed = 1.0, 0.0
    for gradient in (0.5, -0.25):
        model.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        total = gradient + 0.1 * weight
        speed = 0.9 * speed + total
        weight -= 0.4 * (total + 0.9 * speed)
        assert model.weight.item() == pytest.approx(weight, rel=1e-6)


def test_clipping_bounds_the_gradient_and_null_does_not() -> None:
    moved = {}
    for clip in (1e-3, None):
        model = linear()
        before = nn.utils.parameters_to_vector(model.parameters()).clone()
        settings = recipe(clip_norm=clip, momentum=0, weight_decay=0, schedule="constant")
        one_epoch(model, settings, steps=1)
        moved[clip] = (nn.utils.parameters_to_vector(model.parameters()) - before).norm().item() / settings.lr
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[None] > 0.1


def test_the_rate_reaches_the_optimizer_before_each_step() -> None:
    settings = recipe(schedule="step", step_epochs=1, step_factor=0.5)
    assert one_epoch(linear(), settings) == pytest.approx([0.4, 0.2, 0.1])


def test_decay_can_spare_biases_and_norms() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decayed, spared = make_optimizer(model, recipe(decay_all=False, weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [p.ndim for p in decayed["params"]] == [4]
    assert len(spared["params"]) == 3


def test_biases_may_learn_at_a_rate_of_their_own_and_decay_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    kernels, biases = make_optimizer(model, recipe(bias_lr=64, weight_decay=0.1)).param_groups
    assert [p.ndim for p in kernels["params"]] == [4]
    assert len(biases["params"]) == 3
    assert (kernels["weight_decay"], biases["weight_decay"] * biases["lr_factor"]) == (0.1, 0.1)
    spared = make_optimizer(model, recipe(bias_lr=64, decay_all=False)).param_groups[1]
    assert (spared["weight_decay"], spared["lr_factor"]) == (0.0, 64)


def test_the_rate_of_biases_follows_the_schedule() -> None:
    """One step at a time: what moves is the rate times the gradient, and for the bias 8 times that."""
    model = linear()
    settings = recipe(bias_lr=8.0, momentum=0, weight_decay=0, clip_norm=None, schedule="step", step_epochs=1)
    still = copy.deepcopy(model)
    one_epoch(model, settings, steps=1)
    plain_loss(still, a_batch(8, seed=0)).value.backward()
    for (name, moved), first in zip(model.named_parameters(), still.parameters(), strict=True):
        rate = 0.4 * (8 if name.endswith("bias") else 1)
        torch.testing.assert_close(moved, first - rate * first.grad)  # type: ignore[operator]


# --- averages ---------------------------------------------------------------------------------------------------


def shown(average: WeightAverage, values: list[float]) -> float:
    model = nn.Linear(1, 1, bias=False)
    for value in values:
        model.weight.data.fill_(value)
        average.update(model)
    return average.model.weight.item()


def test_swa_is_the_plain_mean() -> None:
    assert shown(WeightAverage(nn.Linear(1, 1, bias=False), None), [1.0, 2.0, 6.0]) == pytest.approx(3.0)


def test_ema_forgets_its_first_weights_early_and_follows_slowly_later() -> None:
    average = WeightAverage(nn.Linear(1, 1, bias=False), 0.5)
    by_hand = 1.0
    for count, value in ((2, 2.0), (3, 6.0)):
        weight = max(0.5, 9 / (count + 10))
        by_hand += weight * (value - by_hand)
    assert shown(average, [1.0, 2.0, 6.0]) == pytest.approx(by_hand)
    late = WeightAverage(nn.Linear(1, 1, bias=False), 0.999)
    late.count = 100_000
    late.model.weight.data.fill_(0.0)
    assert shown(late, [1.0]) == pytest.approx(0.001)


def test_an_average_goes_on_from_its_state() -> None:
    first, second = (WeightAverage(nn.Linear(1, 1, bias=False), None) for _ in range(2))
    shown(first, [1.0, 2.0])
    second.load_state_dict(first.state_dict())
    assert shown(second, [6.0]) == pytest.approx(3.0)


def test_refreshed_norms_hold_the_statistics_of_what_they_were_shown() -> None:
    norm = nn.BatchNorm2d(2, momentum=0.1)
    norm.running_mean.fill_(99.0)
    images = [torch.randn(64, 2, 3, 3) * 2 + 1 for _ in range(4)]
    refresh_batchnorm(norm, images)
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in images]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert (norm.momentum, norm.training) == (0.1, False)


def test_labels_stay_those_of_the_image_where_targets_are_mixed() -> None:
    totals = EpochTotals(2, False, torch.device("cpu"))
    batch = Batch(0, torch.zeros(1, 1), torch.tensor([1]), torch.tensor([[0.9, 0.1]]))
    totals.add(batch, Loss(torch.tensor(0.0), torch.tensor([[0.0, 1.0]])), 1.0)
    assert np.array_equal(totals.counts.numpy(), [[0, 0], [0, 1]])


def test_totals_of_several_labels_by_hand() -> None:
    """Two images, three labels; a logit above 0 is a yes."""
    totals = EpochTotals(3, True, torch.device("cpu"))
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    batch = Batch(0, torch.zeros(2, 1, 1, 1), labels, labels.float())
    totals.add(batch, Loss(torch.tensor(0.5), torch.tensor([[2.0, 1.0, -1.0], [-1.0, -1.0, 3.0]])), 1.0)
    totals.end_step(torch.tensor(1.0))
    assert totals.counts.tolist() == [[[1, 0], [0, 1]], [[1, 1], [0, 0]], [[0, 0], [1, 1]]]
    found = totals.summary(Compute(torch.device("cpu"), ComputeSettings()))
    assert found["accuracy"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert found["recall"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert found["images"] == 2
