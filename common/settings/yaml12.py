"""This module reads and writes YAML for command lines, presets, snapshots and sweeps, with the scalars of YAML 1.2."""

import functools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from common.failures import Refused
from common.settings import messages

# What a person writes stays far below these; what is meant to fill the memory is refused before it does.
MOST_BYTES = 1_000_000
TOO_LARGE = "it is larger than 1 MB"
MOST_LEVELS = 50
MOST_VALUES = 100_000  # with all that aliases repeat

PRESETS = Path(__file__).parents[1] / "presets"


class _Loader(yaml.SafeLoader):
    """The loader is safe and has the scalars of YAML 1.2: 1e-3 is a number; off, no, 1:30 and 2026-01-01 are words.

    Only null is nothing; ~ is a word, because it is someone's home folder. It is not the loader in C, which crashes
    on deep nesting.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = self._values = 0
        self._sizes: dict[yaml.Node, int] = {}  # the values in each node, with those that its aliases repeat

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse what is too deep or too large before it is made: a few aliases may stand for a billion values."""
        is_alias, before = self.check_event(yaml.AliasEvent), self._values
        self._level += 1
        if self._level > MOST_LEVELS:
            raise ValueError("it is nested too deeply")
        node = super().compose_node(parent, index)
        self._level -= 1

        # An alias of what is not whole yet is inside of what it repeats.
        if node is None or (is_alias and node not in self._sizes):
            raise ValueError("it holds itself")
        self._values += self._sizes[node] if is_alias else 1
        if self._values > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values, with those that aliases repeat")
        self._sizes.setdefault(node, self._values - before)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is there twice; PyYAML would take the second one."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = Counter(self.construct_object(key) for key, _ in node.value)
            twice = keys.most_common(1)[0][0]
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is there twice", node.start_mark)
        return mapping


class _Dumper(yaml.SafeDumper):
    """The dumper puts quotes around text that a reader of YAML 1.1 or 1.2 would take for a number."""


for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|", ["n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9]\d*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.\d+|\d+\.\d*)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def load_yaml(text: str) -> Any:
    """Return the content; raise ValueError with the reason if there is none."""
    if len(text) > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem}{place}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # PyYAML raises all these: "!!bool x"
        raise ValueError(str(error).partition("\n")[0]) from None


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Return text that load_yaml, and every other reader of YAML, reads as the same content."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; refuse a file that holds none."""
    try:
        text = _read_text(path)
    except (OSError, ValueError) as error:
        raise Refused([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise Refused([f"{path}: not YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise Refused([f"{path}: holds {messages.shown(content)}, allowed: a mapping of settings"])
    return content


def _read_text(path: Path) -> str:
    """Read a file of a size that a person writes. A device or a pipe may have no end, or nobody who writes to it."""
    if not (path.is_file() or path.is_dir()) and path.exists():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    return content.decode()


def preset_names(group: str) -> list[str]:
    """List the presets of a group: every YAML file in its folder is one."""
    return sorted(path.stem for path in (PRESETS / group).glob("*.yaml"))


@functools.cache
def read_preset(group: str, name: str) -> dict[str, Any]:
    """Return a preset as its file has it. The file is read once, so the caller copies what it means to change."""
    return read_mapping(PRESETS / group / f"{name}.yaml")
