"""Every state, by what tells it: the run folder, the queue, accounting, a log; and what silence may not tell."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from common.failures import Refused
from jobs.machine.processes import this_process
from jobs.machine.scheduler import Queued
from jobs.planning.states import STATES, Outside, find_cell, standings

RUNNING, PENDING = Queued("RUNNING"), Queued("PENDING", "Priority")


def aged(path: Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(path, (when, when))


# --- by files alone ---------------------------------------------------------------------------------------------


def test_nobody_has_begun(world: Any) -> None:
    assert world.states() == ["waiting"] * 3
    assert [each.why for each in world.look().values()] == [
        "",
        "its teacher, cnn seed=0, is not finished",
        "its teacher, deit seed=0, is not finished",
    ]


def test_a_result_is_the_only_sign_of_success(world: Any) -> None:
    world.finish("cnn")
    world.fail("cnn", "nan")  # of an attempt before the one that succeeded
    assert world.states() == ["done", "waiting", "waiting"]
    assert world.look()["cnn", 0].result["test"] == {"accuracy": 0.9}
    world.run("cnn").result.write_text('{"half a')
    assert world.states()[0] == "failed"


def test_a_student_is_looked_for_where_its_teachers_weights_name_it(world: Any) -> None:
    assert world.look()["deit", 0].run is None
    for stage in ("cnn", "deit", "small"):
        world.finish(stage)
    assert world.states() == ["done"] * 3
    world.weights = "others"  # the teacher was trained anew, to other weights
    world.finish("cnn")
    assert world.states() == ["done", "waiting", "waiting"]


def test_a_fresh_heartbeat_is_a_running_run(world: Any) -> None:
    world.beat("cnn")
    found = world.look()["cnn", 0]
    assert (found.state, found.epoch, found.task) == ("running", (3, 9), None)
    assert world.look()["deit", 0].state == "waiting"
    world.beat("cnn", ago=301)
    assert world.states()[0] == "waiting"


def test_a_failure_after_the_last_heartbeat_ends_the_run(world: Any) -> None:
    world.beat("cnn", ago=2)
    world.fail("cnn", "nan")
    assert world.states()[0] == "failed"
    aged(world.run("cnn").failure, 60)  # and of the attempt before it, does not
    assert world.states()[0] == "running"


@pytest.mark.parametrize(
    ("lock", "state"),
    [
        ({**this_process(), "boot": "elsewhere"}, "running"),  # of another machine nothing is known
        (this_process(), "waiting"),  # the kernel's lock went with the process
        (None, "waiting"),  # given back
    ],
)
def test_a_process_of_this_machine_that_is_gone_does_not_run(world: Any, lock: Any, state: str) -> None:
    run = world.beat("cnn")
    (run.path / "lock").write_text(json.dumps(lock) if lock else "")
    assert world.states()[0] == state


def test_a_process_of_this_machine_that_lives_runs(world: Any) -> None:
    run = world.beat("cnn")
    with run.lock():
        assert world.states()[0] == "running"


def test_a_run_that_has_only_just_begun_runs(world: Any) -> None:
    """It takes its lock, and loads torch for ten seconds before its first heartbeat."""
    world.fail("cnn", "nan")  # of the attempt before
    with world.run("cnn").lock():
        assert world.states()[0] == "running"
    assert world.states()[0] == "failed"


@pytest.mark.parametrize("kind", ["oom", "nan", "data", "bug", "timeout", "config", "disk"])
def test_what_a_run_says_of_its_failure(world: Any, kind: str) -> None:
    world.fail("cnn", kind, message="the reason")
    found = world.look()["cnn", 0]
    assert (found.state, found.cause, found.why) == ("failed", kind, "the reason")


def test_stopped_here_is_no_failure(world: Any) -> None:
    world.fail("cnn", "preempted", message="stopped behind step 3")
    found = world.look()["cnn", 0]
    assert (found.state, found.why) == ("waiting", "stopped behind step 3")
    student = world.look()["deit", 0]
    assert (student.state, student.why) == ("waiting", "its teacher, cnn seed=0, was stopped")


def test_a_failure_blocks_children_and_theirs(world: Any) -> None:
    world.fail("cnn", "nan")
    found = world.look()
    assert [each.state for each in found.values()] == ["failed", "blocked", "blocked"]
    assert found["deit", 0].why == "its teacher, cnn seed=0, failed (nan)"
    assert found["small", 0].why == "its teacher, deit seed=0, cannot start either"
    assert {each.cause for each in found.values()} == {"nan"}


def test_a_test_under_shift_has_no_teacher(worlds: Any) -> None:
    world = worlds("0", stages={"cnn": {"entry": "train_cnn"}, "shift": {"entry": "eval_shift", "of": ["cnn"]}})
    assert world.look()["shift", 0].why == "the run that it tests, cnn seed=0, is not finished"
    world.fail("cnn", "nan")
    found = world.look()["shift", 0]
    assert (found.state, found.why) == ("blocked", "the run that it tests, cnn seed=0, failed (nan)")


def test_a_failure_of_one_seed_blocks_no_other(worlds: Any) -> None:
    world = worlds("0-1")
    world.fail("cnn", "nan", seed=1)
    found = world.look()
    assert {at for at, each in found.items() if each.state == "waiting"} == {("cnn", 0), ("deit", 0), ("small", 0)}


# --- by the queue -----------------------------------------------------------------------------------------------


def test_what_the_queue_says(worlds: Any) -> None:
    world = worlds("0-2")
    world.submit("cnn", "100")
    queue = {"100_0": RUNNING, "100_1": PENDING, "100_2": Queued("PENDING", "None")}
    found = world.look(queue=queue)
    assert [(found["cnn", seed].state, found["cnn", seed].why) for seed in range(3)] == [
        ("running", ""),
        ("queued", "Priority"),
        ("queued", ""),
    ]
    assert found["cnn", 1].task == "100_1"


def test_a_student_waits_in_the_queue_behind_its_teacher(world: Any) -> None:
    world.submit("cnn", "100")
    world.submit("deit", "101")
    assert world.states(queue={"100": RUNNING, "101": Queued("PENDING", "Dependency")}) == [
        "running",
        "queued",
        "waiting",
    ]


def test_a_dependency_that_never_comes_is_blocked(world: Any) -> None:
    world.submit("cnn", "100")
    world.submit("deit", "101")
    never = Queued("PENDING", "DependencyNeverSatisfied")
    found = world.look(queue={"100": RUNNING, "101": never})
    assert [each.state for each in found.values()] == ["running", "blocked", "blocked"]
    assert found["deit", 0].why == "the job that it waits for did not succeed; the scheduler will not start it"
    world.fail("cnn", "nan")
    found = world.look(queue={"101": never})
    assert found["deit", 0].why == "its teacher, cnn seed=0, failed (nan); the scheduler will not start it"
    assert found["deit", 0].cause == "nan"


def test_a_job_that_ended_a_moment_ago_is_not_queued(world: Any) -> None:
    world.submit("cnn", "100")
    found = world.look(queue={"100": Queued("FAILED")}, ended={"100": "FAILED"})["cnn", 0]
    assert (found.state, found.cause) == ("failed", "lost")


def test_the_queue_knows_better_than_a_failure_of_the_attempt_before(world: Any) -> None:
    """A requeued run leaves the failure of its last attempt until it succeeds."""
    world.submit("cnn", "100")
    world.fail("cnn", "preempted")
    assert world.states(queue={"100": PENDING})[0] == "queued"


def test_a_submission_without_number_is_queued_until_it_is_mended(world: Any) -> None:
    world.submit("cnn", None)
    found = world.look(queue={})["cnn", 0]
    assert (found.state, found.why) == ("queued", "its submission was cut short; the same command mends it")


def test_a_void_submission_is_none(world: Any) -> None:
    batch = world.submit("cnn", None)
    world.ledger.void(batch.token)
    assert world.states(queue={})[0] == "waiting"


# --- by nobody --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [None, {}, {"100": "FAILED"}])
def test_a_silent_scheduler_never_makes_a_queued_run_look_failed(world: Any, ended: Any) -> None:
    world.submit("cnn", "100")
    found = world.look(queue=None, ended=ended)
    assert found["cnn", 0].state == "queued"
    assert "the scheduler does not answer" in found["cnn", 0].why
    assert "failed" not in world.states(queue=None)
    assert "blocked" not in world.states(queue=None)


def test_run_folders_speak_while_the_scheduler_is_silent(worlds: Any) -> None:
    world = worlds("0-2")
    world.submit("cnn", "100")
    world.finish("cnn", 0)
    world.beat("cnn", 1)
    world.fail("cnn", "oom", 2)
    assert [world.look()["cnn", seed].state for seed in range(3)] == ["done", "running", "failed"]


def test_a_failure_from_before_the_submission_does_not_count(world: Any) -> None:
    world.fail("cnn", "nan")
    aged(world.run("cnn").failure, 60)
    world.submit("cnn", "100", ago=30)
    assert world.states(queue=None) == ["queued", "waiting", "waiting"]
    found = world.look(queue={}, ended={"100": "NODE_FAIL"})["cnn", 0]
    assert (found.state, found.cause) == ("failed", "node")
    aged(world.run("cnn").failure, 10)  # after it, it does
    assert world.look(queue={}, ended={"100": "NODE_FAIL"})["cnn", 0].cause == "nan"


# --- by accounting, by log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("OUT_OF_MEMORY", "oom"),
        ("TIMEOUT", "timeout"),
        ("NODE_FAIL", "node"),
        ("PREEMPTED", "preempted"),
        ("CANCELLED", "cancelled"),
        ("DEPENDENCY_FAILED", "lost"),
        ("FAILED", "lost"),
        ("COMPLETED", "lost"),  # an exit code of 0 is no result
    ],
)
def test_gone_without_a_word_by_accounting(world: Any, state: str, cause: str) -> None:
    world.submit("cnn", "100")
    found = world.look(queue={}, ended={"100": state})["cnn", 0]
    assert (found.state, found.cause) == ("failed", cause)
    assert state in found.why


@pytest.mark.parametrize("ended", [None, {}, {"100": "FAILED"}])
def test_gone_without_a_word_by_the_end_of_its_log(world: Any, ended: Any) -> None:
    world.submit("cnn", "100")
    log = world.ledger.slurm / "100" / "100_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("warming up\n" * 5000 + "slurmstepd: error: Detected 1 oom_kill event in StepId=100.0\n")
    found = world.look(queue={}, ended=ended, logs=world.ledger.slurm)["cnn", 0]
    assert (found.state, found.cause) == ("failed", "oom")
    assert "oom_kill event" in found.why


def test_a_task_that_did_not_get_into_its_container_says_why(world: Any) -> None:
    world.submit("cnn", "100")
    log = world.ledger.slurm / "100" / "100_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("run.sh: no image /a.sif on n7\nsrun: error: n7: task 0: Exited with exit code 2\n")
    found = world.look(queue={}, ended={"100": "FAILED"}, logs=world.ledger.slurm)["cnn", 0]
    assert (found.cause, found.why) == ("node", "job 100: run.sh: no image /a.sif on n7")


def test_gone_without_a_trace_is_lost_and_says_so(world: Any) -> None:
    world.submit("cnn", "100")
    found = world.look(queue={}, logs=world.ledger.slurm)["cnn", 0]
    assert (found.cause, found.why) == ("lost", "job 100 is gone without a result")


@pytest.mark.parametrize(
    ("state", "cause", "told"),
    [
        ("CANCELLED", "cancelled", "was cancelled"),
        ("PREEMPTED", "preempted", "was stopped"),
        ("FAILED", "preempted", "was stopped"),
    ],
)
def test_who_stopped_a_run_is_known_outside_it(world: Any, state: str, cause: str, told: str) -> None:
    """The run itself got a signal, and cannot tell a person from a machine: the steward must."""
    world.submit("cnn", "100")
    world.fail("cnn", "preempted")
    found = world.look(queue={}, ended={"100": state})
    assert (found["cnn", 0].state, found["cnn", 0].cause) == ("failed", cause)
    assert (found["deit", 0].state, found["deit", 0].why) == ("blocked", f"its teacher, cnn seed=0, {told}")


# --- names ------------------------------------------------------------------------------------------------------


def test_a_run_by_title_name_and_hash(world: Any) -> None:
    world.finish("cnn")
    key = world.cell("deit").key
    name = world.run("deit").path.name
    found = standings_of(world)
    for given in ("deit seed=0", key, key.rpartition("-")[2], name, name.rpartition("-")[2]):
        assert find_cell(world.sweep, found, given, "run") == key
    with pytest.raises(Refused, match=r"^why: deit seed=9 is no run of mine, nearest: deit seed=0$"):
        find_cell(world.sweep, found, "deit seed=9", "why")


def standings_of(world: Any) -> Any:
    return standings(world.sweep, world.root, Outside())


def test_all_states_at_once(worlds: Any) -> None:
    world = worlds("0-3")
    world.finish("cnn", 0)
    world.beat("cnn", 1)
    world.submit("cnn", None)
    world.fail("cnn", "nan", 3)
    assert {each.state for each in world.look().values()} == set(STATES)
