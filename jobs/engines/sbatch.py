"""Write what sbatch and srun are told for a run: the flags, the lines of the script, and the interpreter.

Nothing here asks SLURM anything. submitit makes the script of these words (jobs/engines/slurm.py).
"""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.failures import Refused
from common.files import expanded
from jobs.engines.container import container_path
from jobs.engines.profiles import Needs, Profile

REPOSITORY = Path(__file__).resolve().parents[2]

# --- the script -------------------------------------------------------------------------------------------------


def sbatch_parameters(
    profile: Profile, need: Needs, name: str, folder: Path, dependency: str | None = None
) -> dict[str, Any]:
    """Return the arguments for submitit's executor; each task has a folder of its own in `folder`."""
    # They become lines that begin with #SBATCH. Quotes do not keep a line break from ending such a line, and what
    # comes after it would be run.
    unfit = [text for text in (name, str(folder)) if not text.isprintable()]
    if unfit:
        raise Refused(f"root: given {text}, allowed: names without control characters" for text in unfit)

    # srun has not inherited --cpus-per-task from sbatch since SLURM 22.05 (23.11 takes it up again): without it,
    # a run would get one core of those it has. One dead task of several ends the others, which would wait for it.
    srun_args = [f"--cpus-per-task={need.cpus}", *(["--kill-on-bad-exit=1"] if need.tasks > 1 else [])]

    where = profile.model_dump(include={"partition", "account", "qos", "constraint", "exclude"}, exclude_none=True)
    return {
        "job_name": name,
        **where,
        "time": need.time_min,
        "nodes": 1,
        "ntasks_per_node": need.tasks,
        "cpus_per_task": need.cpus,
        **_memory_words(profile, need),
        **_gpu_words(profile, need),
        "signal_delay_s": min(profile.signal_s, 30 * need.time_min),  # a stage of a minute has half of it to work
        "array_parallelism": profile.parallel,
        "setup": [*_setup(profile, need), *_before(folder)],
        "teardown": AFTER,
        "srun_args": srun_args,
        "wckey": None,  # submitit's own default is refused where such keys are checked
        **({"dependency": dependency} if dependency else {}),
        "additional_parameters": _more_flags(profile, dependency),
    }


def _memory_words(profile: Profile, need: Needs) -> dict[str, str]:
    if need.mem_gb is None:
        return {}
    if profile.mem_per_cpu_gb is not None:
        return {"mem_per_cpu": _memory(need.mem_gb / (need.cpus * need.tasks))}
    return {"mem": _memory(need.mem_gb)}


def _memory(gb: float) -> str:
    """Write an amount as sbatch reads it: in whole units of 1024."""
    mb = math.ceil(gb * 1024)
    return f"{mb}M" if mb % 1024 else f"{mb // 1024}G"


def _gpu_words(profile: Profile, need: Needs) -> dict[str, str]:
    if not need.gpus or profile.gpus_by == "none":
        return {}
    count = f"{profile.gpu_type}:{need.gpus}" if profile.gpu_type else str(need.gpus)
    return {"gres": f"gpu:{count}"} if profile.gpus_by == "gres" else {"gpus_per_node": count}


def _setup(profile: Profile, need: Needs) -> list[str]:
    """Put the profile's lines after what they may overrule, and before PYTHONPATH: they may not hide our modules."""
    first = [f"export OMP_NUM_THREADS={need.cpus}", "export HF_HUB_OFFLINE=1"]
    path = f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}${{PYTHONPATH:+:$PYTHONPATH}}"
    return [*first, *profile.setup, path]


def _before(folder: Path) -> list[str]:
    return [
        "task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; task=${task:-$SLURM_JOB_ID}",
        f"export STILLHOUSE_REQUEUE={shlex.quote(str(folder))}/$task/requeue",
        'rm -f "$STILLHOUSE_REQUEUE"',
    ]


# A run that wants to be started again leaves this file and ends (jobs/worker.py). SLURM may be requeuing the job itself
# at this moment, or be too busy to answer; when it has understood, it ends this script, at the latest in its sleep.
AFTER = [
    "status=$?",
    'if [ -e "$STILLHOUSE_REQUEUE" ]; then',
    '    for _ in 1 2 3; do scontrol requeue "$task" && break; sleep 10; done',
    "    sleep 60",
    "fi",
    "exit $status",
]


def _more_flags(profile: Profile, dependency: str | None) -> dict[str, str | int | bool]:
    flags: dict[str, str | int | bool] = {"requeue" if profile.requeues else "no-requeue": True}
    if dependency:  # else a run whose parent failed would wait in the queue for ever
        flags["kill-on-invalid-dep"] = "yes"
    return flags | {flag: value for flag, value in profile.flags.items() if value is not False}


# --- the interpreter --------------------------------------------------------------------------------------------


def python_command(profile: Profile, need: Needs, writable: Path, readable: Sequence[Path] = ()) -> str:
    """Return what srun starts, up to python's own arguments, for the shell; a container sees the folders."""
    outside = str(expanded(profile.python)) if profile.python else sys.executable
    inside = _container_words(profile, need, writable, readable)
    return shlex.join(["sh", "-c", DEAF, "sh", *([*inside, profile.python or "python"] if inside else [outside])])


# Before submitit listens to signals, they would end the task as a failure, for which its students are given up. A job
# that is preempted so early is requeued by SLURM itself.
DEAF = 'trap "" TERM USR2; exec "$@"'


def _container_words(profile: Profile, need: Needs, writable: Path, readable: Sequence[Path]) -> list[str]:
    if not profile.container:
        return []

    folders = [str(folder.absolute()) for folder in (writable, *readable)]
    unfit = [folder for folder in folders if set(folder) & {":", ","}]
    if unfit:  # apptainer's own separators, which it cannot escape
        raise Refused(f"container: given {folder}, allowed: folders without : or , in their names" for folder in unfit)

    # containers/run.sh is the only way in; it says what these mean.
    words = [str(REPOSITORY / "containers" / "run.sh"), "--job", "--image", container_path(profile.container)]
    words += ["--dev"] if profile.code == "checkout" else []
    words += ["--gpu"] if need.gpus else []
    words += ["--writable", folders[0]]
    words += [word for bind in dict.fromkeys([*folders[1:], *profile.binds]) for word in ("--bind", bind)]
    return [*words, "--"]
