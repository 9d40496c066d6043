"""Make tables of many runs; they say what they are made of, what is missing, and what can be concluded.

    python aggregate/report.py sweep=cifar_all                       a sweep as it was last submitted
    python aggregate/report.py runs='runs/*/cifar10-*' out=results/cifar10

It writes to results/NAME: report.html (one page with everything, which needs no network), report.md (the same for a
repository), runs.csv (each run), each table as CSV, Markdown and LaTeX, figures/ (PNG and SVG). Folders that cannot be
counted are listed with the reason.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import model_validator

from aggregate.figures.album import all_figures, links, write_figures
from aggregate.figures.style import Picture
from aggregate.page.folder import report_folder
from aggregate.page.page import page
from aggregate.runs.material import Material, of_pattern, of_sweep
from aggregate.runs.methods import Method, group
from aggregate.tables.cascades import cascade
from aggregate.tables.claims import claims
from aggregate.tables.classes import confusion, per_class
from aggregate.tables.comparisons import comparisons
from aggregate.tables.costs import cost, efficiency
from aggregate.tables.distillation import distillation
from aggregate.tables.embeddings import embeddings
from aggregate.tables.overfitting import overfitting
from aggregate.tables.results import summary
from aggregate.tables.runs import run_rows, unfinished
from aggregate.tables.shift import adaptations, shift
from aggregate.tables.table import Table, as_aligned, as_csv, as_markdown, markdown_text, write, write_text
from common.cli.command import DONE, FAILED, answer, parse, runs_root
from common.failures import Refused
from common.files import expanded
from common.settings.field import Group, setting
from common.settings.messages import one_line


class ReportWords(Group):
    """Words of this command."""

    sweep: str | None = setting(None, "a sweep that was submitted")
    runs: str | None = setting(None, "instead of a sweep: pattern of run folders, in quotes, such as 'runs/*/mnist-*'")
    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    out: str | None = setting(None, "folder of the report; null is results/NAME in the working folder")
    force: bool = setting(False, "replace files there that no report has written, or that were changed since")

    @model_validator(mode="after")
    def one_of_both(self) -> Self:
        if (self.sweep is None) == (self.runs is None):
            raise ValueError("given both, or neither, of sweep= and runs=; allowed: one of them")
        return self


def main(argv: list[str] | None = None) -> int:
    return answer(_report, argv, script="aggregate/report.py", about=__doc__, models=[ReportWords])


def _report(argv: list[str]) -> int:
    words = parse(ReportWords, argv)
    root = runs_root(words.root)
    material = of_sweep(words.sweep, root) if words.sweep is not None else of_pattern(str(words.runs))
    folder = expanded(words.out) if words.out else Path("results") / material.name

    methods = group(material.runs, material.cells)
    tables = all_tables(methods, material)
    try:
        with report_folder(folder, force=words.force) as drafts:
            write_report(drafts, material, methods, tables)
    except OSError as error:
        raise Refused([f"out: {folder} cannot be written: {error.strerror}"]) from None

    # A terminal has room for what is asked first: how good the methods are, and which runs are missing.
    with suppress(BrokenPipeError):  # report | head
        for table in tables:
            if table.name in {"summary", "unfinished"}:
                print(f"{as_aligned(table)}\n")
        print(one_line(f"report: {folder / 'report.html'}"), flush=True)
    return DONE if material.runs else FAILED


# --- what is written --------------------------------------------------------------------------------------------


# What a report may hold, in its order. The names are those of the files too.
TABLES: Mapping[str, Callable[[Sequence[Method], Material], Table | None]] = {
    "summary": lambda methods, _: summary(methods),
    "comparisons": lambda methods, _: comparisons(methods),
    "distillation": lambda methods, _: distillation(methods),
    "cascade": lambda methods, _: cascade(methods),
    "overfitting": lambda methods, _: overfitting(methods),
    "efficiency": lambda methods, _: efficiency(methods),
    "cost": lambda methods, material: cost(methods, without_result(material)),
    "claims": lambda methods, _: claims(methods),
    "shift": lambda methods, _: shift(methods),
    "adaptation": lambda methods, _: adaptations(methods),
    "per_class": lambda methods, _: per_class(methods),
    "confusion": lambda methods, _: confusion(methods),
    "embeddings": lambda methods, _: embeddings(methods),
    "unfinished": lambda _, material: unfinished(material.cells, material.runs, material.left_out),
}


def all_tables(methods: Sequence[Method], material: Material) -> list[Table]:
    """Return the tables that have rows."""
    tables = [make(methods, material) for make in TABLES.values()]
    return [table for table in tables if table]


def without_result(material: Material) -> list[Path]:
    """List the folders that have cost time and do not count; a copy of a run that counts has cost none."""
    counted = {run.name for run in material.runs}
    folders = [*(cell.run for cell in material.cells if cell.run), *(left.path for left in material.left_out)]
    return [folder for folder in dict.fromkeys(folders) if folder.name not in counted]


def write_report(folder: Path, material: Material, methods: Sequence[Method], tables: Sequence[Table]) -> None:
    """Write the report's files into an empty folder."""
    runs = run_rows(methods)
    write_text(folder / "runs.csv", as_csv(runs))
    for table in tables:
        write(table, folder)

    # The page reads the figures from the folder, so it comes last.
    pictures = all_figures(methods, tables)
    write_figures(folder, pictures)
    write_text(folder / "report.md", report_text(material, tables, pictures))
    write_text(folder / "report.html", page(folder, material, tables, pictures, runs))


def report_text(material: Material, tables: Sequence[Table], pictures: Sequence[Picture] = ()) -> str:
    name, source = markdown_text(material.name), markdown_text(material.source)
    parts = [f"# {name}\n", f"Of {source}: {material.counted()}. Every run: runs.csv.\n"]
    parts[1:1] = [f"{markdown_text(material.about)}\n"] if material.about else []
    parts += [f"## {table.title}\n\n{as_markdown(table)}" for table in tables]
    parts += [f"## Figures\n\n{links(pictures)}"] if pictures else []
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
