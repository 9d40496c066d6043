import shlex
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
from submitit import SlurmExecutor
from submitit.slurm.slurm import _make_sbatch_string

from common.cli.command import check
from common.failures import Refused
from common.settings.yaml12 import dump_yaml
from jobs.engines.profiles import (
    PROFILES,
    REPOSITORY,
    Needs,
    Profile,
    at_cap,
    needs,
    open_profile,
    profile_names,
    python_command,
    sbatch_parameters,
)
from jobs.planning.cell import Resources

NAMES = ["a100", "cpu", "default", "devcluster", "h100", "preemptible"]
NOTHING = Resources()
LOGS = Path("/logs")
BEFORE = [
    "task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; task=${task:-$SLURM_JOB_ID}",
    "export STILLHOUSE_REQUEUE=/logs/$task/requeue",
    'rm -f "$STILLHOUSE_REQUEUE"',
]
AFTER = [
    "",
    "",
    "# teardown",
    "status=$?",
    'if [ -e "$STILLHOUSE_REQUEUE" ]; then',
    '    for _ in 1 2 3; do scontrol requeue "$task" && break; sleep 10; done',
    "    sleep 60",
    "fi",
    "exit $status",
]


def sbatch_text(profile: Profile, given: Needs, name: str = "cnn", dependency: str | None = None, runs: int = 9) -> str:
    words = sbatch_parameters(profile, given, name, LOGS, dependency)
    return str(_make_sbatch_string(command="PYTHON", folder="/logs/%j", map_count=runs, **words))


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


def test_every_flag_that_we_write_is_refused_as_a_flag_of_the_profile() -> None:
    """Whatever submitit makes of our words: a second one would overrule it."""
    fullest = Profile(
        partition="p", account="a", qos="q", constraint="c", exclude="n1", gpus=2, gpu_type="a100", mem_gb=4.0
    )
    per_cpu = Profile(gpus_by="gpus-per-node", mem_per_cpu_gb=1.0, requeues=0)
    for profile in (fullest, per_cpu):
        text = sbatch_text(profile, needs(profile, NOTHING), dependency="afterok:1")
        flags = [line.removeprefix("#SBATCH --").partition("=")[0] for line in text.splitlines() if "#SBATCH" in line]
        assert len(flags) >= 15
        for flag in flags:
            assert problems_of(flags={flag: "x"})[0].startswith(f"flags: given {flag}, "), flag


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


# --- the words of sbatch ----------------------------------------------------------------------------------------


def test_the_script_of_an_array_on_the_cluster_of_this_machine() -> None:
    profile = open_profile("devcluster")
    assert sbatch_text(profile, needs(profile, Resources(gpus=2))).splitlines() == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --array=0-8%8",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --error=/logs/%A_%a/%A_%a_0_log.err",
        "#SBATCH --job-name=cnn",
        "#SBATCH --mem=2G",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/logs/%A_%a/%A_%a_0_log.out",
        "#SBATCH --partition=main",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@30",
        "#SBATCH --time=60",
        "",
        "# setup",
        "export OMP_NUM_THREADS=1",
        "export HF_HUB_OFFLINE=1",
        f"export PYTHONPATH={REPOSITORY}${{PYTHONPATH:+:$PYTHONPATH}}",
        *BEFORE,
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        "srun --unbuffered --output /logs/%A_%a/%A_%a_%t_log.out --error /logs/%A_%a/%A_%a_%t_log.err "
        "--cpus-per-task=1 PYTHON",
        *AFTER,
    ]


def test_the_script_of_a_run_on_two_gpus_after_its_teacher() -> None:
    profile = open_profile("h100")
    given = needs(profile, Resources(gpus=2, mem_gb=200.5), 1, "oom")
    assert sbatch_text(profile, given, "deit", "aftercorr:12").splitlines() == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --array=0-8%9",
        "#SBATCH --cpus-per-task=14",
        "#SBATCH --dependency=aftercorr:12",
        "#SBATCH --error=/logs/%A_%a/%A_%a_0_log.err",
        "#SBATCH --gpus-per-node=h100:2",
        "#SBATCH --job-name=deit",
        "#SBATCH --kill-on-invalid-dep=yes",
        "#SBATCH --mem=401G",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/logs/%A_%a/%A_%a_0_log.out",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --time=480",
        "",
        "# setup",
        "export OMP_NUM_THREADS=14",
        "export HF_HUB_OFFLINE=1",
        f"export PYTHONPATH={REPOSITORY}${{PYTHONPATH:+:$PYTHONPATH}}",
        *BEFORE,
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        "srun --unbuffered --output /logs/%A_%a/%A_%a_%t_log.out --error /logs/%A_%a/%A_%a_%t_log.err "
        "--cpus-per-task=14 --kill-on-bad-exit=1 PYTHON",
        *AFTER,
    ]


