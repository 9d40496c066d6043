"""What a model says of a set of images: logits, validation scores, the final report."""

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
    """Logits (n, classes) and labels (n,) of all rows in order, in every process."""
    model.eval()
    compute, total = batches.compute, len(batches.rows)
    rows = []
    for batch in batches.in_order():
        with compute.autocast(precision):
            rows.append(model(batch.images).float())
    mine = torch.cat(rows) if rows else torch.zeros(0, batches.classes, device=compute.device)
    return compute.gather(mine, total).cpu().numpy(), batches.labels[batches.rows].numpy()


def validate(model: nn.Module, batches: Batches, recipe: RecipeSettings) -> dict[str, float]:
    """What history.csv says of the validation images, and the score that decides which weights are kept."""
    logits, labels = infer(model, batches, recipe.precision)
    if not np.isfinite(logits).all():
        raise NotFinite(f"a validation image has logits that are no numbers; {NAN_ADVICE}")
    if batches.multi_label:
        found = {
            "loss": several_labels.nll(logits, labels),
            **several_labels.summarise(several_labels.counts(labels, logits > 0)),
        }
    else:
        confusion = one_label.confusion_matrix(labels, logits.argmax(1), batches.classes)
        found = {"loss": one_label.nll(logits, labels), **one_label.summarise(confusion)}
    if recipe.select == "auc":
        aucs = (several_labels.auc if batches.multi_label else one_label.one_vs_rest_auc)(logits, labels)
        found["auc"] = one_label.macro_auc(aucs) or 0.0  # none where only one class occurs
    return found


def report(model: nn.Module, data: Data, attempt: Attempt) -> dict[str, Any]:
    """Every metric on validation and test; the logits stay in predictions/. Only here are the test images read."""
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
