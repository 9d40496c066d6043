"""status, logs, retry, cancel and prune as a user types them, on run folders written by hand."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.files import write_json
from jobs import cancel, logs, prune, retry, status, submit
from jobs.machine.processes import this_process

Told = Callable[..., tuple[int, str]]
REPOSITORY = Path(__file__).parents[2]
COMMANDS = {"status": status.main, "logs": logs.main, "retry": retry.main, "cancel": cancel.main, "prune": prune.main}
HELD = "from pathlib import Path; import sys, time\nfrom common.run.run_dir import RunDir\n"
HELD += "with RunDir(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def typed(world: Any, told: Told) -> Callable[..., tuple[int, str]]:
    """A command for the sweep of the fake runs."""
    return lambda command, *words: told(COMMANDS[command], "sweep=mine", f"root={world.root}", *words)


# --- manners ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_word(told: Told, command: str) -> None:
    code, text = told(COMMANDS[command], "--help")
    assert code == 0
    assert f"python jobs/{command}.py sweep=" in text
    assert "root=null" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_sweep_that_was_never_submitted_is_refused(world: Any, told: Told, command: str) -> None:
    words = ["sweep=mime", *(["run=x"] if command == "logs" else [])]
    code, text = told(COMMANDS[command], *words, f"root={world.root}")
    assert code == 2
    assert text.startswith("sweep: mime was never submitted under ")
    assert text.endswith("there are: mine, nearest: mine\n")


@pytest.mark.parametrize(("command", "word"), [("status", "why"), ("logs", "run"), ("retry", "run"), ("cancel", "run")])
def test_a_run_that_is_none_is_refused_with_the_nearest(typed: Told, command: str, word: str) -> None:
    assert typed(command, f"{word}=cnn seed=1") == (2, f"{word}: cnn seed=1 is no run of mine, nearest: cnn seed=0\n")


@pytest.mark.parametrize(
    ("command", "given", "problem"),
    [
        ("retry", "class=oon", f"class: given oon, allowed: {', '.join(retry.RETRIED)}, nearest: oom"),
        ("cancel", "stage=cn", "stage: given cn, allowed: cnn, deit, small, nearest: cnn"),
        ("logs", "lines=-1", "lines: given -1, allowed: .*"),
        ("status", "jason=true", "jason: no such setting, nearest: json; .*"),
        ("prune", "best=perhaps", "best: given perhaps, allowed: true or false.*"),
    ],
)
def test_a_wrong_word_is_refused(typed: Told, command: str, given: str, problem: str) -> None:

    code, text = typed(command, given, *(["run=cnn seed=0"] if command == "logs" else []))
    assert code == 2
    assert re.fullmatch(problem, text.strip())


# --- status -----------------------------------------------------------------------------------------------------


def test_the_table(worlds: Any, told: Told) -> None:
    world = worlds("0-3")
    world.finish("cnn", 0, accuracy=0.90)
    world.finish("cnn", 1, accuracy=0.92)
    world.beat("cnn", 2)
    world.fail("cnn", "nan", 3)
    code, text = told(status.main, "sweep=mine", f"root={world.root}")
    lines = [line.split() for line in text.splitlines()]
    assert code == 1
    assert lines[0][:8] == ["stage", "data", "done", "running", "queued", "waiting", "failed", "blocked"]
    assert lines[1] == ["cnn", "digits", "2", "1", "-", "-", "1", "-", "91.00", "±", "1.41", "(n=2)"]
    assert lines[2] == ["deit", "digits", "-", "-", "-", "3", "-", "1", "-"]
    assert f"running cnn seed=2: epoch 3 of 9, {world.run('cnn', 2).path}" in text
    assert "failed cnn seed=3: (nan) it broke" in text
    assert "blocked deit seed=3: its teacher, cnn seed=3, failed (nan)" in text


def test_what_is_no_repetition_of_one_method_has_no_mean(worlds: Any, told: Told) -> None:
    """Five networks at one seed are not n=5, nor are tests of two stages at one strength."""
    stages = {
        "cnn": {"entry": "train_cnn", "axes": {"model": ["adaptive_cnn", "fast_cnn"]}},
        "shift": {"entry": "eval_shift", "of": ["cnn"], "axes": {"shift.severities": [[1], [5]]}},
    }
    world = worlds("0-1", stages=stages)
    accuracies = iter([0.2, 0.4, 0.6, 0.8])
    for key in world.sweep.stages["cnn"]:
        result = {"selection": {"digest": key}, "test": {"accuracy": next(accuracies)}}
        write_json(world.root / "train_cnn" / key / "result.json", result)
    lines = [line.split() for line in told(status.main, "sweep=mine", f"root={world.root}")[1].splitlines()]
    assert [(line[:3], line[-4:]) for line in lines if line[0] == "cnn"] == [
        (["cnn", "model=adaptive_cnn", "digits"], ["40.00", "±", "28.28", "(n=2)"]),
        (["cnn", "model=fast_cnn", "digits"], ["60.00", "±", "28.28", "(n=2)"]),
    ]
    assert [line[1:4] for line in lines if line[0] == "shift"] == [
        ["of=cnn", f"model={model}", f"shift.severities=[{severity}]"]
        for model in ("adaptive_cnn", "fast_cnn")
        for severity in (1, 5)
    ]


def test_planning_loads_no_engine_and_no_entry() -> None:
    """Who only looks does not wait for what starts and trains."""
    code = "import sys, jobs.status; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    loaded = set(done.stdout.split())
    assert "jobs.planning.plan" in loaded
    strangers = (
        "jobs.worker",
        "jobs.engines.profiles",
        "jobs.engines.container",
        "jobs.engines",
        "train",
        "eval",
        "submitit",
    )
    assert not [name for name in loaded if name.startswith(strangers)]


def test_nothing_failed_is_no_failure(world: Any, typed: Told) -> None:
    assert typed("status")[0] == 0
    for stage in ("cnn", "deit", "small"):
        world.finish(stage)
    code, text = typed("status", "watch=true")  # all is over: there is nothing to wait for
    assert (code, text.count("90.00 (n=1)")) == (0, 3)


def test_many_failures_are_counted_after_the_first(worlds: Any, told: Told) -> None:
    world = worlds("0-24")
    for seed in range(25):
        world.fail("cnn", "bug", seed)
    text = told(status.main, "sweep=mine", f"root={world.root}")[1]
    assert text.count("\nfailed cnn ") == 20
    assert "failed: and 5 more" in text


def test_what_is_left_is_the_last_epochs_time_for_each_epoch_to_come(world: Any, typed: Told) -> None:
    world.beat("cnn").write_history([{"epoch": 3, "epoch_time_sec": 50.0}])  # six more of nine
    assert "5 min" in typed("status")[1]


def test_status_for_machines(world: Any, typed: Told) -> None:
    world.finish("cnn")
    world.fail("deit", "oom")
    code, text = typed("status", "json=true")
    cells = json.loads(text)
    assert code == 1
    assert [(cell["stage"], cell["axes"], cell["state"], cell["cause"]) for cell in cells] == [
        ("cnn", {"seed": 0}, "done", None),
        ("deit", {"seed": 0}, "failed", "oom"),
        ("small", {"seed": 0}, "blocked", "oom"),
    ]
    assert cells[0]["test_accuracy"] == 0.9
    assert cells[1]["run"] == str(world.run("deit").path)


def test_why(world: Any, typed: Told) -> None:
    world.fail("cnn", "nan")
    code, text = typed("status", "why=cnn seed=0")
    assert code == 0
    assert text.splitlines() == [
        "cnn seed=0: failed. (nan) it broke",
        f"folder: {world.run('cnn').path}",
        "  line 1",
        "  line 2",
        "mend: a smaller recipe.lr, or recipe.precision=bf16 instead of fp16",
        "then: python jobs/submit.py sweep=mine",
    ]
    assert "blocked. its teacher, cnn seed=0, failed (nan)" in typed("status", f"why={world.cell('deit').key}")[1]


# --- logs -------------------------------------------------------------------------------------------------------


def test_the_best_log_there_is(world: Any, typed: Told) -> None:
    assert typed("logs", "run=cnn seed=0") == (0, "cnn seed=0: waiting, no log yet\n")
    world.submit("cnn", "100")
    run = world.run("cnn")
    for path in (
        world.ledger.slurm / "100" / "100_0_log.out",
        world.ledger.slurm / "100" / "100_0_log.err",
        world.ledger.logs / f"{world.cell('cnn').key}.txt",
        run.log,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {path.name}\n")
        assert typed("logs", "run=cnn seed=0") == (0, f"# {path}\nthis is {path.name}\n")


@pytest.mark.parametrize(("lines", "shown"), [(2, "8\n9\n"), (0, ""), (40, "".join(f"{n}\n" for n in range(10)))])
def test_as_many_lines_as_asked_for(world: Any, typed: Told, lines: int, shown: str) -> None:
    log = world.run("cnn").log
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{number}\n" for number in range(10)))
    assert typed("logs", "run=cnn seed=0", f"lines={lines}") == (0, f"# {log}\n{shown}")


@pytest.mark.parametrize(("end", "code"), [("finish", 0), ("fail", 1)])
def test_follow_until_the_run_ends(
    world: Any, typed: Told, monkeypatch: pytest.MonkeyPatch, end: str, code: int
) -> None:
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(logs, "ASK_SECONDS", 0.1)
    run = world.beat("cnn")
    run.log.write_text("old\nfirst\n")

    def train() -> None:
        time.sleep(0.2)
        with run.log.open("a") as file:
            file.write("second\n")
        time.sleep(0.2)
        with run.log.open("a") as file:
            file.write("last\n")
        world.finish("cnn") if end == "finish" else world.fail("cnn", "nan")

    training = threading.Thread(target=train)
    training.start()
    found = typed("logs", "run=cnn seed=0", "follow=true", "lines=1")
    training.join()
    said = "done" if end == "finish" else "failed. it broke"
    assert found == (code, f"# {run.log}\nfirst\nsecond\nlast\ncnn seed=0: {said}\n")


# --- retry ------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Titles that the local engine was given, in place of running them."""
    given: list[list[str]] = []

    def work(engine: Any) -> bool:
        given.append([cell.title for cell in engine.plan.start])
        return True

    monkeypatch.setattr("jobs.engines.local.Engine.work", work)
    return given


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ([], [0, 1]),
        (["class=oom,timeout"], [0]),
        (["class=nan"], [1]),
        (["run=cnn seed=1"], [1]),
        (["run=cnn seed=0,cnn seed=1"], [0, 1]),
        (["run=cnn seed=0", "class=nan"], []),
        (["class=data"], []),
    ],
)
def test_what_is_retried(worlds: Any, told: Told, started: Any, words: list[str], seeds: list[int]) -> None:
    """Seed 2 waits, which is for submit; seed 3 is finished."""
    world = worlds("0-3")
    world.fail("cnn", "oom", 0)
    world.fail("cnn", "nan", 1)
    world.finish("cnn", 3)
    code, text = told(retry.main, "sweep=mine", f"root={world.root}", *words)
    assert code == 0
    expected = [f"{stage} seed={seed}" for stage in ("cnn", "deit", "small") for seed in seeds]
    assert started == ([expected] if seeds else [])
    if seeds:
        assert all(f"again {title}: " in text for title in expected)
    else:
        assert "mine: nothing to retry (1 oom, 1 nan)" in text


