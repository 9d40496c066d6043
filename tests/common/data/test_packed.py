import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.compute import Compute
from common.data.packed import (
    Batch,
    Batches,
    PackedSet,
    ResidentImages,
    StreamedImages,
    open_data,
    open_part,
    split_rows,
)
from common.data.packing import Part, pack
from common.failures import DataError, Refused, classify
from common.settings.entries import AugmentSettings, ComputeSettings, TrainCNN

SETTINGS = ComputeSettings()
CPU = Compute(torch.device("cpu"), SETTINGS)
ALTERNATING = AugmentSettings(flip=0.5, flip_alternates=True)
EVERYTHING = AugmentSettings(crop_padding=1, flip=0.5, rotation_deg=10, cutout=2, mixup=0.5, cutmix=1.0)


@pytest.fixture(scope="module")
def digits(digits_dir: Path) -> PackedSet:
    return PackedSet.open(digits_dir / "digits")


def batches(packed: PackedSet, *, kind: type = ResidentImages, compute: Compute = CPU, size: int = 32) -> Batches:
    images = kind(packed.images("train"), compute.device)
    return Batches(images, packed.labels("train"), np.arange(3, 203), packed.facts(), size, compute)


def same(one: Batch, two: Batch) -> bool:
    tensors = ("images", "labels", "targets")
    return one.step == two.step and all(torch.equal(getattr(one, t), getattr(two, t)) for t in tensors)


# --- the split --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.floats(0, 0.9), st.integers(0, 9))
@settings(deadline=None)
def test_a_split_is_a_partition_with_every_class_in_proportion(labels: list[int], share: float, seed: int) -> None:
    array = np.array(labels)
    split = split_rows(array, share, seed)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(len(array)))
    for label in set(labels):
        n = labels.count(label)
        assert (array[split.val] == label).sum() == int(n * share + 0.5)


def test_a_split_depends_on_its_own_seed_alone_and_its_digest_tells() -> None:
    labels = np.arange(100) % 5
    one, again, other = split_rows(labels, 0.2, 0), split_rows(labels, 0.2, 0), split_rows(labels, 0.2, 1)
    assert one.digest == again.digest
    assert np.array_equal(one.val, again.val)
    assert one.digest != other.digest


def test_the_split_of_seed_0_never_changes() -> None:
    """Pinned: another numpy must draw the same rows, or finished runs were selected on other images."""
    assert split_rows(np.arange(40) % 4, 0.25, 0).val.tolist() == [5, 7, 8, 10, 13, 14, 16, 21, 27, 32, 34, 39]


# --- batches ----------------------------------------------------------------------------------------------------


def test_streamed_batches_are_the_resident_ones(digits: PackedSet) -> None:
    resident, streamed = batches(digits), batches(digits, kind=StreamedImages)
    pairs = zip(resident.shuffled(EVERYTHING, 7, 3), streamed.shuffled(EVERYTHING, 7, 3), strict=True)
    assert sum(same(one, two) for one, two in pairs) == resident.steps == 6
    assert all(same(one, two) for one, two in zip(resident.in_order(), streamed.in_order(), strict=True))


def test_an_epoch_entered_in_the_middle_goes_on_as_it_would_have(digits: PackedSet) -> None:
    whole = [*batches(digits).shuffled(EVERYTHING, 7, 3)]
    rest = [*batches(digits).shuffled(EVERYTHING, 7, 3, first_step=4)]
    assert [batch.step for batch in rest] == [4, 5]
    assert all(same(one, two) for one, two in zip(whole[4:], rest, strict=True))


def epoch_of_flips(source: Batches, epoch: int, seed: int = 7, first_step: int = 0) -> dict[int, bool]:
    """Whether each image was flipped, by its row; digits are nowhere their own mirror image."""
    plain = {image.numpy().tobytes(): row for row, image in zip(source.rows, source.first(999), strict=True)}
    turned = {image.flip(-1).numpy().tobytes(): row for row, image in zip(source.rows, source.first(999), strict=True)}
    seen = torch.cat([batch.images for batch in source.shuffled(ALTERNATING, seed, epoch, first_step)])
    keys = [image.numpy().tobytes() for image in seen]
    assert all((key in plain) != (key in turned) for key in keys)
    return {int(turned.get(key, plain.get(key, -1))): key in turned for key in keys}


