"""Monitors show a run outside its folder: in TensorBoard and in Weights & Biases. Both are optional extras."""

import importlib.util
from typing import Any, Protocol

from common.failures import Refused
from common.run.run_dir import RunDir
from common.settings.entries import RunSettings


class Monitor(Protocol):
    """A monitor takes each row of a run's history."""

    def row(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def open_monitors(settings: RunSettings, run: RunDir) -> list[Monitor]:
    wanted = {"tensorboard": settings.log.tensorboard, "wandb": settings.log.wandb}
    missing = [name for name, on in wanted.items() if on and importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(
            f"log.{name}: needs the package {name}; run: pip install 'stillhouse[{name}]'" for name in missing
        )

    monitors: list[Monitor] = []
    if settings.log.tensorboard:
        monitors.append(TensorBoard(run))
    if settings.log.wandb:
        monitors.append(WeightsAndBiases(settings, run))
    return monitors


class TensorBoard:
    """TensorBoard's events go into the run folder. A resumed run writes its repeated epochs over the lost ones."""

    def __init__(self, run: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.tensorboard))

    def row(self, row: dict[str, Any]) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run has the run's name, and goes on when the run does. WANDB_MODE=offline keeps it in the run folder."""

    def __init__(self, settings: RunSettings, run: RunDir) -> None:
        import wandb

        self._run = wandb.init(
            project="stillhouse",
            id=run.path.name,
            name=run.path.name,
            dir=str(run.path),
            config=settings.model_dump(),
            resume="allow",
        )

    def row(self, row: dict[str, Any]) -> None:
        self._run.log(_numbers(row), step=row["epoch"])

    def close(self) -> None:
        self._run.finish()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float) and name != "epoch"}
