"""The top of the page tells what the report is of, how far the sweep has got, and the results in a few lines."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from aggregate.page.grid import grid
from aggregate.runs.collect import Run
from aggregate.runs.material import Material
from aggregate.runs.origins import foreign_images, image_of, origins
from aggregate.tables.results import network_column
from aggregate.tables.table import Column, Row, Table, number, percent, percent_interval, percent_spread, text

SHORT_COMMIT = 7
STATES = ("done", "running", "queued", "waiting", "failed", "blocked", "unusable")  # in the order of the bar
OPPOSITE = {"better": "worse", "worse": "better"}
VERDICTS = {"better": "better", "≈": "alike", "worse": "worse", "?": "untested"}  # of comparisons: name of a column


def overview(material: Material, tables: Sequence[Table], runs: Collection[str], written: datetime) -> str:
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>\n" for name, fact in _facts(material))
    when = f"<div><dt>Report written</dt><dd>{written:%Y-%m-%d %H:%M} UTC</dd></div>\n"
    glance = at_a_glance(tables)
    return f"<dl class=facts>\n{facts}{when}</dl>\n{progress(material, tables)}" + (
        f'<section id="glance" aria-labelledby="title-glance">\n<h2 id="title-glance">{glance.title}</h2>\n'
        f'<p class="caption">{escape(glance.caption)}</p>\n{grid(glance, runs)}</section>\n'
        if glance
        else ""
    )


# --- what it is of ----------------------------------------------------------------------------------------------


def _facts(material: Material) -> Iterator[tuple[str, str]]:
    if material.about:
        yield "About", material.about
    if material.cells:
        yield "Of", material.source
    yield "Counted", material.counted()
    if started := sorted(str(run.provenance["started"]) for run in material.runs if run.provenance.get("started")):
        first, last = (moment[:16].replace("T", " ") for moment in (started[0], started[-1]))
        yield "Runs started", first if first == last else f"{first} to {last}"
    if material.runs:
        yield "Code", _commits(material.runs)
    if any(image_of(run) for run in material.runs):
        yield "Images", _images(material.runs)


def _commits(runs: Sequence[Run]) -> str:
    commits = Counter(str(run.provenance.get("commit") or "unknown commit")[:SHORT_COMMIT] for run in runs)
    (commonest, _), *others = commits.most_common()
    dirty = sum(bool(run.provenance.get("dirty")) for run in runs)
    more = f" and {len(others)} other commits" if len(others) > 1 else f" and {others[0][0]}" if others else ""
    return f"{commonest}{more}" + (f"; {dirty} runs with uncommitted changes" if dirty else "")


def _images(runs: Sequence[Run]) -> str:
    images = origins(runs, ["container image"])["container image"]
    counts = ", ".join(f"{image} ({count})" for image, count in images.most_common())
    return "; ".join([counts, *foreign_images(runs)])


# --- how far it has got -----------------------------------------------------------------------------------------


def progress(material: Material, tables: Sequence[Table]) -> str:
    """Show the cells of the sweep by state, as a bar and in words; without a sweep there is nothing to show."""
    counts = states(material)
    if not counts:
        return ""

    # One unit of the picture is one cell: the browser stretches the bar to the width of the page.
    total = sum(counts.values())
    bars, start = [], 0
    for state, count in counts.items():
        bars.append(f'<rect class="{state}" x="{start}" width="{count}" height="1"/>')
        start += count

    # The same in words, for those who do not see the bar or its colours.
    words = {state: f"{count} {state}" for state, count in counts.items()}
    legend = "".join(f'<li class="{state}">{text}</li>' for state, text in words.items())
    has_list = any(table.name == "unfinished" for table in tables)
    why = '<p><a href="#table-unfinished">What is not counted, and why</a></p>\n' if has_list else ""
    return (
        '<section id="progress" aria-labelledby="title-progress">\n<h2 id="title-progress">Progress</h2>\n'
        f'<svg class="progress" role="img" aria-label="Of {total} cells: {", ".join(words.values())}" '
        f'viewBox="0 0 {total} 1" preserveAspectRatio="none">{"".join(bars)}</svg>\n'
        f'<ul class="states">{legend}</ul>\n{why}</section>\n'
    )


def states(material: Material) -> dict[str, int]:
    """Count the cells by state, in the order of STATES and without zeros; done are only those whose run counts."""
    counted = {run.path for run in material.runs}
    counts: Counter[str] = Counter()
    for cell in material.cells:
        if cell.run in counted:
            counts["done"] += 1
        elif cell.state == "done" or cell.state not in STATES:
            counts["unusable"] += 1
        else:
            counts[cell.state] += 1
    return {state: counts[state] for state in STATES if counts[state]}


# --- what it says -----------------------------------------------------------------------------------------------


def at_a_glance(tables: Sequence[Table]) -> Table | None:
    """Show the method of the highest validation accuracy on each data set, from the rows of the other tables."""
    by_name = {table.name: table.rows for table in tables}
    by_data: dict[str, list[Row]] = {}
    for row in by_name.get("summary", ()):
        if row["val_accuracy"] is not None:
            by_data.setdefault(row["data"], []).append(row)
    rows = [_best_row(members, by_name.get("comparisons", ())) for members in by_data.values()]
    return Table("glance", "At a glance", CAPTION, _columns(rows), rows) if rows else None


CAPTION = (
    "The method of the highest validation accuracy on each data set, and what the table of comparisons concludes of "
    "it. Chosen by validation and not by test, so its test accuracy is not flattered by the choice."
)


def _columns(rows: Sequence[Row]) -> list[Column]:
    return [
        text("data", "data"),
        text("best by validation", "method"),
        *network_column(rows),
        Column("of", lambda row: f"{row['methods']}", key="methods"),
        number("n", "n", "d"),
        percent("validation accuracy", "val_accuracy"),
        percent_spread("test accuracy", "accuracy"),
        percent_interval("95 % interval", "accuracy"),
        number("better than", "better", "d"),
        number("≈", "alike", "d"),
        number("worse than", "worse", "d"),
        number("no test", "untested", "d"),
    ]


def _best_row(rows: Sequence[Row], comparisons: Sequence[Row]) -> Mapping[str, Any]:
    best = max(rows, key=lambda row: row["val_accuracy"])
    equal = sum(row["val_accuracy"] == best["val_accuracy"] for row in rows) - 1
    others = f" (and {equal} equal to it)" if equal else ""
    counts = verdicts(best["data"], best["method"], comparisons)
    counted = {column: counts[column] if counts else None for column in VERDICTS.values()}
    return {**best, **counted, "method": f"{best['method']}{others}", "methods": len(rows)}


def verdicts(data: str, method: str, comparisons: Sequence[Row]) -> Counter[str]:
    """Count the verdicts on a method, whichever side of a pair it is on."""
    counts: Counter[str] = Counter()
    for row in comparisons:
        if row["data"] == data and method in {row["first"], row["second"]}:
            verdict = str(row["verdict"])
            counts[VERDICTS[verdict if row["first"] == method else OPPOSITE.get(verdict, verdict)]] += 1
    return counts
