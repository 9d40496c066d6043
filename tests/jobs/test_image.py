"""What is looked at before the jobs of a sweep start in an image. (Real images: tests/containers.)"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.failures import Refused
from common.provenance import code_version
from jobs import status, submit
from jobs.image import look_at_image, origin_of, write_digest
from jobs.profiles import REPOSITORY

Told = Callable[..., tuple[int, str]]
COMMIT = "3a71f28860" + "0" * 30


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.sif"
    path.write_bytes(b"not really")
    return path


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An apptainer that prints this when it is asked about an image."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def put(text: str) -> None:
        path = tmp_path / "bin" / "apptainer"
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        path.chmod(0o755)

    return put


def labels(**origin: Any) -> str:
    return json.dumps({"data": {"attributes": {"labels": {"stillhouse.origin": json.dumps(origin)}}}})


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"container: there is no .*/no\.sif; containers/build\.sh apptainer makes"):
        look_at_image(str(tmp_path / "no.sif"), "image")


def test_an_address_cannot_be_looked_at() -> None:
    (note,) = look_at_image("docker://example.org/a", "image")
    assert "fetched by each job" in note


def test_the_digest_is_written_beside_the_image_once(image: Path) -> None:
    beside = image.with_name("a.sif.sha256")
    assert look_at_image(str(image), "image") == []
    assert not beside.exists()
    assert write_digest(str(image)) == []
    assert beside.read_text() == f"{hashlib.sha256(b'not really').hexdigest()}  a.sif\n"
    assert subprocess.run(["sha256sum", "-c", beside.name], cwd=image.parent, capture_output=True).returncode == 0
    beside.write_text("kept")
    assert write_digest(str(image)) == []
    assert beside.read_text() == "kept"


def test_the_digest_of_an_older_image_is_replaced(image: Path) -> None:
    beside = image.with_name("a.sif.sha256")
    beside.write_text("of another image\n")
    os.utime(beside, (1, 1))
    assert write_digest(str(image)) == []
    assert beside.read_text().startswith(hashlib.sha256(b"not really").hexdigest())


def test_a_folder_that_takes_no_digest_is_said(image: Path) -> None:
    image.with_name("a.sif.sha256").mkdir()  # no file can take its place, whoever tries
    os.utime(image.with_name("a.sif.sha256"), (1, 1))
    (note,) = write_digest(str(image))
    assert note == f"{image}.sha256 cannot be written (Is a directory), so runs will not name the image's digest"


def test_an_image_of_another_commit_is_said(image: Path, says: Callable[[str], None]) -> None:
    says(labels(commit=COMMIT, dirty=False, content="c0ffee"))
    assert origin_of(image) == {"commit": COMMIT, "dirty": False, "content": "c0ffee"}
    (note,) = look_at_image(str(image), "image")
    assert note.startswith(f"{image} was built from 3a71f28860 and this checkout is at ")
    assert "code: checkout" in note
    assert look_at_image(str(image), "checkout") == []


def test_an_image_of_this_commit_is_not(image: Path, says: Callable[[str], None]) -> None:
    says(labels(commit=code_version(REPOSITORY, {})["commit"]))
    assert look_at_image(str(image), "image") == []


@pytest.mark.parametrize("text", ["", "{}", '{"data": null}', "[]", '{"data": {"attributes": {"labels": {}}}}'])
def test_an_image_that_does_not_say_what_it_is(text: str, image: Path, says: Callable[[str], None]) -> None:
    says(text)
    assert origin_of(image) == {}
    assert look_at_image(str(image), "image") == []


# --- whole commands -----------------------------------------------------------------------------------------------


def test_a_submission_into_a_missing_image_writes_nothing(world: Any, told: Told, slurm_commands: Any) -> None:
    profile = world.root.parent / "site.yaml"
    profile.write_text("container: /no/such/image.sif\n")
    before = sorted(world.root.rglob("*"))
    code, text = told(submit.main, f"sweep={world.file}", f"cluster={profile}", f"root={world.root}")
    assert code == 2
    assert "container: there is no /no/such/image.sif" in text
    assert sorted(world.root.rglob("*")) == before
    assert slurm_commands.asked("sbatch") == []


def test_status_says_where_another_commit_ran(worlds: Any, told: Told) -> None:
    world = worlds("0-1")
    for seed in (0, 1):
        facts = {"commit": COMMIT, "container": {"image": "a.sif", "started_by": "b27d227" + "0" * 33}}
        world.finish("cnn", seed).provenance.write_text(json.dumps(facts))
    text = told(status.main, "sweep=mine", f"root={world.root}")[1]
    assert (
        "note: 2 of these runs: in an image of commit 3a71f28860, started by a checkout of commit b27d227000\n" in text
    )