def test_a_run_that_did_not_fail_is_not_retried_and_says_why(world: Any, typed: Told, started: Any) -> None:
    world.finish("cnn")
    code, text = typed("retry", "run=cnn seed=0,deit seed=0")
    assert (code, started) == (0, [])
    assert "not taken up, cnn seed=0: done\n" in text
    assert "not taken up, deit seed=0: waiting\n" in text
    assert text.endswith("mine: nothing to retry (nothing failed)\n")


def test_a_retry_keeps_the_words_of_the_sweep(world: Any, typed: Told, started: Any) -> None:
    world.fail("cnn", "nan")
    for _ in range(3):
        typed("retry")
    kept = {"cluster=local", f"sweep={world.file}", f"root={world.root}", f"data_dir={world.folder / 'data'}"}
    words = world.ledger.words_of("mine")
    assert (set(words), len(words)) == (kept, 4)


def test_a_retry_on_a_cluster_submits_there(worlds: Any, told: Told, slurm_commands: Any, monkeypatch: Any) -> None:
    from jobs.engines import slurm

    jobs: list[str] = []
    monkeypatch.setattr(slurm, "_through_submitit", lambda *given: jobs.append(given[2]) or str(900 + len(jobs)))
    world = worlds("0-1")
    world.ledger.remember("mine", [f"sweep={world.file}", "cluster=default"])
    world.submit("cnn", "100")
    world.finish("cnn", 0)
    world.fail("cnn", "node", 1)
    code, text = told(retry.main, "sweep=mine", f"root={world.root}")
    assert code == 0
    assert [name.rpartition("-")[0] for name in jobs] == ["mine-cnn", "mine-deit", "mine-small", "mine-steward"]
    assert "mine: 3 to run, 1 finished, 2 not asked for" in text
    assert "submitted cnn: 1 run as job 901" in text


