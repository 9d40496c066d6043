"""Sweeps on a real SLURM, disturbed in every way a cluster disturbs them, end with the bits of a sweep left alone."""

import csv
import getpass
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="slurmctld is not installed"),
]

ENOUGH = 600.0  # seconds for any sweep here, however busy the machine
ONE = "sweep=quickstart seeds=0 only=cnn recipe.epochs=15"  # a run of some 15 seconds, to be disturbed in its middle
PAIR = "sweep=quickstart seeds=0-1 only=deit recipe.epochs=2"


def results_under(root: Path) -> dict[str, bytes]:
    """What runs came to, bit for bit: chosen weights, cells of evaluations."""
    found = [*root.glob("*/*/checkpoints/best.safetensors"), *root.glob("*/*/cells.csv")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


class User:
    """Types commands in a shell of the cluster."""

    def __init__(self, cluster: Any, root: Path, data_dir: Path) -> None:
        self.cluster, self.root, self.data_dir = cluster, root, data_dir

    def command(self, script: str, words: str) -> list[str]:
        path = REPOSITORY / "jobs" / f"{script}.py"
        return [sys.executable, str(path), *words.split(), f"root={self.root}"]

    def types(self, script: str, words: str, code: int | None = 0, **extra: str) -> str:
        return "".join(self.types_and_hears(script, words, code, **extra))

    def types_and_hears(self, script: str, words: str, code: int | None = 0, **extra: str) -> tuple[str, str]:
        """Return what the command writes to its two streams."""
        given = f"{words} data_dir={self.data_dir}" if script == "submit" else words
        environment = {**os.environ, **self.cluster.env, **extra}
        done = subprocess.run(self.command(script, given), capture_output=True, text=True, env=environment)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout, done.stderr

    def cells(self) -> list[dict[str, Any]]:
        facts: list[dict[str, Any]] = json.loads(
            self.types_and_hears("status", "sweep=quickstart json=true", code=None)[0]  # notes are on the other stream
        )
        return facts

    def states(self) -> list[str]:
        return [cell["state"] for cell in self.cells()]

    def waits_for(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        end = time.monotonic() + ENOUGH
        while time.monotonic() < end:
            cells = self.cells()
            if wanted(cells):
                return cells
            time.sleep(1.5)
        raise AssertionError(f"still {self.cells()}\n{self.logs()}")

    def waits_for_all(self) -> list[dict[str, Any]]:
        return self.waits_for(lambda cells: all(cell["state"] == "done" for cell in cells))

    def waits_for_an_epoch(self) -> str:
        """Until the first run is in its midst; the scheduler's name of it."""
        cells = self.waits_for(lambda cells: cells[0]["state"] == "running" and (cells[0]["epoch"] or 0) >= 2)
        return str(cells[0]["job"])

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.root.glob("jobs/slurm/*/*.err")))[-4000:]

    def results(self) -> dict[str, bytes]:
        return results_under(self.root)


@pytest.fixture
def user(cluster: Any, tmp_path: Path, digits_dir: Path) -> Iterator[User]:
    with leaving_it_idle(cluster):
        yield User(cluster, tmp_path / "runs", digits_dir)


@pytest.fixture(scope="module")
def odd_cluster(make_cluster: Callable[..., Any]) -> Any:
    """One without accounting, with arrays of at most eleven, that kills what outgrows its memory."""
    return make_cluster(SACCT="none", MAX_ARRAY_SIZE="11", OVER_MEMORY_KILL="1")


@pytest.fixture
def odd_user(odd_cluster: Any, tmp_path: Path, digits_dir: Path) -> Iterator[User]:
    with leaving_it_idle(odd_cluster):
        yield User(odd_cluster, tmp_path / "runs", digits_dir)


@contextmanager
def leaving_it_idle(cluster: Any) -> Iterator[None]:
    yield
    cluster.run("scancel", "--user", getpass.getuser())
    assert_idle(cluster)


def assert_idle(cluster: Any) -> None:
    end = time.monotonic() + 60
    while cluster.run("squeue", "-h").stdout.strip():
        assert time.monotonic() < end, cluster.run("squeue").stdout
        time.sleep(0.3)


@pytest.fixture(scope="module")
def undisturbed_roots() -> dict[str, Path]:
    """What the local engine has run, by its words."""
    return {}


