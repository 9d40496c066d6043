"""The whole command on tiny runs: the numbers are the run's own, and what cannot be measured is refused."""

import csv
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from common.metrics.one_label import evaluate as every_metric
from common.models.adaptive_cnn import AdaptiveCNN
from eval.evaluate import main

FIGURES = {"confusion.png", "reliability.png", "roc.png", "per_class.png"}
DIGITS = tuple("0123456789")
Refusal = Callable[..., list[str]]
Pack = Callable[..., dict[str, Any]]


def noise(n: int, channels: int = 1, size: int = 8) -> np.ndarray:
    return np.random.RandomState(0).randint(256, size=(n, channels, size, size)).astype(np.uint8)


def labels(n: int, classes: int = 10) -> np.ndarray:
    return np.arange(n) % classes


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def stored(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture
def evaluate(finished_run: Path, digits_dir: Path, tmp_path: Path) -> Callable[..., int]:
    """The command on the finished run, writing to ./found."""

    def call(*words: object) -> int:
        given = [f"run={finished_run}", f"data_dir={digits_dir}", f"out={tmp_path / 'found'}", "compute.threads=1"]
        return main([*given, *map(str, words)])

    return call


def test_the_numbers_are_those_of_the_run(run_copy: Path, digits_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_copy
    assert main([f"run={run.name}", "root=copies", f"data_dir={digits_dir}", "compute.threads=1"]) == 0
    folder, result = Path("copies", "train_cnn", run.name, "evaluation", "digits-test"), read(run / "result.json")

    found = read(folder / "metrics.json")
    assert found["metrics"] == result["test"]
    assert (found["run"], found["selection"], found["note"]) == (run.name, result["selection"], None)
    assert found["data"] == {"name": "digits", "digest": result["data"]["digest"], "part": "test", "n": 360}
    assert found["computed"] == {"device": "CPU, threads: 1", "precision": "fp32", "batch_size": 128}
    mine, own = (stored(path) for path in (folder / "predictions.npz", run / "predictions" / "test.npz"))
    assert mine.keys() == own.keys() == {"logits", "labels"}
    assert all(np.array_equal(mine[name], own[name]) for name in own)
    with (folder / "per_class.csv").open(newline="") as file:
        rows = [
            {key: value if key == "class" else float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    assert rows == result["test"]["per_class"]
    for name in FIGURES:
        with Image.open(folder / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 400
    assert {path.name for path in folder.iterdir()} == FIGURES | {"metrics.json", "per_class.csv", "predictions.npz"}

    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == f"{run.name} on the test part of digits, n = 360 images"
    right = round(result["test"]["accuracy"] * 360)
    assert lines[0].split() == ["accuracy", f"{result['test']['accuracy']:.2%}", f"({right}", "right)"]
    assert not [line for line in lines if "note" in line]
    assert last.startswith(f"written to {folder}: metrics.json, per_class.csv, predictions.npz, ")


def test_another_set_is_normalised_as_the_training_images_were(
    evaluate: Callable[..., int], finished_run: Path, packed: Pack, tmp_path: Path
) -> None:
    """A set for evaluation only, much brighter than the digits."""
    images = 200 + noise(30) // 5
    packed(tmp_path / "data" / "bright", {"fog": (images, labels(30)), "snow": (images, labels(30))})
    assert evaluate("data=bright", "part=fog", f"data_dir={tmp_path / 'data'}", "batch_size=7") == 0
    result = read(finished_run / "result.json")
    model = AdaptiveCNN((1, 8, 8), 10).eval()
    model.load_state_dict(safetensors.torch.load_file(finished_run / "checkpoints" / "best.safetensors"))
    with torch.no_grad():
        inputs = (torch.from_numpy(images).float() / 255 - result["data"]["mean"][0]) / result["data"]["std"][0]
        expected = model(inputs).numpy()
    arrays, found = stored(tmp_path / "found" / "predictions.npz"), read(tmp_path / "found" / "metrics.json")
    np.testing.assert_allclose(arrays["logits"], expected, rtol=1e-4, atol=1e-5)
    assert arrays["labels"].tolist() == labels(30).tolist()
    assert found["metrics"] == every_metric(arrays["logits"], arrays["labels"], DIGITS)
    assert (found["data"]["name"], found["data"]["part"], found["data"]["n"]) == ("bright", "fog", 30)
    assert found["trained_on"] == {name: result["data"][name] for name in ("name", "digest")}


def test_images_that_the_run_learned_from_are_called_that(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("part=train") == 0
    assert "  note: the run was trained on these images\n" in capsys.readouterr().out
    assert read(tmp_path / "found" / "metrics.json")["note"] == "the run was trained on these images"


def test_a_difference_from_what_the_run_reported_is_said(
    run_copy: Path, digits_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read(run_copy / "result.json")
    result["test"]["accuracy"] = 0.125
    (run_copy / "result.json").write_text(json.dumps(result))
    assert main([f"run={run_copy}", f"data_dir={digits_dir}", "compute.threads=1"]) == 0
    assert "  note: the run itself reported an accuracy of 12.50%, computed elsewhere" in capsys.readouterr().out


def test_several_labels_are_decided_at_the_thresholds_of_validation(
    multi_label: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data_dir = multi_label
    assert main([f"run={run}", f"data_dir={data_dir}", "out=found", "compute.threads=1"]) == 0
    result, found = read(run / "result.json"), read(tmp_path / "found" / "metrics.json")
    assert found["metrics"] == result["test"]
    assert found["metrics"]["thresholds"] == result["val"]["thresholds"] != [0.5] * 3
    drawn = {path.name for path in (tmp_path / "found").glob("*.png")}
    assert drawn == FIGURES - {"confusion.png"}
    assert " of all yes or no decisions\n" in capsys.readouterr().out


def test_digits_pack_themselves(evaluate: Callable[..., int], tmp_path: Path) -> None:
    assert evaluate(f"data_dir={tmp_path / 'nothing yet'}") == 0
    assert (tmp_path / "nothing yet" / "digits" / "manifest.json").is_file()


def test_logits_that_are_no_numbers_fail(
    run_copy: Path, digits_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = safetensors.torch.load_file(run_copy / "checkpoints" / "best.safetensors")
    weights |= {name: tensor * float("nan") for name, tensor in weights.items() if tensor.is_floating_point()}
    replace_weights(run_copy, safetensors.torch.save(weights))
    assert main([f"run={run_copy}", f"data_dir={digits_dir}", "out=found", "compute.threads=1"]) == 1
    assert capsys.readouterr().err.startswith(
        "failed (nan): the model's answer is not a number for some of these images"
    )
    assert not list((tmp_path / "found").iterdir())


# --- refusals: the set ------------------------------------------------------------------------------------------

SETS: dict[str, dict[str, Any]] = {
    "letters": {"parts": {"test": (noise(20), labels(20))}, "classes": tuple("ABCDEFGHIJ")},
    "fewer": {"parts": {"test": (noise(20), labels(20, 8))}, "classes": DIGITS[:8]},
    "reversed": {"parts": {"test": (noise(20), labels(20))}, "classes": DIGITS[::-1]},
    "coloured": {"parts": {"test": (noise(20, 3, 32), labels(20))}},
    "scale": {"parts": {"test": (noise(20), labels(20))}, "task": "ordinal"},
    "foggy": {"parts": {"fog": (noise(20), labels(20)), "snow": (noise(20), labels(20))}},
    "digits": {"parts": {"train": (noise(20), labels(20)), "test": (noise(20), labels(20))}},
}
OTHERS = "only letters has A, B, C and 7 more, only the run has 0, 1, 2 and 7 more"
REFUSED: list[tuple[str, list[str]]] = [
    ("data=letters", [f"data: letters has 10 classes, the run 10; {OTHERS}"]),
    ("data=fewer", ["data: fewer has 8 classes, the run 10; only the run has 8, 9"]),
    ("data=reversed", ["data: reversed has the classes of the run in another order"]),
    ("data=coloured", ["data: coloured holds images of 32x32 pixels in colour, the run was trained on 8x8 pixels in "]),
    ("data=scale", ["data: scale is of the task ordinal, the run was trained on multi-class"]),
    ("data=foggy", ["part: given test, allowed: fog, snow"]),
    ("data=foggy part=snwo", ["part: given snwo, allowed: fog, snow, nearest: snow"]),
    ("data=letters part=val", ["data: letters has 10 classes", "part: given val, allowed: test"]),
    ("", ["data: the images packed as digits have the digest "]),
    ("data=cifar10_1_v6", ["data: cifar10_1_v6 is not prepared under data; run: python jobs/prepare.py data=cifar10_"]),
    ("data=fogy", ["data: given fogy, allowed: coloured, digits, fewer, foggy, letters, reversed, scale, torn, mn"]),
    ("data=torn", ["data: data/torn/manifest.json cannot be read as a manifest; prepare torn again"]),
    ("data=foggy part=fog out=a-file", ["out: a-file cannot be made: File exists"]),
    ("batch_size=0 sed=1", ["sed: no such setting", "batch_size: given 0, allowed: whole number, at "]),
]  # fmt: skip


@pytest.fixture
def sets(packed: Pack, tmp_path: Path) -> None:
    for name, made in SETS.items():
        packed(tmp_path / "data" / name, **made)
    (tmp_path / "data" / "torn").mkdir()
    (tmp_path / "data" / "torn" / "manifest.json").write_text('{"digest": ')
    (tmp_path / "a-file").write_text("I am a file.")


@pytest.mark.parametrize(("words", "lines"), REFUSED, ids=[words or "nothing" for words, _ in REFUSED])
def test_sets_that_do_not_fit_are_refused(
    words: str, lines: list[str], sets: None, finished_run: Path, refused: Refusal
) -> None:
    found = refused(main, f"run={finished_run}", "data_dir=data", *words.split())
    assert len(found) == len(lines), found
    for line, expected in zip(found, lines, strict=True):
        assert line.startswith(expected)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("manifest.json", "format is None, expected 1"),
        ("test_images.npy", "cannot be read: not a whole .npy file: EOF: reading magic string"),
    ],
)
def test_a_damaged_set_fails_in_one_line_that_names_what_mends_it(
    file: str, problem: str, digits_dir: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits_dir / "digits", tmp_path / "data" / "digits")
    (tmp_path / "data" / "digits" / file).write_text("{}")
    assert main([f"run={finished_run}", "data_dir=data", "out=found", "compute.threads=1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"failed (data): data/digits/{file}: {problem}")
    assert line.endswith("; to prepare digits again: python jobs/prepare.py data=digits data_dir=data force=true")


def test_the_command_that_prepares_names_the_data_folder(finished_run: Path, refused: Refusal) -> None:
    (line,) = refused(main, f"run={finished_run}", "data=mnist", "data_dir=my sets")
    assert line.endswith("run: python jobs/prepare.py data=mnist data_dir='my sets'")


def test_a_set_of_the_users_own_is_prepared_from_a_folder(multi_label: tuple[Path, Path], refused: Refusal) -> None:
    (line,) = refused(main, f"run={multi_label[0]}", "data_dir=nowhere")
    assert line == (
        "data: marks is not prepared under nowhere; run: python jobs/prepare.py data=image_folder name=marks "
        "source=DIR size=8 channels=1 data_dir=nowhere"
    )


# --- refusals: the run ------------------------------------------------------------------------------------------


def replace_weights(run: Path, content: bytes, *, digest: bool = True) -> None:
    """Other content in place of the checkpoint; the digest too, as someone would who means harm."""
    (run / "checkpoints" / "best.safetensors").write_bytes(content)
    if digest:
        result = read(run / "result.json")
        result["selection"]["digest"] = hashlib.sha256(content).hexdigest()[:16]
        (run / "result.json").write_text(json.dumps(result))


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("known", [False, True])
def test_a_pickle_in_place_of_the_weights_does_not_run(
    known: bool, run_copy: Path, digits_dir: Path, tmp_path: Path, refused: Refusal
) -> None:
    replace_weights(run_copy, pickle.dumps(Harm()), digest=known)
    (line,) = refused(main, f"run={run_copy}", f"data_dir={digits_dir}")
    expected = "is not a whole safetensors file" if known else "has changed since the run's result was written"
    assert line.startswith(f"run: {run_copy}/checkpoints/best.safetensors {expected}")
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(Harm()))  # noqa: S301 - it would have
    assert (tmp_path / "harm").exists()


def test_weights_of_another_architecture_are_refused(run_copy: Path, digits_dir: Path, refused: Refusal) -> None:
    other = AdaptiveCNN((3, 16, 16), 7).state_dict()
    replace_weights(run_copy, safetensors.torch.save(other))
    (line,) = refused(main, f"run={run_copy}", f"data_dir={digits_dir}")
    assert "is a checkpoint of another architecture than adaptive_cnn: " in line
    assert line.endswith(" do not fit")


@pytest.mark.parametrize("how", ["truncated", "flipped", "gone"])
def test_damaged_weights_are_refused(how: str, run_copy: Path, digits_dir: Path, refused: Refusal) -> None:
    path = run_copy / "checkpoints" / "best.safetensors"
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content[: len(content) // 2] if how == "truncated" else content)
    (line,) = refused(main, f"run={run_copy}", f"data_dir={digits_dir}")
    reason = "is missing" if how == "gone" else "has changed since the run's result was written: damaged"
    assert line.startswith(f"run: {path} {reason}")


def test_unfinished_and_missing_runs_are_refused(run_copy: Path, runs_dir: Path, refused: Refusal) -> None:
    (run_copy / "result.json").unlink()
    (line,) = refused(main, f"run={run_copy}")
    assert line.startswith(f"run: {run_copy} is not finished (epoch ")
    (line,) = refused(main, "run=digits-adaptive_cn-s0", f"root={runs_dir}")
    assert line.startswith("run: given digits-adaptive_cn-s0, which is no folder and no run under ")
    assert line.endswith(f", nearest: {run_copy.name}")
    (line,) = refused(main)
    assert line.startswith("run: missing; finished run: ")
