import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.cli.command import check
from common.failures import Refused
from common.settings.yaml12 import dump_yaml
from jobs.engines.profiles import (
    PROFILES,
    Needs,
    Profile,
    at_cap,
    needs,
    open_profile,
    profile_names,
)
from jobs.engines.sbatch import REPOSITORY
from jobs.planning.cell import Resources

NAMES = ["a100", "cpu", "default", "devcluster", "h100", "preemptible"]
NOTHING = Resources()


def problems_of(**settings: Any) -> list[str]:
    profile, problems = check(Profile, settings)
    assert (profile is None) == bool(problems)
    return list(problems.values())


# --- profiles ---------------------------------------------------------------------------------------------------


def test_the_shipped_profiles() -> None:
    assert profile_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_profile_opens_and_says_what_it_is(name: str) -> None:
    profile = open_profile(name)
    assert profile.about
    assert profile.model_fields_set - {"about"}, "what is not set need not be shipped"
    assert (PROFILES / f"{name}.yaml").read_text().startswith("# ")


def test_the_profile_of_the_cluster_on_this_machine_fits_it() -> None:
    """Nodes of 8 CPUs and 8000 MB; submitit takes every stop for a timeout with 10 minutes or less."""
    profile = open_profile("devcluster")
    assert (profile.partition, profile.gpus_by, profile.gpus) == ("main", "none", 0)
    assert profile.max_mem_gb
    assert profile.max_mem_gb * 1024 <= 8000
    assert profile.time_min > 10


def test_profiles_go_into_the_wheel(tmp_path: Path) -> None:
    """Beside slurm/__init__.py, where they are looked for."""
    pytest.importorskip("hatchling")
    build = [sys.executable, "-c", f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"]
    subprocess.run(build, cwd=REPOSITORY, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"slurm/__init__.py", *(f"slurm/profiles/{name}.yaml" for name in NAMES)} <= held


def test_a_profile_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("partition: gpu\nflags: {nice: 100, exclusive: true}\n")
    mine = Profile(partition="gpu", flags={"nice": 100, "exclusive": True})
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("mine.yaml", "./mine.yaml", str(tmp_path / "mine.yaml"), "~/mine.yaml"):
        assert open_profile(path) == mine


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(Refused) as refused:
        open_profile("hh100")
    assert refused.value.problems == [
        f"cluster: given hh100, allowed: {', '.join(NAMES)}, nearest: h100; or the path of a YAML file"
    ]


def test_a_file_that_is_not_there_or_no_profile() -> None:
    with pytest.raises(Refused, match=r"^no/such.yaml: cannot be read: No such file or directory$"):
        open_profile("no/such.yaml")
    Path("list.yaml").write_text("[1, 2]")
    with pytest.raises(Refused, match=r"^list.yaml: holds \[1, 2\], allowed: a mapping of settings$"):
        open_profile("list.yaml")


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = {
        "partitoin": "gpu",
        "account": "two words",
        "gpus": "one",
        "gpus_by": "gpu-per-node",
        "mem_gb": 0,
        "signal_s": 70000,
        "setup": "module load cuda",
        "container": "images/a.sif",
        "flags": {"mem": "4G", "nice": 100},
        "parallel": True,
    }
    Path("mine.yaml").write_text(dump_yaml(wrong))
    with pytest.raises(Refused) as refused:
        open_profile("mine.yaml")
    problems = sorted(refused.value.problems)
    assert len(problems) == len(wrong)
    assert problems[0] == "mine.yaml: account: given two words, allowed: text without spaces, or null"
    assert problems[1].startswith("mine.yaml: container: given images/a.sif, allowed: a path that begins with / or ~/")
    assert problems[2] == "mine.yaml: flags: given mem, allowed: the setting mem_gb"
    assert problems[3] == "mine.yaml: gpus: given one, allowed: whole number, at least 0"
    assert problems[4] == (
        "mine.yaml: gpus_by: given gpu-per-node, allowed: gres | gpus-per-node | none, nearest: gpus-per-node"
    )
    assert problems[5] == "mine.yaml: mem_gb: given 0, allowed: number, above 0, or null"
    assert problems[6] == "mine.yaml: parallel: given true, allowed: whole number, at least 1"
    assert problems[7].startswith("mine.yaml: partitoin: no such setting, nearest: partition; allowed: about, ")
    assert problems[8] == "mine.yaml: setup: given module load cuda, allowed: a list of lines"
    assert problems[9] == "mine.yaml: signal_s: given 70000, allowed: whole number, 1 to 65535"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"mem_gb": 4.0, "mem_per_cpu_gb": 1.0}, "mem_per_cpu_gb: given with mem_gb, allowed: one of them"),
        ({"gpus_by": "none"}, "gpus: given 1 with gpus_by=none, allowed: 0"),
        ({"gpus_by": "none", "gpus": 0, "gpu_type": "a100"}, "gpu_type: given a100 with gpus_by=none, allowed: null"),
        ({"mem_gb": 8.5, "max_mem_gb": 8.0}, "max_mem_gb: given 8, allowed: at least the 8.5 of a run"),
        (
            {"mem_per_cpu_gb": 2.0, "cpus": 5, "gpus": 2, "max_mem_gb": 16.0},
            "max_mem_gb: given 16, allowed: at least the 20 of a run",
        ),
        ({"time_min": 60, "max_time_min": 30}, "max_time_min: given 30, allowed: at least time_min=60"),
        ({"time_min": 1, "signal_s": 60}, "signal_s: given 60, allowed: less than time_min=1 minutes"),
        ({"binds": ["/scratch"]}, "binds: given without container, allowed: with a container only"),
        ({"code": "checkout"}, "code: given without container, allowed: with a container only"),
        (
            {"gpus_by": "none", "max_time_min": 30},
            "gpus: given 1 with gpus_by=none, allowed: 0; max_time_min: given 30, allowed: at least time_min=240",
        ),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], problem: str) -> None:
    assert problems_of(**settings) == [problem]


