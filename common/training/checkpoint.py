"""This module writes and reads a run's checkpoints.

A run resumes from `last`, or from `previous` if `last` cannot be read; `best` has the weights to keep. Resuming is
exact: `last` holds everything that moves, at any step, and randomness is counted, not stored. The best checkpoint
itself says which epoch it is from.
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


# --- resuming ---------------------------------------------------------------------------------------------------


def save(training: Training, run: RunDir, compute: Compute) -> None:
    """Write everything that moves. NaN and infinity are refused: a run resumed from them could only fail again."""
    if training.totals.steps:
        training.refuse_nan(training.totals.sums["loss"].item())
    if not all(weights.isfinite().all() for weights in training.model.parameters()):
        raise NotFinite(f"weights are not finite after epoch {training.epoch}, step {training.step}; {NAN_ADVICE}")

    if compute.first:
        content = io.BytesIO()
        torch.save(training.state_dict(), content)
        run.rotate_checkpoint(content.getbuffer())


def resume(training: Training, run: RunDir, compute: Compute, needs_best: bool) -> None:
    """Go on from the newest checkpoint that can be read, or start again if there is none or its best is lost."""
    for path in filter(Path.exists, (run.last, run.previous)):
        # A damaged checkpoint costs some epochs, not the run: the one before it will do.
        try:
            state = read_checkpoint(path, compute)
        except UNREADABLE as error:
            log.warning("%s cannot be read (%s)", path, (str(error) or type(error).__name__).splitlines()[0])
            continue

        # Finished epochs are not validated again, so without its best weights a run would choose from the rest alone.
        training.best = read_best(run.best)
        if needs_best and state["at"]["epoch"] and not training.best:
            log.warning("%s is missing or cannot be read: starting again", run.best)
            return

        training.load_state_dict(state)
        log.info("resuming after epoch %d, step %d", training.epoch, training.step)
        return


def read_checkpoint(path: Path, compute: Compute) -> dict[str, Any]:
    """Read what `save` wrote, and compare the checksums of its parts, which torch writes but never compares."""
    with ZipFile(path) as parts:
        if damaged := parts.testzip():
            raise BadZipFile(f"checksum of {damaged}")
    return torch.load(path, map_location=compute.device, weights_only=True)


# --- the best ---------------------------------------------------------------------------------------------------


def score_of(val: dict[str, float], select: str) -> list[float]:
    """Return what weights are compared by: the score that `recipe.select` names, then the validation loss."""
    return [-val["loss"] if select == "loss" else val[select], -val["loss"]]


def beats(score: list[float], best: dict[str, Any]) -> bool:
    return not best or score > best["score"]


def write_best(training: Training, model: nn.Module, facts: dict[str, Any], run: RunDir, compute: Compute) -> None:
    """Write the weights of the model, and the facts about them, as the best checkpoint."""
    training.best = facts
    if compute.first:
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        with atomic_write(run.best) as file:
            file.write(safetensors.torch.save(tensors, {"best": json.dumps(facts)}))


def read_best(path: Path) -> dict[str, Any]:
    """Read the facts that the best checkpoint holds; return none if it is absent or damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return json.loads(file.metadata()["best"])
    except UNREADABLE:
        return {}
