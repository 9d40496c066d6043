"""The tables of a test under shift have a checksum in each row, so that damage is seen when the test goes on.

A damaged row is left out: what it held is then missing, and is measured again. Files of older versions have no
checksums, and their last row may be cut.
"""

import csv
import io
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger("stillhouse")

CHECKSUM = "checksum"  # the last column
T = TypeVar("T")


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the content of a file that has these rows, each with its checksum."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, CHECKSUM])
    for row in rows:
        cells = ["" if row[name] is None else str(row[name]) for name in columns]
        writer.writerow([*cells, _checksum(cells)])
    return text.getvalue().encode()


def read_rows(path: Path, columns: Sequence[str], parse: Callable[[dict[str, str]], T]) -> list[T]:
    """Return the rows that are whole, and log how many are not; a file that does not exist has no rows.

    parse: makes a row of the texts of its columns; it raises ValueError if they are not those of a row.
    """
    if not path.exists():
        return []
    heading, *records = _records(path.read_bytes().decode(errors="replace")) or [[]]

    # Without checksums, a last row that was cut inside a number looks like a whole one.
    older = heading == list(columns)
    if older and records:
        log.warning("%s is of an older version, without checksums: what its last row held is measured again", path.name)
        records.pop()

    rows, damaged = [], 0
    for cells in records:
        try:
            rows.append(parse(dict(zip(columns, cells if older else _checked(cells), strict=True))))
        except ValueError:
            damaged += 1
    if damaged:
        log.warning("%s: %d of %d rows are damaged; what they held is measured again", path.name, damaged, len(records))
    return rows


def _records(text: str) -> list[list[str]]:
    """Split a file into its rows of cells, up to where it cannot be split any more."""
    return list(_readable(csv.reader(io.StringIO(text, newline=""))))


def _readable(records: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from records
    except csv.Error as error:
        yield [f"the rest cannot be read: {error}"]  # a row that is damaged


def _checked(cells: list[str]) -> list[str]:
    """Return the cells of a row without its checksum."""
    *values, checksum = cells or [""]
    if checksum != _checksum(values):
        raise ValueError("the checksum is that of another row")
    return values


def _checksum(cells: Iterable[str]) -> str:
    return f"{zlib.crc32(chr(0).join(cells).encode()):08x}"
