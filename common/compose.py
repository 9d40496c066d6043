"""From a command line of `key=value` words to one checked object, or to a list of all that is wrong with it.

Every command of the suite is read here. A plain command (`jobs/prepare.py`) is one class of words: `parse`.
A training entry adds presets on top: `compose` starts from the defaults of its data set (presets/defaults.yaml)
or from a snapshot (`config=FILE`), lays `group=preset` over it, then `group.field=value`, and checks the whole.
Later words win over earlier ones.
"""

import copy
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from common import wording
from common.config import Group, RunSettings, setting
from common.failures import Refused as Refused

PRESETS = Path(__file__).parent / "presets"
PRESET_GROUPS = ("data", "model", "recipe", "augment")

DONE, FAILED, REFUSED = 0, 1, 2  # the exit codes of every command

M = TypeVar("M", bound=BaseModel)


class RunWords(Group):
    """Words of a training command that are not settings of the run."""

    root: str | None = setting(None, "folder of the run folders; null is $STILLHOUSE_RUNS, else ./runs")
    data_dir: str | None = setting(None, "folder of the packed data sets; null is $STILLHOUSE_DATA, else ./data")
    config: str | None = setting(None, "start from this snapshot (a run's config.yaml) instead of the defaults")
    force: bool = setting(False, "start anew even if finished; the old folder is kept aside")
    dry_run: bool = setting(False, "print the settings and the run folder, do nothing")


@dataclass(frozen=True)
class Command:
    settings: RunSettings
    root: Path
    data_dir: Path
    force: bool
    dry_run: bool


def runs_root(given: str | None = None) -> Path:
    return Path(given or os.environ.get("STILLHOUSE_RUNS") or "runs")


def data_root(given: str | None = None) -> Path:
    return Path(given or os.environ.get("STILLHOUSE_DATA") or "data")


def compose(entry: type[RunSettings], argv: Iterable[str]) -> Command:
    """The checked command, or Refused with every problem at once."""
    values, problems = read_words(argv)
    given_words = {key: values.pop(key) for key in list(values) if key in RunWords.model_fields}
    words, found = check(RunWords, given_words)
    problems += found
    words = words or RunWords()
    data_dir = data_root(words.data_dir)

    tree, found = _base(entry, values, words.config)
    problems += found
    problems += _lay_over(tree, values)
    problems += _find_data(tree, data_dir)
    settings, found = check(entry, tree)
    problems += [problem for problem in found if problem not in problems]
    if problems or settings is None:
        raise Refused(problems)
    return Command(settings, runs_root(words.root), data_dir, words.force, words.dry_run)


def parse(command: type[M], argv: Iterable[str]) -> M:
    """A plain command's words, or Refused with every problem at once."""
    values, problems = read_words(argv)
    tree: dict[str, Any] = {}
    for key, value in values.items():
        _plant(tree, key, value)
    checked, found = check(command, tree)
    if problems or checked is None:
        raise Refused(problems + found)
    return checked


# --- reading ----------------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which 1e-3 is a number, as everyone who types a learning rate expects (YAML 1.2)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def read_words(argv: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    values, problems = {}, []
    for word in argv:
        key, equals, text = word.partition("=")
        if not equals or not key:
            problems.append(f"{word}: not of the form key=value (--help lists the keys)")
            continue
        try:
            values[key] = load_yaml(text)
        except yaml.YAMLError as error:
            problems.append(f"{key}: given {text!r}, which is not YAML: {_yaml_reason(error)}")
    return values, problems


