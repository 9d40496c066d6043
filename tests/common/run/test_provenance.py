"""Provenance: what code a run was made by, inside and outside of a container."""

import json
import subprocess
from pathlib import Path

import pytest

from common.run.provenance import code_version, container, foreign_container, provenance
from train import train_cnn

IMAGE = {"commit": "3a71f28", "dirty": False, "content": "c0ffee"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / "a.py").write_text("1\n")
    subprocess.run(["git", "-C", str(folder), "add", "."], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, "commit", "-qm", "x"], check=True)
    return folder


def head(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_of_a_checkout(checkout: Path) -> None:
    assert code_version(checkout, {}) == {"commit": head(checkout), "dirty": False}
    (checkout / "a.py").write_text("2\n")
    assert code_version(checkout, {}) == {"commit": head(checkout), "dirty": True}
    assert container(checkout, {}) == {}


def test_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_IMAGE", "stillhouse.sif")
    monkeypatch.setenv("STILLHOUSE_IMAGE_DIGEST", "abc")
    assert code_version(tmp_path, IMAGE) == {"commit": "3a71f28", "dirty": False}
    assert container(tmp_path, IMAGE) == {
        "image": "stillhouse.sif",
        "digest": "abc",
        "started_by": None,
        "content": "c0ffee",
        "bound_checkout": False,
    }


def test_of_a_checkout_bound_into_an_image_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the commit of the image: its code does not run."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert code_version(checkout, IMAGE) == {"commit": None, "dirty": None}
    monkeypatch.setenv("STILLHOUSE_COMMIT", "b27d227")
    monkeypatch.setenv("STILLHOUSE_DIRTY", "true")
    assert code_version(checkout, IMAGE) == {"commit": "b27d227", "dirty": True}
    assert container(checkout, IMAGE)["bound_checkout"] is True


def test_of_nothing_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_COMMIT", "left over from elsewhere")
    assert code_version(tmp_path, {}) == {"commit": None, "dirty": None}
    assert container(tmp_path, {}) == {}


@pytest.mark.parametrize("content", [json.dumps(IMAGE), "", "{", "[]"])
def test_an_origin_that_cannot_be_read_is_none(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "origin.json").write_text(content)
    monkeypatch.setenv("STILLHOUSE_ORIGIN", str(tmp_path / "origin.json"))
    assert provenance([])["container"].get("content") == ("c0ffee" if "c0ffee" in content else None)


def test_an_image_of_another_commit_than_the_checkout_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_IMAGE", "stillhouse.sif")
    monkeypatch.setenv("STILLHOUSE_COMMIT", "b27d227")
    facts = {**code_version(tmp_path, IMAGE), "container": container(tmp_path, IMAGE)}
    assert foreign_container(facts) == "a container of commit 3a71f28, started by a checkout of commit b27d227"
    assert foreign_container(facts | {"commit": "b27d227"}) is None
    assert foreign_container(facts | {"commit": None}) is None
    assert foreign_container({"commit": "3a71f28", "container": {}}) is None


def test_a_run_in_a_foreign_container_says_so_in_its_log(
    tmp_path: Path, digits_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STILLHOUSE_IMAGE", "stillhouse.sif")
    monkeypatch.setenv("STILLHOUSE_COMMIT", "b27d227")
    assert train_cnn.main(["recipe.epochs=1", f"root={tmp_path}", f"data_dir={digits_dir}"]) == 0
    (log,) = tmp_path.glob("*/*/log.txt")
    line = next(line for line in log.read_text().splitlines() if "WARNING" in line)
    assert line.endswith("started by a checkout of commit b27d227")
