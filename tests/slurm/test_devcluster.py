"""The project's own SLURM does what a site's does: arrays, requeues, preemption, lost nodes, limits."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="slurmctld is not installed"),
]
DEVCLUSTER = Path(__file__).parents[2] / "slurm" / "devcluster"
SACCT_QUESTION = ("sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode")
GROWS = "python3 -c 'import time; kept = b\"x\" * 300_000_000; time.sleep(60)'"


@pytest.fixture(scope="module")
def strict(make_cluster: Any) -> Any:
    """A second cluster beside the first, with other limits."""
    return make_cluster(NODES="1", GPUS="0", SACCT="none", MAX_ARRAY_SIZE="5", OVER_MEMORY_KILL="1")


def node_of(cluster: Any, job: str) -> str:
    return str(cluster.squeue(f"--jobs={job}")[0][2])


def restarts(cluster: Any, job: str) -> int:
    shown = cluster.run("scontrol", "show", "job", job).stdout
    return next(int(word.removeprefix("Restarts=")) for word in shown.split() if word.startswith("Restarts="))


def comes_back(cluster: Any, job: str) -> None:
    """Wait for the job as put back into the queue, and then not for the rest of the ten seconds that it has to stay."""
    cluster.waits_for_states(job, "PENDING")
    time.sleep(3)
    assert cluster.squeue(f"--jobs={job}")[0][1] == "PENDING"
    cluster.kick()
    cluster.waits_for_states(job, "RUNNING", seconds=5)


def daemons(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text().strip() for path in (folder / "run").glob("*.pid")}


def is_alive(process: str) -> bool:
    """A zombie, which waits for a parent that may never look, has no command line."""
    path = Path("/proc", process, "cmdline")
    return path.exists() and bool(path.read_bytes())


def processes(folder: Path) -> list[str]:
    """Command lines of what belongs to the cluster in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environ = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # it has ended meanwhile
            continue
        if bytes(folder) in command or bytes(folder / "slurm.conf") in environ:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_an_array_runs_and_is_accounted_for(cluster: Any, tmp_path: Path) -> None:
    job = cluster.submit(
        "--array=0-2", "--gpus-per-node=1", "--wrap", "echo $CUDA_VISIBLE_DEVICES > $SLURM_ARRAY_TASK_ID"
    )
    cluster.waits_for_states(job, *["COMPLETED"] * 3)
    assert {(tmp_path / str(task)).read_text().strip() for task in range(3)} <= {"0", "1"}
    answer = cluster.run(*SACCT_QUESTION, "-j", job).stdout.splitlines()
    assert sorted(answer) == [f"{job}_{task}|COMPLETED|0:0" for task in range(3)]


def test_sacct_knows_how_jobs_ended(cluster: Any) -> None:
    failed = cluster.submit("--job-name=to-be-found", "--wrap", "exit 3")
    killed = cluster.submit("--wrap", "kill -9 $$")
    cancelled = cluster.submit("--begin=now+1hour", "--array=2-5%2", "--wrap", "true")
    waiting = cluster.submit("--begin=now+1hour", "--array=2-5%2", "--wrap", "true")
    cluster.run("scancel", cancelled)
    cluster.waits_for_states(failed, "FAILED")
    cluster.waits_for_states(killed, "FAILED")
    unknown = "99999999"
    asked = cluster.run(*SACCT_QUESTION, "-j", f"{failed},{killed},{cancelled},{waiting},{unknown}")
    cluster.run("scancel", waiting)
    assert sorted(asked.stdout.splitlines()) == sorted(
        [
            f"{failed}|FAILED|3:0",
            f"{killed}|FAILED|0:9",
            f"{cancelled}_[2-5%2]|CANCELLED by {os.getuid()}|0:0",
            f"{waiting}_[2-5%2]|PENDING|0:0",
        ]
    )
    given_up = cluster.submit(f"--dependency=afterok:{failed}", "--kill-on-invalid-dep=yes", "--wrap", "true")
    cluster.waits_for_states(given_up, "CANCELLED")
    assert cluster.run(*SACCT_QUESTION, "-j", given_up).stdout == f"{given_up}|CANCELLED|0:0\n"  # by nobody
    by_name = cluster.run("sacct", "-X", "-n", "-P", "-o", "JobID", "--starttime=now-30days", "--name=to-be-found")
    assert by_name.stdout.split() == [failed]
    as_submitit_asks = cluster.run("sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", failed, "-j", killed)
    heading, *rows = as_submitit_asks.stdout.splitlines()
    assert heading == "JobID|State|NodeList"
    assert sorted(row.rpartition("|")[0] for row in rows) == [f"{failed}|FAILED", f"{killed}|FAILED"]
    nothing = cluster.run(*SACCT_QUESTION, "-j", unknown)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")
    assert "not a field here: Colour" in cluster.run("sacct", "-o", "JobID,Colour").stderr


def test_a_requeued_job_comes_back(cluster: Any) -> None:
    job = cluster.submit("--wrap", "sleep 30")
    cluster.waits_for_states(job, "RUNNING")
    cluster.run("scontrol", "requeue", job)
    comes_back(cluster, job)
    assert restarts(cluster, job) == 1
    cluster.run("scancel", job)


