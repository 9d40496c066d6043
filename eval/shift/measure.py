"""Each measurement is of one way of predicting on one set of images.

A way is the model as it is, an adaptation, or an average over views; a set is clean, corrupted, or another data set.
Images come in one shuffled order, the same for every measurement: a stream sorted by class would be a shift of its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.compute import Compute
from common.data.packed import Batches, PackedSet, place_images
from common.failures import NotFinite
from common.run.finished import TrainedRun
from common.settings.entries import EvalShift
from common.settings.shift import PUBLISHED_CORRUPTIONS, SEVERITIES
from eval.adaptation import NotAdaptable, adapt, run
from eval.corruptions import corrupted, corruptible
from eval.shift import robustness
from eval.shift.reliability import BinTable
from eval.shift.table import CLEAN, Measurement, MeasurementTable, Place
from eval.views import VIEWS, predict_with_views

CORRUPTED_AT_ONCE = 500  # images
CIFAR10_C = "cifar10_c"


# --- sets of images ---------------------------------------------------------------------------------------------

Opening = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ImageSet:
    """A set of images to predict."""

    images: str  # "test" for the run's own test images, else a packed set
    corruption: str
    severity: int  # 0 without corruption
    classes: tuple[int, ...]  # of the run's classes, those that the set has, in the order of its labels
    open: Opening  # images (n, channels, height, width) uint8, labels (n,)
    problem: str = ""  # why it cannot be measured


def image_sets(settings: EvalShift, trained: TrainedRun, data_dir: Path, compute: Compute) -> Iterator[ImageSet]:
    """Yield the clean test images, their corruptions from the mildest on, then the other sets."""
    packed = PackedSet.open(data_dir / trained.data["name"])
    all_classes = tuple(range(len(trained.data["classes"])))
    yield ImageSet("test", CLEAN, 0, all_classes, lambda: (packed.images("test"), packed.labels("test")))

    too_odd = "" if corruptible(packed.shape) else f"no corruption is defined on images of {list(packed.shape)}"
    for corruption in settings.shift.corruptions:
        for severity in sorted(settings.shift.severities):
            opening = _corrupting(packed, corruption, severity, settings, compute)
            yield ImageSet("test", corruption, severity, all_classes, opening, too_odd)

    # A set that does not fit is listed too, with its problem: the result says what came of every set named.
    for name in settings.shift.sets:
        other = PackedSet.open(data_dir / name)
        problem = unfit(other.facts(), list(other.manifest["sets"]), trained.data)
        known = () if problem else tuple(map(trained.data["classes"].index, other.facts()["classes"]))
        if problem or name != CIFAR10_C:
            yield ImageSet(name, CLEAN, 0, known, _part(other, "test", slice(None)), problem)
        else:
            yield from _published_corruptions(other, settings, known)


def unfit(other: Mapping[str, Any], parts: Sequence[str], trained: Mapping[str, Any]) -> str:
    """Say why a model of one set cannot be tested on another; the text is empty if it can.

    Some of the run's classes are enough: the others are left out.
    """
    foreign = [label for label in other["classes"] if label not in trained["classes"]]
    if foreign:
        return f"{other['name']} has classes that the run has not: {', '.join(foreign[:3])}"
    if len(other["classes"]) < 2:
        return f"{other['name']} has one class only, among which nothing can be told apart"
    if list(other["shape"]) != list(trained["shape"]):
        return (
            f"{other['name']} holds images of {list(other['shape'])}, the run was trained on {list(trained['shape'])}"
        )
    if other["task"] != trained["task"]:
        return f"{other['name']} is of the task {other['task']}, the run was trained on {trained['task']}"
    if other["name"] != CIFAR10_C and "test" not in parts:
        return f"{other['name']} has no test images; it has {', '.join(parts)}"
    return ""


def unmeasured(listed: Sequence[ImageSet]) -> list[str]:
    """Say of each problem once what it keeps from being measured."""
    names = {
        image_set.problem: "corruptions" if image_set.images == "test" else image_set.images
        for image_set in listed
        if image_set.problem
    }
    return [f"{name} not measured: {problem}" for problem, name in names.items()]


def _corrupting(packed: PackedSet, corruption: str, severity: int, settings: EvalShift, compute: Compute) -> Opening:
    # Images are made when they are measured, not before: a test that goes on skips the sets that are done.
    def open_corrupted() -> tuple[np.ndarray, np.ndarray]:
        clean = packed.images("test")
        changed = np.empty(clean.shape, np.uint8)
        for start in range(0, len(clean), CORRUPTED_AT_ONCE):
            part = torch.from_numpy(np.array(clean[start : start + CORRUPTED_AT_ONCE])).to(compute.device)
            index = torch.arange(start, start + len(part))
            result = corrupted(part, index, corruption, severity, settings.seed)
            changed[start : start + len(part)] = result.cpu().numpy()

        return changed, packed.labels("test")

    return open_corrupted


def _published_corruptions(packed: PackedSet, settings: EvalShift, known: tuple[int, ...]) -> Iterator[ImageSet]:
    """Yield the corruptions of CIFAR-10-C, whose files hold the test images at severity 1, then at 2, and so on."""
    for corruption in [name for name in settings.shift.corruptions if name in PUBLISHED_CORRUPTIONS]:
        n = len(packed.labels(corruption)) // SEVERITIES
        for severity in sorted(settings.shift.severities):
            rows = slice((severity - 1) * n, severity * n)
            yield ImageSet(CIFAR10_C, corruption, severity, known, _part(packed, corruption, rows))


def _part(packed: PackedSet, part: str, rows: slice) -> Opening:
    return lambda: (packed.images(part)[rows], packed.labels(part)[rows])


# --- ways of predicting -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way of predicting."""

    adaptation: str = "source"
    batch_size: int = 0  # images that an adaptation sees at a time; 0: it does not matter
    view: str = "none"


