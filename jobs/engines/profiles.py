"""A profile is a YAML file that says how a site runs a sweep: where, with how much, for how long, and what comes first.

Shipped profiles lie in slurm/profiles; a site's own is a file anywhere, given by its path. From a profile, and from
what a stage asks for, follows how much a run gets.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

import slurm
from common.cli.command import check
from common.failures import Refused
from common.files import expanded
from common.settings import messages
from common.settings.field import Group, setting
from common.settings.yaml12 import read_mapping
from jobs.planning.cell import Resources

LOCAL = "local"  # no profile: the engine of this machine
PROFILES = Path(slurm.__file__).parent / "profiles"

# Flags of sbatch that a profile has a setting for, and those that are the engine's own: neither may be given twice.
FLAGS_OF_SETTING = {
    "partition": ("partition",),
    "account": ("account",),
    "qos": ("qos",),
    "constraint": ("constraint",),
    "exclude": ("exclude",),
    "gpus, with gpus_by and gpu_type": ("gres", "gpus", "gpus-per-node", "gpus-per-task"),
    "cpus": ("cpus-per-task", "cpus-per-gpu", "mincpus"),
    "mem_gb": ("mem", "mem-per-gpu"),
    "mem_per_cpu_gb": ("mem-per-cpu",),
    "time_min": ("time",),
    "parallel": ("array",),
    "signal_s": ("signal",),
    "requeues": ("requeue", "no-requeue"),
}
SETTING_OF_FLAG = {flag: name for name, flags in FLAGS_OF_SETTING.items() for flag in flags}
ENGINE_FLAGS = {
    *("nodes", "ntasks", "ntasks-per-node", "ntasks-per-gpu", "job-name", "dependency", "kill-on-invalid-dep"),
    *("output", "error", "open-mode", "chdir", "wrap", "wait", "parsable", "test-only"),
}
FLAG = re.compile(r"[a-z][a-z0-9]+(-[a-z0-9]+)*")
NAME: dict[str, Any] = {"pattern": r"^[^\s-]\S*$", "form": "text without spaces, or null"}


class Profile(Group):
    """A profile says how a site runs a sweep."""

    about: str = setting("", "one line on the site, for people")
    partition: str | None = setting(None, "partition, or several with commas; null is the cluster's default", **NAME)
    account: str | None = setting(None, "who pays; null is your default account", **NAME)
    qos: str | None = setting(None, "quality of service", **NAME)
    constraint: str | None = setting(None, "features that the nodes must have, as in a100&ib", **NAME)
    exclude: str | None = setting(None, "nodes to avoid, as in n[1-3],n7", **NAME)

    gpus: int = setting(1, "GPUs of one run, on one node; 0 runs on the CPU", ge=0)
    gpus_by: Literal["gres", "gpus-per-node", "none"] = setting(
        "gres", "the flag that the site wants GPUs asked for with; none never asks, whatever a stage wants"
    )
    gpu_type: str | None = setting(
        None, "type of GPU, as in a100", pattern=r"^[A-Za-z0-9_.-]+$", form="a name as `sinfo -o %G` shows it, or null"
    )
    cpus: int = setting(4, "CPU cores per task; a run on several GPUs has one task per GPU", ge=1)
    mem_gb: float | None = setting(None, "memory of one run in GiB; null is the cluster's default", gt=0)
    mem_per_cpu_gb: float | None = setting(None, "memory per CPU core, for sites that want it so", gt=0)
    time_min: int = setting(240, "time limit in minutes; what is not done by then is resumed", ge=1)
    max_mem_gb: float | None = setting(None, "never ask for more memory than this; null is no limit", gt=0)
    max_time_min: int | None = setting(None, "never ask for more time than this; null is no limit", ge=1)

    parallel: int = setting(256, "runs of one array at the same time", ge=1)
    signal_s: int = setting(90, "seconds before the time limit at which a run is told to stop", ge=1, le=65535)
    requeues: int = setting(20, "how often a run may be stopped and requeued", ge=0)
    retries: int = setting(3, "how often a run that the machine failed is submitted again", ge=0)
    steward: bool = setting(True, "keep a small job in the queue that submits again what failed by the machine")

    setup: list[str] = setting([], "lines of shell before the run, as in module load cuda", form="a list of lines")
    flags: dict[str, str | int | bool] = setting(
        {}, "more flags of sbatch, as in {nice: 100}; true is a flag without a value", form="a mapping of flags"
    )
    container: str | None = setting(
        None,
        "what the runs are in, made by containers/build.sh apptainer; all else follows from it",
        pattern=r"^(/|~/|[a-z]+://).",
        form="a path that begins with / or ~/, an address such as docker://..., or null",
    )
    binds: list[str] = setting(
        [], "more folders that the container sees, as SRC[:DEST[:ro]], variables not expanded", form="a list of folders"
    )
    code: Literal["image", "checkout"] = setting(
        "image", "whose code runs in the container: its own, or this checkout's, without building anew"
    )
    python: str | None = setting(None, "interpreter on the compute nodes; null is the one that submits (or python)")

    @field_validator("flags", mode="before")
    @classmethod
    def flags_are_free(cls, flags: Any) -> Any:
        problems = _flag_problems(flags) if isinstance(flags, dict) else []
        if problems:
            raise ValueError("; ".join(problems))
        return flags

    @model_validator(mode="after")
    def settings_fit_together(self) -> Self:
        problems = _problems_together(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _flag_problems(flags: Mapping[Any, Any]) -> list[str]:
    problems = []
    for flag, value in flags.items():
        name = str(flag).replace("_", "-")  # as submitit writes it

        # Each becomes a line of the script, so that a value must not break lines.
        if name in SETTING_OF_FLAG:
            problems.append(f"given {name}, allowed: the setting {SETTING_OF_FLAG[name]}")
        elif name in ENGINE_FLAGS:
            problems.append(f"given {name}, which is set for every job as it needs it")
        elif not FLAG.fullmatch(name):
            problems.append(f"given {messages.shown(flag)}, allowed: a long flag of sbatch without its dashes")
        elif not isinstance(value, str | int) or (isinstance(value, str) and not value.isprintable()):
            problems.append(f"{name}: given {messages.shown(value)}, allowed: text of one line, whole number or true")
    return problems


def _problems_together(profile: Profile) -> list[str]:
    problems = []
    if profile.mem_gb is not None and profile.mem_per_cpu_gb is not None:
        problems.append("mem_per_cpu_gb: given with mem_gb, allowed: one of them")
    if profile.gpus_by == "none" and profile.gpus:
        problems.append(f"gpus: given {profile.gpus} with gpus_by=none, allowed: 0")
    if profile.gpus_by == "none" and profile.gpu_type:
        problems.append(f"gpu_type: given {profile.gpu_type} with gpus_by=none, allowed: null")

    # A limit below what every run gets would make nonsense of asking for more after a failure.
    mem_gb = _memory_of(profile, profile.gpus, profile.cpus)
    if mem_gb and profile.max_mem_gb and mem_gb > profile.max_mem_gb:
        problems.append(f"max_mem_gb: given {profile.max_mem_gb:g}, allowed: at least the {mem_gb:g} of a run")
    if profile.max_time_min and profile.time_min > profile.max_time_min:
        problems.append(f"max_time_min: given {profile.max_time_min}, allowed: at least time_min={profile.time_min}")
    if profile.signal_s >= 60 * profile.time_min:
        problems.append(f"signal_s: given {profile.signal_s}, allowed: less than time_min={profile.time_min} minutes")

    if not profile.container:
        names = sorted({"binds", "code"} & profile.model_fields_set)
        problems += [f"{name}: given without container, allowed: with a container only" for name in names]
    return problems


# --- opening ----------------------------------------------------------------------------------------------------


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def open_profile(name_or_path: str) -> Profile:
    """Read a shipped profile by its name, or one's own by its path; Refused with every problem at once."""
    is_path = "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    if not is_path and name_or_path not in profile_names():
        problem = messages.unknown("cluster", name_or_path, profile_names())
        raise Refused([f"{problem}; or the path of a YAML file"])
    path = expanded(name_or_path) if is_path else PROFILES / f"{name_or_path}.yaml"
    profile, problems = check(Profile, read_mapping(path))
    if profile is None:
        raise Refused(f"{path}: {problem}" for problem in problems.values())
    return profile


