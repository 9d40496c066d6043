"""The image as a file for Apptainer, as clusters run it: from what docker built, and by stillhouse.def itself."""

import json
import shutil
import subprocess
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.container,
    pytest.mark.apptainer,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
    pytest.mark.skipif(shutil.which("apptainer") is None, reason="apptainer is not installed"),
]

Caller = Sif = Any  # of images.py


def ask(*words: str | Path) -> str:
    done = subprocess.run(["apptainer", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def origin_of(file: Path) -> dict[str, Any]:
    return json.loads(ask("exec", file, "cat", "/opt/origin.json"))


def variables(printed: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in printed.splitlines())


def test_a_training_ends_with_the_bits_it_has_outside(inside_sif: Any, outside: Any) -> None:
    mine, theirs = inside_sif["train_cnn"], outside["train_cnn"]
    assert mine.name == theirs.name
    weights = "checkpoints/best.safetensors"
    assert (mine / weights).read_bytes() == (theirs / weights).read_bytes()


def test_a_run_says_which_file_it_is_of(inside_sif: Any, inside: Any, sif: Sif) -> None:
    """Its content is that of the image it was made from."""
    told, image_told = (
        json.loads((runs["train_cnn"] / "provenance.json").read_text()) for runs in (inside_sif, inside)
    )
    with sif.file.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    content = image_told["container"]["content"]
    assert told["container"] == {
        "image": str(sif.file),
        "digest": digest,
        "started_by": told["commit"],
        "content": content,
        "bound_checkout": False,
    }
    assert (told["commit"], told["dirty"]) == (image_told["commit"], image_told["dirty"])
    label = json.loads(ask("inspect", "--json", sif.file))["data"]["attributes"]["labels"]["stillhouse.origin"]
    assert json.loads(label) == origin_of(sif.file) | {"content": content}


def test_help_and_test(sif: Sif) -> None:
    assert "containers/run.sh -- python train/train_cnn.py data=digits" in ask("run-help", sif.file)
    assert "Running testscript" in sif.build_log
    ask("test", sif.file)


def test_nothing_is_written_but_in_the_folders(apptainer: Caller) -> None:
    for place in ("/opt/stillhouse", "/opt/venv", "/etc"):
        done = apptainer("touch", f"{place}/left-behind")
        assert (done.returncode, "Read-only file system" in done.stderr) == (1, True)
    apptainer.ok("touch", "/opt/stillhouse/results/new")
    assert (apptainer.folder / "results" / "new").exists()


def test_nothing_of_the_environment_goes_in(apptainer: Caller) -> None:
    seen = variables(apptainer.ok("env"))
    assert "do-not-tell" not in seen.values()
    assert "PYTHONPATH" not in seen
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert variables(apptainer.ok("env", flags="--online"))["HF_HUB_OFFLINE"] == "0"


def test_the_environment_of_a_job_goes_in(apptainer: Caller) -> None:
    """But for what would be of another Python."""
    flags = f"--job --writable {apptainer.folder}"
    seen = variables(apptainer.ok("env", flags=flags, SLURM_JOB_ID="7"))
    assert (seen["SLURM_JOB_ID"], seen["SECRET_TOKEN"]) == ("7", "do-not-tell")
    assert "PYTHONPATH" not in seen
    assert seen["PATH"].startswith("/opt/venv/bin:")


def test_on_what_has_the_dependencies_the_suite_alone_is_installed(sif: Sif, sif_of_dependencies: Sif) -> None:
    """Both ways lead to the same files."""
    assert "sh /opt/source/suite.sh /opt/source" in sif_of_dependencies.build_log
    assert "sh /opt/source/dependencies.sh" not in sif_of_dependencies.build_log
    assert "Running testscript" in sif_of_dependencies.build_log
    assert origin_of(sif_of_dependencies.file) == origin_of(sif.file)
    assert not {"source", "left-behind"} & set(ask("exec", sif_of_dependencies.file, "ls", "/opt").split())
    sif_of_dependencies.file.unlink()
