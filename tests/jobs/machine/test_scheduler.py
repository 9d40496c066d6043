import getpass
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.failures import CLASSES
from jobs.machine import scheduler
from jobs.machine.scheduler import (
    CAUSES,
    FINAL,
    Limits,
    Queued,
    by_name,
    cancel,
    cause_in_log,
    clean_environment,
    ended,
    limits,
    queue,
    refused_in_log,
    requeue,
)

Fake = Callable[[str, str], None]

QUESTIONS: dict[str, tuple[str, Callable[[], object]]] = {
    "queue": ("squeue", queue),
    "ended": ("sacct", lambda: ended(["7"])),
    "test_only": ("sbatch", lambda: scheduler.test_only("#!/bin/bash\n")),
    "by_name": ("squeue", lambda: by_name("cnn")),
    "cancel": ("scancel", lambda: cancel(["7"])),
    "requeue": ("scontrol", lambda: requeue("7")),
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Commands of SLURM as small shell scripts; there are no others, and each writes its words to calls/<name>."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "calls").mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, body: str) -> None:
        log = tmp_path / "calls" / name
        (folder / name).write_text(f'#!/bin/sh\necho "$*" >> {log}\nPATH=/usr/bin:/bin\n{body}\n')
        (folder / name).chmod(stat.S_IRWXU)

    return write


def calls(name: str) -> list[str]:
    return Path("calls", name).read_text().splitlines()


# --- no answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_is_known_without_the_command(fake: Fake, name: str) -> None:
    assert QUESTIONS[name][1]() is None


@pytest.mark.parametrize("name", [name for name in QUESTIONS if name != "test_only"])
def test_nothing_is_known_from_a_command_that_fails(fake: Fake, name: str) -> None:
    command, ask = QUESTIONS[name]
    fake(command, "echo '1|RUNNING|None|N/A|main'; exit 1")
    assert ask() is None
    assert calls(command)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_command_that_hangs_is_left(fake: Fake, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    command, ask = QUESTIONS[name]
    monkeypatch.setattr(scheduler, "ANSWER_S", 0.3)
    fake(command, "exec sleep 30")
    started = time.monotonic()
    assert ask() is None
    assert time.monotonic() - started < 5
    assert calls(command)


def test_a_command_whose_own_child_hangs_is_left_too(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "ANSWER_S", 0.3)
    fake("squeue", "sleep 6; true")  # the child keeps the pipe open after its parent was killed
    started = time.monotonic()
    assert queue() is None
    assert time.monotonic() - started < 5


def test_the_limits_are_unknown_where_nobody_tells_them(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits() == Limits(None, None)
    for command in ("scontrol", "sacctmgr"):
        fake(command, "echo 'MaxArraySize = 5'; echo 5; exit 1")
    assert limits() == Limits(None, None)
    monkeypatch.setattr(scheduler, "ANSWER_S", 0.3)
    for command in ("scontrol", "sacctmgr"):
        fake(command, "exec sleep 30")
    assert limits() == Limits(None, None)


def test_a_command_that_may_not_be_run(fake: Fake) -> None:
    fake("squeue", "echo '1|RUNNING|None|N/A|main'")
    Path("bin/squeue").write_bytes(b"\x00\x01 no program")  # ENOEXEC
    assert queue() is None


# --- the queue --------------------------------------------------------------------------------------------------


def test_the_queue(fake: Fake) -> None:
    fake(
        "squeue",
        """cat <<END
12|RUNNING|None|2026-03-01T10:00:00|gpu
13_0|PENDING|Dependency|N/A|gpu,gpu_long
13_1|COMPLETED|None|2026-03-01T09:00:00|gpu
END""",
    )
    assert queue() == {
        "12": Queued("RUNNING", "None", "2026-03-01T10:00:00", "gpu"),
        "13_0": Queued("PENDING", "Dependency", "N/A", "gpu,gpu_long"),
        "13_1": Queued("COMPLETED", "None", "2026-03-01T09:00:00", "gpu"),
    }
    assert calls("squeue") == ["--me -h -r -o %i|%T|%r|%S|%P"]


def test_an_empty_queue_is_known_to_be_empty(fake: Fake) -> None:
    fake("squeue", "true")
    assert queue() == {}


def test_words_that_are_no_queue_do_not_mean_an_empty_one(fake: Fake) -> None:
    fake("squeue", "echo 'The cluster is down for maintenance'; printf '\\377\\n'; echo 'a|b|c|d|e'; echo '1|RUNNING'")
    assert queue() is None


def test_jobs_are_found_among_other_words(fake: Fake) -> None:
    fake("squeue", "echo 'CLUSTER: north'; echo '12|RUNNING|None|N/A|gpu'")
    assert queue() == {"12": Queued("RUNNING", "None", "N/A", "gpu")}


@pytest.mark.parametrize(
    ("state", "live"),
    [
        *((state, True) for state in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED")),
        *((state, False) for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")),
        ("A_STATE_OF_TOMORROW", True),
    ],
)
def test_what_has_ended_does_not_count_as_queued(state: str, live: bool) -> None:
    assert Queued(state).live is live


def test_habits_of_the_shell_do_not_change_the_question(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    fake("squeue", 'echo "7|[$SQUEUE_STATES]|$SLURM_CONF|$SLURM_BITSTR_LEN|main"')
    assert queue() == {"7": Queued("[]", "/etc/other.conf", "0", "main")}


# --- what has ended ---------------------------------------------------------------------------------------------


def test_final_states(fake: Fake) -> None:
    fake(
        "sacct",
        """cat <<END
12|COMPLETED|0:0
13_0|CANCELLED by 1000|0:0
13_1|RUNNING|0:0
13_[4-6,9%2]|CANCELLED by 0|0:0
14_[0-4:2]|PENDING|0:0
15|OUT_OF_ME+|0:125
16|FAILED|0:125
17|FAILED|1:0
18|TIMEOUT|0:0
19|CANCELLED|0:0
12.batch|FAILED|1:0
13_[1,3,...]|FAILED|1:0
|FAILED|1:0
sacct: a warning
END""",
    )
    assert ended(["12", "13", "14", "15", "16", "17", "18", "19"]) == {
        "12": "COMPLETED",
        "13_0": "CANCELLED",
        **dict.fromkeys(("13_4", "13_5", "13_6", "13_9"), "CANCELLED"),
        "15": "OUT_OF_MEMORY",
        "16": "OUT_OF_MEMORY",
        "17": "FAILED",
        "18": "TIMEOUT",
        "19": "DEPENDENCY_FAILED",
        **dict.fromkeys(("13_1", "13_3"), "FAILED"),
    }
    assert calls("sacct") == ["-X -n -P -o JobID,State,ExitCode -j 12,13,14,15,16,17,18,19"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("123", ["123"]),
        ("123_4", ["123_4"]),
        ("123_[4]", ["123_4"]),
        ("123_[4-6%2]", ["123_4", "123_5", "123_6"]),
        ("123_[0,2-3,8-12:2%50]", ["123_0", "123_2", "123_3", "123_8", "123_10", "123_12"]),
        ("123.batch", []),
        ("123_4.0", []),
        ("123+0", []),
        ("123_[]", []),
        ("JobID", []),
        ("", []),
    ],
)
def test_ids_of_arrays_are_spelt_out(text: str, ids: list[str]) -> None:
    assert scheduler._expanded_id(text) == ids


def test_many_are_asked_for_in_chunks_and_each_once(fake: Fake) -> None:
    fake("sacct", 'eval "last=\\${$#}"; echo "$last" | tr , "\\n" | sed "s/$/|COMPLETED|0:0/"')
    ids = [f"{number}" for number in range(1001)]
    assert ended([*ids, *ids]) == dict.fromkeys(ids, "COMPLETED")
    assert [words.count(",") - 2 for words in calls("sacct")] == [499, 499, 0]


def test_one_silent_chunk_silences_all(fake: Fake) -> None:
    fake("sacct", 'case "$*" in *,1000) exit 1;; esac; echo "1|COMPLETED|0:0"')
    assert ended(map(str, range(1000))) == {"1": "COMPLETED"}
    assert ended(map(str, range(1001))) == {"1": "COMPLETED"}
    assert ended(map(str, range(1, 1001))) is None


def test_of_no_jobs_nothing_is_asked(fake: Fake) -> None:
    assert ended([]) == {}
    assert cancel([]) is True


def test_jobs_by_name_from_the_queue_and_from_the_past(fake: Fake) -> None:
    fake("squeue", "echo 5_1; echo 5_0")
    assert by_name("cnn") == ["5_1", "5_0"]
    fake("sacct", "echo 4; echo '5_[0-2%9]'; echo 4.batch")
    assert by_name("cnn") == ["5_1", "5_0", "4", "5_2"]
    assert calls("squeue")[0] == "--me -h -r -o %i --name=cnn"
    assert calls("sacct") == ["-X -n -P -o JobID --starttime=now-30days --name=cnn"]
    fake("squeue", "exit 1")
    assert by_name("cnn") == ["4", "5_0", "5_1", "5_2"]
    fake("sacct", "true")
    assert by_name("cnn") is None  # accounting may lag behind a queue that does not answer
    fake("squeue", "true")
    assert by_name("cnn") == []


# --- causes -----------------------------------------------------------------------------------------------------


def test_causes_are_classes_of_failure_and_their_states_are_final() -> None:
    assert set(CAUSES.values()) == {"oom", "timeout", "node", "preempted", "cancelled", "lost"}
    assert set(CAUSES.values()) - {"cancelled", "lost"} <= set(CLASSES)
    assert set(CAUSES) < FINAL
    assert "FAILED" not in CAUSES


AT = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-03-01T10:00:00"


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ("timeout", f"{AT} DUE TO TIME LIMIT ***"),
        ("preempted", f"{AT} DUE TO PREEMPTION ***"),
        ("preempted", f"{AT} DUE TO JOB REQUEUE ***"),
        ("node", f"{AT} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"),
        ("cancelled", f"{AT} ***"),
        ("oom", "slurmstepd: error: StepId=7.0 exceeded memory limit (9000 > 8000), being killed"),
        ("oom", "slurmstepd: error: Exceeded job memory limit"),
        ("oom", "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0."),
        ("oom", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0."),
        ("oom", "srun: error: n1: task 0: Out Of Memory"),
        ("oom", "srun: error: n1: task 0: OOM Killed"),
        (None, "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"),
        (None, "ValueError: something else"),
        (None, ""),
    ],
)
def test_the_last_words_of_a_task(cause: str | None, text: str) -> None:
    assert cause_in_log(f"epoch 1\n{text}\nsrun: error: n1: task 0: Killed\n") == cause


def test_the_newest_attempt_counts() -> None:
    preempted, cancelled, timeout = f"{AT} DUE TO PREEMPTION ***\n", f"{AT} ***\n", f"{AT} DUE TO TIME LIMIT ***\n"
    assert cause_in_log(timeout + preempted) == "preempted"
    assert cause_in_log(preempted + timeout) == "timeout"
    assert cause_in_log(preempted + cancelled) == "cancelled"
    assert cause_in_log(preempted + "epoch 7\n" * 30) is None
    assert cause_in_log(preempted + "x" * 10_000) is None


def test_a_step_cancelled_for_the_memory_of_another_task_is_out_of_memory() -> None:
    killed, cancelled = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.\n", f"{AT} ***\n"
    assert cause_in_log(killed + cancelled * 2) == "oom"
    assert cause_in_log(cancelled + killed) == "oom"
    assert cause_in_log(f"{killed}{AT} DUE TO JOB REQUEUE ***\n{cancelled}") == "cancelled"


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (
            "run.sh: no GPU driver on n1\nsrun: error: n1: task 0: Exited with exit code 2\n",
            "run.sh: no GPU driver on n1",
        ),
        ("epoch 1\nFATAL: could not open image\nslurmstepd: error: x\n", "FATAL: could not open image"),
        ("run.sh: no GPU driver on n1\nepoch 1\n", None),  # of an earlier start
        ("srun: error: n1: task 0: Killed\n", None),
        ("", None),
    ],
)
def test_a_task_that_did_not_get_into_its_container(text: str, refusal: str | None) -> None:
    assert refused_in_log(text) == refusal


# --- limits and orders ------------------------------------------------------------------------------------------


def test_limits(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    fake("scontrol", "echo 'MaxArrayTasks = 9'; echo 'MaxArraySize            = 1001'; echo 'MaxJobCount = 10000'")
    assert limits() == Limits(max_array_size=1001, max_submit=None)
    fake("sacctmgr", "echo 500; echo; echo 200; echo 1.5; echo none")
    assert limits() == Limits(max_array_size=1001, max_submit=200)
    assert calls("scontrol")[0] == "show config"
    assert calls("sacctmgr") == ["-nP show assoc where user=ada format=MaxSubmitJobs"]


def test_the_limits_of_a_user_without_a_name(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    fake("sacctmgr", "echo 500")
    assert limits() == Limits(None, None)
    assert not Path("calls/sacctmgr").exists()


def test_a_trial_tells_both_ways(fake: Fake) -> None:
    fake("sbatch", 'cat > script; echo "sbatch: Job 7 to start at noon" >&2')
    assert scheduler.test_only("#!/bin/bash\ntrue\n") == "sbatch: Job 7 to start at noon"
    assert Path("script").read_text() == "#!/bin/bash\ntrue\n"
    assert calls("sbatch") == ["--test-only"]
    fake("sbatch", 'echo "allocation failure: Invalid partition name specified" >&2; exit 1')
    assert scheduler.test_only("#!/bin/bash\n") == "allocation failure: Invalid partition name specified"


def test_cancelling_goes_on_after_a_chunk_that_fails(fake: Fake) -> None:
    fake("scancel", 'case "$*" in *" 0 "*) exit 1;; esac')
    assert cancel(["7", "8_1", "7"]) is True
    assert cancel(map(str, range(600))) is None
    first, *others = calls("scancel")
    assert first == "--quiet 7 8_1"
    assert [words.split()[-1] for words in others] == ["499", "599"]


def test_requeue(fake: Fake) -> None:
    fake("scontrol", "true")
    assert requeue("8_1") is True
    assert calls("scontrol") == ["requeue 8_1"]


# --- from inside a job ------------------------------------------------------------------------------------------


def test_a_job_of_a_job_inherits_nothing_of_it() -> None:
    outer = {"HOME": "/home/ada", "SLURM_CONF": "/etc/slurm.conf", "CUDA_HOME": "/cuda", "RANKING": "1", "OMPI": "4"}
    names = (
        *("SLURM_JOB_ID", "SLURM_CONF_SERVER", "SLURMD_NODENAME", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK"),
        *("SUBMITIT_EXECUTOR", "PMI_RANK", "PMIX_RANK", "PMI2", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
        *("MASTER_ADDR", "MASTER_PORT"),
    )
    given = outer | dict.fromkeys(names, "1")
    assert clean_environment(given) == outer
    assert set(names) < set(given), "the given environment stays as it is"
    assert clean_environment(os.environ | outer).items() >= outer.items()
