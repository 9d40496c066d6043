import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.settings.entries import RecipeSettings
from common.training.optim import WeightAverage, learning_rate, make_optimizer, refresh_batchnorm


def recipe(**fields: object) -> RecipeSettings:
    return RecipeSettings(**{"epochs": 10, "lr": 0.4, **fields})  # type: ignore[arg-type]


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
