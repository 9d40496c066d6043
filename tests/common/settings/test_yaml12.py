"""YAML is read strictly and within limits, and what is written reads back the same."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.failures import Refused
from common.settings.yaml12 import dump_yaml, load_yaml, read_mapping


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0", 0),
        ("-7", -7),
        ("+3", 3),
        ("0.1", 0.1),
        ("true", True),
        ("False", False),
        ("null", None),
        (".inf", float("inf")),
        ("-.Inf", float("-inf")),
        # words, which YAML 1.1 takes for something else
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2026-01-01", "2026-01-01"),
        ("~", "~"),
        ("~/runs", "~/runs"),
        ("=", "="),
        ("<<", "<<"),
        ("010", "010"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        # structure
        ("[1, a, null]", [1, "a", None]),
        ("{a: 1e1}", {"a": 10.0}),
        ("'1'", "1"),
        ('"null"', "null"),
        ("", None),
    ],
)
def test_yaml_scalars(text: str, value: object) -> None:
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("[", "{a: 1", "a: b: c", "'", "- a\nb", "\t- a", "@", "%", "*a", "a\n---\nb", "\x07", "\ud800", "!!int a"),
        *("!!bool maybe", "!!timestamp x", "!!binary ä", "!!float x", "!!python/object/apply:os.getcwd []", "!x 1"),
        *("9" * 5000, "[" * 50_000, "{a: 1, a: 2}", "{1: a, 1: b}", "{[a]: 1}", "{? {a: 1} : 2}"),
    ],
)
def test_what_is_not_yaml_is_a_value_error_of_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as error:
        load_yaml(text)
    assert "\n" not in str(error.value)


BOMB = "a: &0 [x]\n" + "".join(f"b{n}: &{n + 1} [{', '.join([f'*{n}'] * 10)}]\n" for n in range(10))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "it holds more than 100,000 values, with those that aliases repeat"),
        ("[" * 1000, "it is nested too deeply"),
        ("[" * 51 + "]" * 51, "it is nested too deeply"),
        ("x" * 1_000_001, "it is larger than 1 MB"),
        ("a: &x {b: *x}", "it holds itself"),
    ],
)
def test_yaml_has_limits(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        load_yaml(text)


def test_a_bomb_of_aliases_is_refused_in_no_time() -> None:
    began = time.process_time()
    for text in (BOMB, "[" * 1000):
        with pytest.raises(ValueError, match="it "):
            load_yaml(text)
    assert time.process_time() - began < 0.5


def test_below_its_limits_yaml_is_read() -> None:
    shared = load_yaml("a: &x {lr: 0.1}\nb: *x\nc: [*x, *x]")
    assert shared == {"a": {"lr": 0.1}, "b": {"lr": 0.1}, "c": [{"lr": 0.1}] * 2}
    load_yaml("[" * 49 + "1" + "]" * 49)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match=r"pipe: cannot be read: it is not a regular file$"):
        read_mapping(tmp_path / "pipe")


def test_a_key_given_twice_is_named() -> None:
    with pytest.raises(ValueError, match=r"lr is there twice \(line 2, column 1\)"):
        load_yaml("# a snapshot\nlr: 1\nepochs: 3\nlr: 2")


AWKWARD = st.text(st.sampled_from("ab01e.+-_~=<#:?!&*|>%@`'\"[]{}, \n\t\x00\x85é\u2028"), max_size=8)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | AWKWARD,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(AWKWARD, children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(AWKWARD, TREES, max_size=4))
def test_what_is_written_reads_back_the_same_with_any_reader(content: dict[str, Any]) -> None:
    text = dump_yaml(content)
    assert load_yaml(text) == content
    assert yaml.safe_load(text) == content


@pytest.mark.parametrize(
    "word", ["1e3", "12e4567890123456", "1_000", "off", "0x1f", "010", "2026-01-01", "~", "null", ""]
)
def test_a_word_that_looks_like_something_else_is_written_in_quotes(word: str) -> None:
    text = dump_yaml({"digest": word})
    assert load_yaml(text) == yaml.safe_load(text) == {"digest": word}
