"""This module asks a model about sets of images: logits, validation scores, and the final report."""

from typing import Any

import numpy as np
import torch
from torch import nn

from common.cli.attempt import Attempt
from common.data.packed import Batches, Data
from common.failures import NAN_ADVICE, NotFinite
from common.files import atomic_write
from common.metrics import one_label, several_labels
from common.settings.entries import RecipeSettings


@torch.no_grad()
def infer(model: nn.Module, batches: Batches, precision: str = "fp32") -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, classes) and labels (n,) of all rows in order, in every process."""
    model.eval()
    compute, total = batches.compute, len(batches.rows)
    rows = []
    for batch in batches.in_order():
        with compute.autocast(precision):
            rows.append(model(batch.images).float())
    mine = torch.cat(rows) if rows else torch.zeros(0, batches.classes, device=compute.device)
    return compute.gather(mine, total).cpu().numpy(), batches.labels[batches.rows].numpy()


def validate(model: nn.Module, batches: Batches, recipe: RecipeSettings) -> dict[str, float]:
    """Return the validation scores of history.csv, and the one by which weights are selected."""
    logits, labels = infer(model, batches, recipe.precision)
    if not np.isfinite(logits).all():
        raise NotFinite(f"the logits of a validation image are not finite; {NAN_ADVICE}")

    if batches.multi_label:
        counts = several_labels.counts(labels, logits > 0)
        scores = {"loss": several_labels.nll(logits, labels), **several_labels.summarise(counts)}
    else:
        counts = one_label.confusion_matrix(labels, logits.argmax(1), batches.classes)
        scores = {"loss": one_label.nll(logits, labels), **one_label.summarise(counts)}

    # Only a recipe that selects by the AUC has it in the history: ranking costs more than counting.
    if recipe.select == "auc":
        aucs = (several_labels.auc if batches.multi_label else one_label.one_vs_rest_auc)(logits, labels)
        scores["auc"] = one_label.macro_auc(aucs) or 0.0  # none where only one class occurs
    return scores


def report(model: nn.Module, data: Data, attempt: Attempt) -> dict[str, Any]:
    """Return every metric on validation and test, and write the logits. Only here are the test images read."""
    val, thresholds = None, None
    if data.val:
        val = _report_part(model, data.val, "val", attempt)
        thresholds = val.get("thresholds")
    return {"val": val, "test": _report_part(model, data.open_test(), "test", attempt, thresholds)}


def _report_part(
    model: nn.Module, batches: Batches, name: str, attempt: Attempt, thresholds: Any = None
) -> dict[str, Any]:
    logits, labels = infer(model, batches, attempt.training.recipe.precision)
    if batches.compute.first:
        with atomic_write(attempt.run.predictions(name)) as file:
            np.savez_compressed(file, logits=logits, labels=labels)
    if batches.multi_label and name == "val":
        thresholds = several_labels.choose_thresholds(logits, labels)
    return one_label.evaluate(logits, labels, batches.class_names, batches.task, thresholds)
