import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aggregate
from aggregate.tables.table import (
    Table,
    as_aligned,
    as_csv,
    as_latex,
    as_markdown,
    footnotes,
    latex,
    number,
    p_value,
    percent,
    percent_interval,
    percent_spread,
    text,
    write,
)

NASTY = 'a_b & 50% | #1 \\x {y} ~ ^ $z$ <b>*[link](u)`c` ← ± ≈ – "q"'
ROW = {
    "method": NASTY,
    "n": 3,
    "acc_mean": 0.98765,
    "acc_std": 0.00123,
    "acc_low": 0.9,
    "acc_high": 1.0,
    "p": 0.0001,
    "nothing": None,
}
COLUMNS = [
    text("method", "method"),
    number("n", "n", "d"),
    percent_spread("accuracy, %", "acc"),
    percent_interval("interval", "acc"),
    p_value("p", "p"),
    percent("absent", "nothing"),
]
TABLE = Table("summary", "Results", "Accuracy in %: n_1.", COLUMNS, [ROW], ["a: 100 % of it"])


def test_columns_stand_below_each_other_on_a_terminal() -> None:
    columns = [text("method", "method"), number("n", "n", "d"), number("seconds", "s", ".1f")]
    table = Table(
        "t", "T", "caption", columns, [{"method": "a", "n": 3, "s": 1}, {"method": "longer", "n": 10, "s": 200}], ["so"]
    )
    assert as_aligned(table).splitlines() == [
        "method   n  seconds",
        "a        3      1.0",
        "longer  10    200.0",
        "so",
    ]


def test_cells() -> None:
    assert TABLE.cells() == [[NASTY, "3", "98.77 ± 0.12", "[90.00, 100.00]", "< 0.001", "–"]]


def test_csv_has_every_number_in_full() -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv([ROW])))
    assert row["acc_mean"] == "0.98765"
    assert row["method"] == NASTY
    assert row["nothing"] == ""


def test_rows_of_different_keys_share_a_csv() -> None:
    assert as_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"


FORMULAS = [
    *(
        '=HYPERLINK("http://x","y")',
        "+1+1",
        "-2+3",
        "@SUM(1+1)*cmd|'!A0'",
        "\t=1",
        "\r=1",
        " =1",
        "\x1b]0;x",
        "\ufeff=1",
    ),
    "\uff1d1+1",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_text_of_a_csv_is_a_formula(formula: str) -> None:
    file = io.StringIO(as_csv([{"method": formula, formula: ["x"]}]), newline="")
    kept = formula.replace("\r", "\n")
    assert list(csv.reader(file)) == [["method", f"'{kept}"], [f"'{kept}", "['x']"]]


def test_no_text_of_a_csv_begins_a_row_of_its_own() -> None:
    file = io.StringIO(as_csv([{"a": "x\r=1", "b": "y\r\n=1"}]), newline="")
    assert list(csv.reader(file)) == [["a", "b"], ["x\n=1", "y\n=1"]]


def test_numbers_and_other_text_of_a_csv_stay_as_they_are() -> None:
    row = {"a": -0.5, "b": np.float64(-0.25), "c": -3, "d": "–", "e": "a=b", "f": "", "g": None, "h": True, "i": "犬"}
    assert as_csv([row]).splitlines()[1] == "-0.5,-0.25,-3,–,a=b,,,True,犬"


def test_one_place_writes_every_csv() -> None:
    texts = {path.name: path.read_text() for path in Path(aggregate.__path__[0]).rglob("*.py")}
    assert [name for name, text in texts.items() if re.search(r"csv\.(Dict)?[Ww]riter\(|savetxt|to_csv", text)] == [
        "table.py"
    ]


def test_no_control_character_reaches_a_terminal_or_a_text() -> None:
    hostile = "\x1b]0;title\x07 \x9b2J a\rb \u202ec"
    table = Table("t", "T", hostile, [text("m", "method")], [{"method": hostile}], [hostile])
    for written in (as_aligned(table), as_markdown(table), as_latex(table)):
        assert written.replace("\n", "").isprintable()
        assert "x1b]0;title" in written.replace("\\]", "]"), "it is spelled out"


def columns_of(line: str) -> int:
    """Bars that are not escaped."""
    return line.replace("\\\\", "").replace("\\|", "").count("|")


def test_markdown_keeps_its_columns_whatever_is_in_a_cell() -> None:
    lines = as_markdown(TABLE).splitlines()
    assert [columns_of(line) for line in lines[:3]] == [7, 7, 7]
    assert r"a\_b & 50% \| \#1 \\x" in lines[2]
    assert r"\<b\>\*\[link\](u)\`c\`" in lines[2]
    assert lines[1] == "| :-- | --: | --: | --: | --: | --: |"
    assert lines[-1] == "- a: 100 % of it"


@given(st.text(max_size=30))
def test_any_text_stays_in_its_markdown_cell(given_text: str) -> None:
    row = {"method": given_text, "n": 1}
    lines = as_markdown(Table("t", "T", "c", [text("m", "method"), number("n", "n", "d")], [row])).split("\n")
    assert columns_of(lines[2]) == 3
    assert lines[3] == ""


def test_latex_escapes() -> None:
    assert latex("50% of a_b & #1 $x {y}") == r"50\% of a\_b \& \#1 \$x \{y\}"
    assert latex("\\ ~ ^") == r"\textbackslash{} \textasciitilde{} \textasciicircum{}"
    assert latex("98.77 ± 0.12 < ≈ ← –") == r"98.77 $\pm$ 0.12 $<$ $\approx$ $\leftarrow$ --"


def test_latex_is_a_booktabs_table() -> None:
    lines = as_latex(TABLE).splitlines()
    assert r"\begin{tabular}{lrrrrr}" in lines
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert r"\caption{Accuracy in \%: n\_1.}" in lines
    assert r"\label{tab:summary}" in lines
    assert r"& {[90.00, 100.00]} &" in as_latex(TABLE), "else \\\\[ would take it for a length"


@given(st.text(max_size=30))
def test_any_text_stays_in_its_latex_cell(given_text: str) -> None:
    bare = re.sub(r"\\[&%$#_{}]", "", latex(given_text))
    assert not set(bare) & set("&%#_~^\n")
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0


def test_footnotes_share_a_mark_where_they_say_the_same() -> None:
    marks, notes = footnotes([["x", "y"], [], ["y"]])
    assert marks == ["a b", "", "b"]
    assert notes == ["a: x", "b: y"]


def test_footnotes_beyond_the_alphabet() -> None:
    marks, _ = footnotes([[str(place)] for place in range(28)])
    assert marks[25:] == ["z", "aa", "ab"]


def test_long_tables_say_what_they_do_not_print(tmp_path: Path) -> None:
    table = Table("t", "T", "c", [number("n", "n", "d")], [{"n": n} for n in range(1002)], most=2)
    assert len(table.cells()) == 2
    assert table.remarks() == ["and 1,000 more, which t.csv lists"]
    write(table, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.md", "t.tex"]
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1003
    assert "1,000 more" in (tmp_path / "t.md").read_text()
