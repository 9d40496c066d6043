"""The page as text: whole, small, escaped, and consistent in itself. What a browser makes of it is asked elsewhere."""

import base64
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from aggregate.figures.style import Picture
from aggregate.page.grid import MOST_LINKS, MOST_ROWS, run_id, sort_value, table_section
from aggregate.page.overview import at_a_glance, progress, states, verdicts
from aggregate.page.page import page
from aggregate.page.pictures import figures_section
from aggregate.report import all_tables
from aggregate.runs.cells import AskedRun
from aggregate.runs.collect import Run
from aggregate.runs.material import Material
from aggregate.runs.methods import Method, group
from aggregate.tables.runs import run_rows
from aggregate.tables.table import Column, Table, number, percent_spread, text

VOID = {"meta", "link", "img", "input", "rect", "br"}
RULE = "highest validation accuracy"


class Outline(HTMLParser):
    """What the page is made of; raises where its tags do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"style", "script"}:
            self.raw[self.open[-1]] = self.raw.get(self.open[-1], "") + data

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def make_runs(methods: int, seeds: int) -> list[Run]:
    """Without folders: what a page shows of them is in memory."""
    return [
        Run(
            Path(f"/runs/train_cnn/cifar10-adaptive_cnn-s{seed}-{method:06x}{seed:04x}"),
            "train_cnn",
            seed,
            {"data.name": "cifar10", "model.name": "adaptive_cnn", "recipe.lr": method / 1000},
            {
                "data": {"digest": "d", "task": "multi-class", "train_images": 45_000},
                "selection": {"rule": RULE, "digest": f"{method}-{seed}", "epoch": 31},
                "model": {"name": "adaptive_cnn", "parameters": 17_629_514},
                "test": {"n": 10_000, "accuracy": 0.9 + (method * 7 + seed * 3) % 97 / 1000, "nll": 0.31},
                "val": {"accuracy": 0.9 + (method * 5 + seed) % 89 / 1000},
                "cost": {"train_seconds": 812.25, "epochs": 40},
            },
            {"commit": f"{method:040x}", "dirty": False, "started": "2026-01-02T03:04:05", "command": "python " * 40},
        )
        for method in range(methods)
        for seed in range(seeds)
    ]


def make_pictures(folder: Path, sizes: Sequence[int]) -> list[Picture]:
    """PNG files of so many bytes, of which only the head is one."""
    (folder / "figures").mkdir(parents=True)
    for place, size in enumerate(sizes):
        head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4) + (480).to_bytes(4)
        (folder / "figures" / f"cost-{place}.png").write_bytes(head.ljust(size, b"\0"))
    return [Picture(f"cost-{place}", f"Cost {place}", "Of all.", Figure()) for place in range(len(sizes))]


def page_of(folder: Path, runs: Sequence[Run], pictures: Sequence[Picture] = (), **about: Any) -> str:
    material = Material("many", "here", runs, [], **about)
    methods = group(runs, material.cells)
    return page(
        folder, material, all_tables(methods, material), pictures, run_rows(methods), datetime(2026, 1, 2, tzinfo=UTC)
    )


# --- the whole --------------------------------------------------------------------------------------------------


def test_the_policy_is_of_the_style_and_the_script_that_are_there(folder: Path) -> None:
    outline = Outline((folder / "report.html").read_text())
    (said,) = (tag["content"] for name, tag in outline.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert outline.raw.keys() == {"style", "script"}
    for name, content in outline.raw.items():
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in said
    assert said.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in said


def test_links_lead_somewhere_and_ids_are_unique(folder: Path) -> None:
    outline = Outline((folder / "report.html").read_text())
    ids = outline.values("id")
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    inside = [link[1:] for link in outline.values("href") if link.startswith("#")]
    assert len(inside) > 30
    assert set(inside) <= set(ids)
    labels = {name for value in outline.values("aria-labelledby") for name in value.split()}
    assert labels <= set(ids)
    files = [link for link in outline.values("href") if not link.startswith(("#", "data:"))]
    assert files
    assert [link for link in files if not (folder / link).is_file()] == []


def test_no_attribute_runs_anything_or_styles_inline(folder: Path) -> None:
    """The policy would refuse it, with an error that nobody sees."""
    outline = Outline((folder / "report.html").read_text())
    names = {name for _, attributes in outline.tags for name in attributes}
    assert "style" not in names
    assert [name for name in names if name.startswith("on")] == []
    assert [src for src in outline.values("src") if not src.startswith("data:image/png;base64,")] == []


def test_five_hundred_runs_and_many_figures_stay_below_five_megabytes(tmp_path: Path) -> None:
    html = page_of(tmp_path, make_runs(100, 5), make_pictures(tmp_path, [100_000] * 60))
    assert len(html.encode()) < 5_000_000
    outline = Outline(html)
    assert sum(tag == "tbody" for tag, _ in outline.tags) > 500
    assert 10 < html.count("data:image/png") < 60
    assert html.count("lies beside it") == 60 - html.count("data:image/png")


def test_where_the_words_fill_the_page_no_figure_is_in_it(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, [100])
    assert "lies beside it" in figures_section(tmp_path, pictures, -1)
    assert "lies beside it" not in figures_section(tmp_path, pictures, 1_000)


def test_a_small_figure_behind_a_large_one_still_fits(tmp_path: Path) -> None:
    html = figures_section(tmp_path, make_pictures(tmp_path, [9_000, 90]), 2_000)
    assert html.index("lies beside it") < html.index("data:image/png")
    assert 'width="640" height="480"' in html


def test_a_report_of_nothing_is_a_page_too(tmp_path: Path) -> None:
    outline = Outline(page_of(tmp_path, []))
    assert "table" not in {tag for tag, _ in outline.tags}


def test_a_provenance_of_wrong_kinds_makes_a_page(tmp_path: Path) -> None:
    (run,) = make_runs(1, 1)
    wrong = {"commit": {"a": 1}, "dirty": "yes", "started": 7, "command": ["<x-a>"], "device": ["<x-b>"]}
    wrong["container"] = {"content": 3, "started_by": ["<x-d>"]}
    result = {**run.result, "selection": {"rule": RULE, "digest": "x", "epoch": "<x-c>"}}
    html = page_of(tmp_path, [dataclasses.replace(run, provenance=wrong, result=result)])
    Outline(html)
    assert "<x-" not in html
    assert "&lt;x-a&gt;" in html


def test_the_top_names_the_images_and_what_is_odd_about_them(tmp_path: Path) -> None:
    inside, outside = make_runs(1, 2)
    container = {"content": "ab" * 32, "started_by": "b27d227" + "0" * 33}
    assert "<dt>Images</dt>" not in page_of(tmp_path, [outside])
    html = page_of(
        tmp_path, [dataclasses.replace(inside, provenance={**inside.provenance, "container": container}), outside]
    )
    said = "a container of commit 0000000000, started by a checkout of commit b27d227000 (1)"
    assert f"<dt>Images</dt><dd>ababababab (1), none (1); {said}</dd>" in html


# --- tables -----------------------------------------------------------------------------------------------------


def table(*rows: dict[str, Any], columns: Sequence[Column] = (), **more: Any) -> Table:
    return Table("t", "T", "c", columns or [text("a", "a"), number("n", "n", "d")], rows, **more)


def test_a_row_names_its_runs_and_links_those_that_are_listed() -> None:
    html = table_section(table({"a": "x", "n": 1, "runs": "one two"}, {"a": "y", "n": 2, "runs": ""}), {"one"})
    assert '<summary>2 runs</summary><a href="#run-one">one</a> two</details>' in html
    assert html.count("<td class=runs>") == 2
    assert "runs" not in table_section(table({"a": "x", "n": 1}), {"one"}).partition("<table")[2]


def test_of_very_many_runs_the_first_are_named() -> None:
    names = [f"r{place}" for place in range(MOST_LINKS + 5)]
    html = table_section(table({"a": "x", "n": 1, "runs": " ".join(names)}), set(names))
    assert f"<summary>{MOST_LINKS + 5} runs</summary>" in html
    assert html.count('href="#run-') == MOST_LINKS
    assert "and 5 more" in html


def test_of_very_many_rows_the_first_are_printed_and_the_rest_counted() -> None:
    html = table_section(table(*({"a": str(place), "n": place} for place in range(MOST_ROWS + 7))), set())
    assert html.count("<tr>") == MOST_ROWS + 1
    assert "and 7 more, which t.csv lists" in html
    few = table_section(table({"a": "x", "n": 1}, {"a": "y", "n": 2}, most=1), set())
    assert "and 1 more, which t.csv lists" in few


def test_marks_are_linked_to_their_notes_and_sentences_are_left_alone() -> None:
    columns = [text("a", "a"), number("n", "n", "d"), text("notes", "notes")]
    html = table_section(
        table({"a": "x", "n": 1, "notes": "a b"}, columns=columns, notes=["a: first", "b: <second>", "so: a sentence"]),
        set(),
    )
    assert '<td class=marks><a href="#note-t-a">a</a> <a href="#note-t-b">b</a></td>' in html
    assert '<li id="note-t-b"><b>b</b> &lt;second&gt;</li>' in html
    assert "<li>so: a sentence</li>" in html


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        (number("x", "x", ".1f"), {"x": 0.123456}, 0.123456),
        (percent_spread("x", "x"), {"x_mean": 0.98765, "x_std": 0.1}, 0.98765),
        (number("x", "x"), {"x": None}, None),
        (number("x", "x"), {"x": float("inf")}, None),
        (Column("x", lambda _: "14.7 of 40", key="best"), {"best": 14.7}, 14.7),
        (Column("x", lambda _: "> 1,000", key="seeds"), {"seeds": None}, None),
        (Column("x", lambda _: "?", key="absent"), {}, None),
    ],
)
def test_the_value_behind_a_cell(column: Column, row: dict[str, Any], value: float | None) -> None:
    assert sort_value(column, row) == value


def test_names_that_no_run_should_have_make_harmless_ids() -> None:
    assert run_id('a" onclick=x <b> ü') == "run-a__onclick_x__b___"
    assert run_id("digits-vit-s0-8b6f6194a3") == "run-digits-vit-s0-8b6f6194a3"


# --- the top ----------------------------------------------------------------------------------------------------


def glance_rows(*given: tuple[str, float, float]) -> Table:
    rows = [
        {
            "data": "d",
            "method": name,
            "network": "vit",
            "val_accuracy": val,
            "accuracy_mean": test,
            "n": 3,
            "runs": f"{name}-run",
        }
        for name, val, test in given
    ]
    return Table("summary", "", "", [], rows)


def test_the_best_is_chosen_by_validation() -> None:
    found = at_a_glance([glance_rows(("a", 0.8, 0.99), ("b", 0.9, 0.7), ("c", 0.9, 0.9))])
    assert found
    (row,) = found.rows
    assert row["method"] == "b (and 1 equal to it)"
    assert (row["accuracy_mean"], row["methods"], row["runs"]) == (0.7, 3, "b-run")
    assert row["better"] is None, "nothing was compared"


def test_verdicts_are_counted_from_the_side_of_the_method() -> None:
    pairs = [("b", "a", "better"), ("c", "b", "better"), ("d", "b", "worse"), ("b", "e", "≈"), ("f", "b", "?")]
    rows = [{"data": "d", "first": first, "second": second, "verdict": said} for first, second, said in pairs]
    rows.append({"data": "other", "first": "b", "second": "a", "verdict": "better"})
    assert verdicts("d", "b", rows) == {"better": 2, "worse": 1, "alike": 1, "untested": 1}


def test_states_are_of_what_is_counted() -> None:
    runs = make_runs(1, 2)
    cells = [AskedRun("cnn", (), run.seed, run.path, "done") for run in runs]
    cells += [
        AskedRun("cnn", (), 2, Path("/x"), "done"),
        AskedRun("cnn", (), 3, None, "waiting"),
        AskedRun("cnn", (), 4, None, "?"),
    ]
    material = Material("x", "x", runs, [], cells)
    assert list(states(material).items()) == [("done", 2), ("waiting", 1), ("unusable", 2)]
    widths = [float(width) for width in re.findall(r'width="(\d+)" height="1"', progress(material, []))]
    assert widths == [2, 1, 2]
    assert progress(Material("x", "x", runs, []), []) == ""


def test_a_method_without_runs_has_a_row(tmp_path: Path) -> None:
    methods = [Method("cnn", "train_cnn", "digits", (), {"waiting": 3})]
    tables = all_tables(methods, Material("x", "x", [], []))
    assert at_a_glance(tables) is None
    assert "3 waiting" in page(tmp_path, Material("x", "x", [], []), tables, [], run_rows(methods))