def test_the_script_of_a_site_with_everything() -> None:
    profile = Profile(
        partition="gpu,gpu_long",
        account="p-1",
        qos="low",
        constraint="a100&ib",
        exclude="n[1-3]",
        gpu_type="a100",
        cpus=3,
        mem_per_cpu_gb=1.5,
        parallel=4,
        requeues=0,
        setup=["module load cuda", "export OMP_NUM_THREADS=2"],
        flags={"nice": 100, "exclusive": True, "mail-user": "ada@example.org", "contiguous": False, "comment": "a b"},
        container="/images/a.sif",
    )
    assert sbatch_text(profile, needs(profile, NOTHING)).splitlines() == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --account=p-1",
        "#SBATCH --array=0-8%4",
        "#SBATCH --comment='a b'",
        "#SBATCH --constraint='a100&ib'",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --error=/logs/%A_%a/%A_%a_0_log.err",
        "#SBATCH --exclude='n[1-3]'",
        "#SBATCH --exclusive",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --job-name=cnn",
        "#SBATCH --mail-user=ada@example.org",
        "#SBATCH --mem-per-cpu=1536M",
        "#SBATCH --nice=100",
        "#SBATCH --no-requeue",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/logs/%A_%a/%A_%a_0_log.out",
        "#SBATCH --partition=gpu,gpu_long",
        "#SBATCH --qos=low",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --time=240",
        "",
        "# setup",
        "export OMP_NUM_THREADS=3",
        "export HF_HUB_OFFLINE=1",
        "module load cuda",
        "export OMP_NUM_THREADS=2",
        f"export PYTHONPATH={REPOSITORY}${{PYTHONPATH:+:$PYTHONPATH}}",
        *BEFORE,
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        "srun --unbuffered --output /logs/%A_%a/%A_%a_%t_log.out --error /logs/%A_%a/%A_%a_%t_log.err "
        "--cpus-per-task=3 PYTHON",
        *AFTER,
    ]


@pytest.mark.parametrize("name", NAMES)
def test_submitit_takes_the_words_of_every_profile(name: str, tmp_path: Path) -> None:
    profile = open_profile(name)
    executor = SlurmExecutor(tmp_path, max_num_timeout=profile.requeues)
    executor.update_parameters(**sbatch_parameters(profile, needs(profile, NOTHING), "cnn", tmp_path, "afterok:1"))
    assert f"#SBATCH --time={profile.time_min}\n" in executor._make_submission_file_text("true", "uid")


@pytest.mark.parametrize(
    ("gb", "words"), [(16, "16G"), (0.5, "512M"), (1.5, "1536M"), (0.0001, "1M"), (2.0001, "2049M"), (1024, "1024G")]
)
def test_memory_is_rounded_up_to_what_sbatch_reads(gb: float, words: str) -> None:
    assert sbatch_parameters(Profile(), Needs(0, 1, gb, 10), "x", LOGS)["mem"] == words


def test_memory_per_core_adds_up_to_at_least_what_is_needed() -> None:
    words = sbatch_parameters(Profile(mem_per_cpu_gb=1.0), Needs(gpus=2, cpus=3, mem_gb=10, time_min=10), "x", LOGS)
    assert words["mem_per_cpu"] == "1707M"  # 10 * 1024 / 6 = 1706.7
    assert "mem" not in words


def test_a_short_stage_is_not_told_to_stop_as_it_starts() -> None:
    profile = Profile(signal_s=90)
    delays = [
        sbatch_parameters(profile, needs(profile, Resources(time_min=minutes)), "x", LOGS)["signal_delay_s"]
        for minutes in (1, 2, 3, 4, 60)
    ]
    assert delays == [30, 60, 90, 90, 90]


def test_no_word_is_said_about_what_is_left_to_the_cluster() -> None:
    words = sbatch_parameters(Profile(gpus=0), Needs(0, 1, None, 10), "x", LOGS)
    assert not {"mem", "mem_per_cpu", "gres", "gpus_per_node", "partition", "account", "dependency"} & set(words)
    assert words["additional_parameters"] == {"requeue": True}


def test_the_setup_runs_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile(setup=["export HF_HUB_OFFLINE=0", "export PYTHONPATH=/module/of/the/site"])
    setup = sbatch_parameters(profile, needs(profile, NOTHING), "x", LOGS)["setup"]
    script = "; ".join([*setup, 'echo "$OMP_NUM_THREADS $HF_HUB_OFFLINE $PYTHONPATH"'])
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"4 0 {REPOSITORY}:/module/of/the/site\n"
    assert (REPOSITORY / "jobs" / "engines" / "profiles.py").exists()


