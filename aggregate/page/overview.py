"""The top of the page: what the report is of, how far it has got, and what it says in a few lines."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from aggregate.page.grid import grid
from aggregate.runs.collect import Run
from aggregate.runs.material import Material
from aggregate.runs.origins import foreign_images, image_of, origins
from aggregate.tables.table import Column, Row, Table, number, percent, percent_interval, percent_spread, text

SHORT_COMMIT = 7
STATES = ("done", "running", "queued", "waiting", "failed", "blocked", "unusable")  # in the order of the bar
OPPOSITE = {"better": "worse", "worse": "better"}
VERDICTS = {"better": "better", "≈": "alike", "worse": "worse", "?": "untested"}  # of compare: name of a column


def overview(material: Material, tables: Sequence[Table], runs: Collection[str], written: datetime) -> str:
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(said)}</dd></div>\n" for name, said in _facts(material))
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
    said = ", ".join(f"{image} ({count})" for image, count in images.most_common())
    return "; ".join([said, *foreign_images(runs)])


# --- how far it has got -----------------------------------------------------------------------------------------


def progress(material: Material, tables: Sequence[Table]) -> str:
    """Cells of the sweep by state, as a bar and in words; empty where nothing was submitted as a sweep."""
    counts = states(material)
    if not counts:
        return ""
    total = sum(counts.values())
    said = [f"{count} {state}" for state, count in counts.items()]
    bars, start = [], 0
    for state, count in counts.items():
        bars.append(f'<rect class="{state}" x="{start}" width="{count}" height="1"/>')
        start += count
    legend = "".join(f'<li class="{state}">{text}</li>' for state, text in zip(counts, said, strict=True))
    has_list = any(table.name == "unfinished" for table in tables)
    why = '<p><a href="#table-unfinished">What is not counted, and why</a></p>\n' if has_list else ""
    return (
        '<section id="progress" aria-labelledby="title-progress">\n<h2 id="title-progress">Progress</h2>\n'
        f'<svg class="progress" role="img" aria-label="Of {total} cells: {", ".join(said)}" '
        f'viewBox="0 0 {total} 1" preserveAspectRatio="none">{"".join(bars)}</svg>\n'
        f'<ul class="states">{legend}</ul>\n{why}</section>\n'
    )


def states(material: Material) -> dict[str, int]:
    """Done is what is counted; a finished cell that is not is unusable. In the order of STATES, without zeros."""
    finished = {run.path for run in material.runs}
    found = Counter(
        "done"
        if cell.run in finished
        else "unusable"
        if cell.state not in STATES or cell.state == "done"
        else cell.state
        for cell in material.cells
    )
    return {state: found[state] for state in STATES if found[state]}


# --- what it says -----------------------------------------------------------------------------------------------


def at_a_glance(tables: Sequence[Table]) -> Table | None:
    """Of each data set the method of the highest validation accuracy, from the rows of the other tables."""
    by_name = {table.name: table.rows for table in tables}
    rooms: dict[str, list[Row]] = {}
    for row in by_name.get("summary", ()):
        if row["val_accuracy"] is not None:
            rooms.setdefault(row["data"], []).append(row)
    rows = [_best_row(room, by_name.get("comparisons", ())) for room in rooms.values()]
    return Table("glance", "At a glance", CAPTION, COLUMNS, rows) if rows else None


CAPTION = (
    "The method of the highest validation accuracy on each data set, and what the table of comparisons concludes of "
    "it. Chosen by validation and not by test, so its test accuracy is not flattered by the choice."
)
COLUMNS = [
    text("data", "data"),
    text("best by validation", "method"),
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


def _best_row(room: Sequence[Row], comparisons: Sequence[Row]) -> Mapping[str, Any]:
    best = max(room, key=lambda row: row["val_accuracy"])
    equal = sum(row["val_accuracy"] == best["val_accuracy"] for row in room) - 1
    others = f" (and {equal} equal to it)" if equal else ""
    counts = verdicts(best["data"], best["method"], comparisons)
    counted = {column: counts[column] if counts else None for column in VERDICTS.values()}
    return {**best, **counted, "method": f"{best['method']}{others}", "methods": len(room)}


def verdicts(data: str, method: str, comparisons: Sequence[Row]) -> Counter[str]:
    """Of this method, whichever side of a pair it is on."""
    found: Counter[str] = Counter()
    for row in comparisons:
        if row["data"] == data and method in {row["first"], row["second"]}:
            said = str(row["verdict"])
            found[VERDICTS[said if row["first"] == method else OPPOSITE.get(said, said)]] += 1
    return found
