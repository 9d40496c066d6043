"""Training as a whole, on a model of one layer: memory, patience, selection, resuming, watching."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from common.cli.attempt import Attempt
from common.cli.compose import Command
from common.compute import Compute, seed_model
from common.data.packed import Batch, Data, open_data
from common.failures import Interrupted, NotFinite
from common.metrics.one_label import nll
from common.run.run_dir import RunDir
from common.settings.entries import ComputeSettings, TrainCNN
from common.training.fit import fit
from common.training.loop import Loss
from common.training.predict import infer

CPU = Compute(torch.device("cpu"), ComputeSettings())
RECIPE: dict[str, Any] = {"epochs": 4, "batch_size": 128, "lr": 0.05, "clip_norm": None, "label_smoothing": 0.0}


def plain_loss(model: nn.Module, batch: Batch) -> Loss:
    logits = model(batch.images)
    return Loss(F.cross_entropy(logits, batch.targets), logits)


@pytest.fixture
def prepared(digits_dir: Path, tmp_path: Path) -> Callable[..., tuple[Attempt, Data, nn.Module]]:
    def prepare(**recipe: Any) -> tuple[Attempt, Data, nn.Module]:
        settings = TrainCNN.model_validate({"recipe": {**RECIPE, **recipe}})
        attempt = Attempt(Command(settings, tmp_path, digits_dir, False, False), RunDir(tmp_path / "run"))
        attempt.run.path.mkdir(exist_ok=True)
        seed_model(0, "weights")
        return attempt, open_data(digits_dir / "digits", settings, CPU), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    return prepare


def trained(attempt: Attempt, data: Data, model: nn.Module, objective: Any = plain_loss) -> dict[str, Any]:
    return fit(model, objective, data.train, data.val, attempt, CPU)


def column(attempt: Attempt, name: str) -> list[float]:
    return [float(row[name]) for row in attempt.run.read_history()]


# --- memory -----------------------------------------------------------------------------------------------------


def needs_memory_for(images: int, objective: Any = plain_loss) -> Any:
    def limited(model: nn.Module, batch: Batch) -> Loss:
        if len(batch) > images:
            raise torch.OutOfMemoryError(f"no room for {len(batch)} images")
        return objective(model, batch)

    return limited


def test_out_of_memory_halves_the_parts_and_gives_the_same_training(prepared: Any, tmp_path: Path) -> None:
    attempt, data, model = prepared(epochs=1)
    assert trained(attempt, data, model)["cost"]["parts"] == 1
    roomy = column(attempt, "train_loss"), nn.utils.parameters_to_vector(model.parameters())
    attempt.run.set_aside()
    attempt, data, model = prepared(epochs=1)
    assert trained(attempt, data, model, needs_memory_for(40))["cost"]["parts"] == 4
    assert column(attempt, "train_loss") == pytest.approx(roomy[0], rel=1e-5)
    torch.testing.assert_close(nn.utils.parameters_to_vector(model.parameters()), roomy[1], rtol=1e-4, atol=1e-5)


def test_out_of_memory_for_one_image_is_a_failure(prepared: Any) -> None:
    attempt, data, model = prepared()
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1 images"):
        trained(attempt, data, model, needs_memory_for(0))


# --- selection --------------------------------------------------------------------------------------------------


def learns_nothing(model: nn.Module, batch: Batch) -> Loss:
    logits = model(batch.images)
    return Loss(logits.sum() * 0, logits)


def test_patience_counts_epochs_without_a_better_one(prepared: Any) -> None:
    attempt, data, model = prepared(epochs=9, patience=3, weight_decay=0.0)
    found = trained(attempt, data, model, learns_nothing)
    assert found["selection"]["epoch"] == 1
    assert found["cost"]["epochs"] == 1 + 3


def test_patience_survives_an_interruption(prepared: Any) -> None:
    attempt, data, model = prepared(epochs=9, patience=3, weight_decay=0.0)

    def interrupts_in_the_third_epoch(model: nn.Module, batch: Batch) -> Loss:
        if len(attempt.run.read_history()) == 2:
            attempt.stop_signal = "SIGTERM"
        return learns_nothing(model, batch)

    with pytest.raises(Interrupted, match="stopped by SIGTERM; the same command goes on from here"):
        trained(attempt, data, model, interrupts_in_the_third_epoch)
    attempt, data, model = prepared(epochs=9, patience=3, weight_decay=0.0)
    assert trained(attempt, data, model, learns_nothing)["cost"]["epochs"] == 1 + 3


@pytest.mark.parametrize("save_every", [1, 3])
def test_a_run_killed_after_the_average_was_chosen_ends_where_patience_ended_it(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    """The average is kept as the best of the last epoch; a resumed run must not take that for a new best epoch."""
    words = {"epochs": 20, "batch_size": 32, "lr": 50.0, "schedule": "constant", "momentum": 0.0}

    def prepare() -> tuple[Attempt, Data, nn.Module]:
        attempt, data, model = prepared(**words, swa=0.99, patience=2)
        compute = ComputeSettings(save_every=save_every)
        attempt.settings = attempt.settings.model_copy(update={"compute": compute})
        return attempt, data, model

    attempt, data, model = prepare()
    undisturbed = trained(attempt, data, model)
    assert undisturbed["selection"]["weights"] == "swa"
    assert undisturbed["cost"]["epochs"] < 20
    history = column(attempt, "val_loss")
    attempt.run.set_aside()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    attempt, data, model = prepare()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("common.training.fit.cost", killed)
        trained(attempt, data, model)
    attempt, data, model = prepare()
    resumed = trained(attempt, data, model)
    assert resumed["selection"] == undisturbed["selection"]
    assert resumed["cost"]["epochs"] == undisturbed["cost"]["epochs"]
    assert column(attempt, "val_loss") == history


def test_the_selected_epoch_is_the_best_on_validation_and_its_weights_are_the_models(prepared: Any) -> None:
    attempt, data, model = prepared(epochs=6, lr=2.0, schedule="constant")  # jumps about
    found = trained(attempt, data, model)
    accuracy, loss = column(attempt, "val_accuracy"), column(attempt, "val_loss")
    best = max(range(6), key=lambda epoch: (accuracy[epoch], -loss[epoch]))
    assert found["selection"]["epoch"] == best + 1
    assert data.val is not None
    logits, labels = infer(model, data.val)
    assert (logits.argmax(1) == labels).mean() == pytest.approx(accuracy[best])


def selected_and_best_epoch(attempt: Attempt, data: Data, model: nn.Module) -> tuple[Any, Any]:
    """Return (accuracy, -loss) on validation, of the selected weights and of the best epoch."""
    assert data.val is not None
    logits, labels = infer(model, data.val)
    selected = (logits.argmax(1) == labels).mean(), -nll(logits, labels)
    return selected, max(zip(column(attempt, "val_accuracy"), (-x for x in column(attempt, "val_loss")), strict=True))


def test_averaged_weights_lose_where_they_drag_on_epochs_that_are_still_better(prepared: Any) -> None:
    attempt, data, model = prepared(epochs=6, batch_size=32, schedule="cosine", swa=0.7, momentum=0.0)
    assert trained(attempt, data, model)["selection"]["weights"] == "raw"
    selected, best_epoch = selected_and_best_epoch(attempt, data, model)
    assert selected == pytest.approx(best_epoch)


def test_averaged_weights_win_where_epochs_swing_about_good_ones(prepared: Any) -> None:
    """One bias is pulled far up in one epoch and far down in the next: each epoch ends badly, their mean is good."""
    attempt, data, model = prepared(epochs=4)
    trained(attempt, data, model)
    good = copy.deepcopy(model.state_dict())
    middle, steps_done = good["1.bias"][0], 0

    def swinging_loss(model: nn.Module, batch: Batch) -> Loss:
        nonlocal steps_done
        side = 1 if steps_done // data.train.steps % 2 else -1
        steps_done += 1
        # At a rate of 1, one step goes the whole way to the target.
        return Loss((model[1].bias[0] - (middle + side * 50)).square() / 2, model(batch.images))  # type: ignore[index]

    attempt.run.set_aside()
    attempt, data, model = prepared(epochs=8, lr=1.0, schedule="constant", swa=0.5, momentum=0.0, weight_decay=0.0)
    model.load_state_dict(good)
    assert trained(attempt, data, model, swinging_loss)["selection"]["weights"] == "swa"
    selected, best_epoch = selected_and_best_epoch(attempt, data, model)
    assert best_epoch[0] + 0.05 < selected[0]
    torch.testing.assert_close(model.state_dict(), good)


def test_weights_that_explode_in_the_last_step_of_an_epoch_fail_as_nan(prepared: Any) -> None:

    def steep(model: nn.Module, batch: Batch) -> Loss:
        loss = plain_loss(model, batch)
        return Loss(loss.value * 1e30, loss.logits)

    for val_fraction in (0.1, 0.0):
        attempt, _, model = prepared(epochs=2, batch_size=2000, lr=1e38, schedule="constant", optimizer="sgd")
        settings = attempt.settings
        attempt.settings = settings.model_copy(
            update={"data": settings.data.model_copy(update={"val_fraction": val_fraction})}
        )
        data = open_data(attempt.data_folder, attempt.settings, CPU)
        with pytest.raises(NotFinite, match=r"not finite.*Try a lower recipe\.lr"):
            trained(attempt, data, model, steep)
        assert not attempt.run.last.exists()


def test_ema_weights_are_the_ones_validated_and_kept(prepared: Any) -> None:
    attempt, data, model = prepared(epochs=2, ema=0.99)
    assert trained(attempt, data, model)["selection"]["weights"] == "ema"
    kept = safetensors.torch.load_file(attempt.run.best)
    state = torch.load(attempt.run.last, weights_only=True)
    assert not torch.equal(kept["1.weight"], state["model"]["1.weight"])
    assert torch.equal(kept["1.weight"], state["averages"]["ema"]["model"]["1.weight"])


# --- going on ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_inside_an_epoch_resumes_at_its_step(prepared: Any) -> None:
    attempt, data, model = prepared(epochs=2)
    trained(attempt, data, model)
    expected = attempt.run.best.read_bytes(), column(attempt, "train_loss")
    attempt.run.set_aside()
    attempt, data, model = prepared(epochs=2)
    calls = []

    def interrupts_at_the_fifth_step(model: nn.Module, batch: Batch) -> Loss:
        calls.append(batch.step)
        if len(calls) == 5:
            attempt.stop_signal = "SIGTERM"
        return plain_loss(model, batch)

    with pytest.raises(Interrupted):
        trained(attempt, data, model, interrupts_at_the_fifth_step)
    assert torch.load(attempt.run.last, weights_only=True)["at"] == {
        "epoch": 0,
        "step": 5,
        "parts": 1,
        "improved": {},
    }
    attempt, data, model = prepared(epochs=2)
    trained(attempt, data, model)
    assert (attempt.run.best.read_bytes(), column(attempt, "train_loss")) == expected


def test_the_loss_scaler_goes_on_from_its_state(prepared: Any) -> None:
    attempt, data, model = prepared(epochs=1, precision="fp16")
    trained(attempt, data, model)
    state = torch.load(attempt.run.last, weights_only=True)["scaler"]
    assert state["_growth_tracker"] == data.train.steps
    attempt, data, model = prepared(epochs=2, precision="fp16")
    trained(attempt, data, model)
    state = torch.load(attempt.run.last, weights_only=True)["scaler"]
    assert state["_growth_tracker"] == 2 * data.train.steps


def test_a_loss_that_is_no_number_never_reaches_a_checkpoint(prepared: Any) -> None:
    attempt, data, model = prepared()

    def breaks_in_the_second_epoch(model: nn.Module, batch: Batch) -> Loss:
        loss = plain_loss(model, batch)
        broken = len(attempt.run.read_history()) == 1
        return Loss(loss.value * float("nan") if broken else loss.value, loss.logits)

    with pytest.raises(NotFinite, match=r"training loss is nan in epoch 2; the last checkpoint is from before it"):
        trained(attempt, data, model, breaks_in_the_second_epoch)
    state = torch.load(attempt.run.last, weights_only=True)
    assert state["at"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_save_every_spares_writes_and_the_last_epoch_is_always_written(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, data, model = prepared(epochs=5)
    attempt.settings = attempt.settings.model_copy(update={"compute": ComputeSettings(save_every=2)})
    written = []
    rotate = RunDir.rotate_checkpoint
    monkeypatch.setattr(
        RunDir,
        "rotate_checkpoint",
        lambda run, content: (written.append(len(run.read_history())), rotate(run, content)),
    )
    trained(attempt, data, model)
    assert written == [2, 4, 5]


# --- what is shown ----------------------------------------------------------------------------------------------


def test_terms_of_the_loss_become_columns(prepared: Any) -> None:
    def with_terms(model: nn.Module, batch: Batch) -> Loss:
        loss = plain_loss(model, batch)
        return Loss(loss.value, loss.logits, {"kd_loss": loss.value * 2, "token_loss": loss.value * 3})

    attempt, data, model = prepared(epochs=1)
    trained(attempt, data, model, with_terms)
    (row,) = attempt.run.read_history()
    assert float(row["kd_loss"]) == pytest.approx(2 * float(row["train_loss"]))
    assert float(row["token_loss"]) == pytest.approx(3 * float(row["train_loss"]))


def test_tensorboard_events_hold_the_history(prepared: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from common.cli.monitor import TensorBoard

    attempt, data, model = prepared(epochs=2)
    attempt.monitors = [TensorBoard(attempt.run)]
    trained(attempt, data, model)
    attempt.monitors[0].close()
    events = EventAccumulator(str(attempt.run.path / "tensorboard")).Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx(column(attempt, "train_loss"), rel=1e-6)


@pytest.mark.slow
def test_weights_and_biases_work_offline(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.cli.monitor import WeightsAndBiases

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    attempt, data, model = prepared(epochs=2)
    attempt.monitors = [WeightsAndBiases(attempt.settings, attempt.run)]
    trained(attempt, data, model)
    attempt.monitors[0].close()
    assert [*attempt.run.path.glob("wandb/offline-run-*/*.wandb")]
