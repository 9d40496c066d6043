"""Every figure from much, from little, and from nothing."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aggregate import report
from aggregate.figures.album import all_figures, links, write_figures
from aggregate.figures.style import Picture
from aggregate.report import Material, all_tables
from aggregate.runs.cells import AskedRun
from aggregate.runs.collect import collect
from aggregate.runs.methods import group
from common.cli.command import DONE

MakeRun = Callable[..., Path]
KINDS = (
    *("learning", "cost", "gain", "differences", "severity", "adaptation", "classes", "confusion"),
    *("corruptions", "shift", "reliability", "roc", "embeddings"),
)
CLASSES = ["cat", "dog"]
LONG = "epoch,val_accuracy\n" + "".join(f"{epoch},{epoch / 10}\n" for epoch in range(1, 10))


def results(accuracy: float, digest: str = "") -> dict[str, Any]:
    scores = [{"class": name, "n": 5, "f1_score": accuracy} for name in CLASSES]
    taught = {"teacher": {"digest": digest}, "distillation": {}} if digest else {}
    data = {"digest": "d1", "task": "multi-class", "classes": CLASSES}
    test = {"n": 10, "accuracy": accuracy, "per_class": scores, "confusion_matrix": [[4, 1], [0, 5]]}
    return {"data": data, "test": test, **taught}


def explained(folder: Path, points: np.ndarray, labels: np.ndarray) -> None:
    """As eval/explain.py leaves it."""
    place = folder / "evaluation" / "explain"
    place.mkdir(parents=True)
    plane = points[:, :2]
    np.savez(place / "embeddings.npz", embeddings=points, labels=labels, principal=plane, neighbours=plane)


def shifted(make_run: MakeRun, subject: Path, seed: int) -> Path:
    gains = [{"adaptation": "tent", "batch_size": 200, "severity": 5, "accuracy": 0.7, "gain": 0.1 + seed / 100}]
    corrupted = {
        "corruptions": 2,
        "accuracy": 0.6,
        "accuracy_by_severity": {"1": 0.8, "5": 0.4 + seed / 100},
        "severities": [1, 5],
        "errors": {"fog": [0.3, 0.7 - seed / 50], "snow": [0.1, 0.5]},
    }
    found = {"clean": {"n": 10, "accuracy": 0.9}, "corrupted": corrupted, "adaptations": gains}
    parts = {"subject": {"digest": f"w-{subject.name}"}, "shift": found}
    run = {"run": subject.name, "digest": f"w-{subject.name}"}
    return make_run(entry="eval_shift", seed=seed, run=run, parts=parts)


def whole(make_run: MakeRun, seeds: int) -> list[Path]:
    """A CNN, a ViT, a ViT taught by the CNN, each over seeds and tested under shift; a CNN explained."""
    folders: list[Path] = []
    right = np.arange(30) % 5 > 0
    for seed in range(seeds):
        cnn = make_run(seed=seed, parts=results(0.9 + seed / 50), right=right)
        vit = make_run(entry="train_vit", seed=seed, parts=results(0.8 + seed / 70), right=right)
        digest = f"w-{cnn.name}"
        teacher = {"run": f"{seed}" * 10, "digest": digest}
        parts = results(0.85 + seed / 90, digest)
        taught = make_run(entry="distill_kd", seed=seed, teacher=teacher, parts=parts, right=right)
        trained = [cnn, vit, taught]
        for folder in trained:
            (folder / "history.csv").write_text(LONG)
        folders += [*trained, *(shifted(make_run, folder, seed) for folder in trained)]
    explained(folders[0], np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 2)
    return folders


def pictures_of(folders: list[Path], cells: tuple[AskedRun, ...] = ()) -> list[Picture]:
    runs, left = collect(folders)
    methods = group(runs, cells)
    return all_figures(methods, all_tables(methods, Material("x", "x", runs, left, cells)))


def kinds_of(pictures: list[Picture]) -> list[str]:
    return [picture.name.partition("-")[0] for picture in pictures]


@pytest.mark.parametrize("seeds", [1, 3])
def test_all_of_them(seeds: int, make_run: MakeRun) -> None:
    pictures = pictures_of(whole(make_run, seeds))
    assert sorted(kinds_of(pictures)) == sorted(KINDS), "n = 1 has no intervals, but all figures"
    for picture in pictures:
        assert picture.caption.endswith(".")
        assert picture.figure.get_suptitle()
        picture.figure.draw_without_rendering()


def test_one_colour_for_each_method(make_run: MakeRun) -> None:
    pictures = {picture.name: picture.figure for picture in pictures_of(whole(make_run, 2))}
    learning = [line.get_color() for line in pictures["learning-digits"].axes[0].get_lines()]
    cost = [container.lines[0].get_color() for container in pictures["cost-digits"].axes[0].containers]
    assert learning == cost
    assert len(set(learning)) == 3
    for name in ("severity-digits", "corruptions-digits", "reliability-digits"):
        drawn = [line.get_color() for line in pictures[name].axes[-1].get_lines()]
        assert drawn == learning
    crosses = [container.lines[0].get_color() for container in pictures["shift-digits-corruption"].axes[0].containers]
    assert crosses == learning


def test_the_least_there_can_be(make_run: MakeRun) -> None:
    folder = make_run()
    assert kinds_of(pictures_of([folder])) == ["learning", "confusion"]
    (folder / "history.csv").unlink()
    assert kinds_of(pictures_of([folder])) == ["confusion"]


def test_nothing(make_run: MakeRun) -> None:
    waiting = AskedRun("cnn", (("data", "digits"),), 0, None, "waiting")
    tested = AskedRun("shift", (("of", "cnn"), ("data", "digits")), 0, None, "waiting")
    assert pictures_of([], (waiting, tested)) == []
    assert pictures_of([]) == []


def test_many_methods(make_run: MakeRun) -> None:
    """Of more than 14, those of the highest validation accuracy; the figure says so."""
    folders = [make_run(recipe={"epochs": epochs}, accuracy=0.5 + epochs / 100) for epochs in range(1, 21)]
    learning = next(picture for picture in pictures_of(folders) if picture.name == "learning-digits")
    assert len(learning.figure.axes[0].get_lines()) == 14
    assert "the 14 methods of highest validation accuracy, of 20" in str(learning.figure.get_suptitle()).replace(
        "\n", " "
    )


def test_odd_names_are_drawn(make_run: MakeRun) -> None:
    folders = [make_run(seed=seed, model={"name": "adaptive_cnn"}) for seed in range(2)]
    runs, _ = collect(folders)
    cells = tuple(AskedRun("_$x_{犬}$", (("data", "digits"),), run.seed, run.path, "done") for run in runs)
    for picture in pictures_of(folders, cells):
        picture.figure.draw_without_rendering()


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_writes_and_links_them(make_run: MakeRun, tmp_path: Path) -> None:
    whole(make_run, 1)
    assert report.main(["runs=runs/*/*", "out=there"]) == DONE
    folder = tmp_path / "there" / "figures"
    names = {path.stem for path in folder.iterdir()}
    assert {name.partition("-")[0] for name in names} == set(KINDS)
    text = (tmp_path / "there" / "report.md").read_text()
    for name in names:
        assert f"](figures/{name}.png)" in text
        with Image.open(folder / f"{name}.png") as image:
            assert image.width > 600
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own
    (folder / "mine.png").write_bytes(b"")
    only = next(iter(sorted(tmp_path.glob("runs/train_cnn/*"))))
    assert report.main([f"runs={only}", "out=there"]) == DONE
    assert {path.stem for path in folder.glob("*.svg")} == {
        *("learning-digits", "classes-digits", "confusion-digits", "reliability-digits", "roc-digits"),
        *(name for name in ("embeddings-digits",) if (only / "evaluation").exists()),
    }
    assert (folder / "mine.png").exists()


def test_the_same_runs_give_the_same_files(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run(seed=seed) for seed in range(2)]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_figures(tmp_path / name, pictures_of(folders))
    for path in (tmp_path / "one" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / "figures" / path.name).read_bytes()


def test_no_figures_no_folder_and_no_heading(tmp_path: Path) -> None:
    write_figures(tmp_path, [])
    assert not list(tmp_path.iterdir())
    assert links([]) == ""
