"""cells.csv is read as it was written."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from eval.shift.table import Measurement, MeasurementTable

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), numbers, numbers, st.text(max_size=20)), max_size=4))
def test_a_table_is_read_as_it_was_written(rows: list[tuple[int, float | None, float | None, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = MeasurementTable(Path(folder) / "cells.csv")
        for severity, accuracy, gain, problem in rows:
            text = problem.replace("\r", " ").replace("\0", " ").encode("utf-8", "replace").decode()
            table.add(Measurement("test", "fog", severity, "source", 0, "none", 7, accuracy, gain=gain, problem=text))
        assert MeasurementTable(table.path).measurements == table.measurements
