"""The checkpoints of a run: `last` to resume from, `previous` for the day it cannot be read, `best` to keep.

Resuming is exact. `last` holds everything that moves, at any step; randomness is counted, not stored; which epoch is
best is written in the best checkpoint itself.
"""

import io
import json
import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from common.compute import Compute
from common.failures import NAN_ADVICE, NotFinite
from common.files import atomic_write
from common.run.run_dir import RunDir
from common.training.loop import Training

log = logging.getLogger("stillhouse")

UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError, BadZipFile, SafetensorError)

SELECTION_RULES = {
    "accuracy": "highest validation accuracy, then lowest validation loss",
    "auc": "highest validation AUC, then lowest validation loss",
    "f1_score": "highest validation macro F1, then lowest validation loss",
    "loss": "lowest validation loss",
}


# --- to go on from ----------------------------------------------------------------------------------------------


def save(training: Training, run: RunDir, compute: Compute) -> None:
    """Write everything that moves, unless it holds what is no number: a resumed run could only fail again."""
    if training.totals.steps:
        training.refuse_nan(training.totals.sums["loss"].item())
    if not all(weights.isfinite().all() for weights in training.model.parameters()):
        raise NotFinite(f"weights are no numbers after epoch {training.epoch}, step {training.step}; {NAN_ADVICE}")

    if compute.first:
        content = io.BytesIO()
        torch.save(training.state_dict(), content)
        run.rotate_checkpoint(content.getbuffer())


def resume(training: Training, run: RunDir, compute: Compute, needs_best: bool) -> None:
    """Go on from the newest checkpoint that can be read; from the start if there is none, or no best beside it."""
    for path in filter(Path.exists, (run.last, run.previous)):
        try:
            state = read_checkpoint(path, compute)
        except UNREADABLE as error:
            log.warning("%s cannot be read (%s)", path, (str(error) or type(error).__name__).splitlines()[0])
            continue

        training.best = read_best(run.best)
        if needs_best and state["at"]["epoch"] and not training.best:
            log.warning("%s is missing or cannot be read: starting again", run.best)
            return
        training.load_state_dict(state)
        log.info("resuming after epoch %d, step %d", training.epoch, training.step)
        return


def read_checkpoint(path: Path, compute: Compute) -> dict[str, Any]:
    """Read what `save` wrote. Its parts carry checksums, which torch writes but does not compare."""
    with ZipFile(path) as parts:
        if damaged := parts.testzip():
            raise BadZipFile(f"checksum of {damaged}")
    return torch.load(path, map_location=compute.device, weights_only=True)


# --- to keep ----------------------------------------------------------------------------------------------------


def score_of(val: dict[str, float], select: str) -> list[float]:
    """Return what candidates are compared by: the score that `recipe.select` names, then the validation loss."""
    return [-val["loss"] if select == "loss" else val[select], -val["loss"]]


def beats(score: list[float], best: dict[str, Any]) -> bool:
    return not best or score > best["score"]


def write_best(training: Training, model: nn.Module, facts: dict[str, Any], run: RunDir, compute: Compute) -> None:
    """Keep these weights, and with them what is known of them."""
    training.best = facts
    if compute.first:
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        with atomic_write(run.best) as file:
            file.write(safetensors.torch.save(tensors, {"best": json.dumps(facts)}))


def read_best(path: Path) -> dict[str, Any]:
    """Read what the best checkpoint says of itself; nothing if it is absent or damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return json.loads(file.metadata()["best"])
    except UNREADABLE:
        return {}
