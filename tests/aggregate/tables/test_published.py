"""Published tables, typed in as run folders: the same tables come out, and nothing that they cannot tell."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.stats

from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from aggregate.tables.claims import claims
from aggregate.tables.comparisons import comparisons
from aggregate.tables.distillation import distillation
from aggregate.tables.overfitting import overfitting
from aggregate.tables.shift import adaptations, shift
from aggregate.tables.table import Row, Table
from common.metrics.robustness_line import CIFAR10_1_LINES, effective_robustness

MakeRun = Callable[..., Path]


def read(folders: list[Path]) -> list[Method]:
    return group(collect(folders)[0])


def printed(table: Table) -> Iterator[dict[str, str]]:
    """Of columns of one heading, the first."""
    heads = [column.heading for column in table.columns]
    return (dict(reversed(list(zip(heads, cells, strict=True)))) for cells in table.cells())


def only(table: Table | None) -> tuple[Table, Row]:
    assert table
    (row,) = table.rows
    return table, row


# --- a taught DeiT at 99.54 beside a ViT at 99.64, one run each --------------------------------------------------

IMAGES = 10_000
CNN, VIT, DEIT = 0.9908, 0.9964, 0.9954


def right(accuracy: float) -> np.ndarray:
    return np.arange(IMAGES) < round(accuracy * IMAGES)


def scores(accuracy: float) -> dict[str, Any]:
    return {"n": IMAGES, "accuracy": accuracy, "nll": 0.02}


def mnist(make_run: MakeRun, *, predictions: bool) -> list[Path]:
    data = {"name": "mnist"}
    kept = {accuracy: right(accuracy) if predictions else None for accuracy in (VIT, DEIT)}
    teacher = make_run(accuracy=CNN, data=data, recipe={"epochs": 20}, parts={"test": scores(CNN)})
    vit = make_run(entry="train_vit", accuracy=VIT, data=data, right=kept[VIT], parts={"test": scores(VIT)})
    digest = f"w-{teacher.name}"
    doubt = "the teacher has 99.08%, and 99.75% is published"
    distillation = {"gate": {"rule": "warn", "passed": False, "doubts": [doubt]}}
    deit = make_run(
        entry="distill_kd",
        accuracy=DEIT,
        data=data,
        right=kept[DEIT],
        teacher={"run": teacher.name[-10:], "digest": digest},
        parts={
            "test": scores(DEIT),
            "teacher": {"digest": digest, "model": "adaptive_cnn", "test_accuracy": CNN},
            "distillation": distillation,
        },
    )
    return [teacher, vit, deit]


def test_one_run_each_is_no_test(make_run: MakeRun) -> None:
    table = comparisons(read(mnist(make_run, predictions=False)))
    assert table
    assert len(table.rows) == 3
    for row, cells in zip(table.rows, printed(table), strict=True):
        assert (row["verdict"], row["n"]) == ("?", 1)
        assert (row["p_holm"], row["p_signs"], row["p_images"], row["difference_low"]) == (None, None, None, None)
        assert (cells["p"], cells["p, images"], cells["95 % interval"]) == ("–", "–", "–")


def test_where_predictions_were_kept_the_images_can_be_tested_and_the_seeds_still_not(make_run: MakeRun) -> None:
    """The ten images that only the ViT got right: McNemar's exact p is 2 / 2^10."""
    table = comparisons(read(mnist(make_run, predictions=True)))
    assert table
    tested = [row for row in table.rows if row["p_images"] is not None]
    (row,) = tested
    assert {"train_vit" in row["first"], "train_vit" in row["second"]} == {True, False}
    assert row["p_images"] == pytest.approx(2 / 2**10)
    assert row["verdict"] == "?"


def test_negative_transfer_is_not_claimed_of_one_run_under_a_weak_teacher(make_run: MakeRun) -> None:
    table, row = only(distillation(read(mnist(make_run, predictions=True))))
    assert row["difference"] == pytest.approx(-0.0010)
    assert (row["effect"], row["gate_passed"], row["gate_asked"]) == ("?", 0, 1)
    assert table.notes[0] == "a: weak teacher: the teacher has 99.08%, and 99.75% is published"
    assert (row["teacher_accuracy"], row["student_accuracy"]) == (CNN, DEIT)