def ways(settings: EvalShift, image_set: ImageSet) -> list[Way]:
    """List the ways to measure; the model as it is comes first, even if not asked for: gains are over it."""
    shift = settings.shift
    listed = [Way()]
    if image_set.problem:
        return listed

    if image_set.severity == 0:
        listed += [Way(view=view) for view in shift.views]
    if image_set.severity == 0 or image_set.severity in shift.adapt_at:
        adapting = [name for name in shift.adaptations if name != "source"]
        listed += [Way(name, size) for name in adapting for size in shift.batch_sizes]
    return listed


def place_of(image_set: ImageSet, way: Way) -> Place:
    return image_set.images, image_set.corruption, image_set.severity, way.adaptation, way.batch_size, way.view


# --- measuring --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelUnderTest:
    """A trained model, and how it is measured."""

    model: nn.Module
    settings: EvalShift
    trained: TrainedRun
    compute: Compute
    temperature: float | None  # None: validation does not tell one
    bins: BinTable

    def measure(self, image_set: ImageSet, table: MeasurementTable, between: Callable[[], None]) -> None:
        """Add those measurements of a set of images that the table lacks; `between` is called before each."""
        missing = [way for way in ways(self.settings, image_set) if self._lacks(image_set, way, table)]
        if not missing:
            return

        loaded = LoadedSet(image_set, self)
        for way in missing:
            between()
            measurement = loaded.measurement(way)

            if _has_bins(image_set, way) and not measurement.problem:
                labels = loaded.content[1]
                self.bins.add(
                    image_set.corruption, image_set.severity, loaded.logits_as_it_is, labels, self.temperature
                )

            # The table comes last: a test that is killed before this line does both again.
            table.add(measurement)

    def _lacks(self, image_set: ImageSet, way: Way, table: MeasurementTable) -> bool:
        """Say whether a measurement is missing, or the bins that are written with it."""
        measurement = table.measurements.get(place_of(image_set, way))
        if measurement is None:
            return True
        with_bins = _has_bins(image_set, way) and not measurement.problem
        return with_bins and self.bins.lacks(image_set.corruption, image_set.severity, self.temperature)


def _has_bins(image_set: ImageSet, way: Way) -> bool:
    """Reliability is shown of the model as it is, on the run's own test images."""
    return way == Way() and image_set.images == "test"


