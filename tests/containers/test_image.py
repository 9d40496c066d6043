"""The image that containers/build.sh makes, and containers/run.sh for an ordinary user of it."""

import json
import os
import shutil
import socket
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.container,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("podman") is None or os.geteuid() != 0, reason="needs podman, as root"),
]

Caller = Engine = Image = Any  # of images.py
ABSENT = "cc c++ gcc g++ clang ld as make nvcc git"


@pytest.fixture(scope="module")
def facts(engine: Engine, image: Image) -> dict[str, Any]:
    """What the engine knows of it."""
    (known,) = json.loads(engine.ask("image", "inspect", image.name))
    return known


def git(checkout: Path, *words: str) -> str:
    command = ["git", "-c", f"safe.directory={checkout}", "-C", str(checkout), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def provenance(run: Path) -> dict[str, Any]:
    return json.loads((run / "provenance.json").read_text())


def variables(printed: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in printed.splitlines())


# --- what it does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["train_cnn", "train_vit", "distill_kd", "distill_cst", "eval_shift"])
def test_every_entry_ends_with_the_bits_it_has_outside(entry: str, inside: Any, outside: Any) -> None:
    mine, theirs = inside[entry], outside[entry]
    assert mine.name == theirs.name
    result = "cells.csv" if entry == "eval_shift" else "checkpoints/best.safetensors"
    assert (mine / result).read_bytes() == (theirs / result).read_bytes()
    assert {file.stat().st_uid for file in mine.rglob("*")} == {1000}


def test_a_run_says_which_image_it_is_of(inside: Any, image: Image, docker: Caller, checkout: Path) -> None:
    told = provenance(inside["train_cnn"])
    origin = json.loads(docker.ok("cat", "/opt/origin.json"))
    assert (told["commit"], told["dirty"]) == (git(checkout, "rev-parse", "HEAD"), bool(git(checkout, "status", "-s")))
    assert (told["commit"], told["dirty"]) == (origin["commit"], origin["dirty"])
    assert told["container"] == {
        "image": image.name,
        "digest": image.id,
        "started_by": origin["commit"],
        "content": origin["content"],
        "bound_checkout": False,
    }


def test_a_bound_checkout_is_what_runs(docker: Caller, checkout: Path) -> None:
    other = checkout.parent / "dev"
    subprocess.run(["cp", "-a", checkout, other], check=True)
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    git(other, *author, "commit", "--quiet", "--allow-empty", "--message", "Another commit than the image's")
    script = other / "train" / "train_cnn.py"
    script.write_text(script.read_text().replace("def train(", "print('changed')\n\n\ndef train(", 1))
    subprocess.run(["chown", "-R", f"{docker.user}:{docker.user}", other], check=True)
    developer = type(docker)(docker.folder, other / "containers" / "run.sh", docker.env, docker.user)
    words = "python train/train_cnn.py recipe.epochs=1 model.dropout=0.25 compute.threads=1 log.progress=off".split()
    assert "changed" in developer.ok(*words, flags="--dev", STILLHOUSE_RUNS="runs-of-dev")
    (run,) = (docker.folder / "runs-of-dev" / "train_cnn").iterdir()
    told = provenance(run)
    assert told["commit"] == git(other, "rev-parse", "HEAD") != git(checkout, "rev-parse", "HEAD")
    assert (told["dirty"], told["container"]["bound_checkout"]) == (True, True)
    assert "changed" not in docker.ok(*words, STILLHOUSE_RUNS="runs-of-dev")  # without --dev it is the image's code


def test_the_exit_code_is_that_of_the_command(docker: Caller) -> None:
    assert docker("sh", "-c", "exit 7").returncode == 7
    refused = docker("python", "train/train_cnn.py", "recipe.epocs=1")
    assert (refused.returncode, "recipe.epochs" in refused.stderr) == (2, True)


# --- what it keeps apart ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["/opt/stillhouse", "/opt/stillhouse/common", "/opt/venv", "/etc", "/home/stillhouse"]
)
def test_nothing_is_written_but_in_the_folders(place: str, docker: Caller) -> None:
    done = docker("touch", f"{place}/left-behind")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    docker.ok("touch", f"/opt/stillhouse/runs/{Path(place).name}")
    assert (docker.folder / "runs" / Path(place).name).stat().st_uid == docker.user


