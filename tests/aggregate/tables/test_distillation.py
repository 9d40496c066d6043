from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from aggregate.runs.collect import collect
from aggregate.runs.methods import group
from aggregate.tables.distillation import distillation

MakeRun = Callable[..., Path]
ALONE = (0.90, 0.91, 0.92, 0.90)


def student(make_run: MakeRun, seed: int, accuracy: float, passed: bool = True, **given: Any) -> Path:
    gate = {"rule": "warn", "passed": passed, "doubts": [] if passed else ["the teacher has 50.00%"]}
    facts = {"gate": gate, "agreement_on_validation": {"all": 0.8}}
    teacher = {"run": "t", "digest": f"t{seed}", "model": "adaptive_cnn", "test_accuracy": 0.95}
    groups = {"model": {"name": "vit", "dist_token": True, "inference": "avg"}, **given}
    return make_run(
        entry="distill_kd",
        seed=seed,
        accuracy=accuracy,
        teacher={"run": "t", "digest": f"t{seed}"},
        parts={"teacher": teacher, "distillation": facts},
        **groups,
    )


def row_of(make_run: MakeRun, gains: Sequence[float], alone: dict[str, Any] | None = None, **given: Any) -> Any:
    folders = [student(make_run, seed, ALONE[seed] + gain, **given) for seed, gain in enumerate(gains)]
    model = {"model": {"name": "vit"}}
    folders += [make_run(entry="train_vit", seed=s, accuracy=a, **(alone or model)) for s, a in enumerate(ALONE)]
    table = distillation(group(collect(folders)[0]))
    assert table
    (row,) = table.rows
    return {**row, "table": table}


def test_gain_over_the_student_alone_is_paired_by_seed(make_run: MakeRun) -> None:
    gains = (0.03, 0.031, 0.029, 0.03)
    row = row_of(make_run, gains)
    assert row["p_holm"] == pytest.approx(scipy.stats.ttest_1samp(gains, 0).pvalue)
    assert (row["effect"], row["n"], row["second"]) == ("gain", 4, "train_vit vit")
    assert row["difference"] == pytest.approx(0.03)
    assert (row["teacher_accuracy"], row["agreement"]) == pytest.approx((0.95, 0.8))
    assert (row["gate_passed"], row["gate_asked"], row["notes"]) == (4, 4, "")


LOSSES = (-0.03, -0.031, -0.029, -0.03)


def test_a_loss_is_negative_transfer(make_run: MakeRun) -> None:
    assert row_of(make_run, LOSSES)["effect"] == "negative transfer"


def test_a_loss_under_weak_teachers_may_be_theirs(make_run: MakeRun) -> None:
    row = row_of(make_run, LOSSES, passed=False)
    assert row["effect"] == "negative transfer, or weak teachers"
    assert row["gate_passed"] == 0
    assert row["table"].notes == ["a: weak teacher: the teacher has 50.00%"]


def test_noise_is_neither(make_run: MakeRun) -> None:
    assert row_of(make_run, (-0.01, 0.012, 0.001, -0.002))["effect"] == "≈"


def test_one_seed_is_no_verdict(make_run: MakeRun) -> None:
    assert row_of(make_run, (-0.03,))["effect"] == "?"


def test_another_network_is_not_the_student_alone(make_run: MakeRun) -> None:
    row = row_of(make_run, (0.03, 0.03), alone={"model": {"name": "vit", "depth": 2}})
    assert (row["second"], row["effect"], row["difference"]) == ("", "?", None)
    assert row["table"].notes == ["a: no run of the same student alone is among these"]


def test_another_recipe_of_the_student_alone_is_named(make_run: MakeRun) -> None:
    row = row_of(make_run, (0.03, 0.03), alone={"model": {"name": "vit"}, "recipe": {"epochs": 9}})
    assert row["table"].notes == ["a: the student alone differs in recipe.epochs"]


def test_without_students_there_is_no_table(make_run: MakeRun) -> None:
    assert distillation(group(collect([make_run()])[0])) is None
