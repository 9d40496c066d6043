"""Every command reads its words, helps and refuses in the same way."""

import itertools
import sys
from typing import Any

import pytest

from common.cli.command import DONE, FAILED, REFUSED, answer, parse
from common.failures import Refused
from common.settings.field import Group, setting


class Inner(Group):
    """Some words."""

    count: int = setting(2, "how many there are", ge=0)


class PlainWords(Group):
    data: str = setting(..., "which set to take")
    force: bool = setting(False, "whether to insist")
    inner: Inner = Inner()


def test_a_plain_command_reads_its_words() -> None:
    assert parse(PlainWords, ["data=x", "inner.count=5"]) == PlainWords(data="x", inner=Inner(count=5))


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ([], ["data: missing; which set to take"]),
        (["data=["], ["data: given '[', which is not YAML"]),
        (["data=x", "data.y=1"], ["data.y: no such setting"]),
        (["data=x", "inner=1"], ["inner: a group of settings, allowed: inner.count"]),
        (["data=x", "inner.cuont=1"], ["inner.cuont: no such setting, nearest: inner.count; allowed: inner.count"]),
        (["data=x", "force=1"], ["force: given 1, allowed: true or false"]),
        (["data=3"], ["""data: given 3, allowed: text; as text it is written '"3"'"""]),
        (["x", "inner.count=-1"], ["x: not of the form key=value", "data: missing", "inner.count: given -1"]),
    ],
)
def test_a_plain_command_refuses(words: list[str], problems: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        parse(PlainWords, words)
    for found, expected in itertools.zip_longest(refused.value.problems, problems, fillvalue="nothing"):
        assert found.startswith(expected)


def command(work: Any, argv: list[str]) -> int:
    return answer(work, argv, script="some/script.py", about="Do it.", models=[PlainWords])


@pytest.mark.parametrize("code", [DONE, FAILED])
def test_a_command_exits_with_what_its_work_says(code: int) -> None:
    assert command(lambda _: code, ["data=x"]) == code


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"], ["nonsense", "--help", "data=["]])
def test_help_is_given_whatever_else_is(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(lambda _: pytest.fail("it worked"), argv) == DONE
    assert capsys.readouterr().out.startswith("python some/script.py key=value ...\n\nDo it.\n")


def test_a_refusal_is_one_line_per_problem_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: list[str]) -> int:
        raise Refused(["first\nof two\r", "\x1b[31mred\udcff é ×"])

    assert command(work, []) == REFUSED
    assert capsys.readouterr() == ("", "first\\nof two\\r\n\\x1b[31mred\\udcff é ×\n")


def test_the_words_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["some/script.py", "data=x"])
    seen: list[str] = []

    def work(words: list[str]) -> int:
        seen.extend(words)
        return DONE

    assert answer(work, None, script="", about=None, models=[]) == DONE
    assert seen == ["data=x"]
