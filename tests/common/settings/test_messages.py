"""How settings are put into words: `--help`, and the one line per problem."""

import re
import shlex
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import Field

from common.cli.command import check
from common.cli.compose import PRESETS, RunWords, presets_of
from common.data.publishers.catalog import DATASETS
from common.settings.entries import ENTRIES, TRAININGS
from common.settings.field import Group, every_setting, setting
from common.settings.messages import allowed, folded, help_text, no_such_setting, one_line, shown, unknown
from common.settings.yaml12 import read_mapping
from eval.eval_shift import main as eval_shift
from jobs.prepare import main as prepare
from train.distill_cst import main as distill_cst
from train.distill_kd import main as distill_kd
from train.train_cnn import main as train_cnn
from train.train_vit import main as train_vit

MAINS = {
    "train_cnn": train_cnn,
    "train_vit": train_vit,
    "distill_kd": distill_kd,
    "distill_cst": distill_cst,
    "eval_shift": eval_shift,
}


class Inner(Group):
    """The inner ones."""

    share: float = setting(0.5, "a share of it", ge=0, lt=1)
    rate: float = setting(0.1, "a rate above zero", gt=0)


class Words(Group):
    """Words of the tests."""

    name: str = setting(..., "what to call it")
    path: str | None = setting(None, "where it is")
    title: str = setting("two words", "a title")
    count: int = setting(3, "how many", ge=1)
    size: int | None = setting(None, "how large", ge=1, le=4096)
    small: float = setting(0.5, "how small", lt=2)
    kind: Literal["cosine", "step"] = setting("cosine", "which one")
    channels: Literal[1, 3] = setting(3, "how many channels")
    maybe: Literal["a", "b"] | None = setting(None, "which one, or none")
    device: str = setting("auto", "where", pattern="^(auto|cpu)$", form="auto | cpu")
    force: bool = setting(False, "whether to insist")
    numbers: list[int] | None = setting(None, "some numbers")
    words: list[str] = setting([], "some words")
    members: dict[str, Inner] = setting({}, "a group for each name")
    flags: dict[str, str | bool] = setting({}, "a word for each name")
    parent: str | dict[str, Any] | None = setting(None, "who comes before")
    inner: Inner = Inner()


# --- what a setting may be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("name", "text"),
        ("path", "text or null"),
        ("count", "whole number, at least 1"),
        ("size", "whole number, 1 to 4096, or null"),
        ("small", "number, below 2"),
        ("kind", "cosine | step"),
        ("channels", "1 | 3"),
        ("maybe", "a | b or null"),
        ("device", "auto | cpu"),
        ("force", "true or false"),
        ("numbers", "a list such as [1, 2] or null"),
        ("words", "a list such as [a, b]"),
        ("members", "a mapping, each value a mapping of share, rate"),
        ("flags", "a mapping, each value text or true or false"),
        ("inner.share", "number, at least 0 and below 1"),
        ("inner.rate", "number, above 0"),
    ],
)
def test_what_is_allowed_in_words(name: str, words: str) -> None:
    assert allowed(every_setting(Words)[name]) == words


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_setting_is_described_in_python(entry: str) -> None:
    for field in every_setting(ENTRIES[entry]).values():
        assert not re.search(r"[<>{}()\\^]|class|typing|None|inf", allowed(field))


def test_every_setting_opens_the_groups() -> None:
    assert list(every_setting(Words))[-2:] == ["inner.share", "inner.rate"]
    assert "inner" not in every_setting(Words)


