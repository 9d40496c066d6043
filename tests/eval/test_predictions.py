"""How predictions are told: numbers and names chosen by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from eval.predictions import Predictions, as_lines, as_table, write

FILES = ["a.png", "folder/b, c.jpg"]
CLASSES = ["cat", "dog", "ox"]
ROWS = np.array([[0.25, 0.7, 0.05], [0.125, 0.125, 0.75]])


@pytest.fixture
def one_class() -> Predictions:
    return Predictions(FILES, CLASSES, ROWS, None)


@pytest.fixture
def several_labels() -> Predictions:
    return Predictions(FILES, CLASSES, ROWS, np.array([0.2, 0.6, 0.75]))


def wide(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))


def test_a_table_is_aligned(one_class: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    wide(80, monkeypatch)
    assert as_table(one_class, top=3).splitlines() == [
        "file             class  probability  next guesses",
        "a.png            dog    70.0%        cat (25.0%), ox (5.0%)",
        "folder/b, c.jpg  ox     75.0%        cat (12.5%), dog (12.5%)",
    ]
    assert as_table(one_class, top=1).splitlines()[1] == "a.png            dog    70.0%        -"


def test_labels_are_those_above_their_thresholds(several_labels: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    wide(80, monkeypatch)
    assert as_table(several_labels, top=3).splitlines() == [
        "file             labels                    next guesses",
        "a.png            dog (70.0%), cat (25.0%)  ox (5.0%)",
        "folder/b, c.jpg  -                         ox (75.0%), cat (12.5%), dog (12.5%)",
    ]


def test_names_too_long_for_the_terminal_keep_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "/very/long/" * 20 + "name.png"
    predictions = Predictions([name, "a.png"], CLASSES, ROWS, None)
    wide(90, monkeypatch)
    lines = as_table(predictions, top=3).splitlines()
    assert lines[1].startswith("…")
    assert "/name.png  dog " in lines[1]
    assert max(map(len, lines)) <= 90
    wide(10, monkeypatch)
    assert as_table(predictions, top=3).splitlines()[1].startswith("…/very/long/name.png  dog ")
    assert name in as_lines(predictions, top=3)


def test_control_characters_of_a_name_are_spelt_out(one_class: Predictions) -> None:
    name = "a\tb\n\x1b[31m\udcff.png"
    predictions = Predictions([name], CLASSES, ROWS[:1], None)
    for text in (as_table(predictions, top=3), as_lines(predictions, top=3)):
        assert r"a\tb\n\x1b[31m\udcff.png" in text
        assert len(text.splitlines()) == 2


def test_lines_have_fields_between_tabs(one_class: Predictions, several_labels: Predictions) -> None:
    assert [line.split("\t") for line in as_lines(one_class, top=2).splitlines()] == [
        ["file", "class_1", "probability_1", "class_2", "probability_2"],
        ["a.png", "dog", "0.700000", "cat", "0.250000"],
        ["folder/b, c.jpg", "ox", "0.750000", "cat", "0.125000"],
    ]
    assert [line.split("\t") for line in as_lines(several_labels, top=1).splitlines()] == [
        ["file", "labels", "class_1", "probability_1"],
        ["a.png", "dog; cat", "dog", "0.700000"],
        ["folder/b, c.jpg", "", "ox", "0.750000"],
    ]


def test_more_guesses_than_classes_are_all_of_them(one_class: Predictions) -> None:
    assert as_lines(one_class, top=9) == as_lines(one_class, top=3)
    assert as_table(one_class, top=9) == as_table(one_class, top=3)


@pytest.mark.parametrize("several", [False, True])
def test_csv_has_a_column_per_class(
    several: bool, one_class: Predictions, several_labels: Predictions, tmp_path: Path
) -> None:
    write(tmp_path / "x.csv", several_labels if several else one_class, {})
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == FILES
    for row, probabilities in zip(rows, ROWS, strict=True):
        assert [float(row[f"p({name})"]) for name in CLASSES] == probabilities.tolist()
    if several:
        assert [row["labels"] for row in rows] == ["dog; cat", ""]
    else:
        assert [(row["class"], float(row["probability"])) for row in rows] == [("dog", 0.7), ("ox", 0.75)]


def test_a_name_that_is_no_text_keeps_its_bytes(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", Predictions(["\udcff.png"], CLASSES, ROWS[:1], None), {})
    assert (tmp_path / "x.csv").read_bytes().splitlines()[1].startswith(b"\xff.png,dog,")


def test_json_holds_everything(one_class: Predictions, several_labels: Predictions, tmp_path: Path) -> None:
    write(tmp_path / "x.json", one_class, {"run": "r"})
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "run": "r",
        "thresholds": None,
        "images": [
            {
                "file": file,
                "class": name,
                "probability": row.max(),
                "probabilities": dict(zip(CLASSES, row, strict=True)),
            }
            for file, name, row in zip(FILES, ["dog", "ox"], ROWS, strict=True)
        ],
    }
    write(tmp_path / "y.json", several_labels, {})
    found = json.loads((tmp_path / "y.json").read_text())
    assert found["thresholds"] == [0.2, 0.6, 0.75]
    assert [image["labels"] for image in found["images"]] == [["dog", "cat"], []]