@pytest.fixture(scope="module")
def undisturbed(
    undisturbed_roots: dict[str, Path], digits_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, bytes]]:
    """Weights of the same sweep on the local engine."""

    def of(words: str) -> dict[str, bytes]:
        if words not in undisturbed_roots:
            root = tmp_path_factory.mktemp("undisturbed")
            command = [
                sys.executable,
                str(REPOSITORY / "jobs" / "submit.py"),
                *words.split(),
                "cluster=local",
                "slots=2",
            ]
            subprocess.run([*command, f"root={root}", f"data_dir={digits_dir}"], check=True, capture_output=True)
            undisturbed_roots[words] = root
        return results_under(undisturbed_roots[words])

    return of


def seconds_of_an_epoch(root: Path) -> float:
    (history,) = root.glob("*/*/history.csv")
    with history.open(newline="") as file:
        return statistics.median(float(row["epoch_time_sec"]) for row in csv.DictReader(file))


def profile(tmp_path: Path, **changes: Any) -> str:
    """The cluster's own profile with other values, as a file."""
    lines = (REPOSITORY / "slurm" / "profiles" / "devcluster.yaml").read_text().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in changes]
    path = tmp_path / "profile.yaml"
    path.write_text("\n".join([*kept, *(f"{name}: {value}" for name, value in changes.items())]))
    return f"cluster={path}"


# --- undisturbed --------------------------------------------------------------------------------------------------


def test_a_sweep_equals_the_local_engines_bit_for_bit(user: User, undisturbed: Callable[..., dict[str, bytes]]) -> None:
    words = "sweep=quickstart seeds=0-1 recipe.epochs=1 shift.corruptions=[fog] shift.severities=[5]"
    printed = user.types("submit", f"{words} cluster=devcluster")
    assert "submitted deit: 2 runs as job" in printed
    assert "quickstart: 16 to run" in printed
    again = user.types("submit", f"{words} cluster=devcluster")
    assert "0 to run" in again
    cells = user.waits_for_all()
    assert user.results() == undisturbed(words)
    by_title = {(cell["stage"], cell["axes"]["seed"]): cell for cell in cells}
    for student, teacher in (("deit", "cnn"), ("cst", "vit")):
        for seed in range(2):
            ended = times(user, by_title[teacher, seed]["job"])["EndTime"]
            assert times(user, by_title[student, seed]["job"])["StartTime"] >= ended
    assert "0 to run, 16 finished" in user.types("submit", f"{words} cluster=devcluster")


def times(user: User, task: str) -> dict[str, str]:
    shown = user.cluster.run("scontrol", "show", "job", task).stdout
    return dict(word.split("=", 1) for word in shown.split() if word.startswith(("StartTime=", "EndTime=")))


def test_a_thousand_tasks_are_submitted_in_seconds(user: User) -> None:
    began = time.monotonic()
    printed = user.types("submit", "sweep=quickstart seeds=0-999 only=cnn cluster=devcluster")
    assert time.monotonic() - began < 10
    assert "submitted cnn: 1000 runs as job" in printed


# --- disturbed ----------------------------------------------------------------------------------------------------


def test_requeued_by_hand(user: User, undisturbed: Callable[..., dict[str, bytes]]) -> None:
    user.types("submit", f"{ONE} cluster=devcluster")
    user.cluster.run("scontrol", "requeue", user.waits_for_an_epoch())
    user.waits_for_all()
    assert user.results() == undisturbed(ONE)


def test_preempted(user: User, undisturbed: Callable[..., dict[str, bytes]], tmp_path: Path) -> None:
    ends_as_undisturbed_though_preempted(user, undisturbed, ONE, profile(tmp_path, partition="scavenge"))


def ends_as_undisturbed_though_preempted(
    user: User, undisturbed: Callable[..., dict[str, bytes]], words: str, cluster: str
) -> None:
    """In the partition that gives way, whose nodes all go to an urgent job in the midst of the first run."""
    user.types("submit", f"{words} {cluster}")
    task = user.waits_for_an_epoch()
    user.cluster.run("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 4")
    user.waits_for_all()
    assert user.results() == undisturbed(words)
    assert restarts(user, task) >= 1


