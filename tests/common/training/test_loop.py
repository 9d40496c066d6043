import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.compute import Compute
from common.data.packed import Batch
from common.settings.entries import ComputeSettings, RecipeSettings, TrainCNN, TrainingSettings
from common.training.loop import EpochTotals, Loss, Objective, Training, backward, train_epoch
from common.training.optim import learning_rate, make_optimizer

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


def with_recipe(recipe: RecipeSettings) -> TrainingSettings:
    return TrainCNN(recipe=recipe)


def a_training(model: nn.Module, settings: RecipeSettings, parts: int = 1) -> Training:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    totals = EpochTotals(3, False, torch.device("cpu"))
    return Training(model, make_optimizer(model, settings), scaler, totals, None, None, parts=parts)


# --- steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_give_the_gradient_of_the_whole_batch(parts: int) -> None:
    model, batch = linear(), a_batch(7)
    plain_loss(model, batch).value.backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    training = a_training(model, recipe(), parts)
    backward(training, model, batch, plain_loss, with_recipe(recipe()), CPU)
    totals = training.totals
    totals.end_step(torch.tensor(1.0))
    for expected, parameter in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-7)
    assert totals.summary(CPU)["loss"] == pytest.approx(plain_loss(model, batch).value.item(), rel=1e-6)
    assert totals.summary(CPU)["images"] == 7


def fails_at_call(number: int, seen: list[int]) -> Objective:
    def objective(model: nn.Module, batch: Batch) -> Loss:
        seen.append(len(batch))
        if len(seen) == number:
            raise torch.OutOfMemoryError("out of memory")
        return plain_loss(model, batch)

    return objective


def test_a_failed_part_leaves_the_totals_alone_and_the_step_starts_over_in_smaller_parts() -> None:
    model, seen = linear(), []
    training = a_training(model, recipe(), parts=3)
    backward(training, model, a_batch(6), fails_at_call(2, seen), with_recipe(recipe()), CPU)
    assert seen == [2, 2, 1, 1, 1, 1, 1, 1]
    assert training.parts == 6
    assert training.totals.counts.sum() == 6
    again = linear()
    plain_loss(again, a_batch(6)).value.backward()
    for got, wanted in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-5, atol=1e-7)  # nothing of the failed try is left


def test_parts_of_one_image_cannot_be_halved() -> None:
    model, seen = linear(), []
    training = a_training(model, recipe(), parts=6)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        backward(training, model, a_batch(6), fails_at_call(2, seen), with_recipe(recipe()), CPU)
    assert seen == [1, 1]
    assert training.totals.counts.sum() == 0


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
    training = a_training(model, settings)
    batches = [Batch(step, b.images, b.labels, b.targets) for step in range(steps) for b in [a_batch(8, seed=step)]]
    rates = [learning_rate(settings, step) for step in range(steps)]
    turns = train_epoch(training, model, batches, plain_loss, rates, with_recipe(settings), CPU)
    return [training.optimizer.param_groups[0]["lr"] for _ in turns]


def test_the_caller_has_its_turn_after_every_step() -> None:
    model = linear()
    training = a_training(model, recipe())
    batches = [Batch(step, b.images, b.labels, b.targets) for step in range(2, 5) for b in [a_batch(8, seed=step)]]
    turns = train_epoch(training, model, batches, plain_loss, [0.1] * 5, with_recipe(recipe()), CPU)
    assert [(training.step, training.totals.steps) for _ in turns] == [(3, 1), (4, 2), (5, 3)]


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
