"""The manners of every command: words are read and checked, --help answers, a refusal has one line per problem."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from common.failures import Failure, Refused
from common.files import expanded
from common.settings import messages
from common.settings.field import every_setting
from common.settings.yaml12 import load_yaml

DONE, FAILED, REFUSED = 0, 1, 2  # the exit codes of every command
KEY_VALUE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*=")
M = TypeVar("M", bound=BaseModel)
Problems = dict[str, str]  # what is wrong, by the word or the setting it is about; what is found first says most


def runs_root(given: str | None = None) -> Path:
    return expanded(given or os.environ.get("STILLHOUSE_RUNS") or "runs")


def data_root(given: str | None = None) -> Path:
    return expanded(given or os.environ.get("STILLHOUSE_DATA") or "data")


def answer(
    work: Callable[[list[str]], int],
    argv: list[str] | None,
    *,
    script: str,
    about: str | None,
    models: Sequence[type[BaseModel]],
    preset_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
    starting_points: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """The manners every command shares: --help answers, a refusal is one line per problem and exit code 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if any(word in {"--help", "-h", "help"} for word in argv):
        with suppress(BrokenPipeError):  # --help | head
            print(messages.help_text(script, about or "", models, preset_names, starting_points), flush=True)
        return DONE
    try:
        return work(argv)
    except Refused as refused:
        for problem in refused.problems:
            print(messages.one_line(problem), file=sys.stderr)
        return REFUSED
    except Failure as failure:  # of a training, its folder tells; this is for commands that have none
        print(f"failed ({failure.kind}): {messages.one_line(str(failure))}", file=sys.stderr)
        return FAILED


def parse(command: type[M], argv: Iterable[str], loose: str | None = None) -> M:
    """A plain command's words, or Refused with every problem at once.

    loose: the setting that takes all words which are not of the form key=value, such as file names.
    """
    words = list(argv)
    found = [word for word in words if loose and not KEY_VALUE.match(word)]
    values, problems = read_words([word for word in words if word not in found], (command,))
    tree: dict[str, Any] = {loose: found} if loose and found else {}
    for key, value in values.items():
        _plant(tree, key, value)
    checked, wrong = check(command, tree)
    if problems or checked is None:
        raise Refused((problems | _unless_said(wrong, problems)).values())
    return checked


def _unless_said(wrong: Problems, problems: Problems) -> Problems:
    return {key: problem for key, problem in wrong.items() if key not in problems}


def read_words(
    argv: Iterable[str], models: Sequence[type[BaseModel]], groups: Sequence[str] = ()
) -> tuple[dict[str, Any], Problems]:
    """The values of the words whose key is a setting of the models, or one of the groups; what is wrong with others."""
    known = {*groups, *(name for model in models for name in every_setting(model))}
    values: dict[str, Any] = {}
    problems: Problems = {}
    for word in argv:
        key, equals, text = word.partition("=")
        if not equals or not key:
            problems[word] = f"{word}: not of the form key=value (--help lists the keys)"
        elif key not in known:
            problems[key] = messages.no_such_setting(key, models)
        else:
            try:
                values[key] = _read_value(text)
                problems.pop(key, None)  # the later word wins
            except ValueError as error:
                problems[key] = f"{key}: given {messages.shown(text)!r}, {error}"
    return values, problems


def _read_value(text: str) -> Any:
    """Nothing is nothing only if it is spelt out: `config=$FILE` with FILE unset must not mean the defaults."""
    try:
        value = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"which is not YAML: {error}") from None
    if value is None and text.strip().lower() != "null":
        raise ValueError("which is no value; where none is allowed, it is written null")
    return value


def _plant(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *groups, field = dotted.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            return  # a snapshot's mistake, which the check of the whole will name
    tree[field] = value


def check(model: type[M], tree: Mapping[str, Any]) -> tuple[M | None, Problems]:
    try:
        return model.model_validate(dict(tree)), {}
    except ValidationError as error:
        items = error.errors(include_url=False)
        return None, {messages.located(model, item["loc"])[0]: messages.problem(model, item) for item in items}