# --- submit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "state", "end"),
    [
        ("sbatch: error: invalid partition specified: nosuch", "waiting", ""),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "waiting", ""),
        ("sbatch: error: Socket timed out on send/recv operation", "queued", "; whether SLURM has the job .*"),
    ],
)
def test_what_sbatch_refuses_is_one_line_and_no_run_is_queued(
    world: Any, told: Told, slurm_commands: Any, said: str, state: str, end: str
) -> None:
    slurm_commands.refuses("sbatch", f"sbatch: warning: first\n{said}")
    code, text = told(submit.main, f"sweep={world.file}", "cluster=cpu", f"root={world.root}")
    assert code == 2
    assert re.fullmatch(f"cluster: {re.escape(said)}{end}\n", text)
    assert world.states(queue={})[0] == state


def test_what_was_submitted_before_sbatch_refused_is_said(world: Any, told: Told, slurm_commands: Any) -> None:
    slurm_commands.answers_in_turn("sbatch", "Submitted batch job 55", "sbatch: error: no more")
    code, text = told(submit.main, f"sweep={world.file}", "cluster=cpu", f"root={world.root}")
    assert (code, text) == (2, "cluster: sbatch: error: no more\nsubmitted before that, cnn: job 55\n")
    assert [(batch.job, batch.void) for batch in world.ledger.batches()] == [("55", False), (None, True)]