# --- problems ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({}, "name: missing; what to call it"),
        ({"name": 3}, """name: given 3, allowed: text; as text it is written '"3"', the single quotes for the shell"""),
        ({"name": None}, "name: given null, allowed: text"),
        ({"name": ["a"]}, "name: given ['a'], allowed: text"),
        ({"count": 0}, "count: given 0, allowed: whole number, at least 1"),
        ({"count": 1.5}, "count: given 1.5, allowed: whole number, at least 1"),
        ({"count": True}, "count: given true, allowed: whole number, at least 1"),
        ({"count": {"a": 1}}, "count: given {'a': 1}, allowed: whole number, at least 1"),
        ({"size": "big"}, "size: given big, allowed: whole number, 1 to 4096, or null"),
        ({"kind": "csine"}, "kind: given csine, allowed: cosine | step, nearest: cosine"),
        ({"kind": "STEP"}, "kind: given STEP, allowed: cosine | step, nearest: step"),
        ({"kind": 7}, "kind: given 7, allowed: cosine | step"),
        ({"maybe": "zzz"}, "maybe: given zzz, allowed: a | b or null"),
        ({"device": "gpu"}, "device: given gpu, allowed: auto | cpu"),
        ({"force": "yes"}, "force: given yes, allowed: true or false"),
        ({"inner": 5}, "inner: given 5, allowed: a mapping of share, rate"),
        ({"inner": None}, "inner: given null, allowed: a mapping of share, rate"),
        ({"inner": {"rate": float("inf")}}, "inner.rate: given Infinity, allowed: number, above 0"),
        ({"inner": {"rate": float("nan")}}, "inner.rate: given NaN, allowed: number, above 0"),
        ({"words": "fog"}, "words: given fog, allowed: a list such as [a, b]"),
        ({"words": [["a"]]}, "words.0: given ['a'], allowed: text"),
        ({"numbers": [1, "b"]}, "numbers.1: given b, allowed: whole number"),
        ({"members": ["a"]}, "members: given ['a'], allowed: a mapping, each value a mapping of share, rate"),
        ({"members": {"a": 3}}, "members.a: given 3, allowed: a mapping of share, rate"),
        ({"members": {"a": {"rate": 0}}}, "members.a.rate: given 0, allowed: number, above 0"),
        (
            {"members": {"a": {"rte": 0}}},
            "members.a.rte: no such setting of this members.a, nearest: members.a.rate; "
            "allowed: members.a.share, members.a.rate",
        ),
        ({"flags": {"a": 3}}, "flags.a: given 3, allowed: text or true or false"),
        ({"parent": ["a"]}, "parent: given ['a'], allowed: text or a mapping or null"),
        ({"inner": {"rte": 1}}, "inner.rte: no such setting, nearest: inner.rate; allowed: inner.share, inner.rate"),
        ({"inner": {7: 1}}, "inner.7: no such setting, nearest: inner.rate; allowed: inner.share, inner.rate"),
    ],
)
def test_a_problem_says_what_was_given_what_is_allowed_and_what_is_near(tree: dict[str, Any], problem: str) -> None:
    _, problems = check(Words, {"name": "x"} | tree if tree else tree)
    assert list(problems.values()) == [problem]


def test_a_group_is_no_setting() -> None:
    assert no_such_setting("inner", [Words]) == "inner: a group of settings, allowed: inner.share, inner.rate"


