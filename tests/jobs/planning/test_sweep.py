"""Sweep files as cells: the product of axes, parents met cell by cell, keys, and all that is refused, at once."""

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.cli.compose import compose
from common.data.publishers.catalog import DATASETS
from common.failures import Refused
from common.settings.entries import ENTRIES, run_name
from jobs.planning.cell import Sweep, run_on
from jobs.planning.sweep import SWEEPS, open_sweep, sweep_names
from jobs.planning.sweep_file import Overrides, values_of

Open = Callable[..., Sweep]

STAGES: dict[str, Any] = {
    "cnn": {"entry": "train_cnn"},
    "vit": {"entry": "train_vit"},
    "deit": {"entry": "distill_kd", "teacher": "cnn"},
}


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def opens(tree: dict[str, Any], **overrides: Any) -> Sweep:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return open_sweep(str(path), Overrides(**overrides), tmp_path / "data")

    return opens


@pytest.fixture
def refused(opened: Open) -> Callable[..., list[str]]:
    def refuses(tree: dict[str, Any], **overrides: Any) -> list[str]:
        with pytest.raises(Refused) as caught:
            opened(tree, **overrides)
        return caught.value.problems

    return refuses


# --- cells ------------------------------------------------------------------------------------------------------


def test_every_combination_once_and_each_student_behind_its_own_teacher(opened: Open) -> None:
    stages = {**STAGES, "deit": {**STAGES["deit"], "axes": {"distill.alpha": [0.3, 0.7]}}}
    sweep = opened({"axes": {"seed": "0-2"}, "stages": stages})
    assert {stage: len(keys) for stage, keys in sweep.stages.items()} == {"cnn": 3, "vit": 3, "deit": 6}
    order = list(sweep.cells)
    for key in sweep.stages["deit"]:
        cell = sweep.cells[key]
        assert cell.parent
        parent = sweep.cells[cell.parent]
        assert (parent.stage, parent.at["seed"]) == ("cnn", cell.at["seed"])
        assert order.index(cell.parent) < order.index(key)
    alphas = {(cell.at["seed"], cell.settings.distill.alpha) for cell in map(sweep.cells.get, sweep.stages["deit"])}  # type: ignore[union-attr]
    assert alphas == {(seed, alpha) for seed in range(3) for alpha in (0.3, 0.7)}


def test_a_cell_without_teacher_is_called_as_its_command_would_call_the_run(opened: Open) -> None:
    sweep = opened(
        {"axes": {"seed": [5]}, "stages": {"cnn": {"entry": "train_cnn", "with": {"recipe": {"epochs": 2}}}}}
    )
    (key,) = sweep.stages["cnn"]
    words = list(sweep.cells[key].words)
    assert words == ["recipe.epochs=2", "seed=5"]
    assert key == run_name(compose(ENTRIES["train_cnn"], words).settings)


def test_a_students_name_is_that_of_its_teachers_digest(opened: Open) -> None:
    sweep = opened({"axes": {"seed": [0]}, "stages": STAGES})
    (key,) = sweep.stages["deit"]
    cell = sweep.cells[key]
    named = {run_on(cell, digest) for digest in ("aa", "bb")}
    assert len(named) == 2
    assert key not in named


def test_the_same_cell_of_two_sweeps_or_stages_is_one(opened: Open) -> None:
    twice = {**STAGES, "again": {"entry": "train_cnn", "with": {"recipe.epochs": 30}}}  # the default of digits
    one, two = opened({"axes": {"seed": "0-1"}, "stages": STAGES}), opened({"axes": {"seed": "1-2"}, "stages": twice})
    assert two.stages["cnn"] == two.stages["again"]
    assert len(two.cells) == 6
    shared = set(one.cells) & set(two.cells)
    assert {one.cells[key].title for key in shared} == {"cnn seed=1", "vit seed=1", "deit seed=1"}


def test_one_teacher_for_all_seeds(opened: Open) -> None:
    stages = {**STAGES, "deit": {"entry": "distill_kd", "teacher": {"stage": "cnn", "seed": 0}}}
    sweep = opened({"axes": {"seed": "0-2"}, "stages": stages})
    assert {sweep.cells[key].parent for key in sweep.stages["deit"]} == {sweep.stages["cnn"][0]}


