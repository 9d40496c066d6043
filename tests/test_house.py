"""The figures of tests/house.py, on houses small enough to count by hand."""

import ast

import pytest

from tests import house as figures
from tests.house import Module

AIRY = '''"""A module of a house."""


def work(n):
    """Do it.

    Slowly.
    """
    # The first half fails often, so it comes first.
    a = n
    b = a
    c = b

    # One sum, and not three: rounding once is enough.
    d = a + b + c
    text = """one

# two
    """
    return d, text
'''


def house(**texts: str) -> list[Module]:
    """Make modules, whose paths are written with two underscores for each slash."""
    return [Module(f"{path.replace('__', '/')}.py", text) for path, text in texts.items()]


def test_arrows_are_imports_at_the_top_and_in_functions_but_not_for_types_alone() -> None:
    graph = figures.graph_of(
        house(
            common__a="from common import b\ndef f():\n    from common.c import x",
            common__b="if TYPE_CHECKING:\n    from common.a import y\nelse:\n    import common.c",
            common__c="import os, torch.nn",
        )
    )
    assert graph == {
        "common/a.py": {"common/b.py", "common/c.py"},
        "common/b.py": {"common/c.py"},
        "common/c.py": set(),
    }


def test_a_name_of_a_package_is_its_init() -> None:
    modules = [
        Module("eval/blurs/__init__.py", "from eval.blurs import box"),
        Module("eval/blurs/box.py", "from eval.blurs import NAMES, other"),
        Module("eval/blurs/other.py", ""),
    ]
    graph = figures.graph_of(modules)
    assert graph["eval/blurs/box.py"] == {"eval/blurs/__init__.py", "eval/blurs/other.py"}
    assert figures.circles(graph) == [["eval/blurs/__init__.py", "eval/blurs/box.py"]]
    assert figures.rooms(modules, "eval/blurs") == {"box", "other"}
    assert figures.rooms(modules, "eval") == {"blurs"}


def test_a_circle_is_reported_once_and_whole() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}
    assert figures.circles(graph) == [["a", "b", "c"], ["e"]]


def test_arrows_between_rooms_are_counted_once_and_lead_up_to_their_own_floor_too() -> None:
    modules = house(
        common__data__x="import common.files, common.cli.y",
        common__data__z="import common.files, common.data.x",
        common__files="",
        common__cli__y="",
    )
    arrows = figures.room_graph(modules, figures.graph_of(modules), "common")
    assert arrows == {"data": {"files", "cli"}, "files": set(), "cli": set()}
    assert figures.arrows_up(arrows, ({"files"}, {"data"}, {"cli"})) == ["data -> cli"]
    assert figures.arrows_up(arrows, ({"files"}, {"data", "cli"})) == ["data -> cli"]
    assert figures.arrows_up(arrows, ({"files"}, {"cli"}, {"data"})) == []


def test_a_long_body_is_measured_without_signature_docstring_and_texts() -> None:
    (body,) = figures.long_bodies(Module("common/a.py", AIRY))
    assert (str(body.place), body.lines) == ("common/a.py:4: work", 12)
    assert (body.blank, body.comment_lines) == (1, 2)
    shorter = AIRY.replace("    c = b\n", "")
    assert figures.long_bodies(Module("common/a.py", shorter)) == []
    assert figures.blank_share([body]) == pytest.approx(100 / 12)
    assert figures.comment_share([body]) == pytest.approx(200 / 12)


@pytest.mark.parametrize(
    ("comment", "code", "counts"),
    [
        ("Rounding can lift a probability above 1.", "index = np.searchsorted(edges, probabilities)", True),
        ("open the file", "file = open(path)", False),
        ("write results", "run.write(results)", False),
        ("noqa", "x = 1", False),
        ("fmt: skip", "x = 1", False),
    ],
)
def test_a_comment_that_says_what_the_code_says_does_not_count(comment: str, code: str, counts: bool) -> None:
    assert figures.Comment(1, 1, comment, code).counts == counts


@pytest.mark.parametrize(
    "text",
    [
        "Of a file's content: sixteen digits.",
        "What a row is made of.",
        "whether it is there.",
        "By key, the best first.",
        "Two-sided.",
        "The rooms of a folder",
        "For each row, its marks.\n\nMore is said here.",
    ],
)
def test_fragments_are_found(text: str) -> None:
    assert figures.begins_mid_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "Nothing is kept.",
        "Tell whether it is there; None where nobody knows.",
        "A run folder: where everything of a run lies.",
        "Measure 1.5 of the\nnetworks. Of the rest nothing is said.",
        "Is it there? If not, nothing is done.",
        "The command line is read in this order:\n\n1. words",
    ],
)
def test_whole_sentences_are_left_alone(text: str) -> None:
    assert not figures.begins_mid_sentence(text)


def test_vague_names_are_counted_where_they_are_bound() -> None:
    module = Module("common/a.py", "def f(given, *told):\n    found = [each for each in given]\n    return found")
    assert [place.text for place in sorted(figures.vague_names(module), key=lambda place: place.text)] == [
        *("each", "found", "given", "told")
    ]


def test_behind_is_found_in_docstrings_messages_and_comments() -> None:
    text = '"""One\nbehind it."""\nx = f"{1} behind"  # Behind\nbehind = 1\ny = "beehind"\n'
    assert [place.line for place in figures.said_behind(Module("common/a.py", text))] == [2, 3, 3]


def test_the_tables_put_two_houses_side_by_side() -> None:
    before = house(common__a=AIRY)
    now = house(common__b__c=AIRY, common__b__d="from common.b import c\n")
    rooms = figures.both(figures.rooms_table(before), figures.rooms_table(now))
    assert list(rooms) == ["common", "common/b", "house"]
    assert rooms["common/b"]["arrows"] == " -> 1"
    assert rooms["common"]["longest module"] == "20 a -> 20 c"
    prose = figures.as_text(figures.both(figures.prose_table(before), figures.prose_table(now))).splitlines()
    assert prose[2].split()[:10] == ["common", "1", "->", "1", "8.3", "->", "8.3", "16.7", "->", "16.7"]


def test_the_checkout_is_read_as_python() -> None:
    modules = figures.checkout()
    assert len(modules) > 100
    assert all(isinstance(module.tree, ast.Module) for module in modules)
