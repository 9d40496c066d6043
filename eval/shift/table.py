"""The table of measurements, cells.csv: a row for each, written at once, so that a test that is killed goes on."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.files import atomic_write

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


class MeasurementTable:
    """The file is written whole after each measurement, and read when a test goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.measurements: dict[Place, Measurement] = {}
        if path.exists():
            with path.open(newline="") as file:
                for measurement in map(_read, csv.DictReader(file)):
                    self.measurements[measurement.place] = measurement

    def add(self, measurement: Measurement) -> None:
        self.measurements[measurement.place] = measurement
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Measurement)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.measurements.values())
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())


def _read(row: dict[str, str]) -> Measurement:
    numbers: dict[str, Any] = {name: int(row[name]) for name in ("severity", "batch_size", "n")}
    texts: dict[str, Any] = {name: row[name] for name in ("images", "corruption", "adaptation", "view", "problem")}
    rest = [field.name for field in fields(Measurement) if field.name not in {*numbers, *texts}]
    numbers |= {name: float(row[name]) if row[name] else None for name in rest}
    return Measurement(**texts, **numbers)