# --- how much ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """One run gets this much."""

    gpus: int
    cpus: int  # per task
    mem_gb: float | None  # of all tasks together; None is the cluster's default
    time_min: int

    @property
    def tasks(self) -> int:
        """Return the number of processes: one per GPU, for distributed training."""
        return max(1, self.gpus)


def needs(profile: Profile, stage: Resources, escalation: int = 0, cause: str | None = None) -> Needs:
    """Return what a run gets: what its stage asks for, else what the profile gives.

    What was lacking (by cause: memory or time) is doubled for each escalation, up to the profile's limits.
    """
    gpus = 0 if profile.gpus_by == "none" else _first(stage.gpus, profile.gpus)
    cpus = _first(stage.cpus, profile.cpus)
    mem_gb = _memory_of(profile, gpus, cpus) if stage.mem_gb is None else stage.mem_gb
    if mem_gb is not None:
        mem_gb = _capped(mem_gb * (2**escalation if cause == "oom" else 1), profile.max_mem_gb)
    time_min = _first(stage.time_min, profile.time_min) * (2**escalation if cause == "timeout" else 1)
    return Needs(gpus, cpus, mem_gb, int(_capped(time_min, profile.max_time_min)))


def at_cap(profile: Profile, need: Needs, cause: str | None) -> bool:
    """Say whether a run that failed for want of memory or time cannot get more of it."""
    if cause == "oom":  # the cluster's default is not known, so it cannot be doubled
        return need.mem_gb is None or (profile.max_mem_gb is not None and need.mem_gb >= profile.max_mem_gb)
    if cause == "timeout":
        return profile.max_time_min is not None and need.time_min >= profile.max_time_min
    return False


def _memory_of(profile: Profile, gpus: int, cpus: int) -> float | None:
    if profile.mem_per_cpu_gb is None:
        return profile.mem_gb
    return profile.mem_per_cpu_gb * cpus * max(1, gpus)


def _first(asked: int | None, otherwise: int) -> int:
    return otherwise if asked is None else asked


def _capped(amount: float, limit: float | None) -> float:
    return amount if limit is None else min(amount, limit)
