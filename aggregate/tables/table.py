"""A table is written as CSV (every number in full), and as Markdown and LaTeX (as a paper prints it)."""

import csv
import io
import numbers
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import atomic_write
from common.settings.messages import one_line

Row = Mapping[str, Any]  # with "runs": the names of the run folders that it is made of, space-joined
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """One column of what is printed; CSV has the row's own values instead."""

    heading: str
    show: Callable[[Row], str]
    key: str  # of the row: the value that is printed, to sort by
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """Rows, and how they are printed."""

    name: str  # of its files
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()  # below the table
    most: int | None = None  # rows that are printed; CSV has all

    def cells(self) -> list[list[str]]:
        return [[column.show(row) for column in self.columns] for row in self.rows[: self.most]]

    def remarks(self) -> list[str]:
        """Return the notes, and how much is not printed."""
        hidden = len(self.rows) - len(self.rows[: self.most])
        return [*self.notes, *([f"and {hidden:,} more, which {self.name}.csv lists"] if hidden else [])]


# --- what is printed --------------------------------------------------------------------------------------------


def text(heading: str, name: str) -> Column:
    return Column(heading, lambda row: str(row[name]) if row[name] not in {None, ""} else NOTHING, name, False)


def number(heading: str, name: str, form: str = ".3f") -> Column:
    return Column(heading, lambda row: shown(row[name], form), key=name)


def percent(heading: str, name: str) -> Column:
    return Column(heading, lambda row: percentage(row[name]), key=name)


def shown(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def percentage(share: float | None, form: str = ".2f") -> str:
    return NOTHING if share is None else format(100 * share, f"z{form}")  # no -0.00


def percent_spread(heading: str, name: str) -> Column:
    """Show mean and standard deviation, from the columns <name>_mean and <name>_std."""

    def show(row: Row) -> str:
        mean, spread = row[f"{name}_mean"], row[f"{name}_std"]
        return percentage(mean) + ("" if spread is None or mean is None else f" ± {percentage(spread)}")

    return Column(heading, show, key=f"{name}_mean")


def percent_interval(heading: str, name: str, form: str = ".2f") -> Column:
    """Show an interval, from the columns <name>_low and <name>_high."""

    def show(row: Row) -> str:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return NOTHING if low is None else f"[{percentage(low, form)}, {percentage(high, form)}]"

    return Column(heading, show, key=f"{name}_low")


def p_value(heading: str, name: str) -> Column:
    def show(row: Row) -> str:
        p = row[name]
        return "< 0.001" if p is not None and p < 0.001 else shown(p, ".3f")

    return Column(heading, show, key=name)


def footnotes(row_sentences: Iterable[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Turn what is to be said of each row into the marks of each row, and the notes that the marks stand for."""
    marks: dict[str, str] = {}
    rows = []
    for sentences in row_sentences:
        for sentence in sentences:
            marks.setdefault(sentence, _letter(len(marks)))
        rows.append(" ".join(marks[sentence] for sentence in sentences))
    return rows, [f"{mark}: {sentence}" for sentence, mark in marks.items()]


def _letter(place: int) -> str:
    """Return the mark of a place: a ... z, aa, ab ..."""
    before, letter = divmod(place, 26)
    return (_letter(before - 1) if before else "") + chr(ord("a") + letter)


# --- forms ------------------------------------------------------------------------------------------------------


def as_aligned(table: Table) -> str:
    """Write a table for a terminal."""
    lines = [[column.heading for column in table.columns], *(list(map(one_line, row)) for row in table.cells())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [column.is_number for column in table.columns]

    def aligned(cells: Sequence[str]) -> str:
        placed = zip(cells, widths, numeric, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in placed).rstrip()

    return "\n".join([*map(aligned, lines), *map(one_line, table.remarks())])


def as_csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(csv_text, names))
    writer.writerows([_csv_cell(row.get(name)) for name in names] for row in rows)
    return file.getvalue()


def _csv_cell(value: Any) -> Any:
    return value if value is None or isinstance(value, numbers.Number) else csv_text(str(value))


def csv_text(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would take for a formula, as names from elsewhere may be."""
    text = re.sub(r"\r\n?", "\n", text)  # csv does not quote a carriage return, which begins a row for its readers
    is_formula = text.lstrip()[:1] in _FORMULA
    return f"'{text}" if is_formula or not text[:1].isprintable() else text


_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")  # the last four are the first, as wide as a Chinese letter


def as_markdown(table: Table) -> str:
    heads = [markdown_text(column.heading) for column in table.columns]
    rules = ["--:" if column.is_number else ":--" for column in table.columns]
    lines = [heads, rules, *([markdown_text(cell) for cell in row] for row in table.cells())]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"- {markdown_text(note)}\n" for note in table.remarks())
    return f"{body}\n\n{markdown_text(table.caption)}\n" + (f"\n{notes}" if notes else "")


def markdown_text(content: str) -> str:
    """Escape text so that Markdown shows it as it is, in one cell or line."""
    return re.sub(r"([\\`*_|<>\[\]#~$])", r"\\\1", one_line(" ".join(content.split())))


def as_latex(table: Table) -> str:
    """Write a table for the package booktabs, in UTF-8."""
    align = "".join("r" if column.is_number else "l" for column in table.columns)

    # Notes stand inside the float, or LaTeX would move the table away from them.
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _latex_line(column.heading for column in table.columns),
        r"\midrule",
        *map(_latex_line, table.cells()),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par {latex(note)}" for note in table.remarks()),
        r"\end{table}",
    ]

    return "\n".join(lines) + "\n"


def _latex_line(cells: Iterable[str]) -> str:
    # a row that begins with [ would be taken for an argument of the \\ before it
    return " & ".join(f"{{{latex(cell)}}}" if cell.startswith("[") else latex(cell) for cell in cells) + r" \\"


_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "←": r"$\leftarrow$",
    "×": r"$\times$",
    "–": "--",
    "−": r"$-$",
    '"': r"\textquotedbl{}",
}


def latex(content: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in one_line(" ".join(content.split())))


def write(table: Table, folder: Path) -> None:
    for ending, content in (("csv", as_csv(table.rows)), ("md", as_markdown(table)), ("tex", as_latex(table))):
        write_text(folder / f"{table.name}.{ending}", content)


def write_text(path: Path, content: str) -> None:
    with atomic_write(path, durable=False) as file:
        file.write(content.encode(errors="replace"))  # names of files may hold what is no UTF-8
