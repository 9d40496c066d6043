"""The subject of explanations is a trained model with some images, and what it says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.compute import Compute
from common.data.image_files import load_all_outside
from common.data.packed import Batches, PackedSet, ResidentImages, open_part
from common.data.packing import is_packed
from common.data.prepare import prepare
from common.failures import Refused
from common.models.load import load_model
from common.run.finished import TrainedRun
from common.settings import messages

BATCH = 64  # small enough for a large network at 224 pixels on a laptop
DECIDED = 0.5  # probability from which a label of several counts as predicted


@dataclass(frozen=True)
class Subject:
    trained: TrainedRun
    model: nn.Module
    images: np.ndarray  # (n, channels, height, width) uint8, as they are shown
    inputs: Tensor  # the same, as the model takes them
    labels: np.ndarray | None  # (n,) or (n, classes); none of images from outside
    sources: Sequence[str]  # which image of the test part, or which file
    chosen: int | None  # the class to explain; None: of each image the most probable
    origin: str  # "8 of 360 test images of digits"
    open_test: Callable[[], Batches]  # the whole test part, which images from outside do not need

    @property
    def classes(self) -> list[str]:
        return self.trained.data["classes"]

    @property
    def multi_label(self) -> bool:
        return self.trained.data["task"] == "multi-label"

    @cached_property
    @torch.no_grad()
    def probabilities(self) -> np.ndarray:  # (n, classes)
        logits = self.model(self.inputs).float()
        return (logits.sigmoid() if self.multi_label else logits.softmax(dim=1)).cpu().numpy()

    @property
    def explained(self) -> np.ndarray:  # (n,) the class that is explained
        most_probable = self.probabilities.argmax(axis=1)
        return most_probable if self.chosen is None else np.full_like(most_probable, self.chosen)

    @property
    def said(self) -> list[dict[str, Any]]:
        """Tell of each image what it shows and what the model says."""
        return [self._said(index) for index in range(len(self.images))]

    def _said(self, index: int) -> dict[str, Any]:
        row = self.probabilities[index]
        predicted = np.flatnonzero(row >= DECIDED) if self.multi_label else row.argmax(keepdims=True)
        explained = self.explained[index]
        return {
            "source": self.sources[index],
            "true": None if self.labels is None else self._names(self._true(index)),
            "predicted": self._names(predicted),
            "explained": self.classes[explained],
            "probability": float(row[explained]),
        }

    def _true(self, index: int) -> np.ndarray:
        assert self.labels is not None
        return np.flatnonzero(self.labels[index]) if self.labels.ndim == 2 else self.labels[index : index + 1]

    def _names(self, classes: np.ndarray) -> str:
        return ", ".join(self.classes[label] for label in classes) or "no label"

    @property
    def titles(self) -> list[str]:
        """Name each image's file or true class, then the predicted class and the probability of the explained one."""
        return [_title(said) for said in self.said]


def _title(said: Mapping[str, Any]) -> str:
    probability = f"{said['probability']:.0%}"
    first = _short(Path(said["source"]).name if said["true"] is None else f"true: {said['true']}")
    if said["explained"] == said["predicted"]:
        return f"{first}\n{_short('predicted: ' + said['predicted'])}, {probability}"
    return f"{first}\n{_short('predicted: ' + said['predicted'])}\n{_short(said['explained'])}: {probability}"


def _short(text: str, most: int = 30) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# --- where the images come from ---------------------------------------------------------------------------------


def open_test(trained: TrainedRun, data_dir: Path, compute: Compute) -> Batches:
    """Open the test part of the very set that the model was trained on."""
    name, folder = trained.data["name"], data_dir / trained.data["name"]
    if name == "digits":
        prepare(name, data_dir)
    if not is_packed(folder):
        raise Refused([f"data: {name} is not prepared under {data_dir}; run: python jobs/prepare.py data={name}"])

    # Another set of that name may have training images of the run among its test images.
    packed = PackedSet.open(folder)
    if packed.manifest["digest"] != trained.data["digest"]:
        packed_digest, digest = packed.manifest["digest"], trained.data["digest"]
        raise Refused([f"data: the images packed under {folder} have {packed_digest}, the run was trained on {digest}"])
    if "test" not in packed.manifest["sets"]:
        raise Refused([f"data: {folder} holds no test images; give image files instead"])
    return open_part(packed, trained.data, "test", batch_size=BATCH, compute=compute)


def some(batches: Batches, count: int, seed: int) -> Batches:
    """Draw some images at random, the same for the same seed; all if there are not so many."""
    drawn = np.random.RandomState(seed).permutation(len(batches.rows))[:count]
    return batches.only(np.sort(batches.rows[drawn]))


def of_test(
    trained: TrainedRun, compute: Compute, data_dir: Path, *, count: int, seed: int, chosen: int | None
) -> Subject:
    test = open_test(trained, data_dir, compute)
    shown = some(test, count, seed)

    return Subject(
        trained,
        load_model(trained, compute),
        torch.cat(list(shown.images.take([shown.rows]))).cpu().numpy(),
        torch.cat([batch.images for batch in shown.in_order()]),
        shown.labels[shown.rows].numpy(),
        [f"test image {row}" for row in shown.rows],
        chosen,
        f"{len(shown.rows)} of {len(test.rows):,} test images of {trained.data['name']}",
        lambda: test,
    )


def of_files(
    trained: TrainedRun, compute: Compute, data_dir: Path, paths: Sequence[Path], *, chosen: int | None
) -> Subject:
    # Batches must have labels; nobody reads these.
    images, rows = np.array(load_all_outside(paths, trained.data)), np.arange(len(paths))
    no_labels = np.zeros((len(images), len(trained.data["classes"])), dtype=np.int64)
    labels = no_labels if trained.data["task"] == "multi-label" else no_labels[:, 0]
    batches = Batches(ResidentImages(images, compute.device), labels, rows, trained.data, BATCH, compute)
    inputs = torch.cat([batch.images for batch in batches.in_order()])

    return Subject(
        trained,
        load_model(trained, compute),
        images,
        inputs,
        None,
        [str(path) for path in paths],
        chosen,
        f"{len(images)} image {'file' if len(images) == 1 else 'files'}",
        partial(open_test, trained, data_dir, compute),
    )


def class_named(label: str | None, trained: TrainedRun) -> int | None:
    classes = trained.data["classes"]
    if label is not None and label not in classes:
        raise Refused([messages.unknown("label", label, classes)])
    return None if label is None else classes.index(label)
