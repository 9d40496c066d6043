"""A submission before its data and published weights are there: planned, refused, with prepare=true got first."""

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.data.packing import Part
from common.data.publishers.catalog import DATASETS
from common.data.publishers.checksums import File
from jobs import submit
from jobs.planning.request import read_sweep
from jobs.planning.sweep import sweep_names
from jobs.planning.weights import missing_weights

CONTENT = b"the publisher's file"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty ones."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a server on this machine gives, from which cifar100 is then downloaded."""
    folder = tmp_path / "published"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def read(_: Mapping[str, Path]) -> dict[str, Part]:
            images, labels = np.zeros((100, 3, 8, 8), np.uint8), np.arange(100, dtype=np.int64)
            return {"train": Part.of(images, labels), "test": Part.of(images, labels)}

        files = (File("all.bin", hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()),)
        mirrors = (f"http://127.0.0.1:{server.server_port}",)
        fake = replace(DATASETS["cifar100"], files=files, mirrors=mirrors, read=read)
        monkeypatch.setitem(DATASETS, "cifar100", fake)
        yield folder
        server.shutdown()


def words(folder: Path, stages: Mapping[str, object], *more: str) -> list[str]:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"stages": dict(stages)}, sort_keys=False))
    return [f"sweep={file}", f"root={folder / 'runs'}", f"data_dir={folder / 'data'}", "cluster=local", *more]


TRAINED: dict[str, object] = {"cnn": {"entry": "train_cnn", "with": {"data": "cifar100"}}}
TESTED: dict[str, object] = {
    "cnn": {"entry": "train_cnn", "with": {"data": "digits"}},
    "shift": {"entry": "eval_shift", "of": "cnn", "with": {"shift.sets": ["cifar100"]}},
}
PUBLISHED: dict[str, object] = {
    "own": {"entry": "train_cnn", "with": {"model": "resnet18", "model.pretrained": True}},
    "taught": {"entry": "distill_kd", "with": {"teacher": "timm/vit_small_patch14_dinov2.lvd142m"}},
    "plain": {"entry": "train_cnn"},
    "student": {"entry": "distill_kd", "teacher": "own"},
}


@pytest.mark.parametrize("name", sweep_names())
def test_every_shipped_sweep_is_planned_before_its_data_are_there(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"sweep={name}", f"root={tmp_path / 'runs'}", f"data_dir={tmp_path / 'data'}", "cluster=local"]
    assert submit.main([*given, "dry_run=true"]) == 0
    told = capsys.readouterr()
    assert f"\n{name}: " in told.out
    assert " 0 to run" not in told.out.splitlines()[0]
    lacking = [line for line in told.err.splitlines() if "not prepared under" in line]
    assert len(lacking) == (0 if name == "quickstart" else 1)  # digits packs itself
    for line in lacking:
        assert line.endswith(f"run: python jobs/submit.py {' '.join(given)} prepare=true")
    assert not (tmp_path / "runs").exists()


def test_without_its_data_nothing_starts_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = TRAINED | {"more": {"entry": "train_vit", "with": {"data": "cifar10"}}}
    given = words(tmp_path, stages)
    assert submit.main(given) == 2
    assert capsys.readouterr().err == (
        f"mine: not prepared under {tmp_path / 'data'}: cifar100, cifar10; "
        f"run: python jobs/submit.py {' '.join(given)} prepare=true\n"
    )
    assert not (tmp_path / "runs").exists()


def test_prepare_packs_what_is_missing_and_the_names_of_runs_follow_the_images(
    publisher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (publisher / "all.bin").write_bytes(CONTENT)
    given = words(tmp_path, TESTED, "prepare=true")
    before = read_sweep(given).sweep
    assert before.unprepared == ("cifar100",)

    assert submit._prepared(read_sweep(given))
    assert "cifar100: packed into" in capsys.readouterr().out
    after = read_sweep(given).sweep
    assert after.unprepared == ()
    assert after.stages["cnn"] == before.stages["cnn"]
    assert after.stages["shift"] != before.stages["shift"]


def test_where_a_set_cannot_be_had_nothing_starts(
    publisher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not list(publisher.iterdir())
    assert submit.main(words(tmp_path, TRAINED, "prepare=true")) == 1
    assert "all.bin could not be downloaded" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_runs_without_their_published_weights_are_left_out_and_their_students_with_them(
    tmp_path: Path, caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(tmp_path, PUBLISHED, "dry_run=true")
    assert submit.main(given) == 0
    told = capsys.readouterr()
    assert (
        "mine: 1 to run, 2 without published weights that they need, 1 what it builds on will not be finished"
    ) in told.out
    assert told.err == (
        "note: mine: published weights that are not on this machine; where there is internet, run: "
        "python jobs/prepare.py weights=NAME, for resnet18, vit_small_patch14_dinov2.lvd142m\n"
    )

    # Weights with a tag are those alone; a name without one is taken with any tag, as timm chooses its own.
    for name in ("resnet18.a1_in1k", "vit_small_patch14_dinov2.other"):
        snapshot = caches / "hub" / f"models--timm--{name}" / "snapshots" / "c"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").touch()
    assert submit.main(given) == 0
    told = capsys.readouterr()
    assert "mine: 3 to run, 1 without published weights" in told.out
    assert told.err.endswith("run: python jobs/prepare.py weights=vit_small_patch14_dinov2.lvd142m\n")


def test_weights_from_a_file_are_not_looked_for_in_a_cache(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    stages = {
        "own": {"entry": "train_cnn", "with": {"model": "resnet18", "model.weights": str(file)}},
        "taught": {"entry": "distill_kd", "with": {"teacher": "timm/resnet18", "teacher.weights": str(file)}},
        "tested": {"entry": "eval_shift", "of": "own"},
    }
    assert missing_weights(read_sweep(words(tmp_path, stages)).sweep.cells.values()) == {}
