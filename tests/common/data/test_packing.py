import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data import packing
from common.data.packing import Part, PixelSums, differences, pack
from common.failures import Refused

CLASSES = ("cat", "dog", "owl")


def parts_of(seed: int = 0, n: int = 5) -> dict[str, Part]:
    random = np.random.RandomState(seed)
    return {
        name: Part.of(random.randint(0, 256, (count, 2, 4, 3)).astype(np.uint8), np.arange(count, dtype=np.int64) % 3)
        for name, count in (("train", n), ("test", 4))
    }


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    pack(folder, parts_of(), CLASSES, {"name": "pets"})
    return folder


def test_what_is_packed_is_what_was_given(packed: Path) -> None:
    manifest = json.loads((packed / "manifest.json").read_text())
    for name, part in parts_of().items():
        entry = manifest["sets"][name]
        images = np.load(packed / entry["images"], mmap_mode="r", allow_pickle=False)
        labels = np.load(packed / entry["labels"], allow_pickle=False)
        np.testing.assert_array_equal(images, np.concatenate(list(part.blocks)))
        np.testing.assert_array_equal(labels, part.labels)
        assert (images.dtype, labels.dtype, images.flags.c_contiguous) == (np.uint8, np.int64, True)
        assert entry["n"] == len(images)
        assert entry["sha256"]["images"] == hashlib.sha256((packed / entry["images"]).read_bytes()).hexdigest()
    assert manifest["shape"] == [2, 4, 3]
    assert manifest["classes"] == list(CLASSES)
    assert manifest["sets"]["train"]["per_class"] == [2, 2, 1]
    assert (manifest["format"], manifest["name"]) == (1, "pets")
    assert {path.name for path in packed.iterdir()} == {
        "manifest.json", "train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy",
    }  # fmt: skip


def test_mean_and_std_worked_by_hand(tmp_path: Path) -> None:
    """One channel of 0 0 and 0 255 has the mean 1/4 and the variance 3/16; of 51 everywhere, 1/5 and 0."""
    images = np.array([[[[0, 0]], [[51, 51]]], [[[0, 255]], [[51, 51]]]], dtype=np.uint8)
    parts = {"train": Part.of(images, np.arange(2)), "val": filled(7, (2, 1, 2)), "test": filled(200, (2, 1, 2))}
    manifest = pack(tmp_path, parts, ("one", "two"), {})
    assert manifest["mean"] == pytest.approx([1 / 4, 1 / 5], abs=1e-15)
    assert manifest["std"] == pytest.approx([(3 / 16) ** 0.5, 0], abs=1e-15)


def filled(value: int, shape: tuple[int, ...], n: int = 1) -> Part:
    return Part.of(np.full((n, *shape), value, np.uint8), np.zeros(n, np.int64))


def test_without_training_images_mean_and_std_are_of_all(tmp_path: Path) -> None:
    """Three images of 0 and one of 255, in two parts: mean 1/4, variance 3/16."""
    parts = {"fog": filled(0, (1, 2, 2), n=3), "snow": filled(255, (1, 2, 2))}
    manifest = pack(tmp_path, parts, CLASSES, {})
    assert (manifest["mean"], manifest["std"]) == (pytest.approx([1 / 4]), pytest.approx([(3 / 16) ** 0.5]))
    assert list(manifest["sets"]) == ["fog", "snow"]
    assert differences(tmp_path) == []


def test_parts_of_any_name_are_packed_in_their_order(tmp_path: Path) -> None:
    given = parts_of()
    parts = {"train": given["train"], "val": given["test"], "test": parts_of(seed=1)["test"]}
    manifest = pack(tmp_path, parts, CLASSES, {})
    assert list(manifest["sets"]) == ["train", "val", "test"]
    for name, part in parts.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}_images.npy"), np.concatenate(list(part.blocks)))
    assert differences(tmp_path) == []
    flip_last_byte(tmp_path / "val_images.npy")
    (line,) = differences(tmp_path)
    assert "val_images.npy: sha256 is" in line


# --- several labels per image -----------------------------------------------------------------------------------

SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]], dtype=np.int64)


def multi_label(labels: np.ndarray = SEVERAL) -> dict[str, Part]:
    images = np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 1, 2, 2)
    return {"train": Part.of(images, labels), "test": Part.of(images[:2], SEVERAL[:2])}


def test_multi_label_sets(tmp_path: Path) -> None:
    manifest = pack(tmp_path, multi_label(), CLASSES, {"task": "multi-label"})
    packed = np.load(tmp_path / "train_labels.npy")
    np.testing.assert_array_equal(packed, SEVERAL)
    assert packed.dtype == np.int64
    assert manifest["sets"]["train"]["per_class"] == [3, 1, 2]
    assert manifest["sets"]["test"]["per_class"] == [1, 0, 1]
    assert differences(tmp_path) == []


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (SEVERAL * 2, "labels run from 0 to 2, allowed: 0 to 1"),
        (-SEVERAL, "labels run from -1 to 0, allowed: 0 to 1"),
        (SEVERAL[:, :2], "labels have the shape (4, 2), expected (4, 3)"),
        (SEVERAL[:, 0], "labels have the shape (4,), expected (4, 3)"),
        (np.ones_like(SEVERAL), "all 4 images have the same labels; expected two classes or more to tell apart"),
    ],
)
def test_wrong_labels_of_many_are_refused(tmp_path: Path, labels: np.ndarray, problem: str) -> None:
    with pytest.raises(Refused) as refused:
        pack(tmp_path, multi_label(labels), CLASSES, {"task": "multi-label"})
    assert refused.value.problems == [f"train: {problem}"]


