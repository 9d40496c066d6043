from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats

from aggregate.runs.collect import collect
from aggregate.runs.methods import Method, group
from aggregate.tables.cascades import cascade, chains

MakeRun = Callable[..., Path]


def taught_by(make_run: MakeRun, teacher: Path, seed: int, accuracy: float, depth: int, parameters: int) -> Path:
    digest = f"w-{teacher.name}"
    gate = {"rule": "warn", "passed": seed > 0, "doubts": []}
    return make_run(
        entry="distill_kd",
        seed=seed,
        accuracy=accuracy,
        model={"name": "vit", "depth": depth},
        teacher={"run": "t", "digest": digest},
        parts={
            "teacher": {"digest": digest, "model": "t", "test_accuracy": 0.95},
            "distillation": {"gate": gate},
            "model": {"name": "vit", "parameters": parameters},
        },
    )


def chain_of(make_run: MakeRun, seed: int, accuracies: Sequence[float]) -> list[Path]:
    folders = [make_run(seed=seed, accuracy=accuracies[0])]
    for place, accuracy in enumerate(accuracies[1:], start=1):
        folders.append(taught_by(make_run, folders[-1], seed, accuracy, 12 - place, 1000 - 250 * place))
    return folders


def read(folders: Sequence[Path]) -> list[Method]:
    return group(collect(folders)[0])


def test_a_chain_of_three_by_hand(make_run: MakeRun) -> None:
    accuracies = {0: (0.95, 0.93, 0.90), 1: (0.96, 0.95, 0.92)}
    folders = [folder for seed, each in accuracies.items() for folder in chain_of(make_run, seed, each)]
    table = cascade(read(folders))
    assert table
    teacher, assistant, student = table.rows
    assert [row["stage"] for row in table.rows] == ["teacher", "assistant", "student"]
    assert [row["parameters"] for row in table.rows] == [1000, 750, 500]
    assert [row["kept"] for row in table.rows] == [1.0, 0.75, 0.5]
    assert [row["network"] for row in table.rows] == ["adaptive_cnn", "vit", "vit"]
    assert (teacher["loss_mean"], assistant["loss_mean"], student["loss_mean"]) == (
        None,
        pytest.approx(0.015),
        pytest.approx(0.045),
    )
    expected = scipy.stats.t.interval(0.95, 1, 0.015, scipy.stats.sem([0.02, 0.01]))
    assert (assistant["loss_low"], assistant["loss_high"]) == pytest.approx(expected)
    assert [(row["gate_passed"], row["gate_asked"]) for row in table.rows] == [(0, 0), (1, 2), (1, 2)]
    assert table.cells()[0][-1] == "–"
    assert student["runs"].split() == [folders[2].name, folders[5].name]


def test_the_assistants_of_a_longer_chain_are_counted(make_run: MakeRun) -> None:
    table = cascade(read(chain_of(make_run, 0, (0.95, 0.94, 0.93, 0.92))))
    assert table
    assert [row["stage"] for row in table.rows] == ["teacher", "assistant 1", "assistant 2", "student"]


def test_a_student_of_a_plain_teacher_is_no_cascade(make_run: MakeRun) -> None:
    assert cascade(read(chain_of(make_run, 0, (0.95, 0.94)))) is None
    assert cascade(read([make_run(seed=1)])) is None
    assert cascade([]) is None


def test_one_assistant_of_two_students_is_in_two_chains(make_run: MakeRun) -> None:
    folders = chain_of(make_run, 0, (0.95, 0.94, 0.93))
    folders.append(taught_by(make_run, folders[1], 0, 0.92, 2, 100))
    assert [len(chain) for chain in chains(read(folders))] == [3, 3]


def test_a_first_teacher_that_is_not_here_leaves_its_place_empty(make_run: MakeRun) -> None:
    table = cascade(read(chain_of(make_run, 0, (0.95, 0.94, 0.93))[1:]))
    assert table
    assert [row["stage"] for row in table.rows] == ["assistant", "student"]
    assert {(row["kept"], row["loss_mean"]) for row in table.rows} == {(None, None)}


def test_a_method_that_claims_to_be_its_own_teacher_ends_the_chain(make_run: MakeRun) -> None:
    ((_, assistant, student),) = chains(read(chain_of(make_run, 0, (0.95, 0.94, 0.93))))
    (chain,) = chains([replace(assistant, parent=assistant.label), student])
    assert [method.label for method in chain] == [assistant.label, student.label]