def test_cases_excludes_and_includes(opened: Open) -> None:
    sweep = opened(
        {
            "axes": {"seed": "0-1", "model.dropout": [0.0, 0.3]},
            "stages": {"cnn": {"entry": "train_cnn", "resources": {"cpus": 2}}},
            "cases": [{"when": {"seed": 1}, "with": {"recipe.epochs": 3}, "resources": {"time_min": 7}}],
            "exclude": [{"seed": 0, "model.dropout": [0.0]}],
            "include": [{"stage": "cnn", "seed": 9, "model.dropout": 0.3}],
        }
    )
    found = {
        (cell.at["seed"], cell.at["model.dropout"]): (cell.settings.recipe.epochs, cell.resources.time_min)
        for cell in sweep.cells.values()
    }
    assert found == {(0, 0.3): (30, None), (1, 0.0): (3, 7), (1, 0.3): (3, 7), (9, 0.3): (30, None)}
    assert {cell.resources.cpus for cell in sweep.cells.values()} == {2}


def test_the_command_line_reaches_everything(opened: Open) -> None:
    sweep = opened(
        {"axes": {"seed": "0-1"}, "stages": {**STAGES, "cst": {"entry": "distill_cst", "teacher": "vit"}}},
        axes={"seed": "3-4"},
        only=("deit",),
        words=("recipe.epochs=2", "distill.alpha=0.5", "cnn.recipe.epochs=9"),
    )
    assert set(sweep.stages) == {"cnn", "deit"}  # the teacher comes along
    epochs = {(cell.stage, cell.at["seed"]): cell.settings.recipe.epochs for cell in sweep.cells.values()}
    assert epochs == {("cnn", 3): 9, ("cnn", 4): 9, ("deit", 3): 2, ("deit", 4): 2}


@pytest.mark.parametrize(
    ("given", "expected"), [("0-3", [0, 1, 2, 3]), ("0-1,7", [0, 1, 7]), ([3, 1], [3, 1]), (4, [4]), ("2", [2])]
)
def test_ranges(given: Any, expected: list[int]) -> None:
    assert values_of("seed", given) == expected


def test_what_tests_others_has_a_cell_for_each_of_their_runs(opened: Open) -> None:
    shift = {"entry": "eval_shift", "of": ["cnn", "deit"], "axes": {"shift.protocol": ["continual", "episodic"]}}
    stages = {**STAGES, "deit": {**STAGES["deit"], "axes": {"distill.alpha": [0.3, 0.7]}}, "shift": shift}
    sweep = opened({"axes": {"seed": "0-1"}, "stages": stages}, words=("recipe.epochs=2", "shift.severities=[5]"))
    tested = [sweep.cells[key] for key in sweep.stages["shift"]]
    assert len(tested) == len({cell.key for cell in tested}) == 2 * (2 + 4)
    assert sweep.parents["shift"] == ("cnn", "deit")
    assert [cell.stage for cell in sweep.cells.values()].index("shift") == 2 + 2 + 4
    for cell in tested:
        parent = sweep.cells[str(cell.parent)]
        assert parent.stage == cell.at["of"]
        assert (cell.settings.seed, cell.settings.model) == (parent.settings.seed, parent.settings.model)
        assert cell.words == (f"shift.protocol={cell.at['shift.protocol']}", "shift.severities=[5]")


def test_only_what_tests_brings_what_it_tests_and_can_leave_some_out(opened: Open) -> None:
    tree = {"axes": {"seed": "0-1"}, "stages": {**STAGES, "shift": {"entry": "eval_shift", "of": "cnn"}}}
    tree["exclude"] = [{"stage": "shift", "of": "cnn", "seed": 1}]
    sweep = opened(tree, only=("shift",))
    assert {stage: len(keys) for stage, keys in sweep.stages.items()} == {"cnn": 2, "shift": 1}