def test_flips_alternate_from_a_first_epoch_that_is_drawn(digits: PackedSet) -> None:
    source = batches(digits, size=40)
    first, second, third = (epoch_of_flips(source, epoch) for epoch in range(3))
    assert first == third == {row: not flipped for row, flipped in second.items()}
    assert 60 < sum(first.values()) < 140
    assert epoch_of_flips(source, 0, seed=8) != first
    later = epoch_of_flips(source, 1, first_step=3)
    assert later.items() < second.items()


def test_flips_are_those_of_the_images_whatever_the_split_and_the_processes(digits: PackedSet) -> None:
    source = batches(digits, size=40)
    whole = epoch_of_flips(source, 0)
    part = epoch_of_flips(source.only(source.rows[50:90]), 0)
    assert part.items() < whole.items()
    halves = [batches(digits, size=40, compute=Compute(CPU.device, SETTINGS, rank, 2)) for rank in (0, 1)]
    assert epoch_of_flips(halves[0], 0) | epoch_of_flips(halves[1], 0) == whole


def test_seeds_and_epochs_differ(digits: PackedSet) -> None:
    plain = AugmentSettings()
    first = next(batches(digits).shuffled(plain, 7, 3)).images
    assert not torch.equal(first, next(batches(digits).shuffled(plain, 7, 4)).images)
    assert not torch.equal(first, next(batches(digits).shuffled(plain, 8, 3)).images)


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_the_processes_make_up_the_batch_of_one(digits: PackedSet, world: int) -> None:
    alone = batches(digits)
    shares = [batches(digits, compute=Compute(CPU.device, SETTINGS, rank, world)) for rank in range(world)]
    for whole, *parts in zip(
        alone.shuffled(EVERYTHING, 7, 3), *(share.shuffled(EVERYTHING, 7, 3) for share in shares), strict=True
    ):
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    in_order = torch.cat([batch.labels for share in shares for batch in share.in_order()])
    assert torch.equal(in_order, torch.cat([batch.labels for batch in alone.in_order()]))


def test_an_epoch_shows_every_image_once_but_for_the_rest(digits: PackedSet) -> None:
    images = torch.cat([batch.images for batch in batches(digits).shuffled(AugmentSettings(), 0, 0)])
    all_rows = torch.cat([batch.images for batch in batches(digits).in_order()])
    assert (len(images), len(all_rows)) == (192, 200)
    known = {row.numpy().tobytes() for row in all_rows}
    assert {row.numpy().tobytes() for row in images} <= known
    assert len({row.numpy().tobytes() for row in images}) >= 190  # digits has a few twins


def test_images_are_normalised_by_the_manifest(digits: PackedSet) -> None:
    raw = digits.images("train")[3:203].astype(np.float64) / 255
    expected = (raw - digits.manifest["mean"][0]) / digits.manifest["std"][0]
    found = torch.cat([batch.images for batch in batches(digits).in_order()])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert [batch.targets.sum().item() for batch in batches(digits).in_order()] == [32.0] * 6 + [8.0]


def test_a_set_smaller_than_a_batch_is_one_batch(digits: PackedSet) -> None:
    small = batches(digits, size=1000)
    assert small.steps == 1
    assert len(next(small.shuffled(AugmentSettings(), 0, 0))) == 200


def test_parts_are_the_batch_in_pieces(digits: PackedSet) -> None:
    batch = next(batches(digits).in_order())
    for count in (1, 3, 32, 50):
        parts = [*batch.parts(count)]
        assert len(parts) == min(count, 32)
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


# --- opening ----------------------------------------------------------------------------------------------------