def restarts(user: User, task: str) -> int:
    shown = user.cluster.run("scontrol", "show", "job", task).stdout
    return max(int(word.split("=")[1]) for word in shown.split() if word.startswith("Restarts="))


def test_a_time_limit_shorter_than_the_run(
    user: User, undisturbed: Callable[..., dict[str, bytes]], undisturbed_roots: dict[str, Path], tmp_path: Path
) -> None:
    """The signal comes after 60 seconds, for which a run has to be long enough on any machine."""
    undisturbed(ONE)
    epochs = math.ceil(80 / seconds_of_an_epoch(undisturbed_roots[ONE]))
    words = ONE.replace("15", str(epochs))
    user.types("submit", f"{words} {profile(tmp_path, time_min=2, signal_s=75)}")
    task = user.waits_for_an_epoch()
    user.waits_for_all()
    assert user.results() == undisturbed(words)
    assert restarts(user, task) >= 1


def test_a_node_that_dies(user: User, undisturbed: Callable[..., dict[str, bytes]]) -> None:
    user.types("submit", f"{ONE} cluster=devcluster")
    task = user.waits_for_an_epoch()
    shown = user.cluster.run("scontrol", "show", "job", task).stdout
    node = next(word.split("=")[1] for word in shown.split() if word.startswith("NodeList=n"))
    user.cluster.stop_node(node)
    user.cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    user.cluster.start_node(node)
    user.waits_for_all()
    assert user.results() == undisturbed(ONE)
    user.cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


def test_cancelled_and_taken_up_again(user: User, undisturbed: Callable[..., dict[str, bytes]]) -> None:
    user.types("submit", f"{PAIR} cnn.recipe.epochs=15 cluster=devcluster")
    user.cluster.run("scancel", user.waits_for_an_epoch())
    user.waits_for(
        lambda cells: [cell["state"] for cell in cells if cell["axes"]["seed"] == 0] == ["failed", "blocked"]
    )
    user.types("submit", f"{PAIR} cnn.recipe.epochs=15 cluster=devcluster")
    user.waits_for_all()
    assert user.results() == undisturbed(f"{PAIR} cnn.recipe.epochs=15")


def test_the_controller_restarts(user: User, undisturbed: Callable[..., dict[str, bytes]]) -> None:
    user.types("submit", f"{ONE} cluster=devcluster")
    user.waits_for_an_epoch()
    user.cluster.restart_controller()
    user.waits_for_all()
    assert user.results() == undisturbed(ONE)


def test_the_submitting_shell_is_killed(user: User, tmp_path: Path) -> None:
    """After sbatch took the job, before it gets its work: the same command cancels it and submits it anew."""
    sbatch = shutil.which("sbatch", path=user.cluster.env["PATH"])
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/bash\n{sbatch} "$@"\nkill -9 $PPID\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{user.cluster.env['PATH']}"
    words = "sweep=quickstart seeds=0-1 only=cnn recipe.epochs=1 cluster=devcluster"
    user.types("submit", words, code=-signal.SIGKILL, PATH=path)
    first = jobs_in_queue(user)
    assert "2 to run" in user.types("submit", words)
    assert "0 to run" in user.types("submit", words)
    assert len(jobs_in_queue(user) - first) == 2
    assert not jobs_in_queue(user) & first
    user.waits_for_all()


def test_the_submitting_shell_is_killed_a_moment_later(user: User) -> None:
    """The job has its work, but its number was not written down: the same command finds it, and adds nothing."""
    words = "sweep=quickstart seeds=0-1 only=cnn recipe.epochs=1 cluster=devcluster"
    user.types("submit", words)
    submitted = jobs_in_queue(user)
    ledger = user.root / "jobs" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text(lines[0] + lines[1][:5])
    assert "0 to run" in user.types("submit", words)
    assert jobs_in_queue(user) <= submitted
    user.waits_for_all()


def jobs_in_queue(user: User) -> set[str]:
    """Tasks of the CNN that wait or run."""
    lines = user.cluster.run("squeue", "-h", "-r", "-o", "%j %i").stdout.splitlines()
    return {line.split()[1] for line in lines if line.startswith("quickstart-cnn-")}