@dataclass(frozen=True)
class LoadedSet:
    """A set of images in memory, and the model that is measured on them."""

    image_set: ImageSet
    tested: ModelUnderTest

    @cached_property
    def content(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self.image_set.open()
        order = np.random.default_rng(self.tested.settings.seed).permutation(len(labels))
        return np.ascontiguousarray(images[order]), labels[order]

    @cached_property
    def logits_as_it_is(self) -> np.ndarray:
        return self._predicted(Way())

    @property
    def right_as_it_is(self) -> np.ndarray | None:
        """Say of each image (n,) whether the model alone predicts it right; None if some answers are no numbers."""
        try:
            return self._right(self.logits_as_it_is)
        except NotFinite:
            return None

    def measurement(self, way: Way) -> Measurement:
        facts: dict[str, Any] = {"images": self.image_set.images, "corruption": self.image_set.corruption}
        facts |= {"severity": self.image_set.severity, **asdict(way)}
        if self.image_set.problem:
            return Measurement(**facts, problem=self.image_set.problem)

        facts["n"] = len(self.content[1])
        try:
            return Measurement(**facts, **self._measured(way))
        except (NotAdaptable, NotFinite) as error:
            return Measurement(**facts, problem=str(error))

    def _measured(self, way: Way) -> dict[str, Any]:
        logits, labels = self.logits_as_it_is if way == Way() else self._predicted(way), self.content[1]
        right = self._right(logits)
        accuracy = robustness.accuracy(right)
        numbers = {"accuracy": accuracy.value, "standard_error": accuracy.standard_error}

        # Validation's temperature was fitted to the model as it is; it is used for every way alike.
        numbers |= robustness.calibration(logits, labels)
        temperature = self.tested.temperature
        cooled = robustness.calibration(logits, labels, temperature) if temperature else {}
        numbers |= {f"{name}_cooled": value for name, value in cooled.items()}

        # A gain is paired, image by image, with what the model says without help.
        before = self.right_as_it_is if way != Way() else None
        if before is not None:
            gain = robustness.paired_difference(right, before)
            numbers |= {"gain": gain.value, "gain_standard_error": gain.standard_error}
        return numbers

    def _right(self, logits: np.ndarray) -> np.ndarray:
        right: np.ndarray = logits.argmax(axis=1) == self.content[1]
        return right

    def _predicted(self, way: Way) -> np.ndarray:  # (n, classes of the set)
        model, protocol = self.tested.model, self.tested.settings.shift.protocol
        images = self._batches(way.batch_size)
        if way.adaptation != "source":
            answers = _adapted(way.adaptation, model, images, protocol)
        else:
            answers = torch.cat([_answers(model, batch, way.view) for batch in images])

        # A set may have some of the run's classes only: the model chooses among these.
        logits = answers.float().cpu().numpy()[:, list(self.image_set.classes)]
        if not np.isfinite(logits).all():
            wrong = int((~np.isfinite(logits).all(axis=1)).sum())
            raise NotFinite(f"the model's answer is not a number for {wrong} of {len(logits)} images")
        return logits

    def _batches(self, size: int) -> Iterator[Tensor]:
        """Yield normalised batches on the device; they have nearly equal sizes, as a last one of one image has no
        statistics.
        """
        images, labels = self.content
        largest = size or self.tested.trained.settings.recipe.batch_size
        even = math.ceil(len(labels) / math.ceil(len(labels) / largest))
        compute = self.tested.compute
        placed = place_images(images, compute, compute.settings.data_budget_gb)
        batches = Batches(placed, labels, np.arange(len(labels)), self.tested.trained.data, even, compute)
        return (batch.images for batch in batches.in_order())


def _adapted(
    adaptation: str, model: nn.Module, images: Iterator[Tensor], protocol: Literal["continual", "episodic"]
) -> Tensor:
    method = adapt(adaptation, model)
    try:
        return run(method, images, protocol)
    except NotAdaptable:
        raise
    except ValueError as error:  # torch's own: a batch norm that sees one value per channel has no variance
        raise NotAdaptable(f"{adaptation}: {error}") from error


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor, view: str) -> Tensor:
    if view == "none":
        logits: Tensor = model(images)
        return logits
    # A probability that is too small for its format is 0, of which there is no logarithm.
    return predict_with_views(model, images, VIEWS[view]).clamp(min=torch.finfo(torch.float32).tiny).log()