@pytest.mark.parametrize("task", ["multi-class", "binary", "ordinal"])
def test_other_tasks_have_one_label_per_image(tmp_path: Path, task: str) -> None:
    with pytest.raises(Refused, match=r"train: labels have the shape \(4, 3\), expected \(4,\)"):
        pack(tmp_path, multi_label(), CLASSES, {"task": task})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (SEVERAL * 2, "labels run from 0 to 2, allowed: 0 to 1"),
        (1 - SEVERAL, "images per class are [1, 3, 2], expected [3, 1, 2]"),
        (SEVERAL[:, 0], "holds <i8 (4,), expected <i8 (4, 3)"),
    ],
)
def test_damaged_labels_of_many_are_reported(tmp_path: Path, labels: np.ndarray, expected: str) -> None:
    pack(tmp_path, multi_label(), CLASSES, {"task": "multi-label"})
    np.save(tmp_path / "train_labels.npy", labels)
    checksum, values = differences(tmp_path)
    assert "train_labels.npy: sha256 is" in checksum
    assert values == f"{tmp_path / 'train_labels.npy'}: {expected}"


def test_a_training_set_of_one_class_is_refused(tmp_path: Path) -> None:
    parts = parts_of()
    one = Part(np.full(5, 1), parts["train"].shape, parts["train"].blocks)
    with pytest.raises(Refused) as refused:
        pack(tmp_path, parts | {"train": one}, CLASSES, {})
    assert refused.value.problems == [
        "train: all 5 images are of one class, dog; expected two classes or more to tell apart"
    ]
    pack(tmp_path, {"train": parts["train"], "test": one}, CLASSES, {})  # a test set may well be of one class


# --- digests and refusals ---------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 7))
def test_sums_agree_with_numpy_however_the_images_are_cut(seed: int, channels: int, block: int) -> None:
    random = np.random.RandomState(seed)
    images = random.randint(random.randint(256), 256, (13, channels, 3, 5)).astype(np.uint8)
    sums = PixelSums(channels)
    for start in range(0, len(images), block):
        sums.add(images[start : start + block])
    assert sums.mean() == pytest.approx((images / 255).mean(axis=(0, 2, 3)), abs=1e-12)
    assert sums.std() == pytest.approx((images / 255).std(axis=(0, 2, 3)), abs=1e-7)


def test_sums_do_not_overflow() -> None:
    sums = PixelSums(1)
    white = np.full((1024, 1, 256, 256), 255, np.uint8)  # 4.4e12 in squares: past 32 bits a thousand times
    sums.add(white)
    assert (sums.mean(), sums.std()) == ([1.0], [0.0])


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    digests = {
        label: pack(tmp_path / label, parts, classes, about)["digest"]
        for label, parts, classes, about in [
            ("first", parts_of(), CLASSES, {"name": "pets"}),
            ("again", parts_of(), CLASSES, {"name": "another name"}),
            ("images", parts_of(seed=1), CLASSES, {}),
            ("classes", parts_of(), CLASSES[::-1], {}),
            ("labels", parts_of() | {"train": relabelled(parts_of()["train"])}, CLASSES, {}),
        ]
    }
    assert digests["first"] == digests["again"]
    assert len(set(digests.values())) == 4
    assert len(digests["first"]) == 16


def relabelled(part: Part) -> Part:
    return Part(part.labels[::-1].copy(), part.shape, part.blocks)


def test_the_digest_is_the_same_on_every_machine(packed: Path) -> None:
    """Written down once: a change orphans the finished runs on users' own data."""
    assert json.loads((packed / "manifest.json").read_text())["digest"] == "eea56d86cc978039"


