"""The gate judges whether a teacher is good enough for a student, and measures how often the two agree."""

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from torch import nn

from common.data.packed import Batches
from common.distillation.teacher import Teacher, log
from common.failures import Refused
from common.run.run_dir import finished_runs
from common.settings.distillation import REFERENCE_ACCURACY, GateSettings
from common.settings.entries import TRAININGS, TrainingSettings
from common.settings.field import identity
from common.settings.yaml12 import read_mapping
from common.training.predict import infer


def agreement(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return how often the student decides as its teacher: over all, and where the teacher is right or wrong.

    A decision is the class of an image; with several labels, it is the yes or no of each label.
    """
    if labels.ndim == 2:
        mine, theirs, truth = (student > 0).ravel(), (teacher > 0).ravel(), labels.ravel() == 1
    else:
        mine, theirs, truth = student.argmax(1), teacher.argmax(1), labels

    # A share of no decisions is None.
    same, right = mine == theirs, theirs == truth
    return {
        "teacher_accuracy": float(right.mean()),
        "all": float(same.mean()),
        "where_teacher_right": float(same[right].mean()) if right.any() else None,
        "where_teacher_wrong": float(same[~right].mean()) if not right.all() else None,
        "decisions": len(same),
        "teacher_wrong": int((~right).sum()),
    }


def agreement_on(val: Batches | None, student: nn.Module, teacher: Teacher) -> dict[str, Any] | None:
    """Measure the agreement on the validation images; None without them, or if the teacher knows other classes."""
    if val is None or not teacher.knows_classes:
        return None
    (mine, labels), (theirs, _) = infer(student, val), infer(teacher.model, val)
    return agreement(mine, theirs, labels)


def students_alone(settings: TrainingSettings, root: Path) -> list[dict[str, Any]]:
    """Return the results of finished runs that trained the same network on the same split without a teacher."""
    results = []

    # Only the same split makes validation accuracies comparable, and only a run that had a validation set has one.
    for entry in ("train_cnn", "train_vit"):
        for run in finished_runs(root, f"{entry}/{settings.data.name}-*"):
            result = run.finished()
            try:
                alone = TRAININGS[entry].model_validate(read_mapping(run.config))
            except (ValueError, Refused):
                continue  # settings that cannot be read, such as those of another version

            if result and result.get("val") and _same_network(alone, settings) and alone.data == settings.data:
                results.append(result)
    return results


def _same_network(one: TrainingSettings, other: TrainingSettings) -> bool:
    """Say whether both have the same network, but for the token that only distillation uses."""
    return _without_dist_token(one) == _without_dist_token(other)


def _without_dist_token(settings: TrainingSettings) -> dict[str, Any]:
    model = identity(settings.model)
    return {name: value for name, value in model.items() if name not in {"dist_token", "inference"}}


def judge(teacher: Teacher, settings: TrainingSettings, gate: GateSettings, root: Path) -> dict[str, Any]:
    """Judge whether the teacher is good enough for this student, and list the doubts. With gate=stop they refuse."""
    doubts: list[str] = []

    # A student that is better alone has little to learn; without runs of it alone nothing can be said.
    alone = [result["val"]["accuracy"] for result in students_alone(settings, root)]
    val, test = teacher.facts.get("val_accuracy"), teacher.facts.get("test_accuracy")
    if alone and val is not None and val < mean(alone):
        doubts.append(
            f"the teacher has {val:.2%} on validation, the same student alone {mean(alone):.2%} (n={len(alone)})"
        )

    # A network far below its published accuracy was not trained well.
    published = REFERENCE_ACCURACY.get((teacher.facts["model"], settings.data.name))
    if published is not None and test is not None and test < published - gate.margin:
        doubts.append(
            f"the teacher has {test:.2%} on test, {teacher.facts['model']} is published to reach {published:.2%} "
            f"(margin {gate.margin:.2%})"
        )

    verdict = {
        "rule": gate.gate,
        "passed": not doubts,
        "doubts": doubts,
        "students_alone": {"n": len(alone), "val_accuracy": mean(alone) if alone else None},
        "published_test_accuracy": published,
    }

    if doubts and gate.gate == "stop":
        raise Refused([f"teacher: {doubt}; allowed: a better teacher, or distill.gate=warn" for doubt in doubts])
    if doubts and gate.gate == "warn":
        for doubt in doubts:
            log.warning("weak teacher: %s", doubt)
    return verdict
