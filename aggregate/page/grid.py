"""This module writes a table as HTML: cells with the value to sort by, marks with their notes, rows with their runs.

Everything in a table may come from a stranger's run folder, so all of it is escaped.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

from aggregate.tables.table import NOTHING, Column, Row, Table

MOST_ROWS = 500  # of one table; more than that is what the CSV beside the page is for
LONG = 20  # characters of a name that may take several lines, but not one for each word
MOST_LINKS = 100  # to the runs of one row
ENDINGS = {"csv": "CSV", "md": "Markdown", "tex": "LaTeX"}
TONES = {  # of words that are verdicts; they say it too, so nothing hangs on the colour
    **dict.fromkeys(("better", "gain", "reproduced", "above"), "good"),
    **dict.fromkeys(("worse", "negative transfer", "below", "failed", "blocked", "unusable"), "bad"),
}


def table_section(table: Table, runs: Collection[str]) -> str:
    """Write a table with its caption, its notes and links to its files; `runs` are those that the page lists."""
    name = escape(table.name)
    beside = " · ".join(f'<a href="{name}.{ending}">{title}</a>' for ending, title in ENDINGS.items())
    return (
        f'<section id="table-{name}" aria-labelledby="title-{name}">\n'
        f'<h2 id="title-{name}">{escape(table.title)}</h2>\n'
        f'<p class="caption" id="caption-{name}">{escape(table.caption)}</p>\n'
        f'{grid(table, runs)}<p class="files">In full: {beside}</p>\n</section>\n'
    )


def grid(table: Table, runs: Collection[str]) -> str:
    """Write a table in a box that scrolls by itself, and its notes."""
    table = dataclasses.replace(table, most=min(table.most or MOST_ROWS, MOST_ROWS))
    name = escape(table.name)
    rows = table.rows[: table.most]
    has_runs = any(row.get("runs") for row in rows)
    lines = "".join(f"<tr>{_line(table, row, runs if has_runs else None)}</tr>\n" for row in rows)
    return (
        f'<div class="box" role="region" tabindex="0" aria-labelledby="title-{name}">\n'
        f'<table aria-labelledby="title-{name}">\n'
        f"{head(table.columns, 'runs' if has_runs else '')}<tbody>\n{lines}</tbody>\n</table></div>\n"
        f"{_notes(table, rows)}"
    )


def head(columns: Sequence[Column], last: str = "") -> str:
    """Write the headings; the last is of a column without values to sort by."""
    cells = [
        f'<th scope="col"{" class=n" if column.is_number else ""}>{escape(column.heading)}</th>' for column in columns
    ]
    return f"<thead><tr>{''.join(cells)}{f'<th class=runs>{escape(last)}</th>' if last else ''}</tr></thead>\n"


def _line(table: Table, row: Row, runs: Collection[str] | None) -> str:
    notes = column_cells(table.columns, row, marks=table.name)
    return notes + ("" if runs is None else _runs_cell(str(row.get("runs") or "").split(), runs))


# --- cells ------------------------------------------------------------------------------------------------------


def column_cells(columns: Sequence[Column], row: Row, marks: str = "") -> str:
    """Write the cells of a row; those before its first number name it, and are its heading.

    `marks` is the name of the table whose notes the row's marks stand for.
    """
    leading = len(list(itertools.takewhile(lambda column: not column.is_number, columns)))
    heads = leading if leading < len(columns) else 1
    return "".join(
        _heading(column.show(row)) if place < heads else _cell(column, row, marks)
        for place, column in enumerate(columns)
    )


def _heading(shown: str) -> str:
    return f'<th scope="row"{" class=long" if len(shown) > LONG else ""}>{escape(shown)}</th>'


def _cell(column: Column, row: Row, marks: str) -> str:
    shown = column.show(row)
    if column.is_number:
        value = sort_value(column, row)
        return f"<td class=n{'' if value is None else f' data-value={value:.10g}'}>{escape(shown)}</td>"
    if column.key == "notes" and marks and shown != NOTHING:
        links = " ".join(f'<a href="#{_note_id(marks, mark)}">{escape(mark)}</a>' for mark in shown.split())
        return f"<td class=marks>{links}</td>"
    tone = TONES.get(shown)
    return f"<td{f' class={tone}' if tone else ''}>{escape(shown)}</td>"


def sort_value(column: Column, row: Row) -> float | None:
    value: Any = row.get(column.key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


# --- runs -------------------------------------------------------------------------------------------------------


def run_id(name: str) -> str:
    return "run-" + re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)


def _runs_cell(names: Iterable[str], listed: Collection[str]) -> str:
    runs = list(dict.fromkeys(names))
    if not runs:
        return f"<td class=runs>{NOTHING}</td>"
    links = [_run_link(name, listed) for name in runs[:MOST_LINKS]]
    more = [f"and {len(runs) - MOST_LINKS:,} more"] if len(runs) > MOST_LINKS else []
    count = f"{len(runs):,} run{'s' if len(runs) > 1 else ''}"
    return f"<td class=runs><details><summary>{count}</summary>{' '.join([*links, *more])}</details></td>"


def _run_link(name: str, listed: Collection[str]) -> str:
    return f'<a href="#{run_id(name)}">{escape(name)}</a>' if name in listed else escape(name)


# --- notes ------------------------------------------------------------------------------------------------------


def _notes(table: Table, rows: Sequence[Row]) -> str:
    used = {mark for row in rows for mark in str(row.get("notes") or "").split()}
    items = [_note(table.name, *note.partition(": "), used) for note in table.remarks()]
    return f"<ul class=notes>\n{''.join(items)}</ul>\n" if items else ""


def _note(table: str, mark: str, colon: str, sentence: str, used: Collection[str]) -> str:
    if mark not in used:
        return f"<li>{escape(mark + colon + sentence)}</li>\n"
    return f'<li id="{_note_id(table, mark)}"><b>{escape(mark)}</b> {escape(sentence)}</li>\n'


def _note_id(table: str, mark: str) -> str:
    return escape(f"note-{table}-{mark}")