def test_problems_of_both_sets_come_together_and_leave_no_manifest(tmp_path: Path) -> None:
    parts = parts_of()
    wrong = {
        "train": Part(parts["train"].labels - 1, (2, 4, 3), parts["train"].blocks),
        "test": Part(np.zeros(0, np.int64), (2, 4, 3), []),
    }
    with pytest.raises(Refused) as refused:
        pack(tmp_path, wrong, CLASSES, {})
    assert refused.value.problems == [
        "train: labels run from -1 to 1, allowed: 0 to 2",
        "test: no images; a set needs at least one",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_long_packing_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block takes 40 seconds here, so that every second one is told."""
    seconds = iter(range(0, 4000, 40))
    monkeypatch.setattr(packing.time, "monotonic", lambda: next(seconds))
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2)
    pack(tmp_path, {"train": Part(np.arange(5) % 3, (1, 2, 2), [images[:2], images[2:4], images[4:]])}, CLASSES, {})
    assert capsys.readouterr().err == "train: 4 of 5 images, 0 a second, 0 min left\n"


def test_labels_above_the_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="train: labels run from 0 to 2, allowed: 0 to 1"):
        pack(tmp_path, parts_of(), CLASSES[:2], {})


def test_sets_of_differing_shape_are_refused(tmp_path: Path) -> None:
    parts = parts_of() | {"test": Part.of(np.zeros((1, 2, 4, 4), np.uint8), np.zeros(1, np.int64))}
    with pytest.raises(Refused, match=r"differ in shape: \(2, 4, 3\) and \(2, 4, 4\)"):
        pack(tmp_path, parts, CLASSES, {})


def test_images_and_labels_must_be_equally_many(tmp_path: Path) -> None:
    parts = parts_of()
    short = Part(parts["train"].labels, parts["train"].shape, list(parts["train"].blocks)[:0])
    with pytest.raises(ValueError, match=r"train_images\.npy: 0 rows were written, expected 5"):
        pack(tmp_path, parts | {"train": short}, CLASSES, {})


# --- verifying --------------------------------------------------------------------------------------------------


def test_a_whole_set_has_no_differences(packed: Path) -> None:
    assert differences(packed) == []


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("file", "damage", "expected"),
    [
        ("train_images.npy", flip_last_byte, ["train_images.npy: sha256 is"]),
        ("test_images.npy", Path.unlink, ["test_images.npy: cannot be read: No such file"]),
        ("test_images.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), ["test_images.npy: cannot be read"]),
        ("train_images.npy", lambda path: path.write_bytes(b""), ["train_images.npy: cannot be read"]),
        (
            "test_images.npy",
            lambda path: np.save(path, np.zeros((4, 2, 4, 3), np.float32)),
            ["test_images.npy: sha256 is", "holds <f4 (4, 2, 4, 3), expected |u1 (4, 2, 4, 3)"],
        ),
        (
            "train_labels.npy",
            lambda path: np.save(path, np.arange(5) % 4),
            ["train_labels.npy: sha256 is", "labels run from 0 to 3, allowed: 0 to 2"],
        ),
        (
            "train_labels.npy",
            lambda path: np.save(path, np.array([0, 0, 0, 1, 2])),
            ["train_labels.npy: sha256 is", "images per class are [3, 1, 1], expected [2, 2, 1]"],
        ),
        (
            "train_labels.npy",
            lambda path: np.save(path, np.arange(6) % 3),
            ["train_labels.npy: sha256 is", "holds <i8 (6,), expected <i8 (5,)"],
        ),
        ("manifest.json", lambda path: path.write_text("{"), ["manifest.json: not readable as JSON"]),
        ("manifest.json", lambda path: path.write_text('{"format": 2}'), ["manifest.json: format is 2, expected 1"]),
        ("manifest.json", lambda path: path.write_text('{"format": 1}'), ["manifest.json: not a whole manifest"]),
    ],
)
def test_every_damage_is_reported(packed: Path, file: str, damage: Callable[[Path], Any], expected: list[str]) -> None:
    damage(packed / file)
    found = differences(packed)
    assert len(found) == len(expected)
    for line, part in zip(found, expected, strict=True):
        assert part in line


@pytest.mark.parametrize("key", ["mean", "std"])
def test_mean_and_std_are_computed_again(packed: Path, key: str) -> None:
    """Also of a set that an older version packed, whose manifest has no checksum."""
    manifest = json.loads((packed / "manifest.json").read_text())
    right = manifest[key]
    manifest[key] = [right[0] + 1e-6, right[1]]
    del manifest["checksum"]
    (packed / "manifest.json").write_text(json.dumps(manifest))
    assert differences(packed) == [f"{packed}/manifest.json: {key} is {manifest[key]}, expected {right}"]


def test_the_mean_of_a_set_without_training_images_is_of_all(tmp_path: Path) -> None:
    pack(tmp_path, {"fog": filled(0, (1, 2, 2), n=3), "snow": filled(255, (1, 2, 2))}, CLASSES, {})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"mean": [0.5]}))
    mean, checksum = differences(tmp_path)
    assert mean.endswith("mean is [0.5], expected [0.25]")
    assert checksum.endswith(": a value was changed")


def test_damage_in_several_files_is_reported_at_once(packed: Path) -> None:
    flip_last_byte(packed / "train_images.npy")
    (packed / "test_labels.npy").unlink()
    assert len(differences(packed)) == 2


def test_an_edited_manifest_is_reported(packed: Path) -> None:
    manifest = json.loads((packed / "manifest.json").read_text())
    manifest["classes"].reverse()
    (packed / "manifest.json").write_text(json.dumps(manifest))
    (line,) = differences(packed)
    assert f"digest is {manifest['digest']}, expected " in line
