"""The table of measurements, cells.csv: a row for each, written at once, so that a test that is killed goes on."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.files import atomic_write
from eval.shift.checked_rows import read_rows, table_text

CLEAN = "clean"
Place = tuple[str, str, int, str, int, str]  # which measurement it is: the first six columns


@dataclass(frozen=True)
class Measurement:
    """A row of cells.csv has these columns; numbers are None where there is a problem instead."""

    images: str
    corruption: str
    severity: int
    adaptation: str
    batch_size: int
    view: str
    n: int = 0
    accuracy: float | None = None
    standard_error: float | None = None  # over the draw of test images
    nll: float | None = None
    ece: float | None = None
    nll_cooled: float | None = None  # with the temperature that validation asks for
    ece_cooled: float | None = None
    gain: float | None = None  # in accuracy over the model as it is, on the same images
    gain_standard_error: float | None = None
    problem: str = ""

    @property
    def place(self) -> Place:
        return self.images, self.corruption, self.severity, self.adaptation, self.batch_size, self.view


COLUMNS = tuple(field.name for field in fields(Measurement))


class MeasurementTable:
    """The file is written whole after each measurement, and read when a test goes on."""

    def __init__(self, path: Path, places: Iterable[Place]) -> None:
        """Read what was measured before; places: those of the test, in the order in which the file lists them."""
        self.path = path
        self._order = {place: number for number, place in enumerate(places)}
        rows = read_rows(path, COLUMNS, self._read)
        self.measurements = {measurement.place: measurement for measurement in rows}

    def add(self, measurement: Measurement) -> None:
        # What was damaged is measured late, but averages read the rows in their order.
        self.measurements[measurement.place] = measurement
        self.measurements = dict(sorted(self.measurements.items(), key=lambda item: self._order[item[0]]))
        self.save()

    def save(self) -> None:
        with atomic_write(self.path) as file:
            file.write(table_text(COLUMNS, map(asdict, self.measurements.values())))

    def _read(self, row: dict[str, str]) -> Measurement:
        numbers: dict[str, Any] = {name: int(row[name]) for name in ("severity", "batch_size", "n")}
        texts: dict[str, Any] = {name: row[name] for name in ("images", "corruption", "adaptation", "view", "problem")}
        rest = [name for name in COLUMNS if name not in {*numbers, *texts}]
        numbers |= {name: float(row[name]) if row[name] else None for name in rest}

        measurement = Measurement(**texts, **numbers)
        if measurement.place not in self._order:
            raise ValueError("the test has no such place")
        return measurement
