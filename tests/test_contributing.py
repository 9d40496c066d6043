"""What CONTRIBUTING.md promises a new contributor: five walks, taken as the page shows them, and the house as it is.

A walk is a section with one diff and one command. Each is taken in a copy of the suite of its own: the diff is applied,
the command run as it stands, and what it leaves is looked at. The files of code that a walk touches are counted, and
must keep the laws of modules.
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.files import read_json
from common.run.run_dir import RunDir
from common.settings.entries import TrainCNN, run_name
from tests.house import ORDER, PACKAGES, Module
from tests.test_architecture import (
    FEWEST_LINES,
    LAWS,
    MOST_LINES,
    MOST_LINES_OF_ENTRY,
    MOST_LINES_OF_FUNCTION,
    MOST_LINES_OF_LOOP,
    MOST_ROOMS,
)
from tests.test_following_a_run import MOST_FILES
from tests.test_pages import Block, blocks_of
from train import train_cnn

REPOSITORY = Path(__file__).parent.parent
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text()

MOST_PAGE_LINES = 199


# --- reading the page -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a diff does to one file: texts that are there once, and what takes their place."""

    path: str
    place: str  # "new", "at the end", or nothing
    hunks: list[tuple[list[str], list[str]]]  # old lines, new lines

    def apply(self, house: Path) -> None:
        path = house / self.path
        assert path.exists() == (self.place != "new"), f"{self.path}: {self.place}"
        if self.place == "new":
            ((_, text),) = self.hunks
            path.write_text("\n".join(text) + "\n")
            return
        lines = path.read_text().splitlines()
        for old, new in self.hunks:
            lines = [*lines, "", "", *new] if self.place else replaced(lines, old, new)
        path.write_text("\n".join(lines) + "\n")


def replaced(lines: list[str], old: list[str], new: list[str]) -> list[str]:
    """Put new lines where the old ones are; a line of both stays as it is in the file."""
    starts = [start for start in range(len(lines)) if shows(old, lines[start : start + len(old)])]
    assert len(starts) == 1, f"is there {len(starts)} times: {old}"
    real = dict(zip(old, lines[starts[0] : starts[0] + len(old)], strict=True))
    return lines[: starts[0]] + [real.get(line, line) for line in new] + lines[starts[0] + len(old) :]


def shows(shown: list[str], lines: list[str]) -> bool:
    """Tell whether lines of the page are those of a file; … stands for the rest of one."""
    return len(shown) == len(lines) and all(
        line.startswith(part.partition("…")[0].rstrip()) if "…" in part else line == part
        for part, line in zip(shown, lines, strict=True)
    )


def changes_of(block: Block) -> list[Change]:
    """Read a diff, in which +++ begins a file, and @@ another place of it."""
    changes: list[Change] = []
    for line in block.lines:
        mark, text = line[:1] or " ", line[1:]
        if line.startswith("+++ "):
            path, _, place = line.removeprefix("+++ ").partition(", ")
            changes.append(Change(path, place, [([], [])]))
        elif line == "@@":
            changes[-1].hunks.append(([], []))
        else:
            old, new = changes[-1].hunks[-1]
            old += [text] if mark in " -" else []
            new += [text] if mark in " +" else []
    return changes


def walk_of(heading: str) -> tuple[list[Change], str]:
    """The changes and the command of a section of the page."""
    _, _, rest = PAGE.partition(f"\n### {heading}\n")
    section = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
    diff, command = blocks_of(section)[0]
    assert (diff.language, command.language, len(command.lines)) == ("diff", "text", 1), heading
    return changes_of(diff), command.lines[0]


# --- what a walk leaves -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """A walk that was taken: the copy of the suite, in which its command has run."""

    house: Path

    def run(self, entry: str, name: str) -> RunDir:
        (folder,) = (self.house / "runs" / entry).glob(name)
        return RunDir(folder)

    def python(self, code: str) -> None:
        run(self.house, [sys.executable, "-c", code])


