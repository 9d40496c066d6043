import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from submitit import SlurmExecutor
from submitit.slurm.slurm import _make_sbatch_string

from common.cli.command import check
from common.failures import Refused
from jobs.engines.profiles import Needs, Profile, needs, open_profile, profile_names
from jobs.engines.sbatch import REPOSITORY, python_command, sbatch_parameters
from jobs.planning.cell import Resources

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


# --- the script -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", profile_names())
def test_submitit_takes_the_words_of_every_profile(name: str, tmp_path: Path) -> None:
    profile = open_profile(name)
    executor = SlurmExecutor(tmp_path, max_num_timeout=profile.requeues)
    executor.update_parameters(**sbatch_parameters(profile, needs(profile, NOTHING), "cnn", tmp_path, "afterok:1"))
    assert f"#SBATCH --time={profile.time_min}\n" in executor._make_submission_file_text("true", "uid")


@pytest.mark.parametrize(("name", "folder"), [("x\ntouch PWNED\n#", "/logs"), ("x", "/runs\ntouch PWNED\n#/logs")])
def test_no_line_of_the_script_breaks(name: str, folder: str) -> None:
    with pytest.raises(Refused, match=r"(?s)^root: given .*PWNED.*, allowed: names without control characters$"):
        sbatch_parameters(Profile(), needs(Profile(), NOTHING), name, Path(folder))


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
            _, problems = check(Profile, {"flags": {flag: "x"}})
            assert problems["flags"].startswith(f"flags: given {flag}, "), flag


# --- the interpreter --------------------------------------------------------------------------------------------


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
