from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aggregate.runs.cells import AskedRun, cell_of
from aggregate.runs.collect import Run, collect
from aggregate.runs.methods import Method, group

MakeRun = Callable[..., Path]


def runs_of(*folders: Path) -> list[Run]:
    runs, left = collect(folders)
    assert left == []
    return runs


def labels(methods: Sequence[Method]) -> dict[str, int]:
    return {method.label: len(method.runs) for method in methods}


def test_seeds_are_one_method_and_settings_another(make_run: MakeRun) -> None:
    folders = [make_run(seed=seed, recipe={"epochs": epochs}) for seed in (2, 0) for epochs in (4, 8)]
    methods = group(runs_of(*folders))
    assert labels(methods) == {
        "train_cnn adaptive_cnn recipe.epochs=4": 2,
        "train_cnn adaptive_cnn recipe.epochs=8": 2,
    }
    assert [run.seed for run in methods[0].runs] == [0, 2]


def test_what_cannot_change_a_result_makes_no_method(make_run: MakeRun) -> None:
    folders = [make_run(seed=0, compute={"threads": 1}), make_run(seed=1, compute={"threads": 2})]
    assert labels(group(runs_of(*folders))) == {"train_cnn adaptive_cnn": 2}


@pytest.mark.parametrize(("place", "name"), [("digest", "images"), ("split_digest", "split"), ("rule", "selection")])
def test_other_images_splits_and_rules_are_split(place: str, name: str, make_run: MakeRun) -> None:
    data = {"name": "digits", "digest": "d1", "task": "multi-class", "split_digest": "s1"}
    chosen = {"rule": "r", "digest": "w", "epoch": 2}
    folders = [
        make_run(seed=seed, parts={"data": {**data, **changed}, "selection": {**chosen, **changed, **weights}})
        for seed, changed, weights in (
            (0, {}, {"digest": "w0"}),
            (1, {place: "other"}, {"digest": "w1"}),
            (2, {}, {"digest": "w2"}),
        )
    ]
    methods = group(runs_of(*folders))
    assert sorted(len(method.runs) for method in methods) == [1, 2]
    assert any(f"{name}=other" in method.label for method in methods)


def taught(make_run: MakeRun, teacher: Path, seed: int, **given: Any) -> Path:
    digest = f"w-{teacher.name}"
    return make_run(
        entry="distill_kd",
        seed=seed,
        teacher={"run": teacher.name, "digest": digest},
        parts={"teacher": {"run": teacher.name, "digest": digest, "model": "adaptive_cnn"}, "distillation": {}},
        **given,
    )


def test_students_of_other_teachers_are_other_methods(make_run: MakeRun) -> None:
    teachers = {(seed, e): make_run(seed=seed, recipe={"epochs": e}) for seed in (0, 1) for e in (4, 8)}
    students = [taught(make_run, teacher, seed) for (seed, _), teacher in teachers.items()]
    assert labels(group(runs_of(*students, *teachers.values()))) == {
        "distill_kd vit ← train_cnn adaptive_cnn recipe.epochs=4": 2,
        "distill_kd vit ← train_cnn adaptive_cnn recipe.epochs=8": 2,
        "train_cnn adaptive_cnn recipe.epochs=4": 2,
        "train_cnn adaptive_cnn recipe.epochs=8": 2,
    }
    assert labels(group(runs_of(*students))) == {"distill_kd vit ← adaptive_cnn": 4}, "teachers not among the runs"


def cell(stage: str, seed: int, run: Path | None, state: str = "done", **at: Any) -> AskedRun:
    return AskedRun(stage, tuple(at.items()), seed, run, state)


def test_a_sweeps_cells_name_the_methods_and_what_is_missing(make_run: MakeRun) -> None:
    done = make_run(seed=0)
    cells = [
        cell("cnn", 0, done, data="digits"),
        cell("cnn", 1, done.with_name("digits-adaptive_cnn-s1-0"), "failed", data="digits"),
        cell("cnn", 2, done.with_name("digits-adaptive_cnn-s2-0"), data="digits"),
        cell("deit", 0, None, "blocked", data="digits"),
        cell("shift", 0, None, "waiting", of="cnn", data="digits"),
    ]
    methods = group(runs_of(done), cells)
    assert [(m.label, m.data, len(m.runs), dict(m.unfinished), m.is_training) for m in methods] == [
        ("cnn", "digits", 1, {"failed": 1, "unusable": 1}, True),
        ("deit", "digits", 0, {"blocked": 1}, True),
        ("cnn", "digits", 0, {"waiting": 1}, False),
    ]


def test_other_axes_tell_the_methods_of_a_stage_apart(make_run: MakeRun) -> None:
    folders = {width: make_run(recipe={"epochs": width}) for width in (4, 8)}
    cells = [cell("cnn", 0, path, **{"recipe.epochs": epochs}) for epochs, path in folders.items()]
    assert labels(group(runs_of(*folders.values()), cells)) == {"cnn recipe.epochs=4": 1, "cnn recipe.epochs=8": 1}


def test_a_method_of_many_settings_is_still_told_apart(make_run: MakeRun) -> None:
    one = make_run(recipe={"epochs": 4, "lr": 0.1, "batch_size": 8, "momentum": 0.5, "clip_norm": None})
    other = make_run(recipe={"epochs": 5, "lr": 0.2, "batch_size": 9, "momentum": 0.6, "clip_norm": 2.0})
    third = make_run(recipe={"epochs": 5, "lr": 0.2, "batch_size": 9, "momentum": 0.6, "clip_norm": 3.0})
    found = list(labels(group(runs_of(one, other, third))))
    assert len(set(found)) == 3
    assert found[0].startswith("train_cnn adaptive_cnn recipe.epochs=4, recipe.batch_size=8, recipe.lr=0.1, 2 more")


def test_runs_that_share_a_seed_are_averaged_where_seeds_are_paired(make_run: MakeRun) -> None:
    teachers = [make_run(seed=seed) for seed in (0, 1)]
    students = [taught(make_run, teacher, 5, accuracy=a) for teacher, a in zip(teachers, (0.8, 0.9), strict=True)]
    (method, _) = group(runs_of(*students, *teachers))
    assert method.by_seed("test.accuracy") == {5: pytest.approx(0.85)}


def test_cells_are_read_as_status_tells_them() -> None:
    axes = {"seed": 3, "data": "digits"}
    facts = {"stage": "cnn", "axes": axes, "key": "k", "run": None, "state": "failed", "cause": "oom"}
    found = cell_of({**facts, "why": "too\nlarge", "job": None, "a fact of a later version": 7})
    assert found == AskedRun("cnn", (("data", "digits"),), 3, None, "failed", "(oom) too\\nlarge")
    assert found.title == "cnn data=digits"