def test_the_published_difference_is_inside_the_noise(make_run: MakeRun) -> None:
    table = claims(read(mnist(make_run, predictions=False)))
    assert table
    assert "99.64 and 99.54, of one run each, cannot be told apart (z = 1.11" in " ".join(table.notes)
    assert {row["verdict"] for row in table.rows} == {"not comparable"}
    assert all("n = 1 here: no interval" in row["why"] for row in table.rows if row["n"])


# --- seven backbones on CIFAR-10 and CIFAR-10.1 -------------------------------------------------------------------


class Backbone(NamedTuple):
    turning_point: int
    val_loss: float
    val_accuracy: float
    best_accuracy: float
    best_epoch: int
    test_loss: float
    test_accuracy: float
    shifted: float
    drop: str


EPOCHS = range(50)  # the source counts from 0
BACKBONES = {
    "resnet18": Backbone(18, 0.5172, 0.8801, 0.8801, 49, 0.5524, 0.8726, 0.7700, "10.26"),
    "resnet50": Backbone(-1, 0.5446, 0.8631, 0.8634, 46, 0.5309, 0.8640, 0.7535, "11.05"),
    "densenet121": Backbone(19, 0.3591, 0.9173, 0.9186, 47, 0.3646, 0.9186, 0.8280, "9.06"),
    "mobilenetv3_small_050": Backbone(20, 0.9097, 0.8308, 0.8386, 48, 0.9359, 0.8254, 0.7240, "10.14"),
    "efficientnet_b0": Backbone(19, 0.4175, 0.9001, 0.9001, 49, 0.4549, 0.8959, 0.8015, "9.44"),
    "vit_tiny_patch16_224": Backbone(27, 1.3133, 0.6708, 0.6790, 35, 1.3861, 0.6631, 0.5275, "13.56"),
    "deit_tiny_patch16_224": Backbone(30, 1.1892, 0.6777, 0.6814, 45, 1.2178, 0.6662, 0.5430, "12.32"),
}


def history(told: Backbone) -> str:
    """Validation loss falls to the turning point and rises to what was published of the end."""
    turn = told.turning_point if told.turning_point >= 0 else EPOCHS[-1]
    lowest = told.val_loss / 1.5 if told.turning_point >= 0 else told.val_loss
    val = np.interp(EPOCHS, [0, turn, EPOCHS[-1]], [2.3, lowest, told.val_loss])
    accuracies = {
        **dict.fromkeys(EPOCHS, 0.5),
        EPOCHS[-1]: told.val_accuracy,
        told.best_epoch: told.best_accuracy,
    }
    rows = [f"{epoch},{2.3 - epoch / 25},0.9,{val[epoch]},{accuracies[epoch]}" for epoch in EPOCHS]
    return "\n".join(["epoch,train_loss,train_accuracy,val_loss,val_accuracy", *rows]) + "\n"


def backbone(make_run: MakeRun, name: str) -> Path:
    told = BACKBONES[name]
    folder = make_run(
        entry="train_vit" if name.startswith(("vit", "deit")) else "train_cnn",
        accuracy=told.test_accuracy,
        data={"name": "cifar10"},
        model={"name": name},
        parts={
            "test": {"n": IMAGES, "accuracy": told.test_accuracy, "nll": told.test_loss},
            "selection": {"rule": "highest validation accuracy", "epoch": told.best_epoch, "digest": f"w-{name}"},
            "cost": {"epochs": len(EPOCHS), "train_seconds": 60.0},
        },
    )
    (folder / "history.csv").write_text(history(told))
    return folder