def run(house: Path, command: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(house), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def broken_laws(house: Path, path: str) -> set[str]:
    """List what breaks a law of modules, wherever in the module it is."""
    module = Module(path, (house / path).read_text())
    return {re.sub(r"^line \d+: ", "", place) for law in LAWS for place in law(module)}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def a_network(taken: Taken) -> None:
    result = read_json(taken.run("train_cnn", "digits-plain_cnn-s0-*").result)
    assert result is not None
    convolutions, norm, classifier = 9 * 16 + 16 + 9 * 16 * 16 + 16, 2 * 16, 16 * 10 + 10
    assert result["model"]["parameters"] == convolutions + norm + classifier
    taken.python(
        "from common.settings.entries import DistillKD\n"
        'assert DistillKD(model={"name": "plain_cnn"}).model.width == 32, "a student too"'
    )


def a_loss(taken: Taken) -> None:
    (row,) = taken.run("train_cnn", "digits-*-s0-*").read_history()
    assert float(row["logit_penalty"]) > 0
    taken.python(
        "from common.settings.entries import TrainCNN, run_name\n"
        f'assert run_name(TrainCNN(logit_penalty=0.0)) == "{run_name(TrainCNN())}", "finished runs keep their names"'
    )


def a_corruption(taken: Taken) -> None:
    cells = table(taken.run("eval_shift", "*").cells)
    assert {cell["corruption"] for cell in cells} >= {"salt"}
    taken.python(
        "from common.data.publishers.shifted_cifar import PUBLISHED_CORRUPTIONS\n"
        "from common.settings.shift import ShiftSettings\n"
        'assert "salt" not in ShiftSettings().corruptions, "the averages, and finished runs, stay as they were"\n'
        'assert "salt" not in PUBLISHED_CORRUPTIONS, "no file of the publisher\'s"\n'
        "import torch\n"
        "from eval.corruptions import corrupted\n"
        'images = corrupted(torch.zeros(1, 3, 32, 32), torch.tensor([0]), "salt", 5, seed=0)\n'
        "assert images.unique().tolist() == [0, 1]\n"
        "assert 0.03 < images.mean() < 0.12, images.mean()\n"
    )


def a_table_of_the_report(taken: Taken) -> None:
    report = taken.house / "results" / "mine"
    (row,) = table(report / "seeds.csv")
    assert (row["n"], row["accuracy_min"] <= row["accuracy_max"]) == ("2", True)
    assert "\n## Seeds\n" in (report / "report.md").read_text()
    assert "Lowest and highest test accuracy" in (report / "report.html").read_text()


def a_network_of_timm(taken: Taken) -> None:
    assert read_json(taken.run("train_cnn", "digits-regnety_002-s0-*").result) is not None
    offered = run(taken.house, [sys.executable, "train/train_cnn.py", "--help"])
    assert "regnety_002" in offered.partition("model=NAME")[2].partition("recipe=NAME")[0]


# Heading: the files of code that it may touch at most, and what it must have done.
WALKS: dict[str, tuple[int, Callable[[Taken], None]]] = {
    "A network": (3, a_network),
    "A loss": (3, a_loss),
    "A corruption": (2, a_corruption),
    "A table of the report": (2, a_table_of_the_report),
    "A network of timm": (0, a_network_of_timm),
}


@pytest.fixture(scope="module")
def two_runs(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of one short training with two seeds."""
    root = tmp_path_factory.mktemp("two") / "runs"
    for seed in (1, 2):
        words = f"seed={seed} recipe.epochs=1 recipe.batch_size=512 compute.threads=1 log.progress=off"
        assert train_cnn.main([*words.split(), f"root={root}", f"data_dir={digits_dir}"]) == 0
    return root


@pytest.mark.slow
@pytest.mark.parametrize("heading", WALKS)
def test_a_walk_leads_where_the_page_says(heading: str, two_runs: Path, digits_dir: Path, tmp_path: Path) -> None:
    most, check = WALKS[heading]
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(two_runs, tmp_path / "runs")
    shutil.copytree(digits_dir, tmp_path / "data")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    changes, command = walk_of(heading)
    for change in changes:
        change.apply(tmp_path)

    code = [change.path for change in changes if change.path.endswith(".py")]
    assert len(code) <= most
    assert len(changes) == len(code) or (most == 0 and [Path(change.path).suffix for change in changes] == [".yaml"])
    for path in code:
        assert broken_laws(tmp_path, path) <= broken_laws(REPOSITORY, path)
        run(tmp_path, [sys.executable, "-m", "ruff", "check", "--quiet", path])
        run(tmp_path, [sys.executable, "-m", "ruff", "format", "--check", path])

    finished = next((two_runs / "train_cnn").glob("*-s1-*"))
    python, *words = shlex.split(command.replace("RUN", str(tmp_path / "runs" / "train_cnn" / finished.name)))
    assert python == "python"
    run(tmp_path, [sys.executable, *words])
    check(Taken(tmp_path))


# --- the rest of the page ---------------------------------------------------------------------------------------


def test_every_diff_of_the_page_belongs_to_a_walk() -> None:
    assert re.findall(r"^### (.+)$", PAGE, re.MULTILINE) == list(WALKS)
    diffs = [block for block in blocks_of(PAGE)[0] if block.language == "diff"]
    assert [changes_of(block) for block in diffs] == [walk_of(heading)[0] for heading in WALKS]


def test_the_floors_are_those_of_the_house() -> None:
    (block,) = (block for block in blocks_of(PAGE)[0] if block.lines[0].startswith("common "))
    shown: dict[str, list[str]] = {}
    for line in block.lines:
        folder = line.split(" ")[0]
        shown.setdefault(folder or list(shown)[-1], []).append(line.removeprefix(folder))
    floors = {
        folder: tuple(set(part.split()) for part in " ".join(lines).split("|")) for folder, lines in shown.items()
    }
    assert floors == ORDER


def test_the_laws_have_their_figures() -> None:
    prose = " ".join(blocks_of(PAGE)[1].split())
    for figure in (
        f"at most {MOST_ROOMS} rooms",
        f"fewer than {MOST_LINES + 1} lines",
        f"an entry at most {MOST_LINES_OF_ENTRY}",
        f"a function at most {MOST_LINES_OF_FUNCTION} lines of code",
        f"at least {FEWEST_LINES} lines",
        f"at most {MOST_LINES_OF_LOOP} lines",
        f"at most {MOST_FILES} files",
    ):
        assert figure in prose, figure


def test_the_page_can_be_read_in_one_go() -> None:
    assert len(PAGE.splitlines()) <= MOST_PAGE_LINES
