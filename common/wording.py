"""How settings are put into words: the lines of `--help`, and one line per problem when something is refused.

Both are read off the settings' own classes, so that what is printed is what is checked.
"""

import difflib
import json
import reprlib
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config import every_setting, group_of

# --- problems ---------------------------------------------------------------------------------------------------


def problem(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors: the setting, what was given, what is allowed, the nearest name."""
    key, kind = ".".join(map(str, error["loc"])), error["type"]
    if kind in {"extra_forbidden", "invalid_key"}:
        return no_such_setting(key, [model])
    if kind == "value_error":
        return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    field = _field(model, key)
    if kind == "missing":
        return f"{key}: missing; {field.description if field else error['msg']}"
    given = shown(error["input"])
    if field is None:
        return f"{key}: given {given}; {error['msg']}"
    text = f"{key}: given {given}, allowed: {allowed(field)}"
    if kind == "string_type" and isinstance(error["input"], int | float):
        return f"""{text}; as text it is written '"{given}"', the single quotes for the shell"""
    return text + _nearest_text(given, _options(field.annotation))


def no_such_setting(key: str, models: Sequence[type[BaseModel]]) -> str:
    """For a key that none of the models has, or that is a group, which is not set as a whole."""
    settings = [name for model in models for name in every_setting(model)]
    members = [name for name in settings if name.startswith(f"{key}.")]
    if members:
        return f"{key}: a group of settings, allowed: {', '.join(members)}"
    group = key.rpartition(".")[0]
    members = [name for name in settings if group and name.startswith(f"{group}.")]
    options = members or [name for model in models for name in model.model_fields]
    return f"{key}: no such setting{_nearest_text(key, [*options, *settings])}; allowed: {', '.join(options)}"


def unknown(what: str, given: Any, options: Iterable[str]) -> str:
    options = list(options)
    return f"{what}: given {shown(given)}, allowed: {', '.join(options)}" + _nearest_text(str(given), options)


def shown(value: Any) -> str:
    """A value as it is written on the command line, shortened."""
    if isinstance(value, dict | list):
        text = reprlib.repr(value)  # it may be huge, or contain itself
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: str) -> str:
    """Line breaks and other control characters spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _nearest_text(given: str, options: Sequence[str]) -> str:
    nearest = _nearest(given, options)
    return f", nearest: {nearest}" if nearest else ""


def _nearest(given: str, options: Sequence[str]) -> str:
    """The right field in the wrong group or without its group, else the most similar name."""
    given, last = given.lower(), given.lower().rpartition(".")[2]
    fields = {option.rpartition(".")[2]: option for option in reversed(options)}
    if last in fields:
        return fields[last]
    similar = difflib.get_close_matches(given, options, n=1, cutoff=0.5)
    similar += [fields[name] for name in difflib.get_close_matches(last, fields, n=1, cutoff=0.7)]
    return similar[0] if similar else ""


# --- what a setting may be --------------------------------------------------------------------------------------

TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
LIMIT_NAMES = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words: the same for `--help` and for a refusal."""
    group = group_of(field)
    if group:
        return f"a mapping of {', '.join(group.model_fields)}"
    form = field.json_schema_extra.get("form") if isinstance(field.json_schema_extra, dict) else None
    if form:
        return str(form)
    first, *others = [_type_name(kind) for kind in _alternatives(field.annotation)]
    limits = _limits(field)
    return (", or " if limits else " or ").join([f"{first}, {limits}" if limits else first, *others])


def _limits(field: FieldInfo) -> str:
    limits = {
        name: getattr(mark, name)
        for mark in field.metadata
        for name in LIMIT_NAMES
        if getattr(mark, name, None) is not None
    }
    if limits.keys() == {"ge", "le"}:
        return f"{limits['ge']} to {limits['le']}"
    return " and ".join(LIMIT_NAMES[name].format(limit) for name, limit in limits.items())


def _field(model: type[BaseModel], key: str) -> FieldInfo | None:
    """Of a setting or of a group."""
    name, _, rest = key.partition(".")
    field = model.model_fields.get(name)
    group = group_of(field) if field else None
    return _field(group, rest) if group and rest else field


def _alternatives(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in {Union, UnionType} else [annotation]


def _type_name(kind: Any) -> str:
    return TYPE_NAMES.get(kind) or " | ".join(_options(kind)) or str(kind)


def _options(annotation: Any) -> list[str]:
    literals = [kind for kind in _alternatives(annotation) if get_origin(kind) is Literal]
    return [str(option) for literal in literals for option in get_args(literal)]


# --- help -------------------------------------------------------------------------------------------------------

INDENT, WIDTH = 35, 118


def help_text(
    command: str,
    about: str,
    models: Iterable[type[BaseModel]],
    presets: Mapping[str, Iterable[str]],
    starting_points: Mapping[str, str],
) -> str:
    """`--help`: the presets, then every key with its default, its meaning, and what it may be."""
    lines = [f"python {command} key=value ...", "", about.strip()]
    if presets:
        lines += ["", "A preset sets a whole group, group.field=value one setting of it, in any order.", ""]
        for group, names in presets.items():
            lines += _row(f"{group}=NAME", ", ".join(names))
    if starting_points:
        lines += ["", "What comes with a data set where the command line names nothing else:", ""]
        for data, chosen in starting_points.items():
            lines += _row("any other" if data == "any" else f"data={data}", chosen)
    for model in models:
        lines += _help_of(model, "", model.__doc__ or "")
    lines += ["", "Exit codes: 0 done, 1 failed, 2 refused."]
    return "\n".join(lines)


def _help_of(model: type[BaseModel], prefix: str, heading: str) -> list[str]:
    """The single settings of a model, then each of its groups under its own heading."""
    lines = ["", heading.strip(), ""] if heading else [""]
    groups: list[str] = []
    for name, field in model.model_fields.items():
        group = group_of(field)
        if group:
            groups += _help_of(group, f"{prefix}{name}.", f"{prefix}{name}: {group.__doc__ or ''}")
            continue
        key = prefix + name
        word = f"{key} (required)" if field.is_required() else f"{key}={shlex.quote(shown(field.default))}"
        lines += _row(word, f"{field.description or ''} [{allowed(field)}]")
    return lines + groups


def _row(word: str, text: str) -> list[str]:
    """A word, and to the right of it a text, wrapped."""
    first, *more = textwrap.wrap(text, WIDTH - INDENT)
    return [f"  {word:<{INDENT - 4}}  {first}", *(" " * INDENT + line for line in more)]
