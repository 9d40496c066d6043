"""The suite's images, made once from nothing out of a copy of this checkout, and those who use them.

The engine runs as root, as docker's does. An ordinary user (id 1000) talks to it over its socket, by the name of
docker: what the tests type is what a user of docker types, and nobody inside is root.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
HERE = Path(__file__).parent
BASE, IMAGE, DEPENDENCIES = (f"localhost/stillhouse-test-{name}" for name in ("base", "suite", "dependencies"))
USER = 1000
# Without them pip would not reach an index on a machine that has one of its own.
NETWORK_FILES = [file for file in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf") if Path(file).exists()]
FROM_NOTHING = bool(os.environ.get("STILLHOUSE_REQUIRE_ALL"))  # else layers of earlier tests serve again
TRUSTING = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}  # git, for root
NOT_COPIED = {".venv", "build", "data", "dist", "results", "runs", "wandb", "weights"}


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """Where an ordinary user can go, which the folders of pytest are not; on a disk with room for images."""
    with tempfile.TemporaryDirectory(prefix="stillhouse-containers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def checkout(open_folder: Path) -> Path:
    """A copy of this checkout, changes included, that belongs to the ordinary user."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name.endswith("_cache") or name == "__pycache__"} | (
            NOT_COPIED if folder == str(REPOSITORY) else set()
        )

    copy = open_folder / "checkout"
    shutil.copytree(REPOSITORY, copy, ignore=left_out, symlinks=True)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", copy], check=True)
    return copy


