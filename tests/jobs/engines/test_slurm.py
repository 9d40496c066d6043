"""How cells become arrays that wait for arrays, what they ask for after a failure, and how a cut is mended."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engines import slurm
from jobs.engines.profiles import Profile
from jobs.machine import scheduler
from jobs.planning.cell import Cell
from jobs.planning.ledger import Batch, latest
from jobs.planning.plan import Plan, make_plan
from jobs.planning.states import Standing

WAITING = Standing("waiting")
PROFILE = Profile(mem_gb=4.0, max_mem_gb=64.0, max_time_min=1000, time_min=60)


def grouped(
    world: Any, states: dict[tuple[str, int], Standing] | None = None, largest: int = 1001, **profile: Any
) -> list[slurm.Group]:
    found = {key: (states or {}).get((cell.stage, cell.at["seed"]), WAITING) for key, cell in world.sweep.cells.items()}
    plan = make_plan(world.sweep, found)
    wanted, _ = slurm.wanted_needs(plan, PROFILE.model_copy(update=profile), found, world.ledger.batches())
    return slurm.groups(plan, found, wanted, largest)


def shape(groups: Sequence[slurm.Group]) -> list[tuple[str, list[int], bool]]:
    return [(group.stage, [cell.at["seed"] for cell in group.cells], bool(group.parents)) for group in groups]


def submitted(groups: Sequence[slurm.Group]) -> dict[str, tuple[Batch, int]]:
    """As if each group had been given a number: 100, 101, ..."""
    return latest(
        [
            Batch(
                "t", "mine", group.stage, tuple(cell.key for cell in group.cells), {}, "p", 0.0, job=str(100 + number)
            )
            for number, group in enumerate(groups)
        ]
    )


def teachers_task(group: slurm.Group, number: int, places: dict[str, tuple[Batch, int]]) -> str:
    """The task that task `number` of a group waits for, by SLURM's rules."""
    kind, _, jobs = str(slurm.dependency(group, places)).partition(":")
    assert kind == ("aftercorr" if len(group.cells) > 1 else "afterok")
    return f"{jobs}_{number}" if kind == "aftercorr" else jobs


def check_every_student(world: Any, groups: Sequence[slurm.Group]) -> None:
    """Each cell once, and each student behind its own teacher's task alone."""
    places = submitted(groups)
    keys = [cell.key for group in groups for cell in group.cells]
    assert len(set(keys)) == len(keys)
    for group in groups:
        for number, cell in enumerate(group.cells if group.parents else ()):
            batch, at = places[str(cell.parent)]
            assert teachers_task(group, number, places) == batch.task(at)


# --- groups -----------------------------------------------------------------------------------------------------


def test_a_students_array_lines_up_with_its_teachers(worlds: Any) -> None:
    world = worlds("0-3")
    groups = grouped(world)
    assert shape(groups) == [("cnn", [0, 1, 2, 3], False), ("deit", [0, 1, 2, 3], True), ("small", [0, 1, 2, 3], True)]
    assert [slurm.dependency(group, submitted(groups)) for group in groups] == [None, "aftercorr:100", "aftercorr:101"]


def test_a_single_seed_waits_for_a_single_job(world: Any) -> None:
    groups = grouped(world)
    assert [slurm.dependency(group, submitted(groups)) for group in groups] == [None, "afterok:100", "afterok:101"]


def test_several_students_of_one_teacher_are_several_arrays(worlds: Any) -> None:
    stages = {
        "cnn": {"entry": "train_cnn"},
        "deit": {"entry": "distill_kd", "teacher": "cnn", "axes": {"distill.alpha": [0.3, 0.7]}},
    }
    world = worlds("0-2", stages=stages)
    groups = grouped(world)
    assert shape(groups) == [("cnn", [0, 1, 2], False), ("deit", [0, 1, 2], True), ("deit", [0, 1, 2], True)]
    alphas = [{cell.at["distill.alpha"] for cell in group.cells} for group in groups[1:]]
    assert alphas == [{0.3}, {0.7}]
    check_every_student(world, groups)


def test_arrays_are_no_larger_than_the_cluster_takes(worlds: Any) -> None:
    """MaxArraySize 11 is the first index that is refused: 0 to 10 are eleven tasks."""
    world = worlds("0-24", stages={"cnn": {"entry": "train_cnn"}, "deit": {"entry": "distill_kd", "teacher": "cnn"}})
    groups = grouped(world, largest=11)
    assert [len(group.cells) for group in groups] == [11, 11, 3] * 2
    check_every_student(world, groups)