# --- python -----------------------------------------------------------------------------------------------------


ONE_GPU = Needs(gpus=1, cpus=1, mem_gb=1, time_min=10)
NO_GPU = replace(ONE_GPU, gpus=0)


def words_of(profile: Profile, given: Needs = ONE_GPU, *readable: str) -> list[str]:
    words = shlex.split(python_command(profile, given, Path("/runs/x"), [Path(folder) for folder in readable]))
    assert words[:4] == ["sh", "-c", 'trap "" TERM USR2; exec "$@"', "sh"]
    return words[4:]


def test_a_task_that_is_still_starting_is_not_ended_by_a_signal() -> None:
    """Nor is a Python that has not yet said what it does with them."""
    signals = (
        "import os, signal; [os.kill(os.getpid(), each) for each in (signal.SIGTERM, signal.SIGUSR2)]; print('on')"
    )
    command = f"{python_command(Profile(), NO_GPU, Path('/runs'))} -c {shlex.quote(signals)}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout == "on\n"


def test_python_is_the_one_that_submits_unless_the_profile_names_one() -> None:
    assert words_of(Profile()) == [sys.executable]
    assert words_of(Profile(python="/opt/my env/bin/python")) == ["/opt/my env/bin/python"]
    assert words_of(Profile(python="~/bin/python")) == [f"{Path.home()}/bin/python"]


def test_a_container_sees_the_folders() -> None:
    profile = Profile(container="/images/a b.sif", binds=["/scratch:/scratch:ro", "/data"])
    assert words_of(profile, ONE_GPU, "/data", "relative") == [
        *(str(REPOSITORY / "containers" / "run.sh"), "--job", "--image", "/images/a b.sif", "--gpu"),
        *("--writable", "/runs/x", "--bind", "/data", "--bind", str(Path.cwd() / "relative")),
        *("--bind", "/scratch:/scratch:ro", "--", "python"),
    ]
    assert (REPOSITORY / "containers" / "run.sh").is_file()


def test_a_container_without_gpus_and_with_its_own_python() -> None:
    profile = Profile(container="docker://ghcr.io/x/y:1", python="/opt/bin/python3", code="checkout")
    words = words_of(profile, NO_GPU)
    assert "--gpu" not in words
    assert words[2:5] == ["--image", "docker://ghcr.io/x/y:1", "--dev"]
    assert words[-2:] == ["--", "/opt/bin/python3"]
    assert f"{Path.home()}/a.sif" in words_of(Profile(container="~/a.sif"))


def test_folders_that_apptainer_cannot_be_told() -> None:
    with pytest.raises(Refused) as refused:
        words_of(Profile(container="/a.sif"), ONE_GPU, "/a:b", "/c,d", "/e")
    assert refused.value.problems == [
        "container: given /a:b, allowed: folders without : or , in their names",
        "container: given /c,d, allowed: folders without : or , in their names",
    ]


@pytest.mark.parametrize("asked", [True, False])
def test_a_job_is_requeued_when_its_run_asked_for_it(asked: bool, tmp_path: Path) -> None:
    """The lines around srun, in a shell: of task 4 of array 7, whose run ends with code 3."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "scontrol $*"\n')
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for command in ("scontrol", "sleep"):
        (tmp_path / command).chmod(0o755)
    (tmp_path / "7_4").mkdir()
    (tmp_path / "7_4" / "requeue").touch()  # of an earlier start
    words = sbatch_parameters(Profile(), ONE_GPU, "x", tmp_path)
    run = 'touch "$STILLHOUSE_REQUEUE"; (exit 3)' if asked else "(exit 3)"
    script = "\n".join([*words["setup"], run, *words["teardown"]])
    array = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", **array}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 3
    assert done.stdout == ("scontrol requeue 7_4\n" if asked else "")
    single = subprocess.run(
        ["bash", "-c", "\n".join([*words["setup"], "echo $task"])],
        capture_output=True,
        text=True,
        env=environ | {"SLURM_ARRAY_JOB_ID": ""},
        check=True,
    )
    assert single.stdout == "12\n"


def test_needs_can_be_replaced_but_not_changed() -> None:
    assert replace(Needs(0, 1, None, 10), gpus=3).tasks == 3
    with pytest.raises(AttributeError, match="cannot assign to field 'gpus'"):
        Needs(0, 1, None, 10).gpus = 3  # type: ignore[misc]
