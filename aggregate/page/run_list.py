"""This list has every run: its seed, its metrics, its folder, and the command that makes it again."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from aggregate.page.grid import column_cells, head, run_id
from aggregate.page.overview import SHORT_COMMIT
from aggregate.tables.table import Column, Row, number, percent, shown, text

CAPTION = "Accuracies in %. Below each run its command and its folder; runs.csv has every setting and number."

COLUMNS = [
    text("run", "run"),
    text("method", "method"),
    text("data", "data"),
    number("seed", "seed", "d"),
    percent("test accuracy", "test.accuracy"),
    percent("validation accuracy", "val.accuracy"),
    number("NLL", "test.nll"),
    percent("corrupted accuracy", "shift.corrupted.accuracy"),
    number("best epoch", "selection.epoch", ".0f"),
    Column("seconds", lambda row: shown(row["cost.train_seconds"], ".1f"), key="cost.train_seconds"),
    text("device", "device"),
    Column("commit", lambda row: _commit(row), key="commit", is_number=False),
]


def runs_section(rows: Sequence[Row]) -> str:
    """Write the list from the rows of runs.csv, of which each has only what its run told."""
    if not any(row.get("run") for row in rows):
        return ""

    # Runs of one report often lack the same things, such as corruptions: no column stays empty.
    complete = [_complete(row) for row in rows]
    columns = [column for column in COLUMNS if any(row[column.key] is not None for row in complete)]
    runs = "".join(_run(columns, row) for row in complete)

    return (
        '<section id="runs" aria-labelledby="title-runs">\n<h2 id="title-runs">All runs</h2>\n'
        f'<p class="caption">{CAPTION}</p>\n'
        '<div class="box" role="region" tabindex="0" aria-labelledby="title-runs">\n'
        f'<table class="grouped" aria-labelledby="title-runs">\n{head(columns)}{runs}</table></div>\n'
        '<p class="files">In full: <a href="runs.csv">CSV</a></p>\n</section>\n'
    )


def _complete(row: Row) -> dict[str, Any]:
    """Give every column a value of the right kind, or None: a run folder may say anything."""
    complete: dict[str, Any] = dict(row)
    for column in COLUMNS:
        value = row.get(column.key)
        if column.is_number:
            complete[column.key] = value if isinstance(value, int | float) else None
        else:
            complete[column.key] = None if value is None else str(value)
    return complete


def _run(columns: Sequence[Column], row: Mapping[str, Any]) -> str:
    """Write a run as a table body of its own, so that sorting and filtering keep its two rows together."""
    command = str(row.get("command") or "")
    code = f"<code class=command>{escape(command)}</code>" if command else "Its command was not recorded."
    return (
        f'<tbody id="{run_id(row["run"])}"><tr>{column_cells(columns, row)}</tr>\n'
        f"<tr><td colspan={len(columns)}><div>{code}<span>{escape(str(row.get('folder') or ''))}</span></div></td></tr>"
        "</tbody>\n"
    )


def _commit(row: Row) -> str:
    commit = str(row.get("commit") or "unknown")[:SHORT_COMMIT]
    return f"{commit}, with changes" if row.get("dirty") else commit
