"""Bins of confidence: pooled over corruptions image by image, kept over a resume, drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.figures.predictions import save
from eval.shift.reliability import BinTable, pooled, reliability_curves

SETS = (("clean", 0), ("fog", 5), ("snow", 5), ("spatter", 5))


def logits_of(confidence: float, n: int) -> np.ndarray:
    """Two classes, the first predicted with that probability."""
    return np.tile([np.log(confidence / (1 - confidence)), 0.0], (n, 1))


@pytest.fixture
def table(tmp_path: Path) -> BinTable:
    """fog: 10 images at 0.9, all right. snow: 30 at 0.9, 15 right. spatter, which no average counts: 5 at 0.9, none."""
    table = BinTable(tmp_path / "reliability.csv")
    table.add("clean", 0, logits_of(0.97, 20), np.zeros(20, dtype=np.int64), 2.0)
    table.add("fog", 5, logits_of(0.9, 10), np.zeros(10, dtype=np.int64), 2.0)
    table.add("snow", 5, logits_of(0.9, 30), np.repeat([0, 1], 15), 2.0)
    table.add("spatter", 5, logits_of(0.9, 5), np.ones(5, dtype=np.int64), 2.0)
    return table


def test_each_image_counts_once(table: BinTable) -> None:
    (found,) = pooled(table.rows.values(), 5, cooled=False)
    assert (found["n"], found["accuracy"]) == (40, 25 / 40)
    assert found["confidence"] == pytest.approx(0.9)
    (cooled,) = pooled(table.rows.values(), 5, cooled=True)
    assert cooled["confidence"] == pytest.approx(0.75)  # odds of 9 become odds of 3
    assert cooled["accuracy"] == 25 / 40


def test_a_table_goes_on_where_it_was(table: BinTable) -> None:
    again = BinTable(table.path)
    assert again.rows == table.rows
    before = table.path.read_bytes()
    again.add("fog", 5, logits_of(0.9, 10), np.zeros(10, dtype=np.int64), 2.0)
    assert table.path.read_bytes() == before


@pytest.mark.parametrize("end", [20, -1, -5, -30, -400])
def test_of_a_cut_file_no_half_is_drawn(end: int, table: BinTable) -> None:
    rows, whole = table.rows, table.path.read_bytes()
    table.path.write_bytes(whole[:end])
    again = BinTable(table.path)
    assert again.rows.items() <= rows.items()
    lacking = [name for name, severity in SETS if again.lacks(name, severity, 2.0)]
    assert lacking == {20: ["clean", "fog", "snow", "spatter"], -1: []}.get(end, ["spatter"])
    pooled(again.rows.values(), 5, cooled=True)
    again.add("spatter", 5, logits_of(0.9, 5), np.ones(5, dtype=np.int64), 2.0)
    assert end == 20 or table.path.read_bytes() == whole


def test_a_changed_letter_costs_its_bin(table: BinTable) -> None:
    whole = table.path.read_text()
    table.path.write_text(whole.replace("fog,5,1.0,", "fog,5,1.5,", 1))
    again = BinTable(table.path)
    assert [name for name, severity in SETS if again.lacks(name, severity, 2.0)] == ["fog"]


def test_bins_of_another_temperature_are_replaced(table: BinTable) -> None:
    table.add("snow", 5, logits_of(0.9, 30), np.repeat([0, 1], 15), 3.0)
    assert {row["temperature"] for row in table.rows.values() if row["corruption"] == "snow"} == {1.0, 3.0}
    assert sum(row["n"] for row in pooled(table.rows.values(), 5, cooled=True)) == 40  # each image once


def test_without_a_temperature_there_is_one_curve(table: BinTable, tmp_path: Path) -> None:
    plain = BinTable(tmp_path / "plain.csv")
    plain.add("clean", 0, logits_of(0.97, 20), np.zeros(20, dtype=np.int64), None)
    for place, rows in enumerate((table.rows, plain.rows)):
        figure = reliability_curves(list(rows.values()), "digits-adaptive_cnn-s0-255de7e6c7")
        assert [len(axes.lines) for axes in figure.axes] == [[3, 3], [2]][place]
        save(figure, tmp_path / f"{place}.png")
        with Image.open(tmp_path / f"{place}.png") as image:
            assert min(image.size) > 400
