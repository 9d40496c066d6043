"""The page holds the whole report and needs nothing else to be read: no network, no other file, no script.

Its policy names its one style and its one script by their digests, so that nothing else runs, whatever a run folder
has written into a name or a message.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from aggregate.figures.style import Picture
from aggregate.page.grid import table_section
from aggregate.page.overview import overview
from aggregate.page.pictures import MOST_BYTES, figures_section
from aggregate.page.run_list import runs_section
from aggregate.runs.material import Material
from aggregate.tables.table import Row, Table

STYLE = Path(__file__).with_name("style.css").read_text()
SCRIPT = Path(__file__).with_name("behaviour.js").read_text()
MOST_PAGE = 4_900_000  # bytes, figures included, as long as the words alone are fewer


def page(
    folder: Path,
    material: Material,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    run_rows: Sequence[Row],
    written: datetime | None = None,
) -> str:
    """Return the page; figures are read from the report's folder, and `run_rows` are those of runs.csv."""
    runs = {run.name for run in material.runs}
    title = material.name if material.cells else material.source
    top = overview(material, tables, runs, written or datetime.now(UTC))
    grids = "".join(table_section(table, runs) for table in tables)
    listed = runs_section(run_rows)

    # Figures get what the words leave of a page that can be sent by mail.
    words = len((STYLE + SCRIPT + top + grids + listed).encode(errors="replace"))
    figures = figures_section(folder, pictures, min(MOST_BYTES, MOST_PAGE - words))

    return (
        f"{_head(title)}<body>\n"
        '<a class="skip" href="#content">To the content</a>\n'
        f"<header>\n<p>Stillhouse report</p>\n<h1>{escape(title)}</h1>\n</header>\n"
        f"{TOOLS}{_contents(tables, pictures, top, listed)}"
        f'<main id="content">\n{top}{grids}{figures}{listed}</main>\n'
        "<footer><p>Written by aggregate/report.py. Links to files are to those beside this page.</p></footer>\n"
        "</body>\n</html>\n"
    )


# --- head -------------------------------------------------------------------------------------------------------


def _head(title: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}: Stillhouse report</title>\n"
        f"<style>{STYLE}</style>\n<script>{SCRIPT}</script>\n</head>\n"
    )


def policy() -> str:
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(STYLE)}'; script-src '{_digest(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


# --- what is where ----------------------------------------------------------------------------------------------

TOOLS = (  # shown by the script, without which they would do nothing
    '<div id="tools" role="search" aria-label="Rows" hidden>\n'
    '<label for="filter">Filter</label>\n'
    '<input id="filter" type="search" placeholder="data, method, run" autocomplete="off" spellcheck="false">\n'
    '<span id="count" role="status"></span>\n'
    '<button id="theme" type="button" aria-pressed="false">◐ Dark</button>\n</div>\n'
)


def _contents(tables: Sequence[Table], pictures: Sequence[Picture], top: str, listed: str) -> str:
    items = "".join(
        f'<li><a href="#{escape(place)}">{escape(title)}</a>{inner}</li>\n'
        for place, title, inner in _entries(tables, pictures, top, listed)
    )
    return f'<nav aria-label="Contents">\n<ul>\n{items}</ul>\n</nav>\n'


def _entries(
    tables: Sequence[Table], pictures: Sequence[Picture], top: str, listed: str
) -> Iterator[tuple[str, str, str]]:
    for place, title in (("progress", "Progress"), ("glance", "At a glance")):
        if f'<section id="{place}"' in top:
            yield place, title, ""
    for table in tables:
        yield f"table-{table.name}", table.title, ""
    if pictures:
        inner = "".join(f'<li><a href="#figure-{escape(one.name)}">{escape(one.title)}</a></li>' for one in pictures)
        yield "figures", "Figures", f"<ul>{inner}</ul>"
    if listed:
        yield "runs", "All runs", ""
