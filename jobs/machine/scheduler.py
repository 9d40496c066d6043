"""Ask SLURM what it knows of our jobs, politely: few questions, each for many jobs, and none that waits for long.

Where a command is missing, fails or does not answer in time, the answer is None: nothing is known, which is not the
same as no jobs. Nothing here raises, because a scheduler that is busy must not end the work of others.
"""

import getpass
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

ANSWER_S = 10
CHUNK = 500  # ids on one command line
SACCT_DAYS = 30  # sacct looks no further back than this morning unless told to

FINAL = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"),
    *("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"),
    "DEPENDENCY_FAILED",  # our word: CANCELLED, by nobody
}
# The failure classes of common/failures.py, and cancelled, which is no failure. FAILED alone says nothing.
CAUSES = {
    "OUT_OF_MEMORY": "oom",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "DEPENDENCY_FAILED": "lost",  # though what it builds on may be finished: its job was not allowed to end well
}
# What slurmstepd and srun write into a task's stderr. Capitals count: torch's "out of memory" is of the GPU.
# Of two in one line the first here is meant: "CANCELLED AT ... DUE TO TIME LIMIT" is a timeout.
CAUSES_IN_LOG = {
    "exceeded memory limit": "oom",
    "Exceeded job memory limit": "oom",
    "Out Of Memory": "oom",
    "OOM Killed": "oom",
    "oom-kill": "oom",
    "oom_kill": "oom",
    "DUE TO TIME LIMIT": "timeout",
    "DUE TO PREEMPTION": "preempted",
    "DUE TO JOB REQUEUE": "preempted",
    "NODE FAILURE": "node",
    "CANCELLED AT": "cancelled",
}
LOG_END_CHARS, LOG_END_LINES = 8192, 20

OUT_OF_MEMORY_SIGNAL = "125"  # SLURM's own number, in the exit code of what the kernel killed for its memory

HABITS = ("SQUEUE_", "SACCT_", "SCANCEL_")  # settings of someone's shell that would change what we ask

# --- asking -----------------------------------------------------------------------------------------------------


def _ask(*command: str, text: str = "") -> subprocess.CompletedProcess[str] | None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(HABITS)}
    environ["SLURM_BITSTR_LEN"] = "0"  # else the ids of a long array end in "..."

    # A site's words, in any encoding, must not raise: what cannot be decoded is replaced.
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_S,
            check=False,
            env=environ,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _lines(*command: str) -> list[str] | None:
    """Return what the command printed, without empty lines."""
    done = _ask(*command)
    if done is None or done.returncode:
        return None
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    distinct = list(dict.fromkeys(ids))
    return (distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK))


# --- what waits and runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queued:
    """One job as the queue shows it; each task of an array is a job."""

    state: str
    reason: str = ""
    start: str = ""  # when it started, or is expected to; N/A where nobody knows
    partition: str = ""

    @property
    def live(self) -> bool:
        """Say whether it waits or runs: squeue shows ended jobs for a while too (MinJobAge).

        A job in a state that nobody has heard of may still run.
        """
        return self.state not in FINAL


def queue() -> dict[str, Queued] | None:
    """Return how each of our jobs stands, by its id; that of an array's task is as in 123_4."""
    lines = _lines("squeue", "--me", "-h", "-r", "-o", "%i|%T|%r|%S|%P")
    if lines is None:
        return None
    rows = [line.split("|") for line in lines]
    jobs = {
        job: Queued(_state(row[1]), *row[2:]) for row in rows if len(row) == 5 for job in _expanded_id(row[0].strip())
    }
    return None if lines and not jobs else jobs  # words that are no queue do not mean that it is empty


# --- what has ended ---------------------------------------------------------------------------------------------


def ended(ids: Iterable[str]) -> dict[str, str] | None:
    """Return the final state of those jobs that have one, by id; an array's own id asks for all its tasks."""
    states: dict[str, str] = {}
    for chunk in _chunks(ids):
        lines = _lines("sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode", "-j", ",".join(chunk))
        if lines is None:
            return None
        rows = [line.split("|") for line in lines]
        for job, state, exit_code in (row for row in rows if len(row) == 3):
            states |= dict.fromkeys(_expanded_id(job), _final_state(state, exit_code))
    return {job: state for job, state in states.items() if state in FINAL}


def _state(text: str) -> str:
    """Return the state alone: `CANCELLED by 0` names who did it too, and `OUT_OF_ME+` is cut off."""
    word = (text.split() or [""])[0]
    if word.endswith("+"):
        return next((state for state in sorted(FINAL) if state.startswith(word[:-1])), word)
    return word


def _final_state(text: str, exit_code: str) -> str:
    if text.strip() == "CANCELLED":  # if somebody did it, it would say who
        return "DEPENDENCY_FAILED"
    state = _state(text)
    killed_for_memory = state == "FAILED" and exit_code.partition(":")[2] == OUT_OF_MEMORY_SIGNAL
    return "OUT_OF_MEMORY" if killed_for_memory else state


