"""Cells one by one: published sets in their publishers' layout, and what a cell's numbers must not depend on."""

import contextlib
import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from common.compute import Compute
from common.data.publishers.catalog import DATASETS
from common.data.publishers.shifted_cifar import read_cifar10_1, read_cifar10_c
from common.models.load import load_model
from common.run.finished import TrainedRun, open_run
from common.settings.entries import ComputeSettings, EvalShift
from common.settings.shift import PUBLISHED_CORRUPTIONS
from eval.adaptation import ADAPTATIONS
from eval.eval_shift import main
from eval.shift.measure import ImageSet, LoadedSet, ModelUnderTest, Way, image_sets
from eval.shift.reliability import BinTable
from train.train_vit import main as train_vit

TINY = "compute.threads=1", "log.progress=off"


@pytest.fixture(scope="module")
def compute() -> Compute:
    torch.set_num_threads(1)
    return Compute(torch.device("cpu"), ComputeSettings(device="cpu", threads=1))


@pytest.fixture(scope="module")
def digits_run(finished_run: Path) -> TrainedRun:
    return open_run(str(finished_run), finished_run.parent)


def model_under_test(trained: TrainedRun, compute: Compute, **shift: Any) -> ModelUnderTest:
    chosen = EvalShift.model_validate({"model": trained.settings.model, "shift": shift, "seed": trained.settings.seed})
    bins = BinTable(trained.run.path / "unused.csv")
    return ModelUnderTest(load_model(trained, compute), chosen, trained, compute, None, bins)


# --- what a cell must not depend on -----------------------------------------------------------------------------


def image_set_of(digits_dir: Path, labels: np.ndarray | None = None) -> ImageSet:
    images = np.load(digits_dir / "digits" / "test_images.npy")
    own = np.load(digits_dir / "digits" / "test_labels.npy")
    return ImageSet("test", "clean", 0, tuple(range(10)), lambda: (images, own if labels is None else labels))


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_no_adaptation_sees_a_label(
    adaptation: str, digits_run: TrainedRun, compute: Compute, digits_dir: Path
) -> None:
    asked = model_under_test(digits_run, compute)
    way = Way() if adaptation == "source" else Way(adaptation, 64)
    true = LoadedSet(image_set_of(digits_dir), asked)
    wrong = LoadedSet(image_set_of(digits_dir, (true.image_set.open()[1] + 1) % 10), asked)
    assert np.array_equal(true._predicted(way), wrong._predicted(way))
    first, second = true.measurement(way), wrong.measurement(way)
    assert first.accuracy is not None
    assert second.accuracy is not None
    assert first.accuracy > 0.4 > second.accuracy  # but they are what it is measured by


@pytest.mark.parametrize("batch_size", [1, 7, 360, 1000])
def test_the_size_of_a_batch_does_not_change_what_the_model_alone_gets_right(
    batch_size: int, digits_run: TrainedRun, compute: Compute, digits_dir: Path
) -> None:
    recipe = digits_run.settings.recipe.model_copy(update={"batch_size": batch_size})
    other = dataclasses.replace(digits_run, settings=digits_run.settings.model_copy(update={"recipe": recipe}))
    loaded_sets = [LoadedSet(image_set_of(digits_dir), model_under_test(each, compute)) for each in (digits_run, other)]
    right = [loaded.right_as_it_is for loaded in loaded_sets]
    assert right[0] is not None
    assert np.array_equal(right[0], cast(np.ndarray, right[1]))
    np.testing.assert_allclose(loaded_sets[0].logits_as_it_is, loaded_sets[1].logits_as_it_is, rtol=1e-4, atol=1e-5)


def test_batches_are_of_nearly_equal_size(digits_run: TrainedRun, compute: Compute, digits_dir: Path) -> None:
    loaded = LoadedSet(image_set_of(digits_dir), model_under_test(digits_run, compute))
    assert [len(batch) for batch in loaded._batches(200)] == [180, 180]
    assert [len(batch) for batch in loaded._batches(359)] == [180, 180]
    assert [len(batch) for batch in loaded._batches(64)] == [60] * 6
    assert [len(batch) for batch in loaded._batches(1000)] == [360]


def test_images_come_in_one_shuffled_order_with_their_labels(
    digits_run: TrainedRun, compute: Compute, digits_dir: Path
) -> None:
    image_set = image_set_of(digits_dir)
    images, labels = LoadedSet(image_set, model_under_test(digits_run, compute)).content
    again = LoadedSet(image_set, model_under_test(digits_run, compute)).content
    assert np.array_equal(again[0], images)
    given_images, given_labels = image_set.open()
    assert not np.array_equal(labels, given_labels)
    kept = {image.tobytes(): label for image, label in zip(given_images, given_labels, strict=True)}
    assert len(kept) == 360
    assert all(kept[image.tobytes()] == label for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 7, 9)], ids=str)
def test_images_that_cannot_be_corrupted_are_a_problem(
    shape: tuple[int, ...], packed: Callable[..., Any], digits_run: TrainedRun, compute: Compute, tmp_path: Path
) -> None:
    packed(tmp_path / "odd", {"test": (np.zeros((4, *shape), np.uint8), np.arange(4))})
    odd = SimpleNamespace(data={**digits_run.data, "name": "odd"})
    chosen = EvalShift.model_validate({"shift": {"corruptions": ["fog"], "severities": [5]}})
    clean, fog = image_sets(chosen, cast(TrainedRun, odd), tmp_path, compute)
    assert clean.problem == ""
    assert fog.problem == f"no corruption is defined on images of {list(shape)}"