def test_a_run_that_fails_takes_its_students_alone(user: User) -> None:
    words = "sweep=quickstart seeds=0-1 only=deit,vit recipe.epochs=1 cnn.recipe.lr=1e30 cluster=devcluster"
    user.types("submit", words)
    over = {"done", "failed", "blocked"}
    cells = user.waits_for(lambda cells: all(cell["state"] in over for cell in cells))
    found = {(cell["stage"], cell["state"], cell["cause"]) for cell in cells}
    assert found == {("cnn", "failed", "nan"), ("deit", "blocked", "nan"), ("vit", "done", None)}
    printed = user.types("status", "sweep=quickstart", code=1)
    assert "failed cnn seed=0 data=digits: (nan) the training loss is" in printed
    assert "its teacher, cnn seed=0 data=digits, failed (nan)" in printed


# --- odd clusters -------------------------------------------------------------------------------------------------


def test_small_arrays_without_accounting(odd_user: User, undisturbed: Callable[..., dict[str, bytes]]) -> None:
    words = "sweep=quickstart seeds=0-11 only=cnn recipe.epochs=1"
    printed = odd_user.types("submit", f"{words} cluster=devcluster")
    sizes = sorted(int(line.split()[2]) for line in printed.splitlines() if line.startswith("submitted cnn"))
    assert sum(sizes) == 12
    assert max(sizes) <= 11
    odd_user.waits_for_all()
    results = odd_user.results()
    assert len(results) == 12
    assert undisturbed(words.replace("0-11", "0-1")).items() <= results.items()


def test_a_run_that_is_killed_for_memory_gets_more(
    odd_user: User, undisturbed: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    """Torch alone fills 300 MB: the first attempts die, which nobody but the log of the task tells."""
    words = ONE.replace("15", "2")
    odd_user.types("submit", f"{words} {profile(tmp_path, mem_gb=0.3, max_mem_gb=6, retries=5)}")
    odd_user.waits_for_all()
    assert odd_user.results() == undisturbed(words)
    ledger = [json.loads(line) for line in (odd_user.root / "jobs" / "ledger.jsonl").read_text().splitlines()]
    given = [line["needs"]["mem_gb"] for line in ledger if line.get("stage") == "cnn"]
    assert given[:2] == [0.3, 0.6]
    assert given == [0.3 * 2**attempt for attempt in range(len(given))]


def test_a_queue_that_does_not_answer_for_a_while(
    odd_user: User, undisturbed: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    silent = tmp_path / "bin" / "squeue"
    silent.parent.mkdir()
    silent.write_text("#!/bin/bash\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1\n")
    silent.chmod(0o755)
    path = f"{silent.parent}:{odd_user.cluster.env['PATH']}"
    odd_user.types("submit", f"{ONE} cluster=devcluster")
    told = odd_user.types("status", "sweep=quickstart", PATH=path)
    assert "does not answer" in told or "running" in told
    assert "failed cnn" not in told
    assert "0 to run" in odd_user.types("submit", f"{ONE} cluster=devcluster", PATH=path)
    odd_user.waits_for_all()
    assert odd_user.results() == undisturbed(ONE)


# --- in a container -----------------------------------------------------------------------------------------------


@pytest.mark.container
@pytest.mark.apptainer
@pytest.mark.skipif(shutil.which("podman") is None or os.geteuid() != 0, reason="needs podman, as root")
@pytest.mark.skipif(shutil.which("apptainer") is None, reason="apptainer is not installed")
def test_the_quickstart_in_a_container_preempted_and_requeued(
    user: User, undisturbed: Callable[..., dict[str, bytes]], sif: Any, tmp_path: Path
) -> None:
    """One seed of it, of one epoch but for the first run; with the container's own code."""
    words = "sweep=quickstart seeds=0 recipe.epochs=1 cnn.recipe.epochs=15"
    words += " shift.corruptions=[fog] shift.severities=[5]"
    cluster = profile(tmp_path, partition="scavenge", container=sif.file)
    ends_as_undisturbed_though_preempted(user, undisturbed, words, cluster)
    digest = Path(f"{sif.file}.sha256").read_text().split()[0]
    for path in user.root.glob("*/*/provenance.json"):
        told = json.loads(path.read_text())
        assert told["container"]["digest"] == digest
        assert told["command"].startswith("/opt/venv/bin/python /opt/stillhouse/")
        assert not told["container"]["bound_checkout"]
    assert "note:" not in user.types("status", "sweep=quickstart")
