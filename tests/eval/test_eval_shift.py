"""The whole command on tiny runs: its files agree, whatever stops it costs nothing, and what cannot be had is said."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import common.models.load
from common.files import digest_of
from eval.eval_shift import main
from eval.shift.table import MeasurementTable
from train.train_vit import main as train_vit

QUICK = (
    "shift.corruptions=[gaussian_noise,brightness,speckle_noise]",
    *("shift.severities=[5,1]", "shift.adaptations=[source,bn_stats,t3a]", "shift.batch_sizes=[64]"),
    *("shift.views=[flip]", "compute.threads=1", "log.progress=off"),
)
VIT = "model.width=24 model.depth=2 model.heads=2 model.patch=2 model.stem_width=0".split()
TRAIN = "recipe.batch_size=256 augment=none compute.threads=1 log.progress=off".split()
Refusal = Callable[..., list[str]]
Pack = Callable[..., dict[str, Any]]
Row = dict[str, Any]

INTEGERS, TEXTS = {"severity", "batch_size", "n"}, {"images", "corruption", "adaptation", "view", "problem", "checksum"}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def cells_of(folder: Path) -> list[Row]:
    """cells.csv, read by other means than the command's own."""
    with (folder / "cells.csv").open(newline="") as file:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(key: str, text: str) -> Any:
    if key in TEXTS:
        return text
    if key in INTEGERS:
        return int(text)
    return float(text) if text else None


def one(cells: list[Row], **wanted: Any) -> Row:
    (cell,) = (cell for cell in cells if all(cell[key] == value for key, value in wanted.items()))
    return cell


def shifted(run: Path, data_dir: Path, root: Path, *words: str) -> Path:
    """The folder of a test that comes to its end."""
    known = set(root.glob("eval_shift/*"))
    assert main([f"run={run}", f"data_dir={data_dir}", f"root={root}", *QUICK, *words]) == 0
    (folder,) = set(root.glob("eval_shift/*")) - known
    return folder


def told(folder: Path) -> dict[str, Any]:
    """The result, but for what time it took."""
    return {key: value for key, value in read(folder / "result.json").items() if key != "cost"}