NULL = "which is no value; where none is allowed, it is written null"


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("recipe.lr=[0.1,0.2", "mine: recipe.lr: given '[0.1,0.2', which is not YAML: "),
        ("deit.distill.alpha=@", "mine: deit.distill.alpha: given '@', which is not YAML: "),
        ("recipe.lr=", f"mine: recipe.lr: given '', {NULL}\n"),
        ("data=[digits]", "mine: axes.data: given ['digits'], allowed: names of data sets, as in mnist,cifar10\n"),
        ("data=[a,b]", "mine: axes.data: given ['a', 'b'], allowed: values with commas between them, without "),
        ("quickstart", "quickstart: not of the form key=value (--help lists the keys); a sweep is named by sweep="),
        ("sweep=./nosuch.yaml", "sweep: given ./nosuch.yaml, which is no file; allowed: a YAML file, or backbones, "),
        ("sweep=setup.txt", "sweep: given setup.txt, allowed: a file whose name ends in .yaml\n"),
        ("sweep=quickstar", "sweep: given quickstar, allowed: FILE.yaml, backbones, "),
    ],
)
def test_a_wrong_word_of_a_submission_is_one_line(
    world: Any, told: Told, monkeypatch: pytest.MonkeyPatch, word: str, problem: str
) -> None:
    monkeypatch.chdir(world.folder)
    Path("setup.txt").write_text("stages: {}")
    code, text = told(submit.main, f"sweep={world.file}", "cluster=local", f"root={world.root}", word)
    assert code == 2
    assert text.startswith(problem)
    assert text.count("\n") == 1


