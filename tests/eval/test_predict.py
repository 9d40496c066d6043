"""The whole command: packed digits written as files are predicted as they were packed, and bad files are refused."""

import csv
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from common.data.image_files import NO_IMAGE
from common.models.adaptive_cnn import AdaptiveCNN
from eval.predict import main
from eval.views import VIEWS, predict_with_views

SCRIPT = Path(__file__).parent.parent.parent / "eval" / "predict.py"
Refusal = Callable[..., list[str]]


@pytest.fixture
def digits(digits_dir: Path) -> np.ndarray:
    return np.load(digits_dir / "digits" / "test_images.npy", allow_pickle=False)[:, 0]


@pytest.fixture
def photos(digits: np.ndarray, tmp_path: Path) -> Path:
    """Every test image of the digits as a file of its own, named in their order."""
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(digits):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index:03}.png")
    return tmp_path / "photos"


def predicted(run: Path, *words: object) -> dict[str, Any]:
    assert main([f"run={run}", "out=found.json", "compute.threads=1", *map(str, words)]) == 0
    return json.loads(Path("found.json").read_text())


def probabilities(found: dict[str, Any]) -> np.ndarray:
    return np.array([list(image["probabilities"].values()) for image in found["images"]], dtype=np.float32)


def test_files_are_predicted_as_the_packed_images_were(
    finished_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predicted(finished_run, photos)
    assert capsys.readouterr().out == "written to found.json: predictions of 360 images\n"
    with np.load(finished_run / "predictions" / "test.npz", allow_pickle=False) as stored:
        logits = torch.from_numpy(stored["logits"])
    assert np.array_equal(probabilities(found), logits.softmax(dim=1).numpy())
    assert [image["file"] for image in found["images"]] == [f"{photos}/{index:03}.png" for index in range(360)]
    assert [int(image["class"]) for image in found["images"]] == logits.argmax(dim=1).tolist()
    assert found.keys() == {"run", "weights", "views", "thresholds", "images"}
    assert (found["run"], found["views"]) == (finished_run.name, "none")


def test_ink_on_paper_is_predicted_like_chalk_on_a_board(finished_run: Path, photos: Path, digits: np.ndarray) -> None:
    Path("paper").mkdir()
    for index, image in enumerate(digits):
        assert image.mean() < 127
        Image.fromarray(255 - image).save(f"paper/{index:03}.png")
    assert np.array_equal(
        probabilities(predicted(finished_run, "paper")), probabilities(predicted(finished_run, photos))
    )


def test_the_size_of_a_batch_changes_nothing_that_counts(finished_run: Path, photos: Path) -> None:
    several, few = (probabilities(predicted(finished_run, photos, f"batch_size={size}")) for size in (360, 7))
    np.testing.assert_allclose(several, few, rtol=1e-4, atol=1e-6)


def test_views_are_averaged(finished_run: Path, photos: Path, digits: np.ndarray) -> None:
    facts = json.loads((finished_run / "result.json").read_text())["data"]
    model = AdaptiveCNN((1, 8, 8), 10).eval()
    model.load_state_dict(safetensors.torch.load_file(finished_run / "checkpoints" / "best.safetensors"))
    images = (torch.from_numpy(digits[:5, None]).float() / 255 - facts["mean"][0]) / facts["std"][0]
    expected = predict_with_views(model, images, VIEWS["flip_translate"]).numpy()
    found = predicted(finished_run, *sorted(photos.iterdir())[:5], "views=flip_translate")
    np.testing.assert_allclose(probabilities(found), expected, rtol=1e-4, atol=1e-6)
    assert found["views"] == "flip_translate"


def test_a_terminal_gets_a_table_and_a_pipe_fields(
    finished_run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"run={finished_run}", "photos/00?.png", "photos/000.png", "top=2", "compute.threads=1"]
    assert main(words) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "file\tclass_1\tprobability_1\tclass_2\tprobability_2"
    assert [line.split("\t")[0] for line in lines] == [f"photos/00{index}.png" for index in range(10)]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(words) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "file            class  probability  next guesses"
    for row, line in zip(rows, lines, strict=True):
        file, guess, probability, second, other = line.split("\t")
        assert row.split() == [file, guess, f"{float(probability):.1%}", second, f"({float(other):.1%})"]


def test_several_labels(multi_label: tuple[Path, Path]) -> None:
    run, data_dir = multi_label
    result = json.loads((run / "result.json").read_text())
    for index, image in enumerate(np.load(data_dir / "marks" / "test_images.npy", allow_pickle=False)):
        Image.fromarray(image[0]).save(f"{index:02}.png")
    found = predicted(run, "*.png")
    with np.load(run / "predictions" / "test.npz", allow_pickle=False) as stored:
        expected = torch.from_numpy(stored["logits"]).sigmoid().numpy()
    assert np.array_equal(probabilities(found), expected)
    thresholds = result["val"]["thresholds"]
    assert found["thresholds"] == thresholds
    for image, row in zip(found["images"], expected, strict=True):
        above = {name for name, p, cut in zip(result["data"]["classes"], row, thresholds, strict=True) if p > cut}
        assert set(image["labels"]) == above
    assert {len(image["labels"]) for image in found["images"]} > {1, 2}


def test_csv(finished_run: Path, photos: Path) -> None:
    assert main([f"run={finished_run}", "photos/000.png", "out=deep/er/found.csv", "compute.threads=1"]) == 0
    with Path("deep/er/found.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    found = predicted(finished_run, "photos/000.png")["images"][0]
    assert (row["file"], row["class"]) == ("photos/000.png", found["class"])
    for name, probability in found["probabilities"].items():
        assert float(row[f"p({name})"]) == pytest.approx(probability, rel=1e-6)


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly(finished_run: Path, photos: Path) -> None:
    """As `| head -1` does. Enough lines that they do not fit a pipe."""
    for index in range(1200):
        name = "-".join(["very"] * 40)
        (photos / f"{index}-{name}.png").symlink_to(photos / "000.png")
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), f"run={finished_run}", "photos", "compute.threads=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("file\t")
        process.stdout.close()
        assert process.stderr.read() == ""


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.fixture
def bad_files(digits: np.ndarray, tmp_path: Path) -> None:
    """One of each kind of file that is no image to predict, and good ones."""
    Image.fromarray(digits[0]).save("good.png")
    Image.fromarray(digits[0].astype(np.float32)).save("fractions.tiff")
    jpeg = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(256, size=(64, 64)).astype(np.uint8)).save(jpeg, "jpeg")
    Path("truncated.jpg").write_bytes(jpeg.getvalue()[:700])
    Path("notes.txt").write_text("no image")
    Path("nothing.png").write_bytes(b"")
    Path("empty").mkdir()
    Path("hidden").mkdir()
    Path("hidden/.good.png").write_bytes(Path("good.png").read_bytes())


