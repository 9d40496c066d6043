"""cells.csv is read as it was written, and what is damaged in it is not read."""

import logging
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.shift.table import COLUMNS, Measurement, MeasurementTable

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
ROWS = [
    Measurement("test", "fog", severity, "source", 0, "none", 7, 0.628, 0.1, problem="a\nb") for severity in range(6)
]
PLACES = [row.place for row in ROWS]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), numbers, numbers, st.text(max_size=20)), max_size=4))
def test_a_table_is_read_as_it_was_written(rows: list[tuple[int, float | None, float | None, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = MeasurementTable(Path(folder) / "cells.csv", PLACES)
        for severity, accuracy, gain, problem in rows:
            text = problem.replace("\r", " ").replace("\0", " ").encode("utf-8", "replace").decode()
            table.add(Measurement("test", "fog", severity, "source", 0, "none", 7, accuracy, gain=gain, problem=text))
        assert MeasurementTable(table.path, PLACES).measurements == table.measurements


@pytest.fixture
def table(tmp_path: Path) -> MeasurementTable:
    table = MeasurementTable(tmp_path / "cells.csv", PLACES)
    for row in ROWS[:3]:
        table.add(row)
    return table


def test_no_changed_letter_is_taken_as_a_measurement(table: MeasurementTable) -> None:
    """Each byte of the file is changed to another that may stand in its place."""
    whole, rows, others = table.path.read_bytes(), set(ROWS), b'7,"\n\xff'
    for place in range(len(whole)):
        other = others[place % 6] if place % 6 < len(others) else whole[place] ^ 1
        table.path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
        assert rows.issuperset(MeasurementTable(table.path, PLACES).measurements.values())


def test_no_cut_row_is_taken_as_a_measurement(table: MeasurementTable, caplog: pytest.LogCaptureFixture) -> None:
    whole = table.path.read_bytes()
    for end in range(len(whole)):
        table.path.write_bytes(whole[:end])
        assert set(MeasurementTable(table.path, PLACES).measurements.values()) <= set(ROWS)
    assert "cells.csv: 1 of 3 rows are damaged; what they held is measured again" in caplog.messages


def test_rows_keep_their_order_when_one_is_measured_again(table: MeasurementTable) -> None:
    whole = table.path.read_bytes()
    table.path.write_bytes(whole.replace(b"0.628", b"0.128", 1))
    again = MeasurementTable(table.path, PLACES)
    assert list(again.measurements.values()) == ROWS[1:3]
    again.add(ROWS[0])
    assert table.path.read_bytes() == whole


def test_of_an_older_version_all_but_the_last_row_is_read(
    table: MeasurementTable, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (",".join(map(str, [*row.place, 7, 0.628, *8 * [""]])) for row in ROWS[:3])
    table.path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    with caplog.at_level(logging.WARNING):
        read = MeasurementTable(table.path, PLACES).measurements
    assert [(row.place, row.accuracy) for row in read.values()] == [(place, 0.628) for place in PLACES[:2]]
    assert caplog.messages == [
        "cells.csv is of an older version, without checksums: what its last row held is measured again"
    ]
    table.path.write_text(table.path.read_text().replace("0.628", "0.6x8", 1).replace("fog,1", "fog,9"))
    assert not MeasurementTable(table.path, PLACES).measurements
    assert caplog.messages[-1] == "cells.csv: 2 of 2 rows are damaged; what they held is measured again"