def test_files_that_do_not_match_their_manifest_are_named(digits_dir: Path, tmp_path: Path) -> None:
    manifest = json.loads((digits_dir / "digits" / "manifest.json").read_text())
    np.save(tmp_path / "train_labels.npy", np.zeros(5, dtype=np.int64), allow_pickle=False)
    with pytest.raises(DataError, match=r"train_labels\.npy: holds <i8 \(5,\), expected <i8 \(1437,\)"):
        PackedSet(tmp_path, manifest).labels("train")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def break_header(path: Path) -> None:
    """Take away the bracket that ends the shape: Python's tokenizer does not find the end."""
    path.write_bytes(path.read_bytes().replace(b"),", b" ,", 1))


def first_label(label: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        labels = np.load(path)
        labels[0] = label
        np.save(path, labels)

    return change


def with_manifest(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("file", "damage", "problem"),
    [
        ("train_images.npy", Path.unlink, "cannot be read: No such file or directory"),
        ("train_images.npy", cut, r"cannot be read: not a whole \.npy file: mmap length is greater than file size"),
        ("train_images.npy", lengthen, r"cannot be read: not a whole \.npy file: it goes on after 6 rows"),
        ("train_images.npy", break_header, r"cannot be read: not a whole \.npy file: "),
        ("train_images.npy", lambda path: path.write_bytes(b""), r"cannot be read: not a whole \.npy file: "),
        (
            "train_images.npy",
            lambda path: np.save(path, np.zeros((6, 1, 4, 5), np.uint8)),
            r"holds \|u1 \(6, 1, 4, 5\)",
        ),
        ("train_labels.npy", cut, r"cannot be read: not a whole \.npy file"),
        ("train_labels.npy", first_label(3), "labels run from 0 to 3, allowed: 0 to 2"),
        ("train_labels.npy", first_label(1), r"images per class are \[1, 3, 2\], expected \[2, 2, 2\]"),
        ("train_labels.npy", lambda path: np.save(path, np.arange(6)[::-1] % 3), "sha256 is "),  # as many of each class
        ("manifest.json", lambda path: path.write_text(path.read_text()[:200]), "not readable as JSON"),
        ("manifest.json", lambda path: path.write_text("{}"), "format is None, expected 1"),
        ("manifest.json", lambda path: path.write_text('{"format": 1}'), "not a whole manifest: KeyError 'shape'"),
        ("manifest.json", with_manifest(mean=["0.5"]), "not a whole manifest: a value in it is not of the kind"),
        ("manifest.json", with_manifest(std=[float("nan")]), "not a whole manifest: a value in it is not of the kind"),
        ("manifest.json", with_manifest(mean=[0.51]), "checksum is [0-9a-f]{16}, expected [0-9a-f]{16}: a value was"),
        ("manifest.json", with_manifest(task="ordinal"), "checksum is [0-9a-f]{16}, expected [0-9a-f]{16}: a value"),
        ("manifest.json", with_manifest(sets=[1]), "not a whole manifest: AttributeError"),
        ("manifest.json", with_manifest(classes=["b", "a", "c"]), "digest is [0-9a-f]{16}, expected [0-9a-f]{16}"),
    ],
)
def test_a_damaged_pack_is_of_the_class_data_and_names_what_mends_it(
    tmp_path: Path, file: str, damage: Callable[[Path], object], problem: str
) -> None:
    folder = medical(tmp_path / "my sets" / "medical", ONE_EACH, "multi-class")
    damage(folder / file)
    command = "python jobs/prepare.py data=image_folder name=medical source=DIR size=N data_dir='.*/my sets' force=true"
    with pytest.raises(DataError, match=rf"/{file}: .*{problem}.*; to prepare medical again: {command}$"):
        open_data(folder, TrainCNN(), CPU)


def test_a_damaged_published_set_is_prepared_by_its_name(digits_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_dir / "digits", tmp_path / "digits")
    (tmp_path / "digits" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=rf": python jobs/prepare\.py data=digits data_dir={tmp_path} force=true$"):
        open_data(tmp_path / "digits", TrainCNN(), CPU)


def test_a_fault_of_the_machine_is_not_the_sets(digits_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Input/output error") as raised:
        PackedSet.open(digits_dir / "digits")
    assert classify(raised.value) == "node"


def test_mixing_processes_need_whole_pairs(digits_dir: Path) -> None:
    mixing = TrainCNN.model_validate({"augment": {"mixup": 1.0}, "recipe": {"batch_size": 6}})
    with pytest.raises(Refused, match="given 6, allowed: a multiple of 4 for 2 processes that mix pairs"):
        open_data(digits_dir / "digits", mixing, Compute(CPU.device, SETTINGS, 0, 2))


def test_test_images_stay_closed_until_asked_for(digits_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    images = PackedSet.images

    def watched(self: PackedSet, part: str) -> np.ndarray:
        opened.append(part)
        return images(self, part)

    monkeypatch.setattr(PackedSet, "images", watched)
    data = open_data(digits_dir / "digits", TrainCNN(), CPU)
    assert opened == ["train"]
    assert len(data.open_test().rows) == 360
    assert opened == ["train", "test"]
    assert data.val is not None
    assert data.facts()["val_images"] == len(data.val.rows) == 1437 - len(data.train.rows)


# --- other tasks, other parts -----------------------------------------------------------------------------------


def medical(folder: Path, labels: dict[str, np.ndarray], task: str) -> Path:
    """A packed set with validation images of its own; image number k is k everywhere."""
    parts = {
        name: Part.of(np.full((len(each), 1, 4, 4), np.arange(len(each))[:, None, None, None], np.uint8), each)
        for name, each in labels.items()
    }
    about = {"name": "medical", "task": task, "dark_background": False}
    pack(folder, parts, ["a", "b", "c"], about)
    return folder


ONE_EACH = {"train": np.arange(6) % 3, "val": np.array([2, 0, 1]), "test": np.array([1, 2])}
SEVERAL = {name: np.eye(3, dtype=np.int64)[labels] | [0, 0, 1] for name, labels in ONE_EACH.items()}


def test_the_publishers_validation_images_are_used_as_they_are(tmp_path: Path) -> None:
    folder = medical(tmp_path, ONE_EACH, "ordinal")
    data = open_data(folder, TrainCNN.model_validate({"data": {"validation": "published"}}), CPU)
    assert data.val is not None
    (batch,) = data.val.in_order()
    assert batch.labels.tolist() == [2, 0, 1]
    assert len(data.train.rows) == 6
    assert (data.facts()["train_images"], data.facts()["val_images"]) == (6, 3)
    assert torch.equal(batch.images, data.train.normalise(torch.arange(3).view(3, 1, 1, 1).expand(3, 1, 4, 4)))


def test_images_with_several_labels_aim_at_all_of_them(tmp_path: Path) -> None:
    folder = medical(tmp_path, SEVERAL, "multi-label")
    data = open_data(folder, TrainCNN.model_validate({"data": {"validation": "published"}}), CPU)
    (batch,) = data.train.shuffled(AugmentSettings(), 0, 0)
    assert batch.targets.dtype == torch.float32
    assert torch.equal(batch.targets, batch.labels.float())
    assert sorted(batch.labels.tolist()) == sorted(SEVERAL["train"].tolist())
    (mixed,) = data.train.shuffled(AugmentSettings(mixup=1.0), 0, 0)
    assert mixed.targets[:, 2].allclose(torch.ones(6))  # every image has it, so every mixture has
    assert ((mixed.targets[:, :2] > 0) & (mixed.targets[:, :2] < 1)).any()
    assert [len(part) for part in batch.parts(4)] == [2, 2, 1, 1]


def test_a_split_of_images_with_several_labels_is_a_plain_one() -> None:
    split = split_rows(SEVERAL["train"], 0.5, 0)
    assert len(split.val) == 3
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(6))


def test_another_set_is_normalised_like_the_one_trained_on(tmp_path: Path, digits: PackedSet) -> None:
    other = PackedSet.open(medical(tmp_path, ONE_EACH, "multi-class"))
    like = {**digits.facts(), "mean": [0.25], "std": [0.5]}
    (batch,) = open_part(other, like, "val", batch_size=8, compute=CPU).in_order()
    assert batch.images[2, 0, 0, 0].item() == pytest.approx((2 / 255 - 0.25) / 0.5)
    assert batch.targets.shape == (3, 10)
