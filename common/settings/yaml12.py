"""YAML as words, presets, snapshots and sweeps are written: strict, and with the scalars of YAML 1.2."""

import functools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from common.failures import Refused
from common.settings import messages

PRESETS = Path(__file__).parents[1] / "presets"


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: 1e-3 is a number, and off, no, 1:30 and 2026-01-01 are words.

    Only null is nothing; ~ is a word, because it is someone's home folder. Not the loader in C, which deep
    nesting crashes.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A key that is there twice is a mistake, of which PyYAML would take the second."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = Counter(self.construct_object(key) for key, _ in node.value)
            twice = keys.most_common(1)[0][0]
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is there twice", node.start_mark)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that some reader would take for a number, be it one of YAML 1.1 or of 1.2."""


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
    """The content, or ValueError with the reason."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem}{place}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # PyYAML's for "!!bool x" and the like
        raise ValueError(str(error).partition("\n")[0]) from None


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Text that load_yaml, and every other reader of YAML, reads as the same content."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False)


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, or Refused."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise Refused([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise Refused([f"{path}: not YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise Refused([f"{path}: holds {messages.shown(content)}, allowed: a mapping of settings"])
    return content


def preset_names(group: str) -> list[str]:
    """The presets of a group: every YAML file in its folder is one."""
    return sorted(path.stem for path in (PRESETS / group).glob("*.yaml"))


@functools.cache
def read_preset(group: str, name: str) -> dict[str, Any]:
    """A preset as its file has it; read once, so whoever changes it takes a copy."""
    return read_mapping(PRESETS / group / f"{name}.yaml")
