"""A packed data set, its split, and the batches drawn from it.

The images are uint8 files that are only ever mapped (common/data/prepare.py wrote them). A set that fits the
budget is kept on the device; a larger one is read from the map, one batch ahead. The batches are the same.
"""

import copy
import hashlib
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
from common.data.integrity import array_problems, checked_manifest, open_array
from common.data.prepare import damaged, prepare
from common.failures import Refused
from common.settings.entries import AugmentSettings, TrainingSettings


@dataclass(frozen=True)
class PackedSet:
    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "PackedSet":
        manifest, problems = checked_manifest(folder)
        if problems:
            raise damaged(folder, manifest, problems)
        return cls(folder, manifest)

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
        """Return what must be known of this set to use a model that was trained on it."""
        names = ("name", "digest", "task", "classes", "shape", "mean", "std", "dark_background")
        return {name: self.manifest[name] for name in names}

    def images(self, part: str) -> np.ndarray:  # (n, channels, height, width) uint8, mapped
        return self._array(part, "images")

    def labels(self, part: str) -> np.ndarray:
        return np.array(self._array(part, "labels"))

    def _array(self, part: str, kind: str) -> np.ndarray:
        # Labels are few, so they are compared byte by byte; of images that is left to verify=true.
        problems = array_problems(self.folder, part, kind, self.manifest, bytewise=kind == "labels")
        if problems:
            raise damaged(self.folder, self.manifest, problems)
        return open_array(self.folder / self.manifest["sets"][part][kind])


@dataclass(frozen=True)
class Split:
    train: np.ndarray  # row numbers of the training images
    val: np.ndarray  # row numbers of the validation images, maybe none
    digest: str  # of the validation rows: equal digests mean equal splits


def split_rows(labels: np.ndarray, val_fraction: float, split_seed: int) -> Split:
    """Split off the same share of every class for validation, by a seed that is not the run's.

    Images with several labels, (n, classes), are drawn as if of one class: their combinations are too many to balance.
    """
    random = np.random.RandomState(split_seed)  # numpy promises that its stream never changes
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
        """Yield, for each array of row numbers, those images: uint8 on the device."""


class ResidentImages:
    """Images that are all in the device's memory."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self._images = torch.from_numpy(np.array(images)).to(device)

    def take(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for rows in batches:
            yield self._images[torch.from_numpy(rows).to(self._images.device)]


class StreamedImages:
    """Images that one thread reads from the map, a batch ahead of its use."""

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
    if images.nbytes <= budget_bytes:
        return ResidentImages(images, compute.device)
    return StreamedImages(images, compute.device)


# --- batches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One process's share of the images of a step."""

    step: int
    images: Tensor  # (n, channels, height, width) normalised floats
    labels: Tensor  # (n,) the true class, also where images are mixed; (n, classes) where there may be several
    targets: Tensor  # (n, classes) what the loss aims at
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, count: int) -> Iterator["Batch"]:
        """Yield the share in `count` nearly equal parts, which need less memory one after the other."""
        pieces = [tensor.tensor_split(count) for tensor in (self.images, self.labels, self.targets)]
        for images, labels, targets in zip(*pieces, strict=True):
            if len(labels):
                yield Batch(self.step, images, labels, targets, self.epoch)


class Batches:
    """Some rows of a packed set as normalised batches on the device: shuffled and augmented, or in order.

    `like` has the facts of the set that the model is trained on: its classes, and the statistics to normalise by.
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
        """Count the steps of a training epoch. Images too few for a last batch are left out, others in every epoch."""
        return len(self.rows) // self.batch_size

    def shuffled(self, augmentation: AugmentSettings, seed: int, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of a training epoch from `first_step` on: a function of (seed, epoch, step) alone."""
        # The rows of all steps are known in advance, so that images can be read ahead.
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
        """Yield this process's share of all rows, not augmented."""
        rows = self.rows[self.compute.share(len(self.rows))]
        wanted = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        for step, (part, raw) in enumerate(zip(wanted, self.images.take(wanted), strict=True)):
            labels = self.labels[part].to(self.compute.device)
            yield Batch(step, self.normalise(raw), labels, self._targets(labels))

    def first(self, count: int) -> Tensor:
        """Return the images of the first `count` rows, not augmented: the same ones in every process."""
        (raw,) = self.images.take([self.rows[:count]])
        return self.normalise(raw)

    def _targets(self, labels: Tensor) -> Tensor:
        return labels.float() if self.multi_label else F.one_hot(labels, self.classes).float()

    def only(self, rows: np.ndarray) -> "Batches":
        """Return batches of the same images that have only these rows."""
        fewer = copy.copy(self)
        fewer.rows, fewer.batch_size = rows, min(self.batch_size, len(rows))
        return fewer

    def normalise(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std


@dataclass(frozen=True)
class Data:
    """All that a training entry needs of its data set."""

    packed: PackedSet
    train: Batches
    val: Batches | None
    open_test: Callable[[], Batches]  # the test images are not touched before training is over
    split_digest: str

    def facts(self) -> dict[str, Any]:
        """Return facts for result.json: to use the model, and to see whether two runs learned from the same images."""
        return {
            **self.packed.facts(),
            "train_images": len(self.train.rows),
            "val_images": len(self.val.rows) if self.val else 0,
            "split_digest": self.split_digest,
        }


def open_data(folder: Path, settings: TrainingSettings, compute: Compute) -> Data:
    """Open the packed set, split it, and make its batches. `digits` is packed here if it is not yet."""
    if settings.data.name == "digits" and not (folder / "manifest.json").exists():
        prepare("digits", folder.parent)
    packed = PackedSet.open(folder)

    # Every process takes the same number of images, and no pair that is mixed is divided between two.
    size = settings.recipe.batch_size
    mixing = bool(settings.augment.mixup or settings.augment.cutmix)
    unit = compute.world * 2 if mixing else compute.world
    if compute.world > 1 and size % unit:
        processes = f"{compute.world} processes{' that mix pairs' if mixing else ''}"
        raise Refused([f"recipe.batch_size: given {size}, allowed: a multiple of {unit} for {processes}"])

    part = partial(open_part, packed, packed.facts(), batch_size=size, compute=compute)
    train, test = part("train"), partial(part, "test")
    if settings.data.validation == "published":
        val = part("val")
        return Data(packed, train, val, test, digest_of_rows(val.rows))

    split = split_rows(packed.labels("train"), settings.data.val_fraction, settings.data.split_seed)
    held_out = train.only(split.val) if len(split.val) else None
    return Data(packed, train.only(split.train), held_out, test, split.digest)


def open_part(packed: PackedSet, like: Mapping[str, Any], name: str, *, batch_size: int, compute: Compute) -> Batches:
    """Open all images of one part of a packed set, to be normalised like those that the model is trained on."""
    images = packed.images(name)
    placed = place_images(images, compute, compute.settings.data_budget_gb)
    return Batches(placed, packed.labels(name), np.arange(len(images)), like, batch_size, compute)