def test_who_tests_and_who_is_tested(refused: Callable[..., list[str]]) -> None:
    stages = {
        **STAGES,
        "deit": {**STAGES["deit"], "of": "cnn"},
        "shift": {"entry": "eval_shift"},
        "other": {"entry": "eval_shift", "of": ["cn", "other"], "with": {"seed": 3}},
    }
    assert set(refused({"axes": {"seed": "0-1"}, "stages": stages})) == {
        "mine: stage other: of: given cn, allowed: cnn, vit, deit, shift, other, nearest: cnn",
        "mine: stages build on each other in a circle: other -> other",
        "mine: stage deit: distill_kd tests no runs; allowed: an entry that evaluates",
        "mine: stage shift: of is missing: the stages whose runs eval_shift tests",
        "mine: stage other: seed: that of the run that is tested; allowed: settings of the test itself",
    }


@pytest.mark.parametrize("name", sweep_names())
def test_shipped_sweeps_are_whole(name: str, tmp_path: Path) -> None:
    for data in DATASETS:
        (tmp_path / data).mkdir(exist_ok=True)
        (tmp_path / data / "manifest.json").write_text('{"digest": "0f"}')
    sweep = open_sweep(name, Overrides(), tmp_path)
    assert len(sweep.cells) >= 12
    assert sweep.about
    assert (SWEEPS / f"{name}.yaml").read_text().startswith("#")


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_circle(refused: Callable[..., list[str]]) -> None:
    stages = {
        "a": {"entry": "distill_kd", "teacher": "b"},
        "b": {"entry": "distill_kd", "teacher": "a"},
        "cnn": {"entry": "train_cnn"},
    }
    assert refused({"stages": stages})[0] == "mine: stages build on each other in a circle: a -> b -> a"


def test_unknown_names_all_at_once(refused: Callable[..., list[str]]) -> None:
    problems = refused(
        {
            "axes": {"seed": "0-1"},
            "stages": {
                "cnn": {"entry": "train_cn"},
                "deit": {"entry": "distill_kd", "teacher": "cn", "with": {"recipe.epoch": 3}},
                "vit": {"entry": "train_vit", "teacher": "cnn"},
            },
            "exclude": [{"sed": 0}, {"stage": "cm"}],
        },
        only=("cnn", "deit", "vit", "wit"),
    )
    entries = "train_cnn, train_vit, distill_kd, distill_cst, eval_shift"
    expected = [
        "mine: only: given wit, allowed: cnn, deit, vit, nearest: vit",
        "mine: stage deit: teacher: given cn, allowed: cnn, deit, vit, nearest: cnn",
        f"mine: stage cnn: entry: given train_cn, allowed: {entries}, nearest: train_cnn",
        "mine: stage vit: train_vit has no teacher; allowed: an entry that distils",
        "mine: exclude: axis: given sed, allowed: seed, stage, nearest: seed",
        "mine: exclude: stage: given cm, allowed: cnn, deit, vit",
    ]
    assert set(expected) <= set(problems)
    assert any(
        each.startswith("mine: stage deit: recipe.epoch: no such setting, nearest: recipe.epochs") for each in problems
    )
    assert len(problems) == 7


def test_an_axis_that_is_said_twice(refused: Callable[..., list[str]]) -> None:
    stage = {"entry": "train_cnn", "axes": {"seed": [1]}, "with": {"seed": 3}}
    assert refused({"axes": {"seed": "0-1"}, "stages": {"cnn": stage}}) == [
        "mine: stage cnn: axes.seed is an axis of the sweep already; allowed: one of the two",
        "mine: stage cnn: seed is an axis, and set in with too; allowed: one of the two",
    ]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("4-0", "allowed: whole numbers and ranges of them, such as 0-4 or 0-2,7"),
        ("x", "allowed: whole numbers and ranges of them, such as 0-4 or 0-2,7"),
        ([], "allowed: a list of values"),
        ([1, 1], "which says a value twice"),
    ],
)
def test_bad_axes(values: Any, reason: str, refused: Callable[..., list[str]]) -> None:
    (problem,) = refused({"axes": {"seed": values}, "stages": {"cnn": {"entry": "train_cnn"}}})
    assert problem.startswith("mine: axes.seed: given ")
    assert problem.endswith(reason)


