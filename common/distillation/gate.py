"""Whether a teacher should teach: what its student reaches alone, and how often the two agree."""

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
    """How often the student decides as its teacher: over all images, and where the teacher is right or wrong.

    With several labels each decision counts by itself.
    """
    if labels.ndim == 2:
        mine, theirs, truth = (student > 0).ravel(), (teacher > 0).ravel(), labels.ravel() == 1
    else:
        mine, theirs, truth = student.argmax(1), teacher.argmax(1), labels
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
    """On the validation images, where there are some and the teacher knows their classes."""
    if val is None or not teacher.knows_classes:
        return None
    (mine, labels), (theirs, _) = infer(student, val), infer(teacher.model, val)
    return agreement(mine, theirs, labels)


def students_alone(settings: TrainingSettings, root: Path) -> list[dict[str, Any]]:
    """Results of finished runs that trained the same network on the same split without a teacher."""
    found = []
    for entry in ("train_cnn", "train_vit"):
        for run in finished_runs(root, f"{entry}/{settings.data.name}-*"):
            result = run.finished()
            try:
                alone = TRAININGS[entry].model_validate(read_mapping(run.config))
            except (ValueError, Refused):
                continue
            if result and result.get("val") and _same_network(alone, settings) and alone.data == settings.data:
                found.append(result)
    return found


def _same_network(one: TrainingSettings, other: TrainingSettings) -> bool:
    """But for the token that only a teacher makes use of."""
    alone, taught = (
        {name: value for name, value in identity(each.model).items() if name not in {"dist_token", "inference"}}
        for each in (one, other)
    )
    return alone == taught


def judge(teacher: Teacher, settings: TrainingSettings, gate: GateSettings, root: Path) -> dict[str, Any]:
    """Whether this teacher is fit to teach this student, and why not; with gate=stop, Refused where it is not."""
    doubts: list[str] = []
    alone = [result["val"]["accuracy"] for result in students_alone(settings, root)]
    val, test = teacher.facts.get("val_accuracy"), teacher.facts.get("test_accuracy")
    if alone and val is not None and val < mean(alone):
        doubts.append(
            f"the teacher has {val:.2%} on validation, the same student alone {mean(alone):.2%} (n={len(alone)})"
        )
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