# --- engines and callers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """Podman, on this machine."""

    env: dict[str, str]  # of root
    socket: Path
    shims: Path  # docker, by another name

    def ask(self, *words: str | Path) -> str:
        """One command of the engine itself."""
        done = subprocess.run(["podman", *words], env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, f"podman {words}: {done.stderr}"
        return done.stdout.strip()

    def prune(self) -> None:
        """Remove what builds left behind without a name, of this image and no other."""
        self.ask("image", "prune", "--force", "--filter=label=org.opencontainers.image.title=stillhouse")

    def build(self, checkout: Path, tag: str, *words: str) -> str:
        """Its output; one line for each step."""
        files = [f"--volume={file}:{file}:ro" for file in NETWORK_FILES]
        command = [checkout / "containers" / "build.sh", "podman", *files, *words]
        env = {**self.env, "BASE_IMAGE": BASE, "IMAGE": tag, **TRUSTING}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout


@pytest.fixture(scope="session")
def engine(open_folder: Path) -> Iterator[Engine]:
    shims, socket = open_folder / "bin", open_folder / "podman.sock"
    shims.mkdir()
    (shims / "docker").write_text('#!/bin/sh\nexec podman "$@"\n')
    (shims / "docker").chmod(0o755)
    env = dict(os.environ)
    if settings := subprocess.run([HERE / "engine.sh", open_folder], capture_output=True, text=True, check=True).stdout:
        env.setdefault("CONTAINERS_CONF", settings.strip())
    with subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"], env=env) as service:
        try:
            while not socket.exists():
                assert service.poll() is None, "podman's service ended"
                time.sleep(0.1)
            socket.chmod(0o666)
            yield Engine(env, socket, shims)
        finally:
            service.terminate()


@dataclass(frozen=True)
class Caller:
    """Someone with a shell in a folder, and with a secret in the environment."""

    folder: Path
    run_sh: Path
    env: Mapping[str, str]
    user: int | None = None

    def __call__(self, *words: str | Path, flags: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """containers/run.sh FLAGS -- WORDS"""
        whose: dict[str, Any] = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        command = [self.run_sh, *flags.split(), "--", *words]
        return subprocess.run(
            command, cwd=self.folder, env={**self.env, **env}, capture_output=True, text=True, timeout=300, **whose
        )

    def ok(self, *words: str | Path, flags: str = "", **env: str) -> str:
        """What it prints, of a command that goes well."""
        done = self(*words, flags=flags, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def caller(folder: Path, checkout: Path, path: str, **env: str) -> Caller:
    """The ordinary user, in a new folder."""
    folder.mkdir()
    os.chown(folder, USER, USER)
    env |= {"PATH": path, "HOME": str(folder), "SECRET_TOKEN": "do-not-tell", "PYTHONPATH": "/nowhere"}
    return Caller(folder, checkout / "containers" / "run.sh", env, USER)


# --- images -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    name: str
    id: str
    dependencies: str  # the name of its first stage


@pytest.fixture(scope="session")
def image(engine: Engine, checkout: Path) -> Image:
    """The suite's image, as containers/build.sh makes it."""
    known = subprocess.run(["podman", "image", "exists", BASE], env=engine.env).returncode == 0
    if FROM_NOTHING or not known:
        subprocess.run([HERE / "make-base.sh", BASE], env=engine.env, check=True)
    engine.build(checkout, IMAGE, *(["--no-cache"] if FROM_NOTHING else []))
    engine.build(checkout, DEPENDENCIES, "--target=dependencies")
    engine.prune()
    return Image(IMAGE, engine.ask("image", "inspect", "--format={{.Id}}", IMAGE), DEPENDENCIES)


@pytest.fixture(scope="session")
def docker(engine: Engine, image: Image, checkout: Path, open_folder: Path) -> Caller:
    """containers/run.sh for a user of docker."""
    path = f"{engine.shims}{os.pathsep}{os.environ['PATH']}"
    return caller(
        open_folder / "docker", checkout, path, CONTAINER_HOST=f"unix://{engine.socket}", IMAGE=IMAGE, ENGINE="docker"
    )


@dataclass(frozen=True)
class Sif:
    file: Path
    build_log: str


def build_sif(checkout: Path, file: Path, source: str) -> Sif:
    """FROM=source containers/build.sh apptainer, with its temporary gigabytes beside the file, and gone at the end."""
    with tempfile.TemporaryDirectory(dir=file.parent) as work:
        env = {"FROM": source, "IMAGE": str(file), "APPTAINER_CACHEDIR": work, "APPTAINER_TMPDIR": work}
        command = [checkout / "containers" / "build.sh", "apptainer"]
        done = subprocess.run(command, env={**os.environ, **TRUSTING, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return Sif(file, done.stderr)


@pytest.fixture(scope="session")
def sif(engine: Engine, image: Image, checkout: Path, open_folder: Path) -> Sif:
    """The same image as a file for apptainer, by way of docker's archive, as one carries it to a cluster."""
    archive = open_folder / "stillhouse.tar"
    engine.ask("save", "--quiet", "--output", archive, image.name)
    made = build_sif(checkout, open_folder / "stillhouse.sif", f"docker-archive:{archive}")
    archive.unlink()
    return made


@pytest.fixture(scope="session")
def sif_of_dependencies(engine: Engine, image: Image, checkout: Path, open_folder: Path) -> Sif:
    """What stillhouse.def makes where the dependencies are there and the suite is not."""
    made = build_sif(
        checkout, open_folder / "other.sif", f"localimage:{engine.ask('image', 'mount', image.dependencies)}"
    )
    engine.ask("image", "unmount", image.dependencies)
    return made


@pytest.fixture(scope="session")
def apptainer(sif: Sif, checkout: Path, open_folder: Path) -> Caller:
    """containers/run.sh where there is a SIF. Whoever runs the tests: an ordinary user would need /dev/fuse."""
    who = caller(open_folder / "apptainer", checkout, os.environ["PATH"], IMAGE=str(sif.file))
    os.chown(who.folder, os.geteuid(), os.getegid())
    return Caller(who.folder, who.run_sh, who.env | TRUSTING)


# --- the same commands everywhere -------------------------------------------------------------------------------

TINY = "recipe.epochs=2 recipe.batch_size=256 compute.threads=1 log.progress=off"
VIT = "model.width=24 model.depth=2 model.heads=2 model.patch=2"
SHIFT = "shift.corruptions=[brightness] shift.severities=[3] shift.adaptations=[source,bn_stats] shift.batch_sizes=[64]"
COMMANDS = {  # in this order; {ENTRY} stands for the run of that entry
    "train_cnn": f"train/train_cnn.py {TINY}",
    "train_vit": f"train/train_vit.py {TINY} {VIT} model.stem_width=8",
    "distill_kd": f"train/distill_kd.py {TINY} {VIT} teacher={{train_cnn}}",
    "distill_cst": f"train/distill_cst.py {TINY} {VIT} teacher={{train_vit}}",
    "eval_shift": f"eval/eval_shift.py compute.threads=1 log.progress=off {SHIFT} run={{train_cnn}}",
}
Runs = dict[str, Path]


def run_tiny(python: Callable[..., Any], runs: Path, *entries: str) -> Runs:
    """The run folder of each entry."""
    made: Runs = {}
    for entry in entries:
        python(*COMMANDS[entry].format(**{name: folder.name for name, folder in made.items()}).split())
        (made[entry],) = (runs / entry).iterdir()
    return made


@pytest.fixture(scope="session")
def outside(open_folder: Path) -> Runs:
    """The commands on this machine itself."""
    folder = open_folder / "outside"
    folder.mkdir()

    def python(script: str, *words: str) -> None:
        command = [sys.executable, REPOSITORY / script, *words]
        env = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run_tiny(python, folder / "runs", *COMMANDS)


@pytest.fixture(scope="session")
def inside(docker: Caller) -> Runs:
    """The same in the image, for a user of docker."""
    return run_tiny(lambda *words: docker.ok("python", *words), docker.folder / "runs", *COMMANDS)


@pytest.fixture(scope="session")
def inside_sif(apptainer: Caller) -> Runs:
    return run_tiny(lambda *words: apptainer.ok("python", *words), apptainer.folder / "runs", "train_cnn")
