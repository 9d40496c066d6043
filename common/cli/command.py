"""Every command reads and checks its words here, answers --help, and prints one line for each problem it refuses."""

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
Problems = dict[str, str]  # what is wrong, by the word or the setting that it is about


def runs_root(root: str | None = None) -> Path:
    return expanded(root or os.environ.get("STILLHOUSE_RUNS") or "runs")


def data_root(data_dir: str | None = None) -> Path:
    return expanded(data_dir or os.environ.get("STILLHOUSE_DATA") or "data")


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
    """Do a command's work and return its exit code; answer --help, and print refusals and failures in single lines."""
    argv = sys.argv[1:] if argv is None else list(argv)

    # Help wins over all other words, so that it is there for somebody whose words are refused.
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
    except Failure as failure:  # from a command without a run folder; a run writes failure.json instead
        print(f"failed ({failure.kind}): {messages.one_line(str(failure))}", file=sys.stderr)
        return FAILED


def parse(command: type[M], argv: Iterable[str], loose: str | None = None) -> M:
    """Read and check the words of a plain command; refuse them with every problem at once.

    loose: the setting that takes all words that are not of the form key=value, such as file names.
    """
    words = list(argv)
    loose_words = [word for word in words if loose and not KEY_VALUE.match(word)]
    values, problems = read_words([word for word in words if word not in loose_words], (command,))

    tree: dict[str, Any] = {loose: loose_words} if loose and loose_words else {}
    for key, value in values.items():
        plant(tree, key, value)
    checked, wrong = check(command, tree)
    if problems or checked is None:
        raise Refused(merged(problems, wrong).values())
    return checked


def merged(first: Problems, later: Problems) -> Problems:
    """Add later problems to the first ones; about the same setting, what was noticed first says most."""
    return first | {key: problem for key, problem in later.items() if key not in first}


def read_words(
    argv: Iterable[str], models: Sequence[type[BaseModel]], groups: Sequence[str] = ()
) -> tuple[dict[str, Any], Problems]:
    """Return the values of the words whose key is a setting of the models, or one of the groups, and the problems."""
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
    """Read a value as YAML. An empty one is refused: `config=$FILE` with FILE unset must not mean the defaults."""
    try:
        value = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"which is not YAML: {error}") from None
    if value is None and text.strip().lower() != "null":
        raise ValueError("which is no value; if none is meant, write null")
    return value


def plant(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Put a value into a tree of settings, and make the groups on the way to it."""
    *groups, field = dotted.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            return  # the snapshot is wrong here; the check of the whole says so
    tree[field] = value


def check(model: type[M], tree: Mapping[str, Any]) -> tuple[M | None, Problems]:
    try:
        return model.model_validate(dict(tree)), {}
    except ValidationError as error:
        items = error.errors(include_url=False)
        return None, {messages.located(model, item["loc"])[0]: messages.problem(model, item) for item in items}
