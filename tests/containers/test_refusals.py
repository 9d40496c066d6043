"""What containers/run.sh and build.sh refuse: exit code 2, one line that says why, and nothing written.

No engine is needed: those on the PATH here only print how they were called.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ALLOWED = (
    "allowed: --dev, --gpu, --online, --show, and -- before the command; "
    "in a job also --job, --image, --writable, --bind"
)
NO_IMAGE = (
    "no image {} with docker or podman on HOST; containers/build.sh docker makes it, "
    "and IMAGE=FILE.sif names a file for apptainer"
)
NO_FILE = "no image {} on HOST; containers/build.sh apptainer makes one"
NO_APPTAINER = "no apptainer or singularity on HOST, which {} needs"
TOOLS = "bash cat chmod cut dirname git hostname id mkdir sha256sum basename".split()
HAS_GPU = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
ECHO = """#!/bin/bash
[ "$1 $2" = "image inspect" ] && { [ "${@: -1}" = known ] && echo sha256:0f3a; exit; }
printf '%q ' "${0##*/}" "$@"
echo
"""


@pytest.fixture
def machine(open_folder: Path, tmp_path: Path, checkout: Path) -> "Machine":
    return Machine(open_folder / tmp_path.name, checkout)


class Machine:
    """Someone's shell on a machine that has the usual tools, and the engines that are installed."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder, self.bin, self.checkout = folder / "work", folder / "bin", checkout
        self.bin.mkdir(parents=True)
        self.folder.mkdir(mode=0o777)
        self.folder.chmod(0o777)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or "")

    def install(self, *engines: str) -> None:
        for engine in engines:
            (self.bin / engine).write_text(ECHO)
            (self.bin / engine).chmod(0o755)

    def type(self, script: str, words: str, **env: str) -> subprocess.CompletedProcess[str]:
        whose: dict[str, Any] = {"user": 1000, "group": 1000, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [str(self.checkout / "containers" / script), *words.split()]
        env |= {"PATH": str(self.bin), "HOME": str(self.folder)}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, **whose)

    def refusal(self, script: str, words: str, **env: str) -> str:
        """The one line, without the name of the machine."""
        before = sorted(self.folder.rglob("*"))
        done = self.type(script, words, **env)
        assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
        assert sorted(self.folder.rglob("*")) == before
        (line,) = done.stderr.splitlines()
        return re.sub(rf"\bon {re.escape(os.uname().nodename)}\b", "on HOST", line)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no command; as in: containers/run.sh -- python train/train_cnn.py data=digits"),
        ("--", "no command; as in: containers/run.sh -- python train/train_cnn.py data=digits"),
        ("--gup -- python", f"given --gup, {ALLOWED}"),
        ("python train/train_cnn.py", f"given python, {ALLOWED}"),
        ("--image", "--image, --writable and --bind each need a word behind them"),
        ("-- python", NO_IMAGE.format("stillhouse")),
        ("--image unknown -- python", NO_IMAGE.format("unknown")),
        ("--image missing.sif -- python", NO_FILE.format("missing.sif")),
        ("--image /missing/folder -- python", NO_FILE.format("/missing/folder")),
        *([] if HAS_GPU else [("--image known --gpu -- python", "no GPU driver on HOST, and a GPU was asked for")]),
    ],
)
def test_run_refuses(words: str, message: str, machine: Machine) -> None:
    machine.install("docker", "podman", "apptainer")
    assert machine.refusal("run.sh", words) == f"run.sh: {message}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--image known -- python", NO_IMAGE.format("known")),
        ("--image there.sif -- python", NO_APPTAINER.format("there.sif")),
        ("--image docker://ghcr.io/x/y -- python", NO_APPTAINER.format("docker://ghcr.io/x/y")),
    ],
)
def test_run_refuses_where_no_engine_is(words: str, message: str, machine: Machine) -> None:
    (machine.folder / "there.sif").touch()
    assert machine.refusal("run.sh", words) == f"run.sh: {message}"


def test_an_engine_that_is_not_one(machine: Machine) -> None:
    (machine.folder / "there.sif").touch()
    for engine in ("enroot", "docker"):
        message = f"run.sh: ENGINE={engine}, allowed for there.sif: apptainer"
        assert machine.refusal("run.sh", "-- python", IMAGE="there.sif", ENGINE=engine) == message
    message = machine.refusal("run.sh", "-- python", IMAGE="known", ENGINE="apptainer")
    assert message.startswith("run.sh: no image known with apptainer on HOST; ")