def test_a_student_of_a_finished_teacher_waits_for_nobody(worlds: Any) -> None:
    world = worlds("0-2")
    groups = grouped(world, {("cnn", seed): Standing("done") for seed in (0, 2)})
    assert ("deit", [0, 2], False) in shape(groups)
    assert ("deit", [1], True) in shape(groups)
    check_every_student(world, groups)


def test_a_student_of_a_queued_teacher_waits_for_that_very_task(worlds: Any) -> None:
    world = worlds("0-2")
    world.submit("cnn", "77")
    groups = grouped(world, {("cnn", seed): Standing("queued") for seed in range(3)})
    students = [group for group in groups if group.stage == "deit"]
    assert shape(students) == [("deit", [seed], True) for seed in range(3)]
    known = latest(world.ledger.batches())
    assert [slurm.dependency(group, known) for group in students] == ["afterok:77_0", "afterok:77_1", "afterok:77_2"]


def test_students_that_do_not_line_up_come_one_by_one(worlds: Any) -> None:
    """Seed 0's student is finished, so the first task of an array would have no cell."""
    world = worlds("0-2")
    groups = grouped(world, {("deit", 0): Standing("done")})
    students = [group for group in groups if group.stage == "deit"]
    assert shape(students) == [("deit", [1], True), ("deit", [2], True)]
    assert [slurm.dependency(group, submitted(groups)) for group in students] == ["afterok:100_1", "afterok:100_2"]


def test_students_of_fewer_seeds_line_up_from_the_first(worlds: Any) -> None:
    world = worlds("0-2")
    groups = grouped(world, {("deit", 2): Standing("done")})
    students = [group for group in groups if group.stage == "deit"]
    assert shape(students) == [("deit", [0, 1], True)]
    assert slurm.dependency(students[0], submitted(groups)) == "aftercorr:100"


@given(st.data())
def test_whatever_is_left_to_do_each_student_waits_for_its_own_teacher(data: st.DataObject) -> None:
    cells = {cell.key: cell for cell in SIX.cells.values()}
    free = ("waiting", "done", "failed")
    states = {key: Standing(data.draw(st.sampled_from(free), label=cell.title)) for key, cell in cells.items()}
    plan = make_plan(SIX, states)
    wanted, _ = slurm.wanted_needs(plan, PROFILE, states, ())
    groups = slurm.groups(plan, states, wanted, data.draw(st.integers(1, 7)))
    check_every_student(None, groups)
    assert {cell.key for group in groups for cell in group.cells} == {cell.key for cell in plan.start}
    for group in groups:
        for cell in group.cells:
            assert bool(group.parents) == (cell.parent is not None and states[cell.parent].state != "done")