def test_a_note_on_the_sweep_is_printed(world: Any, told: Told, started: Any) -> None:
    world.file.write_text("stages: {cnn: {entry: train_cnn}}\nexclude: [{stage: cnn, seed: 3}]\naxes: {seed: 0-1}\n")
    code, text = told(submit.main, f"sweep={world.file}", "cluster=local", f"root={world.root}", "dry_run=true")
    assert code == 0
    assert "note: mine: exclude: {'seed': 3, 'stage': 'cnn'} fits no cell\n" in text


def test_where_a_sweep_runs_does_not_change_without_a_word(
    world: Any, told: Told, slurm_commands: Any, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep begins where there is no SLURM; then somebody installs its client."""
    words = [f"sweep={world.file}", f"root={world.root}"]
    monkeypatch.delenv("STILLHOUSE_CLUSTER", raising=False)
    with monkeypatch.context() as without_slurm:
        without_slurm.setattr("shutil.which", lambda _: None)
        assert "note:" not in told(submit.main, *words)[1]

    slurm_commands.answers("sbatch", "Submitted batch job 55")
    note = "note: there is sbatch on this machine, so this means cluster=default; cluster=local runs it here\n"
    assert note in told(submit.main, *words)[1]
    assert "note:" not in told(submit.main, *words)[1]  # once
    assert "note:" not in told(submit.main, *words, "cluster=local")[1]
    monkeypatch.setenv("STILLHOUSE_CLUSTER", "default")
    assert "note:" not in told(submit.main, *words)[1]


# --- cancel -----------------------------------------------------------------------------------------------------


def test_nothing_to_cancel(typed: Told) -> None:
    assert typed("cancel") == (0, "mine: nothing to cancel\n")


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        ([], {"90", "100_0", "100_1", "101_0", "101_1"}),
        (["stage=deit"], {"90", "101_0", "101_1"}),
        (["stage=cnn,deit"], {"90", "100_0", "100_1", "101_0", "101_1"}),
        (["run=deit seed=1"], {"90", "101_1"}),
    ],
)
def test_jobs_and_the_steward_are_cancelled(
    worlds: Any, told: Told, slurm_commands: Any, words: list[str], jobs: set[str]
) -> None:
    world = worlds("0-1")
    world.submit("cnn", "100")
    world.submit("deit", "101")
    world.submit("steward", "90")
    world.submit("steward", "80")  # of an earlier submission: it has ended
    rows = ["100_0|RUNNING", "100_1|PENDING", "101_[0-1]|PENDING", "90|PENDING", "7|RUNNING"]
    slurm_commands.answers("squeue", "".join(f"{row}|None|N/A|debug\n" for row in rows))
    code, text = told(cancel.main, "sweep=mine", f"root={world.root}", *words)
    (asked,) = slurm_commands.asked("scancel")
    assert code == 0
    assert set(asked.split()[2:]) == jobs
    assert f"cancelled {len(jobs) - 1} jobs" in text
    assert "cancelled the steward" in text


def test_a_silent_scheduler_cancels_nothing_and_says_so(world: Any, typed: Told, slurm_commands: Any) -> None:
    world.submit("cnn", "100")
    slurm_commands.answers("squeue", "", code=1)
    assert typed("cancel") == (1, "mine: the scheduler does not answer; its jobs may still run\n")


def test_the_engine_of_this_machine_is_told_to_stop(world: Any, typed: Told) -> None:
    code = "import sys, time; from pathlib import Path; from jobs.planning.ledger import Ledger\n"
    code += "with Ledger(Path(sys.argv[1])).working_here('mine'): print('works', flush=True); time.sleep(60)"
    with python(code, world.root) as engine:
        assert typed("cancel") == (0, f"told pid {engine.pid} to stop; its runs end after their next step\n")
        assert engine.wait(20) == -signal.SIGTERM
    assert typed("cancel") == (0, "mine: nothing to cancel\n")


def test_a_number_that_another_process_has_now_is_not_told(world: Any, typed: Told) -> None:
    path = world.ledger.folder / "local" / "mine" / "lock"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**this_process(), "started": "1"}))  # were it told, this test would end here
    assert typed("cancel") == (0, "mine: nothing to cancel\n")


def test_one_run_of_this_machine_is_told_to_stop(world: Any, typed: Told) -> None:
    run = world.beat("cnn")
    with python(HELD, run.path) as holder:
        assert typed("cancel", "run=deit seed=0") == (0, "mine: nothing to cancel\n")
        assert typed("cancel", "run=cnn seed=0") == (0, f"told cnn seed=0 (pid {holder.pid}) to stop\n")
        assert holder.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("word", "stages"), [("stage=deit", ["deit"]), ("run=cnn seed=0", ["cnn"]), ("stage=cnn,small", ["cnn", "small"])]
)
def test_the_engine_of_this_machine_is_told_which_runs_to_leave_out(
    world: Any, typed: Told, word: str, stages: list[str]
) -> None:
    """Also those that wait, or have only just begun: nothing is in their folders yet."""
    with world.ledger.working_here("mine"):  # this process: were it told to stop, this test would end here
        runs = "1 run" if len(stages) == 1 else f"{len(stages)} runs"
        said = f"told pid {os.getpid()} to leave out {runs}; what is under way ends after its next step\n"
        assert typed("cancel", word) == (0, said)
        assert world.ledger.runs_to_leave_out("mine") == {world.cell(stage).key for stage in stages}
        assert world.ledger.runs_to_leave_out("mine") == set()
        for stage in ("cnn", "deit", "small"):
            world.finish(stage)
        assert typed("cancel", word) == (0, "mine: nothing to cancel\n")


def test_an_engine_does_not_hear_what_the_one_before_it_was_told(world: Any) -> None:
    world.ledger.leave_out("mine", ["a"])
    with world.ledger.working_here("mine"):
        assert world.ledger.runs_to_leave_out("mine") == set()


def python(code: str, *words: object) -> subprocess.Popen[str]:
    """A process of python, which has begun to work when it has said so."""
    command = [sys.executable, "-c", code, *map(str, words)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline()
    return process


# --- prune ------------------------------------------------------------------------------------------------------


def weigh(path: Path, megabytes: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * int(1e6 * megabytes))
    return path


def old(path: Path) -> Path:
    when = time.time() - 25 * 3600
    os.utime(path, (when, when))
    return path


def with_checkpoints(run: Any) -> list[Path]:
    return [weigh(run.last, 0.3), weigh(run.previous, 0.2), weigh(run.best, 0.4)]


def test_checkpoints_of_finished_runs_alone(worlds: Any, told: Told) -> None:
    world = worlds("0-1")
    finished = with_checkpoints(world.finish("cnn", 0))
    unfinished = with_checkpoints(world.beat("cnn", 1))
    words = ["sweep=mine", f"root={world.root}"]
    assert told(prune.main, *words, "dry_run=true") == (0, "would free 0.5 MB: 2 checkpoints of finished runs\n")
    assert all(path.exists() for path in finished + unfinished)
    assert told(prune.main, *words) == (0, "freed 0.5 MB: 2 checkpoints of finished runs\n")
    assert [path.exists() for path in finished + unfinished] == [False, False, True, True, True, True]
    assert told(prune.main, *words) == (0, "nothing to free\n")


def test_every_run_under_root_or_the_sweeps(world: Any, told: Told) -> None:
    from common.run.run_dir import RunDir

    stranger = RunDir(world.root / "train_vit" / "digits-vit-s7-0123456789")
    write_json(stranger.result, {"selection": {"digest": "x"}})
    last = weigh(stranger.last, 0.1)
    world.finish("cnn")
    told(prune.main, "sweep=mine", f"root={world.root}")
    assert last.exists()
    assert told(prune.main, f"root={world.root}") == (0, "freed 0.1 MB: 1 checkpoints of finished runs\n")


def test_best_weights_go_but_for_those_that_still_teach(worlds: Any, told: Told) -> None:
    """Seed 0: the student is finished, its own student not. Seed 1: nobody has learned from the teacher yet."""
    world = worlds("0-1")
    runs = {"cnn 0": world.finish("cnn", 0), "deit 0": world.finish("deit", 0), "cnn 1": world.finish("cnn", 1)}
    for run in runs.values():
        weigh(run.best, 0.4)
    code, text = told(prune.main, f"root={world.root}", "best=true")
    assert code == 0
    assert {name for name, run in runs.items() if run.best.exists()} == {"deit 0", "cnn 1"}
    assert text.splitlines()[0] == "freed 0.4 MB: 1 best weights of finished runs"
    assert f"kept {runs['deit 0'].path.name}: small seed=0 of mine builds on it" in text
    assert f"kept {runs['cnn 1'].path.name}: deit seed=1 of mine builds on it" in text


def test_another_sweep_may_need_the_weights(world: Any, told: Told) -> None:
    """Of two sweeps that share a teacher one is finished; the other cannot even be read."""
    for stage in ("cnn", "deit", "small"):
        weigh(world.finish(stage).best, 0.4)
    world.ledger.remember("other", ["sweep=gone.yaml"])
    code, text = told(prune.main, "sweep=mine", f"root={world.root}", "best=true")
    assert code == 0
    assert "nothing to free" in text
    assert text.count("the sweep other may need it, and cannot be read: sweep: given gone.yaml") == 3
    other = world.folder / "other.yaml"
    text = world.file.read_text().replace("vit_digits", "vit_digits\n      recipe.epochs: 3")
    other.write_text(text)
    world.ledger.remember("other", [f"sweep={other}"])
    text = told(prune.main, "sweep=mine", f"root={world.root}", "best=true")[1]
    assert text.startswith("freed 0.8 MB: 2 best weights")
    assert world.run("cnn").best.exists()
    assert "deit seed=0 of other builds on it" in text


def test_a_run_that_is_held_is_left_alone(world: Any, typed: Told) -> None:
    run = world.finish("cnn")
    weigh(run.last, 0.1)
    with run.lock():
        code, text = typed("prune")
    assert code == 0
    assert "nothing to free" in text
    assert f"kept {run.path.name}: {run.path} is locked by pid {os.getpid()}" in text
    assert run.last.exists()


def test_temporary_files_older_than_a_day(world: Any, told: Told) -> None:
    run = world.beat("cnn")
    gone = [old(weigh(run.path / ".config.yaml.7.tmp", 0.1)), old(weigh(run.checkpoints / ".last.pt.7.tmp", 0.1))]
    gone += [old(weigh(world.ledger.folder / "sweeps" / ".mine.yaml.7.tmp", 0.1))]
    kept = [weigh(run.checkpoints / ".last.pt.8.tmp", 0.1), old(weigh(run.checkpoints / "last.pt", 0.1))]
    assert told(prune.main, f"root={world.root}") == (0, "freed 0.3 MB: 3 temporary files\n")
    assert [path.exists() for path in gone + kept] == [False] * 3 + [True] * 2


def test_pickles_of_ended_jobs(world: Any, told: Told, slurm_commands: Any) -> None:
    world.submit("cnn", "100")
    folders = {name: world.ledger.slurm / name for name in ("100", "200_0", "200_1")}
    pickles = {name: weigh(folder / f"{name}_submitted.pkl", 0.1) for name, folder in folders.items()}
    log = weigh(folders["100"] / "100_0_log.err", 0.1)
    slurm_commands.answers("squeue", "", code=1)
    code, text = told(prune.main, f"root={world.root}")
    assert (code, text) == (
        0,
        "nothing to free\nkept 3 pickles of ended jobs: the scheduler does not answer whether they have ended\n",
    )
    slurm_commands.answers("squeue", "200_1|RUNNING|None|N/A|debug\n")  # a task of an array that shares its pickles
    told(prune.main, "sweep=mine", f"root={world.root}")
    assert [path.exists() for path in pickles.values()] == [False, True, True]
    slurm_commands.answers("squeue", "")
    assert told(prune.main, f"root={world.root}") == (0, "freed 0.2 MB: 2 pickles of ended jobs\n")
    assert log.exists()


def test_what_cannot_be_removed_is_a_failure(world: Any, typed: Told) -> None:
    run = world.finish("cnn")
    run.last.mkdir(parents=True)
    code, text = typed("prune")
    assert code == 1
    assert f"{run.last} cannot be removed: " in text