def _yaml_reason(error: yaml.YAMLError) -> str:
    reason = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    return reason + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, or Refused."""
    try:
        content = load_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Refused([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    except yaml.YAMLError as error:
        raise Refused([f"{path}: not YAML: {_yaml_reason(error)}"]) from None
    if not isinstance(content, dict):
        raise Refused([f"{path}: holds {type(content).__name__}, allowed: a mapping of settings"])
    return content


@functools.cache
def presets() -> dict[str, tuple[str, ...]]:
    return {group: tuple(sorted(path.stem for path in (PRESETS / group).glob("*.yaml"))) for group in PRESET_GROUPS}


@functools.cache
def _preset(group: str, name: str) -> dict[str, Any]:
    return read_mapping(PRESETS / group / f"{name}.yaml")


@functools.cache
def _defaults() -> dict[str, Any]:
    return read_mapping(PRESETS / "defaults.yaml")


# --- composing --------------------------------------------------------------------------------------------------


def _base(
    entry: type[RunSettings], values: Mapping[str, Any], snapshot: str | None
) -> tuple[dict[str, Any], list[str]]:
    entry_name = entry.model_fields["entry"].default
    if snapshot is not None:
        try:
            tree = read_mapping(Path(snapshot))
        except Refused as refused:
            return {}, refused.problems
        if tree.get("entry", entry_name) != entry_name:
            return {}, [f"config: {snapshot} is a snapshot of {tree['entry']}, allowed: one of {entry_name}"]
        return tree, []
    data = values.get("data", values.get("data.name", entry.model_fields["data"].default.name))
    table = _defaults()[entry_name]
    chosen = table.get(data if isinstance(data, str) else "any", table["any"])
    return {group: copy.deepcopy(_preset(group, preset)) for group, preset in chosen.items()}, []


def _lay_over(tree: dict[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Presets first, single fields after them, so that their order on the command line does not matter."""
    problems = []
    for group in [key for key in values if key in PRESET_GROUPS]:
        name = values[group]
        if isinstance(name, str) and name in presets()[group]:
            tree[group] = copy.deepcopy(_preset(group, name))
        elif group == "data" and isinstance(name, str):
            tree["data"] = {"name": name}  # a set of the user's own; _find_data looks for it
        else:
            problems.append(wording.unknown(group, name, presets()[group]))
    for key, value in values.items():
        if key not in PRESET_GROUPS and not _plant(tree, key, value):
            problems.append(f"{key}: no such setting, {key.rpartition('.')[0]} is a single value")
    return problems


def _plant(tree: dict[str, Any], dotted: str, value: Any) -> bool:
    *groups, field = dotted.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            return False
    tree[field] = value
    return True


def _find_data(tree: dict[str, Any], data_dir: Path) -> list[str]:
    """A published set must have been prepared; of a set of the user's own, the manifest's digest joins the settings."""
    data = tree.setdefault("data", {})
    name = data.get("name", "digits") if isinstance(data, dict) else None
    if not isinstance(name, str) or name == "digits":  # embedded: packs itself
        return []
    manifest = data_dir / name / "manifest.json"
    published = name in presets()["data"]
    if not manifest.is_file():
        if published:
            return [f"data: {name} is not prepared under {data_dir}; run: python jobs/prepare.py data={name}"]
        packed = sorted(path.parent.name for path in data_dir.glob("*/manifest.json"))
        return [wording.unknown("data", name, sorted({*presets()["data"], *packed}))]
    if published:
        return []
    try:
        digest = json.loads(manifest.read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"data: {manifest} cannot be read as a manifest; prepare {name} again"]
    if data.setdefault("digest", digest) != digest:
        return [f"data.digest: given {data['digest']}, but the images packed under {manifest.parent} have {digest}"]
    return []


# --- checking ---------------------------------------------------------------------------------------------------


def check(model: type[M], tree: Mapping[str, Any]) -> tuple[M | None, list[str]]:
    try:
        return model.model_validate(dict(tree)), []
    except ValidationError as error:
        return None, [wording.problem(model, item) for item in error.errors(include_url=False)]


# --- answering --------------------------------------------------------------------------------------------------


def answer(
    work: Callable[[list[str]], int],
    argv: list[str] | None,
    *,
    script: str,
    about: str | None,
    models: Sequence[type[BaseModel]],
    preset_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> int:
    """The manners every command shares: --help answers, a refusal is one line per problem and exit code 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if any(word in {"--help", "-h", "help"} for word in argv):
        print(wording.help_text(script, about or "", models, preset_names))
        return DONE
    try:
        return work(argv)
    except Refused as refused:
        for problem in refused.problems:
            print(problem, file=sys.stderr)
        return REFUSED
