"""The gate: how often student and teacher agree, and which teachers are doubted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.distillation.gate import agreement, judge
from common.distillation.teacher import Teacher
from common.failures import Refused
from common.models.adaptive_cnn import AdaptiveCNN
from common.settings.distillation import REFERENCE_ACCURACY, KDSettings
from common.settings.entries import DistillKD


def test_agreement_by_hand() -> None:
    labels = np.array([0, 1, 1, 0])
    teacher = np.eye(2)[[0, 1, 0, 1]]  # right, right, wrong, wrong
    student = np.eye(2)[[0, 0, 0, 0]]
    assert agreement(student, teacher, labels) == {
        "teacher_accuracy": 0.5, "all": 0.5, "where_teacher_right": 0.5, "where_teacher_wrong": 0.5,
        "decisions": 4, "teacher_wrong": 2,
    }  # fmt: skip
    assert agreement(student, student, np.zeros(4, int))["where_teacher_wrong"] is None
    several = agreement(np.array([[1.0, -1.0]]), np.array([[2.0, 3.0]]), np.array([[1, 0]]))
    assert (several["all"], several["where_teacher_right"], several["where_teacher_wrong"]) == (0.5, 1.0, 0.0)


def alone(root: Path, val_accuracy: float, number: int, **model: Any) -> None:
    """A finished run of the student by itself, as far as the gate looks at it."""
    from common.settings.entries import TrainViT
    from common.settings.yaml12 import dump_yaml

    folder = root / "train_vit" / f"digits-vit-s{number}-0"
    folder.mkdir(parents=True)
    settings = TrainViT.model_validate({"seed": number, "model": {"name": "vit", **model}})
    (folder / "config.yaml").write_text(dump_yaml(settings.model_dump()))
    (folder / "result.json").write_text(json.dumps({"val": {"accuracy": val_accuracy}}))


def judged(root: Path, val: float, test: float = 0.99, model: str = "adaptive_cnn", **words: Any) -> dict[str, Any]:
    teacher = Teacher(AdaptiveCNN((1, 12, 12), 5), {"model": model, "val_accuracy": val, "test_accuracy": test})
    settings = DistillKD.model_validate({"data": {"name": words.pop("data", "digits")}})
    return judge(teacher, settings, KDSettings(**words), root)


def test_a_teacher_worse_than_the_student_alone_is_doubted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert judged(tmp_path, 0.5)["passed"]  # nothing to compare with
    alone(tmp_path, 0.90, 0)
    alone(tmp_path, 0.94, 1)
    alone(tmp_path, 0.10, 2, width=96)  # another network
    assert judged(tmp_path, 0.93)["passed"]
    verdict = judged(tmp_path, 0.91)
    assert verdict["doubts"] == ["the teacher has 91.00% on validation, the same student alone 92.00% (n=2)"]
    assert verdict["students_alone"] == {"n": 2, "val_accuracy": pytest.approx(0.92)}
    assert "weak teacher: the teacher has 91.00%" in caplog.text
    with pytest.raises(Refused, match=r"has 91\.00% .* allowed: a better teacher, or distill\.gate=warn"):
        judged(tmp_path, 0.91, gate="stop")
    caplog.clear()
    assert not judged(tmp_path, 0.91, gate="off")["passed"]
    assert not caplog.text


def test_a_teacher_below_its_published_value_is_doubted(tmp_path: Path) -> None:
    assert REFERENCE_ACCURACY["adaptive_cnn", "cifar10"] == 0.9555
    verdict = judged(tmp_path, 0.83, 0.829, data="cifar10")
    assert verdict["doubts"] == [
        "the teacher has 82.90% on test, adaptive_cnn is published to reach 95.55% (margin 1.00%)"
    ]
    assert judged(tmp_path, 0.83, 0.9456, data="cifar10")["passed"]
    assert not judged(tmp_path, 0.83, 0.9456, data="cifar10", margin=0.005)["passed"]