REFUSED: list[tuple[str, list[str]]] = [
    ("fractions.tiff", ["fractions.tiff: cannot be read as an image: its pixels are fractions, which have no fixed"]),
    ("truncated.jpg", ["truncated.jpg: cannot be read: "]),
    ("notes.txt", [f"notes.txt: {NO_IMAGE}"]),
    ("nothing.png", [f"nothing.png: {NO_IMAGE}"]),
    ("empty", ["empty: holds no files (hidden ones do not count); expected images"]),
    ("hidden", ["hidden: holds no files (hidden ones do not count); expected images"]),
    ("*.gif", ["*.gif: no file matches"]),
    ("god.png", ["god.png: no such file or folder"]),
    ("", ["images: missing; every word without =: files, folders"]),
    ("images=[]", ["images: given [], allowed: names of files and folders"]),
    ("good.png views=flop", ["views: given flop, allowed: none | flip | translate | flip_translate | mul"]),
    ("good.png out=found.txt", ["out: given found.txt, allowed: a name that ends in .csv or .json, or null"]),
    ("good.png out=notes.txt/found.csv", ["out: notes.txt cannot be made: File exists"]),
    ("good.png top=0", ["top: given 0, allowed: whole number, at least 1"]),
    # all at once, in the order in which they were given
    ("good.png notes.txt truncated.jpg fractions.tiff", ["notes.txt: ", "truncated.jpg: ", "fractions.tiff: "]),
    ("empty good.png *.gif god.png notes.txt", ["empty: ", "*.gif: ", "god.png: "]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "lines"), REFUSED, ids=[words or "nothing" for words, _ in REFUSED])
def test_what_is_no_image_is_refused(
    words: str, lines: list[str], bad_files: None, finished_run: Path, refused: Refusal
) -> None:
    found = refused(main, f"run={finished_run}", *words.split())
    assert len(found) == len(lines), found
    assert all(line.startswith(expected) for line, expected in zip(found, lines, strict=True)), found


def test_images_are_refused_before_any_model_is_loaded(
    bad_files: None, run_copy: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.models.load.load_model", lambda *_: pytest.fail("loaded"))
    (line,) = refused(main, f"run={run_copy}", "good.png", "notes.txt", "out=found.csv")
    assert line.startswith("notes.txt: not an image")


def test_a_wrong_run_and_wrong_files_are_said_together(bad_files: None, runs_dir: Path, refused: Refusal) -> None:
    first, second = refused(main, "run=digits-adaptive_cnn", f"root={runs_dir}", "good.png", "*.gif")
    assert first.startswith("run: given digits-adaptive_cnn, which is no folder and no run under ")
    assert ", nearest: digits-adaptive_cnn-s0-" in first
    assert second == "*.gif: no file matches"


def test_weights_of_another_architecture_leave_no_folder_behind(
    bad_files: None, run_copy: Path, refused: Refusal
) -> None:
    content = safetensors.torch.save(AdaptiveCNN((3, 16, 16), 7).state_dict())
    (run_copy / "checkpoints" / "best.safetensors").write_bytes(content)
    result = json.loads((run_copy / "result.json").read_text())
    result["selection"]["digest"] = hashlib.sha256(content).hexdigest()[:16]
    (run_copy / "result.json").write_text(json.dumps(result))
    (line,) = refused(main, f"run={run_copy}", "good.png", "out=new/found.csv")
    assert "is a checkpoint of another architecture than adaptive_cnn: " in line


def test_answers_that_are_no_numbers_fail(
    bad_files: None, run_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.predict.predict_with_views", lambda *_, **__: torch.full((1, 10), torch.nan))
    assert main([f"run={run_copy}", "good.png", "out=found.csv", "compute.threads=1"]) == 1
    assert capsys.readouterr().err == "failed (nan): the model's answer is not a number for some of these images\n"
    assert not Path("found.csv").exists()


def test_help_names_every_view(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert f"[{' | '.join(VIEWS)}]" in " ".join(capsys.readouterr().out.split())