def test_a_teacher_that_is_excluded_or_not_told_apart(refused: Callable[..., list[str]]) -> None:
    excluded = {"axes": {"seed": "0-1"}, "stages": STAGES, "exclude": [{"stage": "cnn", "seed": 1}]}
    assert refused(excluded) == ["mine: stage deit: its teacher cnn has no cell seed=1; exclude both, or include it"]
    stages = {**STAGES, "cnn": {"entry": "train_cnn", "axes": {"model.dropout": [0.0, 0.1]}}}
    (problem,) = refused({"axes": {"seed": [0]}, "stages": stages})
    assert problem == (
        "mine: stage deit: its teacher cnn has the axis model.dropout, which deit has not; "
        "allowed: teacher: {stage: cnn, model.dropout: VALUE}, or the axis for both"
    )


def test_a_teacher_without_tokens_and_settings_that_are_wrong(refused: Callable[..., list[str]]) -> None:
    stages = {**STAGES, "cst": {"entry": "distill_cst", "teacher": "cnn"}}
    assert refused({"axes": {"seed": "0-4"}, "stages": stages}) == [
        "mine: stage cst: teacher: stage cnn is an adaptive_cnn, allowed: a vision transformer, which has tokens"
    ]
    wrong = {**STAGES, "cnn": {"entry": "train_cnn", "with": {"recipe.lr": -1, "model": "resnet1"}}}
    problems = refused({"stages": wrong})
    assert [problem.partition(", allowed")[0] for problem in problems] == [
        "mine: stage cnn: model: given resnet1",
        "mine: stage cnn: recipe.lr: given -1",
    ]


def test_a_word_that_no_stage_takes_and_a_student_without_teacher(refused: Callable[..., list[str]]) -> None:
    (problem,) = refused({"stages": STAGES}, words=("recipe.epoch=2",))
    assert problem.startswith("mine: recipe.epoch: no such setting, nearest: recipe.epochs")
    (problem,) = refused({"stages": {"deit": {"entry": "distill_kd"}}})
    assert problem.startswith("mine: stage deit: teacher: missing; a finished run")


