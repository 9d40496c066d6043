import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.packing import Part
from common.data.publishers.catalog import DATASETS
from common.data.publishers.checksums import File
from jobs.prepare import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the one file that DATASETS["cifar100"] then stands for."""
    content = b"the publisher's file"

    def read(paths: Mapping[str, Path]) -> dict[str, Part]:
        assert paths["all.bin"].read_bytes() == content
        images = np.arange(4 * 3, dtype=np.uint8).reshape(4, 3, 1, 1)
        labels = np.arange(4, dtype=np.int64)
        return {"train": Part.of(images, labels), "test": Part.of(images[:2], labels[:2])}

    files = (File("all.bin", hashlib.md5(content, usedforsecurity=False).hexdigest()),)
    mirrors = ("http://127.0.0.1:9/nothing",)
    monkeypatch.setitem(DATASETS, "cifar100", replace(DATASETS["cifar100"], files=files, mirrors=mirrors, read=read))
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "all.bin").write_bytes(content)
    return tmp_path / "published"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (20, 30), (number, 99, 0)).save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


def test_a_published_set_from_a_folder(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=cifar100", f"source={published}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("cifar100: packed into data/cifar100 in ")
    assert "  4 training and 2 test images of 3x1x1, 100 classes\n" in out
    # channel means: (0 + 3 + 6 + 9) / 4 / 255 and one, two levels more
    assert "  mean 0.0176 0.0216 0.0255, std 0.0132 0.0132 0.0132\n" in out
    assert "  licence: none stated by its authors (research use)\n" in out
    assert main(words) == 0
    assert capsys.readouterr().out == (
        "cifar100: already prepared in data/cifar100; verify=true checks it, force=true packs it again\n"
    )
    assert main([*words, "force=true"]) == 0
    assert capsys.readouterr().out.startswith("cifar100: packed into data/cifar100 in ")


@pytest.mark.parametrize(
    ("parts", "counted"),
    [
        ({"train": 4, "val": 2, "test": 3}, "4 training, 2 validation and 3 test images of 3x1x1, 100 classes"),
        ({"test": 3}, "3 test images of 3x1x1, 100 classes"),
        ({"fog": 3, "snow": 3, "frost": 3, "blur": 3}, "4 parts of together 12 images of 3x1x1, 100 classes"),
    ],
)
def test_the_summary_counts_whatever_parts_there_are(
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    parts: dict[str, int],
    counted: str,
) -> None:
    def read(_: Mapping[str, Path]) -> dict[str, Part]:
        return {
            name: Part.of(np.full((n, 3, 1, 1), 51, np.uint8), np.arange(n, dtype=np.int64))
            for name, n in parts.items()
        }

    monkeypatch.setitem(DATASETS, "cifar100", replace(DATASETS["cifar100"], read=read))
    assert main(["data=cifar100", f"source={published}"]) == 0
    assert f"\n  {counted}\n  mean 0.2000 0.2000 0.2000, std 0.0000 0.0000 0.0000\n" in capsys.readouterr().out
    assert main(["data=cifar100", "verify=true"]) == 0


def test_the_data_folder_is_the_words_then_the_environments(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_DATA", str(tmp_path / "environment"))
    assert main(["data=cifar100", f"source={published}", f"data_dir={tmp_path / 'word'}"]) == 0
    assert not (tmp_path / "environment").exists()
    assert main(["data=cifar100", f"source={published}"]) == 0
    assert (tmp_path / "environment" / "cifar100" / "manifest.json").is_file()


def test_verify(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data=cifar100", "verify=true"]) == 2
    assert capsys.readouterr().err == (
        "data: cifar100 is not prepared under data; run: python jobs/prepare.py data=cifar100\n"
    )
    assert main(["data=cifar100", f"source={published}"]) == 0
    assert main(["data=cifar100", "verify=true"]) == 0
    assert "cifar100: ok, every file of data/cifar100 is as its manifest says" in capsys.readouterr().out
    Path("data/cifar100/train_images.npy").unlink()
    Path("data/cifar100/test_labels.npy").write_bytes(b"")
    shutil.copytree("data", "other data")
    assert main(["data=cifar100", "verify=true", "data_dir=other data"]) == 1
    first, second, repair = capsys.readouterr().err.splitlines()
    assert first.startswith("other data/cifar100/train_images.npy: cannot be read: No such file")
    assert second.startswith("other data/cifar100/test_labels.npy: cannot be read")
    assert repair == (
        "cifar100: damaged; to pack it again: python jobs/prepare.py data=cifar100 data_dir='other data' force=true"
    )


def test_own_images(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=image_folder", "name=pets", f"source={photos}", "size=8", "channels=1", "licence=CC BY 4.0"]
    assert main(words) == 0
    assert "  8 training and 2 test images of 1x8x8, 2 classes\n" in capsys.readouterr().out
    assert json.loads(Path("data/pets/manifest.json").read_text())["licence"] == "CC BY 4.0"
    assert main(["data=image_folder", "name=pets", "verify=true"]) == 0
    assert main([word.replace("size=8", "size=9") for word in words]) == 2
    assert "size: given 9, but data/pets was packed with 8; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            [],
            ["data: missing; digits, mnist, fashion_mnist, cifar10, cifar100, cifar10_1_v4, "],
        ),
        (
            ["data=cifar11"],
            ["data: given cifar11, allowed: digits, mnist, fashion_mnist, cifar10, cifar100, "],
        ),
        (
            ["data=mnist", "verify=true", "force=true", "size=3", "name=x", "mirror=ftp://x", "source=y"],
            [
                "verify: given with force, allowed: one of them (verify changes nothing, force packs again)",
                "mirror: given with source, allowed: one of them",
                "mirror: given ftp://x, allowed: an address that begins with http:// or https://",
                "name: given with data=mnist, allowed: with data=image_folder only",
                "size: given with data=mnist, allowed: with data=image_folder only",
            ],
        ),
        (
            ["data=digits", "source=x"],
            ["source: given with data=digits, which comes with scikit-learn and needs no files"],
        ),
        (["data=mnist", "source=nowhere"], ["source: nowhere is not a folder; expected one that holds train-images-"]),
        (
            ["data=image_folder"],
            ["name: missing; image_folder: what", "source: missing; folder of", "size: missing; image_folder: side"],
        ),
        (
            ["data=image_folder", "name=mnist", "source=nowhere", "size=8"],
            ["name: given mnist, which is a published data set; allowed: any other name"],
        ),
        (
            ["data=image_folder", "name=../up", "source=nowhere", "size=8"],
            ["name: given ../up, allowed: lower case, digits, _ . - and no mark first"],
        ),
        (
            ["data=image_folder", "name=x", "source=.", "size=0", "channels=2", "test_fraction=1"],
            [
                "size: given 0, allowed: whole number, 1 to 4096",
                "channels: given 2, allowed: 1 | 3",
                "test_fraction: given 1,",
            ],
        ),
        (["data=mnist", "sorce=x"], ["sorce: no such setting, nearest: source; allowed: "]),
    ],
)
def test_refusals_name_every_problem_in_a_line_each(
    words: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    found = printed.err.splitlines()
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True))
    assert list(Path().iterdir()) == []


def test_a_network_that_fails_is_one_line_and_no_refusal(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data=cifar100"]) == 1
    assert capsys.readouterr().err == (
        "cifar100: all.bin could not be downloaded: http://127.0.0.1:9/nothing/all.bin: cannot be reached: "
        "Connection refused; where there is no network, fetch it elsewhere and give source=DIR\n"
    )


def test_a_full_disk_is_one_line_and_leaves_nothing(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["data=cifar100", f"source={published}"]) == 1
    assert capsys.readouterr().err == "cifar100: [Errno 28] No space left on device\n"
    assert list(Path("data").iterdir()) == []


def test_an_unknown_set_is_answered_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    for given, nearest in (
        ("cifar11", "cifar10"),
        ("pathmnist_65", "pathmnist_64"),
        ("tiny-imagenet", "tiny_imagenet"),
    ):
        assert main([f"data={given}"]) == 2
        assert capsys.readouterr().err.endswith(f", image_folder, nearest: {nearest}\n")


def test_help_names_every_set_and_a_medical_one_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    words = re.split("[ ,;]+", text[text.index("data (required)") : text.index("source=null")])
    assert {name for name in DATASETS if words.count(name) != 1} == {
        name for name in DATASETS if name.endswith(("_64", "_128", "_224"))
    }
    assert {"NAME_64", "_128", "_224"} <= set(words)


def test_help_names_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in (
        "data (required)",
        "source=null",
        "mirror=null",
        "verify=false",
        "size=null",
        "Exit codes: 0 done, 1 failed, 2 refused.",
    ):
        assert word in out


def script(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_script_itself_on_images_of_ones_own(photos: Path) -> None:
    run = script(
        str(REPOSITORY / "jobs" / "prepare.py"), "data=image_folder", "name=pets", f"source={photos}", "size=8"
    )
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert out.startswith("pets: packed into data/pets in ")


def test_a_cancelled_script_tidies_up(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.effect_noise((700, 700), 90).save(tmp_path / "photos" / name / "0.png")
        for number in range(1, 600):
            os.link(tmp_path / "photos" / name / "0.png", tmp_path / "photos" / name / f"{number}.png")
    words = ["data=image_folder", "name=pets", f"source={tmp_path / 'photos'}", "size=256"]
    run = script(str(REPOSITORY / "jobs" / "prepare.py"), *words)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("data/.pets-*/packed/.train_images.npy.*")):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert err == "pets: interrupted; the same command starts again, downloads go on where they were\n"
    assert list((tmp_path / "data").iterdir()) == []


def test_importing_it_waits_for_no_large_library() -> None:
    code = "import jobs.prepare, sys; print({'numpy', 'PIL', 'sklearn', 'torch', 'torchvision'} & set(sys.modules))"
    out, _ = script("-c", code).communicate(timeout=60)
    assert out == "set()\n"