@pytest.mark.parametrize(
    ("flag", "value", "problem"),
    [
        ("gres", "tmp:1", "given gres, allowed: the setting gpus, with gpus_by and gpu_type"),
        ("gpus_per_node", 2, "given gpus-per-node, allowed: the setting gpus, with gpus_by and gpu_type"),
        ("time", "1:00", "given time, allowed: the setting time_min"),
        ("no-requeue", True, "given no-requeue, allowed: the setting requeues"),
        ("job-name", "x", "given job-name, which is set for every job as it needs it"),
        ("output", "x", "given output, which is set for every job as it needs it"),
        ("--nice", 100, "given --nice, allowed: a long flag of sbatch without its dashes"),
        ("p", "gpu", "given p, allowed: a long flag of sbatch without its dashes"),
        ("x=1\n#SBATCH --mem", "1", "given x=1\n#SBATCH --mem, allowed: a long flag of sbatch without its dashes"),
        (7, "x", "given 7, allowed: a long flag of sbatch without its dashes"),
        ("nice", 1.5, "nice: given 1.5, allowed: text of one line, whole number or true"),
        ("nice", None, "nice: given null, allowed: text of one line, whole number or true"),
        ("comment", "a\nb", "comment: given a\nb, allowed: text of one line, whole number or true"),
    ],
)
def test_flags_that_are_not_free(flag: Any, value: Any, problem: str) -> None:
    assert problems_of(flags={flag: value}) == [f"flags: {problem}"]


def test_two_wrong_flags_are_both_named() -> None:
    (problem,) = problems_of(flags={"mem": 4, "nice": 100, "array": "0-9"})
    assert problem == "flags: given mem, allowed: the setting mem_gb; given array, allowed: the setting parallel"
    assert problems_of(flags=["nice"]) == ["flags: given ['nice'], allowed: a mapping of flags"]


def test_a_profile_stays_as_it_is() -> None:
    with pytest.raises(ValidationError, match="Instance is frozen"):
        Profile().gpus = 2  # type: ignore[misc]