def six() -> Any:
    import tempfile

    import yaml

    from jobs.planning.sweep import open_sweep
    from jobs.planning.sweep_file import Overrides

    stages: dict[str, Any] = {
        "cnn": {"entry": "train_cnn"},
        "deit": {"entry": "distill_kd", "teacher": "cnn", "axes": {"distill.alpha": [0.3, 0.7]}},
        "small": {"entry": "distill_kd", "teacher": "deit", "axes": {"distill.alpha": [0.3, 0.7]}},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "six.yaml"
        path.write_text(yaml.safe_dump({"axes": {"seed": "0-5"}, "stages": stages}))
        return open_sweep(str(path), Overrides(), Path(folder) / "data")


SIX = six()


# --- needs ------------------------------------------------------------------------------------------------------


def asked_for(world: Any, standing: Standing, **profile: Any) -> tuple[float | None, int, int]:
    """Memory, time and escalation of the first teacher's next submission."""
    cell: Cell = world.cell("cnn")
    wanted, raised = slurm.wanted_needs(
        Plan((cell,), {}), PROFILE.model_copy(update=profile), {cell.key: standing}, world.ledger.batches()
    )
    return wanted[cell.key].mem_gb, wanted[cell.key].time_min, raised[cell.key]


def again(world: Any, cause: str, why: str = "", **profile: Any) -> tuple[float | None, int, int]:
    """Submit what would be submitted after such a failure, and say what it was."""
    mem_gb, time_min, escalation = asked_for(world, Standing("failed", cause=cause, why=why), **profile)
    batch = world.submit("cnn", None, escalation=escalation)
    world.ledger.void(batch.token)
    needs = {"gpus": 0, "cpus": 1, "mem_gb": mem_gb, "time_min": time_min}
    world.ledger.intend(Batch(f"n{batch.token}", "mine", "cnn", batch.keys, needs, "default", 1.0, escalation))
    return mem_gb, time_min, escalation


def test_the_first_time_as_the_profile_says(world: Any) -> None:
    assert asked_for(world, WAITING) == (4.0, 60, 0)


def test_more_memory_then_more_time_keeps_both(world: Any) -> None:
    assert again(world, "oom") == (8.0, 60, 1)
    assert again(world, "timeout") == (8.0, 120, 2)
    assert again(world, "preempted") == (8.0, 120, 2)
    assert again(world, "oom") == (16.0, 120, 3)


def test_never_more_than_the_profile_allows(world: Any) -> None:
    for _ in range(6):
        last = again(world, "oom", max_mem_gb=10.0)
    assert last[:2] == (10.0, 60)


@pytest.mark.parametrize("cause", ["node", "lost", "nan", "preempted", "cancelled"])
def test_other_failures_ask_for_no_more(world: Any, cause: str) -> None:
    assert again(world, cause) == (4.0, 60, 0)


def test_memory_of_the_gpu_is_not_memory_of_the_job(world: Any) -> None:
    assert again(world, "oom", why="CUDA out of memory. Tried to allocate 2 GiB") == (4.0, 60, 0)


def test_a_group_has_the_same_needs(worlds: Any) -> None:
    world = worlds("0-2")
    states = {("cnn", 1): Standing("failed", cause="oom")}
    teachers = [group for group in grouped(world, states) if group.stage == "cnn"]
    assert [([cell.at["seed"] for cell in group.cells], group.needs.mem_gb) for group in teachers] == [
        ([0, 2], 4.0),
        ([1], 8.0),
    ]
    check_every_student(world, grouped(world, states))


# --- submitting -------------------------------------------------------------------------------------------------


@pytest.fixture
def given_numbers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """In place of submitit: job 500, 501, ...; and what was asked: name without token, dependency."""
    asked: list[tuple[str, str | None]] = []

    def answer(site: Any, need: Any, name: str, waits_for: str | None, works: Any, python: str) -> str:
        asked.append((name.rpartition("-")[0], waits_for))
        return str(499 + len(asked))

    monkeypatch.setattr(slurm, "_through_submitit", answer)
    return asked


def submit(world: Any, states: dict[str, Standing] | None = None, room: int | None = None) -> tuple[list[Batch], int]:
    found = {key: (states or {}).get(cell.stage, WAITING) for key, cell in world.sweep.cells.items()}
    limits = scheduler.Limits(max_array_size=None, max_submit=room)
    site = slurm.Site(world.sweep, PROFILE, "default", world.root, world.folder, world.ledger, limits)
    return slurm.submit(site, make_plan(world.sweep, found), found, world.ledger.batches())


def test_each_submission_is_written_down_before_and_after(worlds: Any, given_numbers: Any) -> None:
    world = worlds("0-1")
    made, left = submit(world)
    assert left == 0
    assert given_numbers == [("mine-cnn", None), ("mine-deit", "aftercorr:500"), ("mine-small", "aftercorr:501")]
    assert made == world.ledger.batches()
    assert [batch.job for batch in made] == ["500", "501", "502"]


def test_a_submission_that_fails_leaves_its_intention(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> str:
        raise RuntimeError("sbatch: error: Batch job submission failed")

    monkeypatch.setattr(slurm, "_through_submitit", fail)
    with pytest.raises(RuntimeError, match="submission failed"):
        submit(world)
    assert [(batch.stage, batch.job) for batch in world.ledger.batches()] == [("cnn", None)]


def test_what_does_not_fit_is_left_with_its_students(worlds: Any, given_numbers: Any) -> None:
    world = worlds("0-1")
    made, left = submit(world, room=3)
    assert [batch.stage for batch in made] == ["cnn"]
    assert left == 4


def test_a_student_never_waits_for_the_attempt_of_its_teacher_that_failed(worlds: Any, given_numbers: Any) -> None:
    world = worlds("0-1")
    world.submit("cnn", "77")
    made, left = submit(world, {"cnn": Standing("failed", cause="node")}, room=1)
    assert (made, left, given_numbers) == ([], 6, [])


def test_a_student_of_a_run_started_by_hand_is_left_for_later(world: Any, given_numbers: Any) -> None:
    made, left = submit(world, {"cnn": Standing("running")})
    assert (made, left, given_numbers) == ([], 2, [])


def test_the_steward_is_written_down(world: Any, given_numbers: Any) -> None:
    made, _ = submit(world)
    site = slurm.Site(
        world.sweep, PROFILE, "default", world.root, world.folder, world.ledger, scheduler.Limits(None, None)
    )
    assert slurm.submit_steward(site, ["sweep=mine"], made) == "503"
    assert given_numbers[-1] == ("mine-steward", "afterany:500:501:502")
    batch = world.ledger.batches()[-1]
    assert (batch.stage, batch.keys, batch.job, batch.task(0)) == ("steward", (), "503", "503")


def test_runs_are_in_the_container_and_the_steward_is_not(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside there is no sbatch."""
    pythons: list[str] = []
    monkeypatch.setattr(slurm, "_through_submitit", lambda *given: pythons.append(given[-1]) or str(500 + len(pythons)))
    monkeypatch.setenv("HF_HOME", "/weights")
    profile = PROFILE.model_copy(update={"container": "/a.sif"})
    site = slurm.Site(
        world.sweep, profile, "default", world.root, world.folder, world.ledger, scheduler.Limits(None, None)
    )
    found = dict.fromkeys(world.sweep.cells, WAITING)
    made, _ = slurm.submit(site, make_plan(world.sweep, found), found, [])
    slurm.submit_steward(site, ["sweep=mine"], made)
    *runs, stewards = pythons
    assert len(runs) == 3
    folders = f"--writable {world.root} --bind {world.folder} --bind /weights"
    assert all(f"run.sh --job --image /a.sif --gpu {folders} -- python" in run for run in runs)
    assert stewards == sys.executable


# --- mending ----------------------------------------------------------------------------------------------------


def cut(world: Any) -> Batch:
    """Killed between asking SLURM and writing its number down."""
    return world.submit("cnn", None, token="abc")  # type: ignore[no-any-return]  # noqa: S106


def give_work(world: Any, *tasks: str) -> None:
    for task in tasks:
        (world.ledger.slurm / task).mkdir(parents=True)
        (world.ledger.slurm / task / f"{task}_submitted.pkl").touch()


def test_a_job_that_slurm_has_is_found_by_its_name(world: Any, slurm_commands: Any) -> None:
    batch = replace(cut(world), job="4711")
    give_work(world, *(batch.task(number) for number in range(len(batch.keys))))
    slurm_commands.answers("squeue", "4711_[0-2]\n")
    assert slurm.mend(world.ledger, world.ledger.batches()) == []
    assert [batch.job for batch in world.ledger.batches()] == ["4711"]
    assert all("--name=mine-cnn-abc" in line for line in slurm_commands.asked("squeue"))
    assert slurm_commands.asked("scancel") == []


def test_a_job_that_already_ended_is_found_in_accounting(world: Any, slurm_commands: Any) -> None:
    batch = replace(cut(world), job="4711")
    give_work(world, *(batch.task(number) for number in range(len(batch.keys))))
    slurm_commands.answers("sacct", "4711_0\n4711_1\n")
    assert slurm.mend(world.ledger, world.ledger.batches()) == []
    assert [batch.job for batch in world.ledger.batches()] == ["4711"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_never_got_its_work_is_cancelled(world: Any, slurm_commands: Any, code: int) -> None:
    cut(world)
    give_work(world, "4711_0")
    slurm_commands.answers("squeue", "4711_[0-2]\n")
    slurm_commands.answers("scancel", "", code=code)
    assert slurm.mend(world.ledger, world.ledger.batches()) == ([] if code == 0 else ["abc"])
    assert [(batch.job, batch.void) for batch in world.ledger.batches()] == [(None, code == 0)]
    assert slurm_commands.asked("scancel")[0].endswith("4711")


def test_a_job_that_slurm_never_got_is_void(world: Any, slurm_commands: Any) -> None:
    cut(world)
    assert slurm.mend(world.ledger, world.ledger.batches()) == []
    assert [(batch.job, batch.void) for batch in world.ledger.batches()] == [(None, True)]
    assert world.states(queue={})[0] == "waiting"


def test_while_slurm_is_silent_nothing_is_decided(world: Any, slurm_commands: Any) -> None:
    cut(world)
    for command in ("squeue", "sacct"):
        slurm_commands.answers(command, "", code=1)
    assert slurm.mend(world.ledger, world.ledger.batches()) == ["abc"]
    assert [(batch.job, batch.void) for batch in world.ledger.batches()] == [(None, False)]


def test_what_is_whole_is_not_asked_about(world: Any, slurm_commands: Any) -> None:
    world.submit("cnn", "77")
    assert slurm.mend(world.ledger, world.ledger.batches()) == []
    assert slurm_commands.asked("squeue") == []
    assert asdict(world.ledger.batches()[0])["job"] == "77"