def test_unknown_sweeps(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^sweep: given quickstar, allowed: .*nearest: quickstart$"):
        open_sweep("quickstar", Overrides(), tmp_path)


@pytest.mark.parametrize("name", ["x\ntouch PWNED\n#", "x;y", "$(y)", "a b", "-x", "", "é", "x,y", "x.y", "x" * 65])
def test_a_stage_is_called_by_letters_that_no_shell_reads(name: str, refused: Callable[..., list[str]]) -> None:
    """Its name becomes part of a line of a batch script."""
    (problem,) = refused({"stages": {name: {"entry": "train_cnn"}}})
    assert problem.startswith(f"mine: stages: given {name[:50]}")
    assert problem.endswith(", allowed: a name of letters, digits, _ and -, at most 64")


def test_no_stage_is_called_as_the_job_that_submits_again(refused: Callable[..., list[str]]) -> None:
    (problem,) = refused({"stages": {"steward": {"entry": "train_cnn"}}})
    assert problem.startswith("mine: stages: given steward, allowed: another name")


@pytest.mark.parametrize("name", ["a\nb", "a b", "$(a)", ".a"])
def test_so_is_a_sweep(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text("stages: {cnn: {entry: train_cnn}}")
    with pytest.raises(
        Refused, match=r"(?s)name: given .*, allowed: a file named with letters, digits, _, - and . alone"
    ):
        open_sweep(str(path), Overrides(), tmp_path)


def test_a_title_is_one_line(opened: Open) -> None:
    (cell,) = opened({"stages": {"cnn": STAGES["cnn"]}}).cells.values()
    assert replace(cell, at={"model": "a\x1b[2J"}).title == "cnn model=a\\x1b[2J"


@pytest.mark.parametrize(
    ("word", "allowed"),
    [
        ("seed=3", "seed: an axis of cnn, deit; allowed: seeds=0-4"),
        ("cnn.seed=3", "seed: an axis of cnn; allowed: seeds=0-4"),
        ("data.name=digits", "data.name: an axis of cnn, deit; allowed: data=NAME,NAME"),
        ("model=cnn_mnist", "model: an axis of cnn; allowed: other values of the axis in a sweep file"),
        ("model.name=fast_cnn", "model.name: an axis of cnn; allowed: other values of the axis in a sweep file"),
    ],
)
def test_a_setting_that_is_an_axis_is_refused(refused: Callable[..., list[str]], word: str, allowed: str) -> None:
    """It would make one run of three cells, with n=3 in the table."""
    stages = {"cnn": {"entry": "train_cnn", "axes": {"model": ["adaptive_cnn", "fast_cnn"]}}}
    stages["deit"] = {"entry": "distill_kd", "teacher": {"stage": "cnn", "model": "fast_cnn"}}
    tree = {"axes": {"seed": "0-2", "data": ["digits"]}, "stages": stages}
    assert refused(tree, words=(word,)) == [f"mine: {allowed}"]


def test_an_axis_is_not_set_for_all_stages_or_some_cells_too(refused: Callable[..., list[str]]) -> None:
    cases = [{"when": {"seed": 1}, "with": {"seed": 5}}]
    tree = {"axes": {"seed": "0-1"}, "with": {"seed": 3}, "stages": {"cnn": STAGES["cnn"]}, "cases": cases}
    assert refused(tree) == ["mine: with: seed: seed is an axis of the sweep; allowed: one of the two"]


def test_cells_that_are_the_same_run_are_counted_once(opened: Open) -> None:
    """0 and 0.0 are one value of a number."""
    stage = {"entry": "train_cnn", "axes": {"recipe.lr": [0.1], "recipe.warmup": [0, 0.0]}}
    sweep = opened({"axes": {"seed": [0]}, "stages": {"cnn": stage}})
    assert len(sweep.stages["cnn"]) == len(sweep.cells) == 1


@pytest.mark.parametrize(("more", "notes"), [({}, 2), ({"only": ("cnn",)}, 0), ({"axes": {"seed": "0"}}, 0)])
def test_a_condition_that_fits_no_cell_is_said(opened: Open, more: Any, notes: int) -> None:
    """Of a part of the sweep it may well fit none."""
    tree: Any = {"axes": {"seed": "0-1"}, "stages": STAGES, "exclude": [{"seed": "1"}, {"stage": "vit"}]}
    tree["cases"] = [{"when": {"seed": 7}, "with": {"recipe.epochs": 3}}]
    said = ("cases: {'seed': 7} fits no cell", "exclude: {'seed': '1'} fits no cell")
    assert opened(tree, **more).notes == said[:notes]


def test_a_setting_that_is_said_in_both_ways(refused: Callable[..., list[str]]) -> None:
    both = {"recipe": {"epochs": 3}, "recipe.epochs": 4}
    assert refused({"with": both, "stages": {"cnn": {"entry": "train_cnn", "with": both}}}) == [
        "mine: stage cnn: recipe.epochs is there twice; allowed: once",
        "mine: with: recipe.epochs is there twice; allowed: once",
    ]


@pytest.mark.parametrize("seeds", ["0-3000000000", "0-60000,60001-120000", "0-99999999999999999"])
def test_a_range_without_bound_is_refused_at_once(refused: Callable[..., list[str]], seeds: str) -> None:
    (problem,) = refused({"stages": {"cnn": STAGES["cnn"]}}, axes={"seed": seeds})
    assert problem == f"mine: axes.seed: given {seeds}, allowed: at most 100000 values"


@pytest.mark.parametrize("seeds", ["²", "1-²", "9" * 5000])
def test_digits_of_other_scripts_and_endless_numbers_are_none(refused: Callable[..., list[str]], seeds: str) -> None:
    (problem,) = refused({"stages": {"cnn": STAGES["cnn"]}}, axes={"seed": seeds})
    assert problem.endswith(", allowed: whole numbers and ranges of them, such as 0-4 or 0-2,7")


def test_a_product_without_bound_is_refused_at_once(refused: Callable[..., list[str]]) -> None:
    cnn = {"entry": "train_cnn", "axes": {"seed": "0-9999", "recipe.lr": [0.1, 0.2, 0.3]}}
    shift = {"entry": "eval_shift", "of": "cnn", "axes": {"shift.batch_sizes": [[1], [2], [3]]}}
    assert refused({"stages": {"cnn": cnn, "shift": shift}}) == [
        "mine: 120000 runs, allowed: at most 100000 in one sweep"
    ]


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("*z", r".*/mine\.yaml: not YAML: it holds more than 100,000 values, with those that aliases repeat"),
        ("!!binary aGk=", r"mine\.yaml: holds .*, allowed: text, numbers"),
    ],
)
def test_a_file_of_aliases_without_bound_or_of_other_types(tmp_path: Path, where: str, problem: str) -> None:
    """Eleven lines that stand for 10^10 values."""
    letters = "abcdefghiz"
    bomb = [f"  - &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in pairwise("0" + letters)]
    lines = [
        "exclude: []",
        "include:",
        "  - &0 {stage: cnn}",
        *bomb,
        f"stages: {{cnn: {{entry: x, with: {{a: {where}}}}}}}",
    ]
    (tmp_path / "mine.yaml").write_text("\n".join(lines if where == "*z" else lines[-1:]))
    with pytest.raises(Refused, match=f"^{problem}"):
        open_sweep(str(tmp_path / "mine.yaml"), Overrides(), tmp_path)


MAPPING = "allowed: a mapping such as {cnn: {entry: train_cnn}}"
TEACHER = "allowed: STAGE, or {stage: STAGE, axis: value}"


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"stages": ["cnn"]}, f".yaml: stages: given ['cnn'], {MAPPING}"),
        ({"stages": {"cnn": "train_cnn", "vit": 3}}, f".yaml: stages: given cnn: train_cnn, vit: 3, {MAPPING}"),
        ({"stages": {1: {"entry": "train_cnn"}}}, f".yaml: stages: given {{1: {{'entry': 'train_cnn'}}}}, {MAPPING}"),
        ({"stages": {"a": {"entry": "x", "teacher": ["b"]}}}, f".yaml: stages.a.teacher: given ['b'], {TEACHER}"),
        (
            {"stages": {"a": {"entry": "x", "teacher": {"stage": ["b"]}}}},
            f".yaml: stages.a.teacher: given {{'stage': ['b']}}, {TEACHER}",
        ),
        (
            {"stages": {"a": {"entry": "x", "of": [["b"]]}}},
            ".yaml: stages.a.of: given [['b']], allowed: STAGE, or a list of stages",
        ),
        ({"exclude": [{"stage": [["cnn"]]}]}, ": exclude: stage: given ['cnn'], allowed: cnn, vit, deit, nearest: cnn"),
        ({"exclude": [{"stage": {"a": 1}}]}, ": exclude: stage: given {'a': 1}, allowed: cnn, vit, deit"),
        (
            {"include": [{"seed": 3}]},
            ": include: given {'seed': 3}, allowed: a cell with its stage, which is one name",
        ),
        (
            {"axes": {"data": [["digits"]]}},
            ": axes.data: given [['digits']], allowed: names of data sets, as in mnist,cifar10",
        ),
        (
            {"axes": {"seed": [[[1]]]}},
            ": axes.seed: given [[[1]]], allowed: a list of values, each of them single or a list of single ones",
        ),
        (
            {"stages": {**STAGES, "deit": {"entry": "distill_kd", "teacher": {"stage": "cnn", "sed": 0}}}},
            ": stage deit: teacher: axis: given sed, allowed: seed, nearest: seed",
        ),
    ],
)
def test_what_is_no_sweep_is_said_in_one_line(refused: Callable[..., list[str]], tree: Any, problem: str) -> None:
    assert refused({"axes": {"seed": [0]}, "stages": STAGES, **tree}) == [f"mine{problem}"]


# --- size -------------------------------------------------------------------------------------------------------


def test_ten_thousand_cells_in_seconds(opened: Open) -> None:
    tree = {"axes": {"seed": "0-1999", "recipe.lr": [0.1, 0.01]}, "stages": {**STAGES, "deit": STAGES["deit"]}}
    tree["stages"].pop("vit")
    tree["stages"]["again"] = {"entry": "train_cnn", "axes": {"model.dropout": [0.2]}, "with": {"recipe.epochs": 2}}
    began = time.process_time()
    sweep = opened(tree)
    took = time.process_time() - began
    assert len(sweep.cells) == 12_000
    assert took < 6
    tracemalloc.start()
    opened(tree)
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