@pytest.fixture(scope="module")
def undisturbed(finished_run: Path, digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shifted(finished_run, digits_dir, tmp_path_factory.mktemp("shift"))


@pytest.fixture(scope="module")
def vit_run(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vit")
    assert train_vit([*TRAIN, *VIT, "recipe.epochs=1", f"data_dir={digits_dir}", f"root={root}"]) == 0
    (folder,) = root.glob("*/*")
    return folder


# --- what is written --------------------------------------------------------------------------------------------


def test_each_way_of_predicting_on_each_set_has_its_row(undisturbed: Path) -> None:
    corruptions = ("gaussian_noise", "brightness", "speckle_noise")
    adapted = [("source", 0), ("bn_stats", 64), ("t3a", 64)]
    expected = [("clean", 0, "source", 0, "none"), ("clean", 0, "source", 0, "flip")]
    expected += [("clean", 0, *way, "none") for way in adapted[1:]]
    for corruption in corruptions:
        expected += [(corruption, 1, "source", 0, "none")]
        expected += [(corruption, 5, *way, "none") for way in adapted]  # adapt_at is 5 alone
    names = ("corruption", "severity", "adaptation", "batch_size", "view")
    found = cells_of(undisturbed)
    assert [tuple(cell[name] for name in names) for cell in found] == expected
    assert {(cell["images"], cell["n"], cell["problem"]) for cell in found} == {("test", 360, "")}


def test_the_result_is_that_of_the_rows(undisturbed: Path, finished_run: Path) -> None:
    cells, result, trained = (
        cells_of(undisturbed),
        read(undisturbed / "result.json"),
        read(finished_run / "result.json"),
    )
    shift = result["shift"]
    assert result["subject"] == {
        "run": finished_run.name,
        "entry": "train_cnn",
        "digest": digest_of(finished_run / "checkpoints" / "best.safetensors"),
    }
    alone = [cell for cell in cells if cell["adaptation"] == "source" and cell["view"] == "none"]
    clean = one(alone, corruption="clean")
    assert clean["accuracy"] == trained["test"]["accuracy"]
    assert clean["nll"] == pytest.approx(trained["test"]["nll"], rel=1e-5)
    assert shift["clean"]["accuracy"] == clean["accuracy"]
    p = clean["accuracy"]
    assert clean["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / 360))

    at = {(cell["corruption"], cell["severity"]): cell["accuracy"] for cell in alone}
    counted = [at[name, severity] for name in ("gaussian_noise", "brightness") for severity in (1, 5)]
    assert shift["corrupted"]["corruptions"] == 2  # speckle noise is outside the averages
    assert shift["corrupted"]["accuracy"] == pytest.approx(mean(counted))
    assert shift["corrupted"]["drop"] == pytest.approx(p - mean(counted))
    assert shift["corrupted"]["errors"]["speckle_noise"] == pytest.approx(
        [1 - at["speckle_noise", 1], 1 - at["speckle_noise", 5]]
    )
    (row,) = (row for row in shift["adaptations"] if row["adaptation"] == "t3a" and row["severity"] == 5)
    t3a = [
        cell for cell in cells if cell["adaptation"] == "t3a" and cell["corruption"] in ("gaussian_noise", "brightness")
    ]
    assert row["gain"] == pytest.approx(mean(cell["accuracy"] - at[cell["corruption"], 5] for cell in t3a))
    assert [view["view"] for view in shift["views"]] == ["flip"]
    assert shift["problems"] == []
    assert (shift["corrupted"]["against_baseline"], shift["sets"]) == (None, [])
    figures = {path.name for path in (undisturbed / "figures").iterdir()}
    assert figures == {"severity.png", "calibration.png", "reliability.png", "adaptation.png"}


def test_the_temperature_is_that_of_validation(undisturbed: Path, finished_run: Path) -> None:
    with np.load(finished_run / "predictions" / "val.npz", allow_pickle=False) as kept:
        logits, labels = torch.from_numpy(kept["logits"]).double(), torch.from_numpy(kept["labels"])
    told = read(undisturbed / "result.json")["temperature"]["value"]
    around = [nn.functional.cross_entropy(logits / (told * factor), labels).item() for factor in (0.99, 1, 1.01)]
    assert around[1] == min(around)


def test_again_is_skipped(undisturbed: Path, finished_run: Path, digits_dir: Path, capsys: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    root = undisturbed.parent.parent
    assert main([f"run={finished_run}", f"data_dir={digits_dir}", f"root={root}", *QUICK]) == 0
    assert capsys.readouterr().out.startswith(f"finished: {undisturbed}")
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_the_order_of_corruptions_changes_no_number(
    undisturbed: Path, finished_run: Path, digits_dir: Path, tmp_path: Path
) -> None:
    turned = "shift.corruptions=[speckle_noise,brightness,gaussian_noise]"
    folder = shifted(finished_run, digits_dir, tmp_path, turned)
    found, expected = (sorted((each / "cells.csv").read_text().splitlines()) for each in (folder, undisturbed))
    assert found == expected


# --- stopped ----------------------------------------------------------------------------------------------------


def assert_same(folder: Path, undisturbed: Path) -> None:
    assert (folder / "cells.csv").read_bytes() == (undisturbed / "cells.csv").read_bytes()
    assert told(folder) == told(undisturbed)
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name == "failure.json"]


@pytest.mark.parametrize("after", [1, 6])
def test_told_to_stop_it_goes_on_from_the_next_cell(
    after: int, undisturbed: Path, finished_run: Path, digits_dir: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    add, added = MeasurementTable.add, []

    def add_and_tell(table: MeasurementTable, cell: Any) -> None:
        add(table, cell)
        added.append(cell)
        if len(added) == after:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MeasurementTable, "add", add_and_tell)
    words = [f"run={finished_run}", f"data_dir={digits_dir}", f"root={tmp_path}", *QUICK]
    assert main(words) == 1
    (folder,) = tmp_path.glob("eval_shift/*")
    assert read(folder / "failure.json")["class"] == "preempted"
    assert len(cells_of(folder)) == after
    assert not (folder / "result.json").exists()
    assert main(words) == 0
    assert len(added) == len(cells_of(folder))  # none twice
    assert_same(folder, undisturbed)


KILLED = """
import contextlib, os, signal, sys
import eval.shift.table as cells
from eval.eval_shift import main
whole, written = cells.atomic_write, []
@contextlib.contextmanager
def torn(path):
    with whole(path) as file:
        yield file
        written.append(path)
        if len(written) == 5:
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
cells.atomic_write = torn
main(sys.argv[1:])
"""


def test_killed_while_it_writes_it_goes_on_from_the_last_whole_table(
    undisturbed: Path, finished_run: Path, digits_dir: Path, tmp_path: Path
) -> None:
    words = [f"run={finished_run}", f"data_dir={digits_dir}", f"root={tmp_path}", *QUICK]
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=place, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (folder,) = tmp_path.glob("eval_shift/*")
    assert len(cells_of(folder)) == 4
    assert list(folder.glob(".cells.csv.*.tmp"))
    assert main(words) == 0
    assert_same(folder, undisturbed)


def damaged(undisturbed: Path, root: Path) -> Path:
    """Copy a test as it is before its result is written."""
    folder = Path(shutil.copytree(undisturbed, root / "eval_shift" / undisturbed.name))
    (folder / "result.json").unlink()
    return folder


def first_digit_changed(text: str) -> str:
    """Change the clean accuracy, which is still a number then."""
    heading, clean, *rest = text.splitlines(keepends=True)
    return "".join([heading, clean.replace(",0.", ",0.0", 1), *rest])


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "digit": (first_digit_changed, "cells.csv: 1 of 16 rows are damaged; what they held is measured again"),
    "cut": (lambda text: text[:-40], "cells.csv: 1 of 16 rows are damaged;"),
    "no text": (lambda text: '\0\n\xff"' + text, "cells.csv: 1 of 17 rows are damaged;"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_is_measured_again_and_said(
    damage: str, undisturbed: Path, finished_run: Path, digits_dir: Path, tmp_path: Path
) -> None:
    folder = damaged(undisturbed, tmp_path)
    change, said = DAMAGE[damage]
    whole = (folder / "cells.csv").read_text()
    (folder / "cells.csv").write_text(change(whole))
    assert (folder / "cells.csv").read_text() != whole
    assert main([f"run={finished_run}", f"data_dir={digits_dir}", f"root={tmp_path}", *QUICK]) == 0
    assert_same(folder, undisturbed)
    assert said in (folder / "log.txt").read_text()


def test_bins_that_are_cut_are_counted_again(
    undisturbed: Path, finished_run: Path, digits_dir: Path, tmp_path: Path
) -> None:
    folder = damaged(undisturbed, tmp_path)
    whole = (folder / "reliability.csv").read_bytes()
    (folder / "reliability.csv").write_bytes(whole[:-40])
    assert main([f"run={finished_run}", f"data_dir={digits_dir}", f"root={tmp_path}", *QUICK]) == 0
    assert (folder / "reliability.csv").read_bytes() == whole
    assert_same(folder, undisturbed)
    assert "reliability.csv: 1 of 210 rows are damaged; what they held" in (folder / "log.txt").read_text()


# --- the run's answers for validation ---------------------------------------------------------------------------

LITTLE = "shift.corruptions=[]", "shift.adaptations=[source]", "shift.views=[]"


def test_answers_that_are_missing_are_said(
    run_copy: Path, digits_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_copy / "predictions" / "val.npz").unlink()
    folder = shifted(run_copy, digits_dir, tmp_path / "runs", *LITTLE)
    said = "no temperature: the run's predictions/val.npz is missing"
    assert (read(folder / "result.json")["temperature"], read(folder / "result.json")["warnings"]) == (None, [said])
    warned, finished = (folder / "log.txt").read_text().splitlines()[-2:]
    assert warned.endswith(f"WARNING {said}")
    assert finished.endswith(f"; {said}")
    capsys.readouterr()
    assert main([f"run={run_copy}", f"data_dir={digits_dir}", f"root={tmp_path / 'runs'}", *QUICK, *LITTLE]) == 0
    assert capsys.readouterr().out.strip().endswith(f"{folder.name}; {said}")


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "another": lambda _: Path(np.__file__).read_bytes(),
}


@pytest.mark.parametrize("damage", ANSWERS)
def test_damaged_answers_are_named_as_data(damage: str, run_copy: Path, digits_dir: Path, tmp_path: Path) -> None:
    path = run_copy / "predictions" / "val.npz"
    path.write_bytes(ANSWERS[damage](path.read_bytes()))
    root = tmp_path / "runs"
    assert main([f"run={run_copy}", f"data_dir={digits_dir}", f"root={root}", *QUICK]) == 1
    failure = read(next(root.glob("*/*/failure.json")))
    assert failure["class"] == "data"
    assert failure["message"].startswith(f"{path} is damaged (")
    assert failure["message"].endswith("); mend it, or remove it to go on without a temperature")


# --- cells that cannot be had -----------------------------------------------------------------------------------


def test_a_vit_has_no_batch_norm_to_adapt(vit_run: Path, digits_dir: Path, tmp_path: Path) -> None:
    folder = shifted(vit_run, digits_dir, tmp_path, "shift.corruptions=[brightness]", "shift.severities=[5]")
    cells = cells_of(folder)
    without = [cell for cell in cells if cell["adaptation"] == "bn_stats"]
    assert len(without) == 2
    for cell in without:
        assert (cell["accuracy"], cell["gain"], cell["n"]) == (None, None, 360)
        assert cell["problem"].startswith("bn_stats: the model has ")
        assert cell["problem"].endswith(" LayerNorm; needed: BatchNorm")
    assert all(cell["accuracy"] is not None for cell in cells if cell not in without)
    result = read(folder / "result.json")["shift"]
    assert result["problems"] == [
        {"problem": without[0]["problem"], "adaptation": "bn_stats", "view": "none", "cells": 2}
    ]
    assert {row["adaptation"] for row in result["adaptations"]} == {"source", "t3a"}


class Changed(nn.Module):
    """A model whose answers are changed."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model.eval(), change
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return self.change(images, self.model(images))


def change_model(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    load = common.models.load.load_model
    monkeypatch.setattr(common.models.load, "load_model", lambda *words: Changed(load(*words), change))


def silent_where_bright(images: Tensor, logits: Tensor) -> Tensor:
    """NaN for the second image of a batch of bright ones (normalised, a batch of the digits has a mean near 0)."""
    if images.mean() > 0.3:
        logits = logits.clone()
        logits[1] = math.nan
    return logits


def test_answers_that_are_no_numbers_cost_their_cells_alone(
    finished_run: Path, digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_model(monkeypatch, silent_where_bright)
    words = "shift.corruptions=[brightness,gaussian_noise]", "shift.adaptations=[source,bn_stats]"
    folder = shifted(finished_run, digits_dir, tmp_path, *words)
    cells = cells_of(folder)
    silent = [cell for cell in cells if cell["problem"]]
    assert [(cell["corruption"], cell["severity"], cell["adaptation"]) for cell in silent] == [
        ("brightness", 5, "source"),
        ("brightness", 5, "bn_stats"),
    ]
    assert silent[0]["problem"] == "the model's answer is not a number for 3 of 360 images"  # one in each batch of 120
    assert silent[1]["problem"] == "the model's answer is not a number for 6 of 360 images"  # of 60
    corrupted = read(folder / "result.json")["shift"]["corrupted"]
    assert list(corrupted["errors"]) == ["gaussian_noise"]  # brightness is not whole: no mean may count it
    assert corrupted["corruptions"] == 1


def test_a_model_that_says_nothing_at_all_has_a_result_that_says_so(
    finished_run: Path, digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_model(monkeypatch, lambda _, logits: logits * math.nan)
    shift = read(shifted(finished_run, digits_dir, tmp_path) / "result.json")["shift"]
    assert shift["clean"] == {"n": 360}
    assert (shift["corrupted"], shift["adaptations"], shift["views"]) == (None, [], [])
    assert {problem["adaptation"] for problem in shift["problems"]} == {"source", "bn_stats", "t3a"}


def test_probabilities_too_small_for_their_format_are_no_failure_of_views(
    finished_run: Path, digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_model(monkeypatch, lambda _, logits: logits * 1000)
    folder = shifted(finished_run, digits_dir, tmp_path, "shift.corruptions=[]", "shift.adaptations=[source]")
    plain, flip = cells_of(folder)
    assert (plain["view"], flip["view"]) == ("none", "flip")
    assert flip["problem"] == ""
    assert math.isfinite(flip["nll"])


def test_batches_of_one_are_a_problem_of_those_that_need_more(
    finished_run: Path, digits_dir: Path, packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch refuses the variance of one value: batch norm after a pooling, one image at a time."""
    load = common.models.load.load_model

    def with_norm_at_the_end(trained: Any, compute: Any) -> nn.Module:
        return nn.Sequential(load(trained, compute), nn.BatchNorm1d(10)).eval()

    monkeypatch.setattr(common.models.load, "load_model", with_norm_at_the_end)
    few(packed, tmp_path / "data", digits_dir, {"few": "0123456789"}, most=4)
    words = "shift.sets=[few]", "shift.corruptions=[]", "shift.adaptations=[source,bn_stats,adabn]"
    folder = shifted(
        finished_run, tmp_path / "data", tmp_path / "runs", *words, "shift.batch_sizes=[1,2]", "shift.views=[]"
    )
    cells = [cell for cell in cells_of(folder) if cell["images"] == "few"]
    problems = {(cell["adaptation"], cell["batch_size"]): cell["problem"] for cell in cells}
    (told,) = (problem for problem in problems.values() if problem)
    assert problems["bn_stats", 1] == told
    assert told.startswith("bn_stats: Expected more than 1 value per channel when training")
    assert one(cells, adaptation="adabn", batch_size=1)["accuracy"] is not None


# --- other sets -------------------------------------------------------------------------------------------------


def few(
    packed: Pack, data_dir: Path, digits_dir: Path, sets: Mapping[str, str], most: int | None = None, part: str = "test"
) -> None:
    """Beside the digits, sets of some of their test images: name -> the digits that it has, in its order of classes."""
    shutil.copytree(digits_dir, data_dir, dirs_exist_ok=True)
    images, labels = (np.load(digits_dir / "digits" / f"test_{kind}.npy") for kind in ("images", "labels"))
    for name, digits in sets.items():
        rows = np.flatnonzero(np.isin(labels, [int(digit) for digit in digits]))[:most]
        places = np.array([digits.index(str(label)) for label in labels[rows]])
        packed(data_dir / name, {part: (images[rows], places)}, classes=tuple(digits))


def test_a_set_of_some_classes_in_another_order_is_judged_among_those_alone(
    finished_run: Path, digits_dir: Path, packed: Pack, tmp_path: Path
) -> None:
    few(packed, tmp_path / "data", digits_dir, {"few": "729"})
    words = "shift.sets=[few]", "shift.corruptions=[]", "shift.adaptations=[source,lame]"
    folder = shifted(finished_run, tmp_path / "data", tmp_path / "runs", *words)
    with np.load(finished_run / "predictions" / "test.npz", allow_pickle=False) as kept:
        rows = np.isin(kept["labels"], [7, 2, 9])
        logits, labels = kept["logits"][rows], kept["labels"][rows]
    expected = (np.array([7, 2, 9])[logits[:, [7, 2, 9]].argmax(axis=1)] == labels).mean()
    assert expected > (logits.argmax(axis=1) == labels).mean()  # else leaving out the others is not seen
    cells = cells_of(folder)
    cell = one(cells, images="few", adaptation="source", view="none")
    assert (cell["accuracy"], cell["n"]) == (pytest.approx(expected), len(labels))
    assert {(each["adaptation"], each["view"]) for each in cells if each["images"] == "few"} == {
        *(("source", "none"), ("source", "flip"), ("lame", "none"))
    }
    shift = read(folder / "result.json")["shift"]
    (row,) = shift["sets"]
    assert (row["images"], row["accuracy"]) == ("few", pytest.approx(expected))
    assert row["drop"] == pytest.approx(shift["clean"]["accuracy"] - expected)
    assert "effective_robustness" not in row
    assert shift["corrupted"] is None


def test_sets_that_do_not_fit_leave_the_other_cells_alone(
    finished_run: Path, digits_dir: Path, packed: Pack, tmp_path: Path
) -> None:
    few(packed, tmp_path / "data", digits_dir, {"single": "3", "good": "01"})
    few(packed, tmp_path / "data", digits_dir, {"foggy": "01"}, part="fog")
    packed(tmp_path / "data" / "large", {"test": (np.zeros((2, 1, 9, 9), np.uint8), np.array([0, 1]))})
    noise = np.zeros((2, 1, 8, 8), np.uint8)
    packed(tmp_path / "data" / "letters", {"test": (noise, np.array([0, 1]))}, classes=("0", "B"))
    packed(tmp_path / "data" / "steps", {"test": (noise, np.array([0, 1]))}, task="ordinal")
    words = "shift.sets=[letters,large,foggy,single,steps,good]", "shift.corruptions=[brightness]"
    folder = shifted(finished_run, tmp_path / "data", tmp_path / "runs", *words)
    cells = cells_of(folder)
    problems = {cell["images"]: cell["problem"] for cell in cells if cell["problem"]}
    assert problems == {
        "letters": "letters has classes that the run has not: B",
        "large": "large holds images of [1, 9, 9], the run was trained on [1, 8, 8]",
        "foggy": "foggy has no test images; it has fog",
        "single": "single has one class only, among which nothing can be told apart",
        "steps": "steps is of the task ordinal, the run was trained on multi-class",
    }
    assert len([cell for cell in cells if cell["problem"]]) == len(problems)  # one row each, no more
    assert len([cell for cell in cells if cell["images"] == "good"]) == 4
    shift = read(folder / "result.json")["shift"]
    assert [row["images"] for row in shift["sets"]] == ["good"]
    assert [row["problem"] for row in shift["problems"]] == list(problems.values())
    said = [f"{name} not measured: {problem}" for name, problem in problems.items()]
    assert read(folder / "result.json")["warnings"] == said
    lines = (folder / "log.txt").read_text().splitlines()
    assert [line.partition(" WARNING ")[2] for line in lines if " WARNING " in line] == said
    assert lines[-1].endswith("%; " + "; ".join(said))


def test_other_images_of_a_set_are_another_test_and_no_snapshots(
    finished_run: Path, digits_dir: Path, packed: Pack, tmp_path: Path, refused: Refusal
) -> None:
    few(packed, tmp_path / "data", digits_dir, {"few": "729", "pair": "01"})
    words = "shift.sets=[few]", "shift.corruptions=[]", "shift.adaptations=[source]", "shift.views=[]"
    first = shifted(finished_run, tmp_path / "data", tmp_path / "runs", *words)
    (tmp_path / "snapshot.yaml").write_bytes((first / "config.yaml").read_bytes())
    tree = yaml.safe_load((first / "config.yaml").read_text())
    assert tree["shift"]["digests"] == {"few": read(tmp_path / "data" / "few" / "manifest.json")["digest"]}
    again = f"config={tmp_path / 'snapshot.yaml'}", f"data_dir={tmp_path / 'data'}", f"root={tmp_path / 'runs'}"
    assert main([*again, "shift.sets=[few,pair]"]) == 0  # more sets are no other images
    assert len(list(first.parent.iterdir())) == 2
    shutil.rmtree(tmp_path / "data" / "few")
    few(packed, tmp_path / "data", digits_dir, {"few": "728"})
    assert refused(main, *again) == ["shift.digests: the images of few have changed"]
    assert shifted(finished_run, tmp_path / "data", tmp_path / "runs", *words) != first