def shift_run_of(make_run: MakeRun, subject: Path, name: str) -> Path:
    told = BACKBONES[name]
    line = effective_robustness(told.test_accuracy, told.shifted, CIFAR10_1_LINES["v6"])
    cell = {
        "images": "cifar10_1_v6",
        "severity": 0,
        "accuracy": told.shifted,
        "drop": told.test_accuracy - told.shifted,
    }
    origin = {"run": subject.name, "digest": f"w-{name}"}
    shift = {
        "clean": {"n": IMAGES, "accuracy": told.test_accuracy},
        "corrupted": None,
        "sets": [{**cell, "effective_robustness": asdict(line)}],
    }
    return make_run(
        entry="eval_shift",
        run=origin,
        data={"name": "cifar10"},
        parts={"subject": origin, "shift": shift, "model": {"name": name}},
    )


@pytest.fixture
def backbones(make_run: MakeRun) -> list[Method]:
    trained = {name: backbone(make_run, name) for name in BACKBONES}
    tests = [shift_run_of(make_run, folder, name) for name, folder in trained.items()]
    methods = read([*trained.values(), *tests])
    assert len(methods) == 2 * len(BACKBONES)
    return methods


def rows_by_network(table: Table) -> dict[str, tuple[Row, dict[str, str]]]:
    found = {row["method"].split()[-1]: (row, cells) for row, cells in zip(table.rows, printed(table), strict=True)}
    assert found.keys() == BACKBONES.keys()
    return found


def test_the_overfitting_table_comes_out_as_published(backbones: list[Method]) -> None:
    table = overfitting(backbones)
    assert table
    for name, (row, cells) in rows_by_network(table).items():
        told = BACKBONES[name]
        assert cells["turning point"] == str(told.turning_point)
        assert cells["best epoch"] == f"{told.best_epoch} of 50"
        assert cells["val loss, last"] == f"{told.val_loss:.4f}"
        assert cells["val accuracy, last"] == f"{100 * told.val_accuracy:.2f}"
        assert cells["val accuracy, best"] == f"{100 * told.best_accuracy:.2f}"
        assert cells["test loss"] == f"{told.test_loss:.4f}"
        assert cells["test accuracy"] == f"{100 * told.test_accuracy:.2f}"
        assert row["gap"] == pytest.approx(0.9 - told.best_accuracy)
        assert cells["pattern"] == ("falling" if told.turning_point < 0 else "diverging")


def test_the_shift_table_comes_out_as_published(backbones: list[Method]) -> None:
    table = shift(backbones)
    assert table
    assert adaptations(backbones) is None
    (note,) = [note for note in table.notes if "fitted on" in note]
    normal = scipy.stats.norm
    for name, (row, cells) in rows_by_network(table).items():
        told = BACKBONES[name]
        assert (cells["images"], cells["drop"]) == ("cifar10_1_v6", told.drop)
        assert cells["shifted"] == f"{100 * told.shifted:.2f}"
        by_line = normal.cdf(0.9496 * normal.ppf(told.test_accuracy) - 0.3811)
        assert row["robustness_mean"] == pytest.approx(told.shifted - by_line)
        assert (row["notes"] == note[0]) == (told.test_accuracy < 0.82), "the two ViTs are out of the line's range"
    assert rows_by_network(table)["resnet18"][1]["effective robustness"] == "1.19", "expected by the line: 75.81"


def test_one_run_of_each_backbone_is_compared_and_not_told_apart(backbones: list[Method]) -> None:
    table = comparisons(backbones)
    assert table
    assert len(table.rows) == len(list(itertools.combinations(BACKBONES, 2)))
    assert {row["verdict"] for row in table.rows} == {"?"}


def test_measured_as_published_and_still_not_comparable_at_one_run(backbones: list[Method]) -> None:
    table = claims(backbones)
    assert table
    ours = [row for row in table.rows if row["n"]]
    assert len(ours) == len(BACKBONES)
    assert all(row["measured_mean"] == row["published"] for row in ours)
    assert {row["verdict"] for row in ours} == {"not comparable"}
    assert all(json.dumps(row["why"]).count("n = 1 here") == 1 for row in ours)