def test_urgent_takes_the_nodes_of_scavenge(cluster: Any, tmp_path: Path) -> None:
    """The job hears the signal that it asked for, is requeued, and runs again when the urgent one is done."""
    script = "trap 'touch told' USR2; touch ready.$SLURM_RESTART_COUNT; for _ in $(seq 300); do sleep 0.1; done"
    wish = ("--partition=scavenge", "--exclusive", "--signal=B:USR2@30", "--time=60")
    job = cluster.submit(*wish, "--wrap", script)
    cluster.waits_for((tmp_path / "ready.").exists)
    urgent = cluster.submit("--partition=urgent", "--nodes=4", "--exclusive", "--wrap", "true")
    cluster.waits_for_states(urgent, "COMPLETED")
    comes_back(cluster, job)
    cluster.waits_for((tmp_path / "ready.1").exists)
    assert (tmp_path / "told").exists()
    assert restarts(cluster, job) == 1
    cluster.run("scancel", job)


def test_the_job_of_a_dead_node_comes_back_on_another(cluster: Any) -> None:
    job = cluster.submit("--wrap", "sleep 60")
    cluster.waits_for_states(job, "RUNNING")
    node = node_of(cluster, job)
    cluster.stop_node(node)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    comes_back(cluster, job)
    assert node_of(cluster, job) != node
    cluster.run("scancel", job)
    cluster.start_node(node)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    cluster.waits_for(lambda: cluster.run("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T").stdout == "idle\n")


def test_jobs_outlive_the_controller(cluster: Any) -> None:
    job = cluster.submit("--wrap", "sleep 30")
    cluster.waits_for_states(job, "RUNNING")
    before = (cluster.folder / "run" / "slurmctld.pid").read_text()
    cluster.restart_controller()
    assert (cluster.folder / "run" / "slurmctld.pid").read_text() != before
    assert cluster.squeue(f"--jobs={job}")[0][1] == "RUNNING"
    assert restarts(cluster, job) == 0
    cluster.run("scancel", job)


def test_starting_again_changes_nothing(cluster: Any) -> None:
    before = daemons(cluster.folder)
    cluster.start()
    assert daemons(cluster.folder) == before
    assert before.keys() == {"munged", "slurmctld", "n1", "n2", "n3", "n4"}


def test_an_array_is_no_longer_than_allowed(strict: Any) -> None:
    assert "Invalid job array specification" in strict.run("sbatch", "--array=0-5", "--wrap", "true").stderr
    job = strict.submit("--array=0-4", "--wrap", "true")
    strict.waits_for_states(job, *["COMPLETED"] * 5)


def test_a_task_that_outgrows_its_memory_is_killed(strict: Any, tmp_path: Path) -> None:
    fits = strict.submit("--mem=1000", "--wrap", GROWS)
    job = strict.submit("--mem=100", "--wrap", f"srun {GROWS}")
    strict.waits_for(lambda: strict.squeue(f"--jobs={job}")[0][1] not in {"PENDING", "RUNNING", "COMPLETING"})
    assert "memory limit" in (tmp_path / f"slurm-{job}.out").read_text()
    strict.waits_for_states(fits, "RUNNING")
    strict.run("scancel", fits)


def test_without_a_stand_in_sacct_fails(strict: Any) -> None:
    done = strict.run(*SACCT_QUESTION, "-j", "1")
    assert done.returncode != 0
    assert "accounting storage is disabled" in done.stderr


def test_stop_leaves_nothing_running(make_cluster: Any, tmp_path: Path) -> None:
    """Neither its daemons, nor a job of a node whose daemon was killed, which no daemon can be told to end."""
    cluster = make_cluster(NODES="2", GPUS="0")
    script = "echo $$ > job.$SLURM_ARRAY_TASK_ID; sleep 300"
    job = cluster.submit("--array=1-2", "--cpus-per-task=8", "--wrap", script)
    cluster.waits_for(lambda: all((tmp_path / f"job.{task}").exists() for task in (1, 2)))
    cluster.waits_for_states(job, "RUNNING", "RUNNING")
    assert is_alive((tmp_path / "job.1").read_text().strip())
    cluster.stop_node("n1")
    cluster.stop()
    assert processes(cluster.folder) == []
    for task in (1, 2):
        assert not is_alive((tmp_path / f"job.{task}").read_text().strip())
    assert list((cluster.folder / "run").glob("*.pid")) == []
    assert "not running" in cluster.devcluster("status").stderr
    cluster.stop()


def test_a_stale_pid_file_ends_no_stranger(make_cluster: Any) -> None:
    cluster = make_cluster(NODES="1", GPUS="0")
    cluster.stop()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (cluster.folder / "run" / "n1.pid").write_text(f"{stranger.pid}\n")
        cluster.stop()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(
    ("options", "words", "says"),
    [
        ({"SACCT": "real"}, "start", "SACCT=real, allowed: shim, none"),
        ({"STILLHOUSE_DEVCLUSTER": "/" + "x" * 80}, "start", "is too long a path for sockets: at most 75"),
        ({}, "kill n9", "first: "),
        ({}, "begin", "slurm/devcluster start "),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, str], words: str, says: str) -> None:
    refused = subprocess.run(
        [DEVCLUSTER, *words.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "STILLHOUSE_DEVCLUSTER": str(tmp_path / "c"), **options},
    )
    assert refused.returncode == 2
    assert says in refused.stderr
    assert not (tmp_path / "c").exists()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for command in ("bash", "dirname", "realpath"):
        (tmp_path / command).symlink_to(str(shutil.which(command)))
    environment = {"PATH": str(tmp_path), "STILLHOUSE_DEVCLUSTER": str(tmp_path / "c")}
    refused = subprocess.run([tmp_path / "bash", DEVCLUSTER, "start"], capture_output=True, text=True, env=environment)
    assert refused.returncode == 2
    assert "no squeue here" in refused.stderr
    assert "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge" in refused.stderr