ARRAY = re.compile(r"(?P<job>\d+)_\[(?P<tasks>[^]%]*)(%\d+)?\]")
TASKS = re.compile(r"(?P<first>\d+)(-(?P<last>\d+)(:(?P<step>\d+))?)?")


def _expanded_id(text: str) -> list[str]:
    """List the jobs of an id: `123_[4-6,9%2]` is four tasks that have not started; what is no id has none."""
    if re.fullmatch(r"\d+(_\d+)?", text):
        return [text]
    array = ARRAY.fullmatch(text)
    parts = map(TASKS.fullmatch, array["tasks"].split(",")) if array else ()
    return [
        f"{array['job']}_{task}"
        for part in parts
        if array and part
        for task in range(int(part["first"]), int(part["last"] or part["first"]) + 1, int(part["step"] or 1))
    ]


def by_name(name: str) -> list[str] | None:
    """List the ids of our jobs of that name, those in the queue first.

    None where the queue does not answer and accounting has none: it may not have heard of a job yet.
    """
    queued = _lines("squeue", "--me", "-h", "-r", "-o", "%i", f"--name={name}")
    past = _lines("sacct", "-X", "-n", "-P", "-o", "JobID", f"--starttime=now-{SACCT_DAYS}days", f"--name={name}")
    if queued is None and not past:
        return None
    return list(dict.fromkeys(job for line in [*(queued or []), *(past or [])] for job in _expanded_id(line)))


def cause_in_log(text: str) -> str | None:
    """Return the class of what ended a task, by SLURM's last words in its stderr.

    All attempts of a job write into one file, so the last words count, and only the end is read. Tasks that are
    cancelled because another one ran out of memory do not hide that.
    """
    lines = text[-LOG_END_CHARS:].splitlines()[-LOG_END_LINES:]
    causes = [cause for cause in map(_cause_in_line, lines) if cause]
    if not causes:
        return None
    before = [cause for cause in causes if cause != "cancelled"][-1:]
    return "oom" if before == ["oom"] else causes[-1]


def refused_in_log(text: str) -> str | None:
    """Return why a task did not get into its container, in the last line of containers/run.sh or apptainer."""
    lines = [
        line for line in text[-LOG_END_CHARS:].splitlines() if line and not line.startswith(("srun:", "slurmstepd"))
    ]
    return lines[-1] if lines and lines[-1].startswith(("run.sh: ", "FATAL: ")) else None


def _cause_in_line(line: str) -> str | None:
    return next((cause for words, cause in CAUSES_IN_LOG.items() if words in line), None)


# --- what the cluster allows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The cluster's limits on what we may submit; None where one is not known."""

    max_array_size: int | None  # tasks of one array: indices are below it
    max_submit: int | None  # our jobs in the queue at one time, each task of an array counted


def limits() -> Limits:
    config = _lines("scontrol", "show", "config") or []
    matches = [re.fullmatch(r"MaxArraySize\s*=\s*(\d+)", line) for line in config]
    sizes = [int(match[1]) for match in matches if match]
    # Which account a job will be charged to is not known here; the least limit is safe.
    return Limits(max_array_size=min(sizes, default=None), max_submit=min(_submit_limits(), default=None))


def _submit_limits() -> list[int]:
    """List the limits of the accounts that the user may charge; one without a limit has no line."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return []
    words = ("show", "assoc", "where", f"user={user}", "format=MaxSubmitJobs")
    return [int(line) for line in _lines("sacctmgr", "-nP", *words) or [] if line.isdecimal()]


def test_only(script_text: str) -> str | None:
    """Return what sbatch says to a script without submitting it: when and where it would start, or why it cannot."""
    done = _ask("sbatch", "--test-only", text=script_text)
    return None if done is None else f"{done.stdout}{done.stderr}".strip()


# --- telling ----------------------------------------------------------------------------------------------------


def cancel(ids: Iterable[str]) -> bool | None:
    """Return True where SLURM took every id, else None; all are tried. One that has ended or is unknown is no error."""
    done = [_lines("scancel", "--quiet", *chunk) for chunk in _chunks(ids)]
    return None if None in done else True


def requeue(job_id: str) -> bool | None:
    return None if _lines("scontrol", "requeue", job_id) is None else True


# --- from inside a job ------------------------------------------------------------------------------------------

JOB_PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SUBMITIT_", "PMI", "MASTER_")
JOB_NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a job may inherit from the job that submits it: nothing that names it, or overrules a script."""
    return {
        name: value
        for name, value in environ.items()
        if name == "SLURM_CONF" or not (name in JOB_NAMES or name.startswith(JOB_PREFIXES))
    }


@contextmanager
def outside_environment() -> Iterator[None]:
    """Hide this job's own allocation: jobs that it submits must not inherit it."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(clean_environment(before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