# --- how much ---------------------------------------------------------------------------------------------------


def test_a_stage_is_given_what_it_asks_for_and_else_the_profiles_own() -> None:
    profile = Profile(gpus=1, cpus=4, mem_gb=16.0, time_min=240)
    assert needs(profile, NOTHING) == Needs(gpus=1, cpus=4, mem_gb=16.0, time_min=240)
    asked = Resources(gpus=0, cpus=2, mem_gb=0.5, time_min=10)
    assert needs(profile, asked) == Needs(gpus=0, cpus=2, mem_gb=0.5, time_min=10)
    assert needs(Profile(), NOTHING).mem_gb is None


def test_a_site_without_gpus_gives_none() -> None:
    profile = Profile(gpus=0, gpus_by="none")
    assert needs(profile, Resources(gpus=4)).gpus == 0
    assert needs(profile, Resources(gpus=4)).tasks == 1


def test_memory_per_core_is_multiplied_by_all_cores_of_the_run() -> None:
    profile = Profile(cpus=4, mem_per_cpu_gb=2.5)
    assert needs(profile, NOTHING).mem_gb == 10
    assert needs(profile, Resources(cpus=6)).mem_gb == 15
    assert needs(profile, Resources(gpus=2)).mem_gb == 20
    assert needs(profile, Resources(gpus=2, mem_gb=7)).mem_gb == 7


def test_what_was_lacking_is_doubled_up_to_the_limit() -> None:
    profile = Profile(mem_gb=10.0, time_min=100, max_mem_gb=50.0, max_time_min=300)
    given = [
        (needs(profile, NOTHING, times, cause)) for times in range(4) for cause in ("oom", "timeout", "node", None)
    ]
    plain = Needs(1, 4, 10.0, 100)
    assert [each.mem_gb for each in given[::4]] == [10, 20, 40, 50]
    assert [each.time_min for each in given[1::4]] == [100, 200, 300, 300]
    assert {each.time_min for each in given[::4]} == {100}
    assert {each.mem_gb for each in given[1::4]} == {10}
    assert set(given[2::4]) == set(given[3::4]) == {plain}


def test_the_limits_hold_for_a_stages_wishes_too() -> None:
    profile = Profile(max_mem_gb=50.0, max_time_min=300)
    given = needs(profile, Resources(mem_gb=64, time_min=1000))
    assert (given.mem_gb, given.time_min) == (50, 300)


@given(
    escalation=st.integers(0, 6),
    cause=st.sampled_from(["oom", "timeout"]),
    mem_gb=st.floats(0.5, 64),
    time_min=st.integers(2, 600),
    room=st.integers(1, 40),
)
def test_at_the_limit_nothing_more_is_given_and_below_it_something_is(
    escalation: int, cause: str, mem_gb: float, time_min: int, room: int
) -> None:
    profile = Profile(mem_gb=mem_gb, time_min=time_min, max_mem_gb=mem_gb * room, max_time_min=time_min * room)
    now, then = (needs(profile, NOTHING, times, cause) for times in (escalation, escalation + 1))
    assert at_cap(profile, now, cause) == (now == then) == (2**escalation >= room)
    assert not at_cap(profile, now, "node")
    assert not at_cap(profile, now, None)


def test_without_a_limit_there_is_always_more_but_of_an_unknown_amount() -> None:
    profile = Profile(mem_gb=1.0)
    assert not at_cap(profile, needs(profile, NOTHING, 20, "oom"), "oom")
    assert not at_cap(profile, needs(profile, NOTHING, 20, "timeout"), "timeout")
    assert needs(profile, NOTHING, 20, "oom").mem_gb == 2**20
    assert at_cap(Profile(), needs(Profile(), NOTHING), "oom")


def test_needs_can_be_replaced_but_not_changed() -> None:
    assert replace(Needs(0, 1, None, 10), gpus=3).tasks == 3
    with pytest.raises(AttributeError, match="cannot assign to field 'gpus'"):
        Needs(0, 1, None, 10).gpus = 3  # type: ignore[misc]