def test_there_is_no_network_unless_asked_for(docker: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=10)"
        assert docker("python", "-c", knock, flags="--online").returncode == 0
        assert "ConnectionRefusedError" in docker("python", "-c", knock).stderr


def test_nothing_of_the_environment_goes_in(docker: Caller) -> None:
    seen = variables(docker.ok("env"))
    assert "do-not-tell" not in seen.values()
    assert not {"SECRET_TOKEN", "PYTHONPATH", "CONTAINER_HOST"} & set(seen)
    assert (seen["HF_HUB_OFFLINE"], seen["HF_HOME"]) == ("1", "/opt/weights")
    assert variables(docker.ok("env", flags="--online"))["HF_HUB_OFFLINE"] == "0"


# --- what is in it ----------------------------------------------------------------------------------------------


def test_nobody_is_root_and_nothing_compiles(docker: Caller, engine: Engine, image: Image) -> None:
    assert docker.ok("id", "-u").strip() == "1000"
    assert engine.ask("run", "--rm", "--no-healthcheck", image.name, "id", "-un") == "stillhouse"
    found = docker.ok("sh", "-c", f"for each in sh {ABSENT}; do command -v $each; done; true").split()
    assert [Path(each).name for each in found] == ["sh"]


def test_no_cache_of_pip_and_no_source_stays(engine: Engine, image: Image) -> None:
    look = "ls -A /root /home/stillhouse /tmp /var/cache; ls -d /opt/*; find /opt /var -name '*.whl'"
    found = engine.ask("run", "--rm", "--no-healthcheck", "--user=0", image.name, "sh", "-c", look).split()
    assert {Path(each).name for each in found if each.startswith("/opt/")} == {
        *("dependencies.sh", "origin.json", "requirements.lock", "stillhouse", "venv", "weights"),
    }
    assert not {each for each in found if each.endswith((".cache", "pip", ".whl"))}


def test_it_is_installed_and_not_editable(docker: Caller) -> None:
    ask = (
        "import common, importlib.metadata as found; suite = found.distribution('stillhouse'); "
        "print(common.__file__, suite.version, suite.read_text('direct_url.json'))"
    )
    file, version, origin = docker.ok("sh", "-c", f'cd / && python -c "{ask}"').split(maxsplit=2)
    assert (file, version) == ("/opt/stillhouse/common/__init__.py", "0.1.0")
    assert json.loads(origin)["dir_info"].get("editable") is None


def test_labels_and_health(facts: dict[str, Any], checkout: Path) -> None:
    labels = facts["Labels"]
    assert labels["org.opencontainers.image.title"] == "stillhouse"
    assert labels["org.opencontainers.image.revision"] == git(checkout, "rev-parse", "HEAD")
    assert labels["stillhouse.dirty"] == ("true" if git(checkout, "status", "-s") else "false")
    assert labels["stillhouse.lock"] == sha256((checkout / "requirements.lock").read_bytes()).hexdigest()
    assert (facts["Config"]["User"], facts["Config"]["WorkingDir"]) == ("stillhouse", "/opt/stillhouse")
    assert facts["Healthcheck"]["Test"] == ["CMD", "python", "-c", "import common"]


def test_another_line_of_code_costs_seconds(
    engine: Engine, facts: dict[str, Any], image: Image, checkout: Path
) -> None:
    script = checkout / "train" / "train_cnn.py"
    before = script.read_text()
    script.write_text(before + "\n# another line\n")
    began = time.monotonic()
    try:
        log = engine.build(checkout, f"{image.name}-changed")
        seconds = time.monotonic() - began
        (changed,) = json.loads(engine.ask("image", "inspect", f"{image.name}-changed"))
        (dependencies,) = json.loads(engine.ask("image", "inspect", image.dependencies))
    finally:
        script.write_text(before)
        engine.ask("image", "rm", "--ignore", "--force", f"{image.name}-changed")
        engine.prune()
    layers = dependencies["RootFS"]["Layers"]
    assert changed["RootFS"]["Layers"][: len(layers)] == facts["RootFS"]["Layers"][: len(layers)] == layers
    assert changed["Id"] != image.id
    assert changed["Labels"]["stillhouse.dirty"] == "true"
    assert seconds < 60, log