def test_folders_that_a_run_cannot_have(machine: Machine) -> None:
    machine.install("docker")
    closed = machine.folder / "closed"
    closed.mkdir(mode=0o555)
    (machine.folder / "file").touch(0o444)
    assert machine.refusal("run.sh", "--image known -- python", STILLHOUSE_RUNS=str(closed)) == (
        f"run.sh: {closed} cannot be written to on HOST; a run's files go there"
    )
    assert machine.refusal("run.sh", f"--image known --job --writable {closed} -- python") == (
        f"run.sh: {closed} cannot be written to on HOST; a run's files go there"
    )
    for folder in (closed / "runs", machine.folder / "file" / "runs"):
        assert machine.refusal("run.sh", "--image known -- python", STILLHOUSE_RUNS=str(folder)) == (
            f"run.sh: no folder {folder} on HOST, and it cannot be made"
        )


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        ("", {}, "given nothing, allowed: docker, podman, apptainer, save"),
        ("dokcer", {}, "given dokcer, allowed: docker, podman, apptainer, save"),
        ("docker", {}, "no docker here; this machine has podman apptainer"),
        ("apptainer", {"FROM": "stillhouse.tar"},
         "FROM=stillhouse.tar, allowed: docker://ADDRESS, docker-archive:FILE or localimage:FILE.sif"),
        ("apptainer", {"FROM": "docker-archive:"},
         "FROM=docker-archive:, allowed: docker://ADDRESS, docker-archive:FILE or localimage:FILE.sif"),
    ],
)  # fmt: skip
def test_build_refuses(words: str, env: dict[str, str], message: str, machine: Machine) -> None:
    machine.install("podman", "apptainer")
    assert machine.refusal("build.sh", words, **env) == f"build.sh: {message}"


def test_build_refuses_where_no_engine_is(machine: Machine) -> None:
    assert (
        machine.refusal("build.sh", "podman")
        == "build.sh: no podman here; this machine has none of docker, podman, apptainer"
    )
    assert machine.refusal("build.sh", "save") == "build.sh: no docker or podman here"


def test_save_finds_the_engine_that_has_the_image(machine: Machine) -> None:
    machine.install("podman")
    (machine.bin / "docker").write_text("#!/bin/bash\nexit 1\n")  # a client without an engine
    (machine.bin / "docker").chmod(0o755)
    assert machine.type("build.sh", "save", IMAGE="known").stdout == "podman save -o stillhouse.tar known \n"
    message = "build.sh: no image unknown with docker or podman; containers/build.sh docker makes it"
    assert machine.refusal("build.sh", "save", IMAGE="unknown") == message


@pytest.mark.parametrize("image", ["known", "there.sif"])
@pytest.mark.parametrize("flags", ["", "--dev", "--online"])
def test_what_is_shown_is_what_is_run(image: str, flags: str, machine: Machine) -> None:
    machine.install("docker", "apptainer")
    (machine.folder / "there.sif").touch()
    words = f"{flags} -- python train/train_cnn.py model.note=a;b"
    shown, run = (machine.type("run.sh", f"{show} {words}", IMAGE=image) for show in ("--show", ""))
    assert (shown.returncode, run.returncode) == (0, 0), shown.stderr + run.stderr
    assert shown.stdout == run.stdout
    assert run.stdout.split()[0] == ("docker" if image == "known" else "apptainer")
    assert run.stdout.split()[-3:] == ["python", "train/train_cnn.py", r"model.note=a\;b"]


@pytest.mark.parametrize("known", [True, False])
def test_what_nobody_knows_of_the_code_is_not_said(known: bool, machine: Machine) -> None:
    """Of an unpacked archive there is no commit, and none can be said to have no changes."""
    machine.install("podman")
    if not known:
        (machine.bin / "git").unlink()
    words = machine.type("build.sh", "podman").stdout.split()
    told = {word.partition("=")[0]: word.partition("=")[2] for word in words if word.startswith(("COMMIT=", "DIRTY="))}
    assert re.fullmatch("[0-9a-f]{40}" if known else "''|", told["COMMIT"])
    assert told["DIRTY"] in ({"true", "false"} if known else {"null"})
