"""What is looked at before the jobs of a sweep start in a container. (Real ones: tests/containers.)"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.failures import Refused
from common.run.provenance import code_version
from jobs import status, submit
from jobs.engines.container import look_at_container, origin_of, write_digest
from jobs.engines.sbatch import REPOSITORY

Told = Callable[..., tuple[int, str]]
COMMIT = "3a71f28860" + "0" * 30


@pytest.fixture
def container(tmp_path: Path) -> Path:
    path = tmp_path / "a.sif"
    path.write_bytes(b"not really")
    return path


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An apptainer that prints this when it is asked about a container."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def put(text: str) -> None:
        path = tmp_path / "bin" / "apptainer"
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        path.chmod(0o755)

    return put


def labels(**origin: Any) -> str:
    return json.dumps({"data": {"attributes": {"labels": {"stillhouse.origin": json.dumps(origin)}}}})


def test_a_missing_container_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"container: there is no .*/no\.sif; containers/build\.sh apptainer makes one$"):
        look_at_container(str(tmp_path / "no.sif"), "image")


def test_an_address_cannot_be_looked_at() -> None:
    (note,) = look_at_container("docker://example.org/a", "image")
    assert "fetched by each job" in note


def test_the_digest_is_written_beside_the_container_once(container: Path) -> None:
    beside = container.with_name("a.sif.sha256")
    assert look_at_container(str(container), "image") == []
    assert not beside.exists()
    assert write_digest(str(container)) == []
    assert beside.read_text() == f"{hashlib.sha256(b'not really').hexdigest()}  a.sif\n"
    assert subprocess.run(["sha256sum", "-c", beside.name], cwd=container.parent, capture_output=True).returncode == 0
    beside.write_text("kept")
    assert write_digest(str(container)) == []
    assert beside.read_text() == "kept"


def test_the_digest_of_an_older_container_is_replaced(container: Path) -> None:
    beside = container.with_name("a.sif.sha256")
    beside.write_text("of another container\n")
    os.utime(beside, (1, 1))
    assert write_digest(str(container)) == []
    assert beside.read_text().startswith(hashlib.sha256(b"not really").hexdigest())


def test_a_folder_that_takes_no_digest_is_said(container: Path) -> None:
    container.with_name("a.sif.sha256").mkdir()  # no file can take its place, whoever tries
    os.utime(container.with_name("a.sif.sha256"), (1, 1))
    (note,) = write_digest(str(container))
    assert (
        note == f"{container}.sha256 cannot be written (Is a directory), so runs will not name the container's digest"
    )


def test_a_container_of_another_commit_is_said(container: Path, says: Callable[[str], None]) -> None:
    says(labels(commit=COMMIT, dirty=False, content="c0ffee"))
    assert origin_of(container) == {"commit": COMMIT, "dirty": False, "content": "c0ffee"}
    (note,) = look_at_container(str(container), "image")
    assert note.startswith(f"{container} was built from 3a71f28860 and this checkout is at ")
    assert "code: checkout" in note
    assert look_at_container(str(container), "checkout") == []


def test_a_container_of_this_commit_is_not(container: Path, says: Callable[[str], None]) -> None:
    says(labels(commit=code_version(REPOSITORY, {})["commit"]))
    assert look_at_container(str(container), "image") == []


@pytest.mark.parametrize("text", ["", "{}", '{"data": null}', "[]", '{"data": {"attributes": {"labels": {}}}}'])
def test_a_container_that_does_not_say_what_it_is(text: str, container: Path, says: Callable[[str], None]) -> None:
    says(text)
    assert origin_of(container) == {}
    assert look_at_container(str(container), "image") == []


def test_jobs_say_container_for_it() -> None:
    """An image is a picture in this suite: here are only the words that users and containers/run.sh have for it."""
    typed = re.compile(r'"image"|"--image"|jobs\.image')
    folder = REPOSITORY / "jobs"
    modules = [path for path in folder.rglob("*.py") if not path.name.startswith("prepare")]
    lines = [f"{path.name}: {line}" for path in modules for line in path.read_text().splitlines()]
    assert [line for line in lines if "image" in typed.sub("", line).partition(": ")[2].lower()] == []


# --- whole commands -----------------------------------------------------------------------------------------------


def test_a_submission_into_a_missing_container_writes_nothing(world: Any, told: Told, slurm_commands: Any) -> None:
    profile = world.root.parent / "site.yaml"
    profile.write_text("container: /no/such/container.sif\n")
    before = sorted(world.root.rglob("*"))
    code, text = told(submit.main, f"sweep={world.file}", f"cluster={profile}", f"root={world.root}")
    assert code == 2
    assert "container: there is no /no/such/container.sif" in text
    assert sorted(world.root.rglob("*")) == before
    assert slurm_commands.asked("sbatch") == []


def test_status_says_where_another_commit_ran(worlds: Any, told: Told) -> None:
    world = worlds("0-1")
    for seed in (0, 1):
        facts = {"commit": COMMIT, "container": {"image": "a.sif", "started_by": "b27d227" + "0" * 33}}
        world.finish("cnn", seed).provenance.write_text(json.dumps(facts))
    text = told(status.main, "sweep=mine", f"root={world.root}")[1]
    assert (
        "note: 2 of these runs: in a container of commit 3a71f28860, started by a checkout of commit b27d227000\n"
        in text
    )