# --- published sets ---------------------------------------------------------------------------------------------


def bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) as the publishers store them: noise, brighter with the class."""
    random = np.random.RandomState(seed)
    labels = np.arange(n) % 10
    images = random.randint(0, 130, (n, 32, 32, 3)) + 12 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory, packed: Callable[..., Any]) -> Path:
    """A data folder with tiny sets under the names of CIFAR-10, CIFAR-10.1 and CIFAR-10-C, read as the publishers'."""
    folder, raw = tmp_path_factory.mktemp("cifar"), tmp_path_factory.mktemp("raw")
    classes = tuple(DATASETS["cifar10"].classes)
    train, test = ((channels_first(images), labels) for images, labels in (bars(200, 0), bars(50, 1)))
    packed(folder / "cifar10", {"train": train, "test": test}, classes)
    images, labels = bars(60, 2)
    np.save(raw / "cifar10.1_v6_data.npy", images)
    np.save(raw / "cifar10.1_v6_labels.npy", labels)
    corrupted_labels = np.tile(np.arange(20) % 10, 5)
    np.save(raw / "labels.npy", corrupted_labels.astype(np.uint8))
    for number, name in enumerate(PUBLISHED_CORRUPTIONS):
        np.save(raw / f"{name}.npy", bars(100, 10 + number)[0])
    paths = {path.name: raw / path.name for path in raw.iterdir()}
    for name, parts in (("cifar10_1_v6", read_cifar10_1(paths, version="v6")), ("cifar10_c", read_cifar10_c(paths))):
        arrays = {part: (np.concatenate(list(found.blocks)), found.labels) for part, found in parts.items()}
        packed(folder / name, arrays, classes)
    return folder


@pytest.fixture(scope="module")
def cifar_test(cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on it, and that run's test under shift."""
    root = tmp_path_factory.mktemp("runs")
    common = f"root={root}", f"data_dir={cifar}", *TINY
    words = "data=cifar10 augment=none recipe.epochs=2 recipe.batch_size=40 recipe.ema=0 recipe.precision=fp32".split()
    words += "model.width=16 model.depth=1 model.heads=2 model.patch=8 model.stem_width=0".split()
    shift = "shift.corruptions=[fog,snow] shift.severities=[4,2] shift.sets=[cifar10_1_v6,cifar10_c]".split()
    with contextlib.redirect_stdout(io.StringIO()):
        assert train_vit([*words, *common]) == 0
        (run,) = (root / "train_vit").iterdir()
        assert main([f"run={run}", *shift, "shift.adaptations=[source,t3a]", "shift.adapt_at=[4]", *common]) == 0
    (folder,) = (root / "eval_shift").iterdir()
    return run, folder


def predicted(run: Path, images: np.ndarray) -> np.ndarray:
    """By the network of the run alone."""
    trained = open_run(str(run), run.parent)
    model, data = load_model(trained, Compute(torch.device("cpu"), ComputeSettings())), trained.data
    mean, std = (torch.tensor(data[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        return model((torch.from_numpy(np.array(images)).float() / 255 - mean) / std).argmax(dim=1).numpy()


def test_published_corruptions_are_cut_by_severity(cifar: Path, cifar_test: tuple[Path, Path]) -> None:
    run, folder = cifar_test
    with (folder / "cells.csv").open(newline="") as file:
        cells = [cell for cell in csv.DictReader(file) if cell["images"] == "cifar10_c"]
    places = [(cell["corruption"], cell["severity"], cell["adaptation"]) for cell in cells]
    each = [("2", "source"), ("4", "source"), ("4", "t3a")]
    assert places == [(corruption, *rest) for corruption in ("fog", "snow") for rest in each]
    for cell in cells:
        severity, name = int(cell["severity"]), cell["corruption"]
        images, labels = (np.load(cifar / "cifar10_c" / f"{name}_{kind}.npy") for kind in ("images", "labels"))
        rows = slice(20 * (severity - 1), 20 * severity)
        assert cell["n"] == "20"
        if cell["adaptation"] == "source":
            assert float(cell["accuracy"]) == (predicted(run, images[rows]) == labels[rows]).mean()


def test_effective_robustness_is_the_distance_from_the_line(cifar: Path, cifar_test: tuple[Path, Path]) -> None:
    run, folder = cifar_test
    shift = json.loads((folder / "result.json").read_text())["shift"]
    images, labels = (np.load(cifar / "cifar10_1_v6" / f"test_{kind}.npy") for kind in ("images", "labels"))
    (row,) = (row for row in shift["sets"] if row["images"] == "cifar10_1_v6")
    assert row["accuracy"] == pytest.approx((predicted(run, images) == labels).mean())
    clean = shift["clean"]["accuracy"]
    assert 0 < clean < 1  # else there is no probit
    expected = NormalDist().cdf(0.9496 * NormalDist().inv_cdf(clean) - 0.3811)
    assert row["effective_robustness"]["expected"] == pytest.approx(expected)
    assert row["effective_robustness"]["value"] == pytest.approx(row["accuracy"] - expected)
    assert row["effective_robustness"]["extrapolated"] == (not 0.82 <= clean <= 0.97)
    assert all("effective_robustness" not in other for other in shift["sets"] if other is not row)
    assert (folder / "figures" / "effective_robustness.png").is_file()
