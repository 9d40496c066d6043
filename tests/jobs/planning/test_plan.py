"""What starts, what does not and why, and what it will cost."""

import time
from typing import Any

import pytest

from common.files import write_json
from jobs.planning.plan import expected_hours, lineage, make_plan
from jobs.planning.request import look, read_again
from jobs.planning.states import Outside, Standing, standings


def plan(world: Any, states: dict[str, Standing], **more: Any) -> tuple[list[str], dict[str, int]]:
    """Stages that start, and the reasons of those that do not; what is not said waits."""
    found = {key: states.get(cell.stage, Standing("waiting")) for key, cell in world.sweep.cells.items()}
    made = make_plan(world.sweep, found, **more)
    return [cell.stage for cell in made.start], dict(made.skipped)


def test_everything_starts_parents_first(worlds: Any) -> None:
    world = worlds("0-2")
    made = make_plan(world.sweep, {key: Standing("waiting") for key in world.sweep.cells})
    assert len(made.start) == 9
    assert made.skipped == {}
    order = [cell.key for cell in made.start]
    assert all(order.index(cell.parent) < order.index(cell.key) for cell in made.start if cell.parent)


@pytest.mark.parametrize("state", ["done", "running", "queued"])
def test_what_is_done_or_under_way_is_left_alone_and_its_students_start(world: Any, state: str) -> None:
    reason = "finished" if state == "done" else state
    assert plan(world, {"cnn": Standing(state)}) == (["deit", "small"], {reason: 1})


def test_nothing_to_do(world: Any) -> None:
    done = dict.fromkeys(("cnn", "deit", "small"), Standing("done"))
    assert plan(world, done) == ([], {"finished": 3})


@pytest.mark.parametrize(
    ("retry", "cause", "taken"),
    [
        ("all", "nan", True),
        ("all", "cancelled", True),
        ("machine", "nan", False),
        ("machine", "cancelled", False),
        ("machine", "oom", True),
        ("machine", "lost", True),
        ("none", "oom", False),
    ],
)
def test_which_failures_are_taken_up_again(world: Any, retry: Any, cause: str, taken: bool) -> None:
    states = {"cnn": Standing("failed", cause=cause), "deit": Standing("blocked"), "small": Standing("blocked")}
    skipped = {f"failed ({cause})": 1, "what it builds on will not be finished": 2}
    assert plan(world, states, retry=retry) == ((["cnn", "deit", "small"], {}) if taken else ([], skipped))


def test_a_cell_that_was_tried_too_often_takes_its_students_along(worlds: Any) -> None:
    world = worlds("0-1")
    found = {key: Standing("waiting") for key in world.sweep.cells}
    made = make_plan(world.sweep, found, gone={world.cell("cnn", 1).key: "tried 4 times"})
    assert {cell.at["seed"] for cell in made.start} == {0}
    assert made.skipped == {"tried 4 times": 1, "what it builds on will not be finished": 2}


def test_only_what_is_chosen_and_only_with_its_teacher(worlds: Any) -> None:
    world = worlds("0-1")
    found = {key: Standing("failed" if cell.stage == "cnn" else "blocked") for key, cell in world.sweep.cells.items()}
    wanted = world.cell("cnn", 1).key
    made = make_plan(world.sweep, found, chosen=lambda key, each: each.state == "blocked" or key == wanted)
    assert [(cell.stage, cell.at["seed"]) for cell in made.start] == [("cnn", 1), ("deit", 1), ("small", 1)]
    assert made.skipped == {"not asked for": 1, "what it builds on will not be finished": 2}


def test_what_is_chosen_and_finished_stays_finished(world: Any) -> None:
    assert plan(world, {"cnn": Standing("done")}, chosen=lambda *_: True) == (["deit", "small"], {"finished": 1})


def test_a_lineage_begins_with_the_first_teacher(world: Any) -> None:
    entries = [(entry, words[-1]) for entry, words in lineage(world.sweep, world.cell("small"))]
    assert entries == [("train_cnn", "seed=0"), ("distill_kd", "seed=0"), ("distill_kd", "seed=0")]
    assert lineage(world.sweep, world.cell("cnn")) == (("train_cnn", world.cell("cnn").words),)


# --- cost -------------------------------------------------------------------------------------------------------


def test_expected_hours_by_the_median_of_earlier_runs(world: Any) -> None:
    cell = world.cell("cnn")
    for number, seconds in enumerate((10.0, 20.0, 900.0)):  # of two epochs: 5, 10, 450 an epoch
        path = world.root / f"train_cnn/digits-adaptive_cnn-s{number}-x/result.json"
        write_json(path, {"cost": {"epochs": 2, "train_seconds": seconds}})
    hours, unknown = expected_hours([cell, world.cell("deit")], world.root)
    assert hours == pytest.approx(10 * cell.settings.recipe.epochs / 3600)
    assert unknown == 1


def test_a_result_without_its_cost_tells_nothing(world: Any) -> None:
    world.finish("cnn")
    assert expected_hours([world.cell("cnn")], world.root) == (0.0, 1)


# --- size -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_runs_take_seconds(worlds: Any) -> None:
    """Each, from the sweep file to the last folder, in under 3 s of CPU; twice that on a busy machine."""
    world = worlds("0-4999", stages={"cnn": {"entry": "train_cnn"}, "vit": {"entry": "train_vit"}})
    for stage in ("cnn", "vit"):
        for key in world.sweep.stages[stage]:
            run = world.root / world.sweep.cells[key].entry / key
            run.mkdir(parents=True)
            (run / "result.json").write_text('{"selection": {"digest": "d"}, "test": {"accuracy": 0.9}}')

    began = time.process_time()
    found, _ = look(read_again("mine", world.root))
    seen = time.process_time() - began
    assert {each.state for each in found.values()} == {"done"}
    assert seen < 6

    began = time.process_time()
    made = make_plan(world.sweep, standings(world.sweep, world.root, Outside()))
    assert (made.start, made.skipped) == ((), {"finished": 10_000})
    assert time.process_time() - began < 6
