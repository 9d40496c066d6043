"""Tiny finished runs to evaluate, and packed sets to evaluate them on."""

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.packing import Part, pack
from train.train_cnn import main as train_cnn

TINY = "recipe.batch_size=128 augment=none compute.threads=1 log.progress=lines".split()
DIGITS = tuple("0123456789")
MARKS = ("left", "right", "top")  # the labels of the set `marks`


def trained(root: Path, data_dir: Path, *words: str) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        assert train_cnn([*TINY, *words, f"data_dir={data_dir}", f"root={root}"]) == 0
    (folder,) = root.glob("*/*")
    return folder


def pack_set(
    folder: Path,
    parts: dict[str, tuple[np.ndarray, np.ndarray]],
    classes: tuple[str, ...] = DIGITS,
    task: str = "multi-class",
    **about: Any,
) -> dict[str, Any]:
    folder.mkdir(parents=True)
    made = {name: Part.of(images, labels) for name, (images, labels) in parts.items()}
    return pack(folder, made, classes, {"name": folder.name, "task": task, "dark_background": False, **about})


def marked_images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 8x8 pixels that is bright in the halves of its labels."""
    random = np.random.RandomState(seed)
    labels = random.randint(2, size=(n, len(MARKS)))
    images = random.randint(60, size=(n, 1, 8, 8))
    for place, half in enumerate((np.s_[:, :, :4], np.s_[:, :, 4:], np.s_[:, :4, :])):
        images[:, *half] += 60 * labels[:, place, None, None, None]
    return images.astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="session")
def packed() -> Callable[..., dict[str, Any]]:
    """Pack images and labels in a folder of the set's name; its manifest."""
    return pack_set


@pytest.fixture(scope="session")
def runs_dir(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of one finished run on the digits."""
    root = tmp_path_factory.mktemp("runs")
    trained(root, digits_dir, "recipe.epochs=2")
    return root


@pytest.fixture(scope="session")
def finished_run(runs_dir: Path) -> Path:
    (folder,) = runs_dir.glob("*/*")
    return folder


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "copies" / "train_cnn" / finished_run.name))


@pytest.fixture(scope="session")
def multi_label(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run on a set of several labels per image, and its data folder."""
    data_dir = tmp_path_factory.mktemp("marks")
    pack_set(
        data_dir / "marks", {"train": marked_images(300, 0), "test": marked_images(60, 1)}, MARKS, task="multi-label"
    )
    return trained(tmp_path_factory.mktemp("runs"), data_dir, "data=marks", "recipe.epochs=2"), data_dir


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Call a command that must refuse, print nothing but problems, and write nothing; the lines of its problems."""

    def call(main: Callable[[list[str]], int], *words: object) -> list[str]:
        before = {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")}
        capsys.readouterr()
        assert main([*map(str, words)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")} == before
        return err.splitlines()

    return call
