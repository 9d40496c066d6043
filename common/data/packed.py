"""A packed data set, its split, and the batches drawn from it.

The images are uint8 files that are only ever mapped (common/data/prepare.py wrote them). A set that fits the
budget is kept on the device; a larger one streams from the map, a batch ahead. The batches are the same.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.compute import Compute, Draws
from common.data.augment import alternating_flips, augment, mix
from common.data.prepare import prepare
from common.failures import DataError, Refused
from common.settings.entries import AugmentSettings, TrainingSettings


@dataclass(frozen=True)
class PackedSet:
    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "PackedSet":
        return cls(folder, json.loads((folder / "manifest.json").read_text()))

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.manifest["shape"]
        return channels, height, width

    @property
    def classes(self) -> list[str]:
        return self.manifest["classes"]

    @property
    def task(self) -> str:
        return self.manifest["task"]

    def facts(self) -> dict[str, Any]:
        """What whoever uses a model trained on this set has to know of it."""
        names = ("name", "digest", "task", "classes", "shape", "mean", "std", "dark_background")
        return {name: self.manifest[name] for name in names}

    def images(self, part: str) -> np.ndarray:  # (n, channels, height, width) uint8, mapped
        return self._array(part, "images", mmap_mode="r")

    def labels(self, part: str) -> np.ndarray:
        return self._array(part, "labels", mmap_mode=None)

    def _array(self, part: str, kind: str, mmap_mode: Any) -> np.ndarray:
        path = self.folder / self.manifest["sets"][part][kind]
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if len(array) != self.manifest["sets"][part]["n"]:
            raise DataError(f"{path} holds {len(array)} rows, its manifest says {self.manifest['sets'][part]['n']}")
        return array


@dataclass(frozen=True)
class Split:
    train: np.ndarray  # row numbers of the training images
    val: np.ndarray  # row numbers of the validation images, maybe none
    digest: str  # of the validation rows: equal digests mean equal splits


def split_rows(labels: np.ndarray, val_fraction: float, split_seed: int) -> Split:
    """A stratified split: of every class the same share, drawn by its own seed, whatever the run's seed is.

    Images with several labels, (n, classes), are drawn as if of one class: their combinations are too many to balance.
    RandomState, because numpy promises that its stream never changes.
    """
    random = np.random.RandomState(split_seed)
    strata = labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)
    val = [
        random.permutation(rows)[: int(len(rows) * val_fraction + 0.5)]
        for rows in (np.flatnonzero(strata == label) for label in np.unique(strata))
    ]
    val_rows = np.sort(np.concatenate(val)).astype(np.int64)
    train_rows = np.setdiff1d(np.arange(len(labels)), val_rows)
    return Split(train_rows, val_rows, digest_of_rows(val_rows))


def digest_of_rows(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()[:16]


# --- where the images lie ---------------------------------------------------------------------------------------


class Images(Protocol):
    def take(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """For each array of row numbers, those images: uint8 on the device."""


class ResidentImages:
    """All images in the device's memory."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self._images = torch.from_numpy(np.array(images)).to(device)

    def take(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for rows in batches:
            yield self._images[torch.from_numpy(rows).to(self._images.device)]


class StreamedImages:
    """Images read from the map by one thread, a batch ahead of its use."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self._images, self._device = images, device

    def _read(self, rows: np.ndarray) -> Tensor:
        order = np.argsort(rows)  # the disk is read in one direction
        batch = torch.empty(
            (len(rows), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=self._device.type == "cuda"
        )
        batch.numpy()[order] = self._images[rows[order]]
        return batch

    def take(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1) as reader:
            waiting = None
            for rows in batches:
                ready, waiting = waiting, reader.submit(self._read, rows)
                if ready is not None:
                    yield ready.result().to(self._device, non_blocking=True)
            if waiting is not None:
                yield waiting.result().to(self._device, non_blocking=True)


def place_images(images: np.ndarray, compute: Compute, budget_gb: float | None) -> Images:
    budget_bytes = compute.free_memory_bytes() / 2 if budget_gb is None else budget_gb * 1e9
    return (ResidentImages if images.nbytes <= budget_bytes else StreamedImages)(images, compute.device)


# --- batches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """This process's share of one step's images."""

    step: int
    images: Tensor  # (n, channels, height, width) normalised floats
    labels: Tensor  # (n,) the true class, also where images are mixed; (n, classes) where there may be several
    targets: Tensor  # (n, classes) what the loss aims at
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, count: int) -> Iterator["Batch"]:
        """The share in `count` nearly equal parts, for less memory."""
        pieces = [tensor.tensor_split(count) for tensor in (self.images, self.labels, self.targets)]
        for images, labels, targets in zip(*pieces, strict=True):
            if len(labels):
                yield Batch(self.step, images, labels, targets, self.epoch)


class Batches:
    """Some rows of a packed set as normalised batches on the device: shuffled and augmented, or in order.

    `like` is what is known of the set that the model is trained on: its classes, and the statistics to normalise by.
    """

    def __init__(
        self,
        images: Images,
        labels: np.ndarray,
        rows: np.ndarray,
        like: Mapping[str, Any],
        batch_size: int,
        compute: Compute,
    ) -> None:
        self.images, self.rows, self.compute = images, rows, compute
        self.labels = torch.from_numpy(labels)
        self.class_names, self.shape, self.task = like["classes"], tuple(like["shape"]), like["task"]
        self.classes, self.multi_label = len(self.class_names), like["task"] == "multi-label"
        self.batch_size = min(batch_size, len(rows))
        device = compute.device
        self.mean = torch.tensor(like["mean"], device=device)[:, None, None]
        self.std = torch.tensor(like["std"], device=device).clamp(min=1e-6)[:, None, None]

    @property
    def steps(self) -> int:
        """Steps per training epoch. An incomplete last batch is left out; shuffling leaves out others every time."""
        return len(self.rows) // self.batch_size

    def shuffled(self, augmentation: AugmentSettings, seed: int, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of a training epoch from `first_step` on: a function of (seed, epoch, step) alone."""
        order = self.rows[Draws(seed, "order", epoch, 0, total=len(self.rows)).permutation().numpy()]
        share = self.compute.share(self.batch_size)
        starts = range(first_step * self.batch_size, self.steps * self.batch_size, self.batch_size)
        wanted = [order[start : start + self.batch_size][share] for start in starts]
        flips = alternating_flips(augmentation, seed, epoch, total=len(self.labels))
        fill = (self.mean.flatten() * 255).round().to(torch.uint8)
        for step, (rows, raw) in enumerate(zip(wanted, self.images.take(wanted), strict=True), first_step):
            draws = Draws(seed, "augment", epoch, step, total=self.batch_size, rows=share)
            flipped = None if flips is None else flips[rows]
            images = self.normalise(augment(raw, augmentation, draws, fill, flipped))
            labels = self.labels[rows].to(self.compute.device)
            draws = Draws(seed, "mix", epoch, step, total=self.batch_size, rows=share)
            images, targets = mix(images, self._targets(labels), augmentation, draws)
            yield Batch(step, images, labels, targets, epoch)

    def in_order(self) -> Iterator[Batch]:
        """This process's share of all rows, as they are."""
        rows = self.rows[self.compute.share(len(self.rows))]
        wanted = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        for step, (part, raw) in enumerate(zip(wanted, self.images.take(wanted), strict=True)):
            labels = self.labels[part].to(self.compute.device)
            yield Batch(step, self.normalise(raw), labels, self._targets(labels))

    def first(self, count: int) -> Tensor:
        """The first `count` rows, the same ones in every process, as they are."""
        (raw,) = self.images.take([self.rows[:count]])
        return self.normalise(raw)

    def _targets(self, labels: Tensor) -> Tensor:
        return labels.float() if self.multi_label else F.one_hot(labels, self.classes).float()

    def only(self, rows: np.ndarray) -> "Batches":
        """The same images, but of them these rows alone."""
        fewer = copy.copy(self)
        fewer.rows, fewer.batch_size = rows, min(self.batch_size, len(rows))
        return fewer

    def normalise(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std


@dataclass(frozen=True)
class Data:
    """What a training entry needs of its data set."""

    packed: PackedSet
    train: Batches
    val: Batches | None
    open_test: Callable[[], Batches]  # the test images are not touched before training is over
    split_digest: str

    def facts(self) -> dict[str, Any]:
        """For result.json: enough to use the model, and to see whether two runs learned from the same images."""
        return {
            **self.packed.facts(),
            "train_images": len(self.train.rows),
            "val_images": len(self.val.rows) if self.val else 0,
            "split_digest": self.split_digest,
        }


def open_data(folder: Path, settings: TrainingSettings, compute: Compute) -> Data:
    """The packed set, its split and its batches. `digits` packs itself on first use."""
    if settings.data.name == "digits" and not (folder / "manifest.json").exists():
        prepare("digits", folder.parent)
    packed = PackedSet.open(folder)
    size = settings.recipe.batch_size
    pairs = 2 if settings.augment.mixup or settings.augment.cutmix else 1  # both halves of a pair in one process
    if compute.world > 1 and size % (compute.world * pairs):
        allowed = (
            f"a multiple of {compute.world * pairs} for {compute.world} processes{' that mix pairs' * (pairs - 1)}"
        )
        raise Refused([f"recipe.batch_size: given {size}, allowed: {allowed}"])

    part = partial(open_part, packed, packed.facts(), batch_size=size, compute=compute)
    train, test = part("train"), partial(part, "test")
    if settings.data.validation == "published":
        val = part("val")
        return Data(packed, train, val, test, digest_of_rows(val.rows))
    split = split_rows(packed.labels("train"), settings.data.val_fraction, settings.data.split_seed)
    held_out = train.only(split.val) if len(split.val) else None
    return Data(packed, train.only(split.train), held_out, test, split.digest)


def open_part(packed: PackedSet, like: Mapping[str, Any], name: str, *, batch_size: int, compute: Compute) -> Batches:
    """All images of one part of a packed set, to be normalised like those of the set that a model was trained on."""
    images = packed.images(name)
    placed = place_images(images, compute, compute.settings.data_budget_gb)
    return Batches(placed, packed.labels(name), np.arange(len(images)), like, batch_size, compute)