@pytest.mark.parametrize(
    ("given", "nearest"), [("mnst", "mnist"), ("MNIST", "mnist"), ("fashion", "fashion_mnist"), ("zz", ""), (None, "")]
)
def test_the_nearest_of_some_names(given: object, nearest: str) -> None:
    text = f"data: given {shown(given)}, allowed: mnist, fashion_mnist"
    assert unknown("data", given, ["mnist", "fashion_mnist"]) == text + (f", nearest: {nearest}" if nearest else "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.0, "1.0"),
        ("a b", "a b"),
        ([1, "a"], "[1, 'a']"),
        ("x" * 61, "x" * 57 + "..."),
        ("x" * 60, "x" * 60),
        (10**100, "1" + "0" * 56 + "..."),
    ],
)
def test_a_value_is_shown_short(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_value_that_holds_itself_is_shown() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "..." in shown(loop)


def test_control_characters_are_spelt_out() -> None:
    assert one_line("a\nb\r\x1b[0m\u2028 ü ×") == r"a\nb\r\x1b[0m\u2028 ü ×"


# --- help -------------------------------------------------------------------------------------------------------


def rows(text: str) -> Iterator[tuple[str, str]]:
    """(key with its default, meaning with what is allowed), wrapped lines joined again."""
    word, right = "", ""
    for line in [*text.splitlines(), "end"]:
        if re.match(r"  \S", line):
            if word:
                yield word, right
            word, right = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        elif line.startswith("   "):
            right += " " + line.strip()
        elif word:
            yield word, right
            word = ""


def printed(main: Any, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_every_entry_is_asked_for_help() -> None:
    assert MAINS.keys() == ENTRIES.keys()


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_lists_every_setting_with_default_meaning_and_type(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = dict(rows(printed(MAINS[entry], capsys)))
    for model in (RunWords, ENTRIES[entry]):
        for name, field in every_setting(model).items():
            assert listed[f"{name}={shlex.quote(shown(field.default))}"] == f"{field.description} [{allowed(field)}]"


def test_help_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    listed = dict(rows(printed(train_cnn, capsys)))
    assert listed["seed=0"] == "seed of initial weights, order and augmentation [whole number, 0 to 4294967295]"
    assert listed["recipe.optimizer=sgd"] == (
        "sgd is with Nesterov momentum; muon leaves all but inner kernels and matrices to adamw "
        "[sgd | adam | adamw | muon]"
    )
    assert listed["recipe.clip_norm=1.0"].endswith("null does not clip [number, above 0, or null]")


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_lists_every_preset(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = dict(rows(printed(MAINS[entry], capsys)))
    for group, names in presets_of(ENTRIES[entry]).items():
        assert listed[f"{group}=NAME"] == ", ".join(folded(names))


@pytest.mark.parametrize("entry", TRAININGS)
def test_help_says_what_each_data_set_takes(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = dict(rows(printed(MAINS[entry], capsys)))
    defaults = read_mapping(PRESETS / "defaults.yaml")[entry]
    assert "any" in defaults
    for data, chosen in defaults.items():
        row = f"data={data}" if data in DATASETS else f"sets of {data}"
        presets = "model={model} recipe={recipe} augment={augment}".format(**chosen)
        assert listed["any other" if data == "any" else row] == presets


def test_help_has_the_groups_in_order_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(train_cnn, capsys)
    groups = ["data", "model", "augment", "recipe", "compute", "log"]
    places = [out.index(f"\n\n{group}: ") for group in groups]
    assert places == sorted(places)
    assert out.index("\n  seed=0") < places[0]


@pytest.mark.parametrize("main", [*(MAINS[entry] for entry in TRAININGS), prepare])
def test_help_fits_a_terminal_and_says_how_it_ends(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(main, capsys)
    assert out.isascii()
    assert all(len(line) <= 120 for line in out.splitlines())
    assert "\n\n\n" not in out
    assert out.endswith("Exit codes: 0 done, 1 failed, 2 refused.\n")


def test_help_of_a_plain_command() -> None:
    text = help_text("jobs/some.py", "Do it.\n\n    python jobs/some.py name=x\n", [Words], {}, {})
    assert text.startswith(
        "python jobs/some.py key=value ...\n\nDo it.\n\n    python jobs/some.py name=x\n\nWords of the tests.\n\n  name"
    )
    assert "preset" not in text
    listed = dict(rows(text))
    assert listed["name (required)"] == "what to call it [text]"
    assert listed["title='two words'"] == "a title [text]"
    assert listed["inner.share=0.5"] == "a share of it [number, at least 0 and below 1]"


def test_a_setting_without_a_meaning_is_printed_all_the_same() -> None:
    class Bare(Group):
        x: int = Field(3)

    assert dict(rows(help_text("s", "", [Bare], {}, {})))["x=3"] == "[whole number]"


def test_sizes_of_one_thing_share_a_word() -> None:
    names = ["b", "b_224", "b_64", "b_128", "a", "a_12", "c_64", "c_128", "d", "d_x", "d_y"]
    assert folded(names) == ["b[_64|_128|_224]", "a", "a_12", "c_64", "c_128", "d", "d_x", "d_y"]
