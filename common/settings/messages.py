"""This module puts settings into words: the lines of `--help`, and one line for each problem of a refusal.

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

from common.settings.field import changes_result, every_setting, groups_of, words_of

# --- problems ---------------------------------------------------------------------------------------------------


def problem(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """Put one of pydantic's errors into one line: the setting, what was given, what is allowed, the nearest name."""
    key, field, choice = located(model, error["loc"])
    kind = error["type"]

    # The limits of a field explain none of these: an unknown key, a rule of our own, a missing setting.
    if kind in {"extra_forbidden", "invalid_key"}:
        return _foreign(key, choice) if choice else no_such_setting(key, [model])
    if kind == "value_error":
        return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    if kind == "missing":
        return f"{key}: missing; {field.description if field else error['msg']}"

    value = shown(error["input"])
    if field is None:
        return f"{key}: given {value}; {error['msg']}"
    text = f"{key}: given {value}, allowed: {allowed(field)}"
    if kind == "string_type" and isinstance(error["input"], int | float):
        return f"""{text}; as text it is written '"{value}"', the single quotes for the shell"""
    return text + nearest(value, _options(field))


def located(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[str, FieldInfo | None, type[BaseModel] | None]:
    """Find the place of one of pydantic's errors: its dotted key, its field, and which of several groups it is in."""
    key: list[str] = []
    field, choice, groups, tagged = None, None, {"": model}, False
    for step in map(str, loc):
        # Where there are several groups or types, pydantic adds the tag of one to its path: nobody typed it.
        if len(groups) > 1 and step in groups:
            choice = groups[step]
            groups = {"": choice}
            continue
        if tagged:
            tagged = False
            continue

        # A step leads to a field of a group, or to a value in a list or in a mapping.
        if "" in groups:
            field = words_of(groups[""]).get(step)
            groups = groups_of(field) if field else {}
        else:
            field = _item(field)
            groups = groups_of(field) if field else {}
            choice = groups.get("", choice)
        tagged = field is not None and not groups and len(_types(field.annotation)) > 1
        key.append(step)
    return ".".join(key), field, choice


def _item(field: FieldInfo | None) -> FieldInfo | None:
    """Return what each value of a list or a mapping may be; None if the field is neither."""
    kinds = [kind for kind in _types(field.annotation) if get_origin(kind) in {list, dict}] if field else []
    return FieldInfo.from_annotation(get_args(kinds[0])[-1]) if kinds else None


def _types(annotation: Any) -> list[Any]:
    return [kind for kind in _alternatives(annotation) if kind is not type(None)]


def _foreign(key: str, choice: type[BaseModel]) -> str:
    """Refuse a key that the chosen group does not have, though another choice may: vit has no dropout."""
    group, _, name = key.rpartition(".")
    members = [f"{group}.{member}" for member in every_setting(choice)]
    return f"{key}: no such setting of this {group}{nearest(name, members)}; allowed: {', '.join(members)}"


def no_such_setting(key: str, models: Sequence[type[BaseModel]]) -> str:
    """Refuse a key that none of the models has, or that is a group, which cannot be set as a whole."""
    settings = [name for model in models for name in every_setting(model)]
    members = [name for name in settings if name.startswith(f"{key}.")]
    if members:
        return f"{key}: a group of settings, allowed: {', '.join(members)}"

    # A key that begins with the name of a group is told the settings of that group; any other, the first level.
    group = key.rpartition(".")[0]
    members = [name for name in settings if group and name.startswith(f"{group}.")]
    options = members or [name for model in models for name in words_of(model)]
    return f"{key}: no such setting{nearest(key, [*options, *settings])}; allowed: {', '.join(options)}"


def unknown(what: str, value: Any, options: Iterable[str]) -> str:
    options = list(options)
    return f"{what}: given {shown(value)}, allowed: {', '.join(folded(options))}" + nearest(str(value), options)


def folded(names: Sequence[str]) -> list[str]:
    """Put the sizes of one thing into one word: pathmnist, pathmnist_64, pathmnist_128 -> pathmnist[_64|_128]."""
    sizes: dict[str, list[int]] = {}
    for base, _, size in (name.rpartition("_") for name in names):
        if base in names and size.isdigit():
            sizes.setdefault(base, []).append(int(size))

    several = {base: sorted(numbers) for base, numbers in sizes.items() if len(numbers) > 1}
    hidden = {f"{base}_{size}" for base, numbers in several.items() for size in numbers}
    marks = {base: f"[{'|'.join(f'_{size}' for size in numbers)}]" for base, numbers in several.items()}
    return [name + marks.get(name, "") for name in names if name not in hidden]


def shown(value: Any) -> str:
    """Return a value as it is written on the command line, shortened."""
    if isinstance(value, dict | list):
        text = reprlib.repr(value)  # it may be huge, or contain itself
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: str) -> str:
    """Spell out line breaks and other control characters, so that a message stays in its line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, options: Iterable[str]) -> str:
    """Return the end of a refusal: the name that was probably meant, if one is similar."""
    name = _most_similar(word, list(options))
    return f", nearest: {name}" if name else ""


def _most_similar(word: str, options: Sequence[str]) -> str:
    """Return the same field in another group or in none; if there is none, the most similar name."""
    word = word.lower()
    last = word.rpartition(".")[2]
    fields = {option.rpartition(".")[2]: option for option in reversed(options)}
    if last in fields:
        return fields[last]

    similar = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    similar += [fields[name] for name in difflib.get_close_matches(last, fields, n=1, cutoff=0.7)]
    return similar[0] if similar else ""


# --- what a setting may be --------------------------------------------------------------------------------------

TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
LIST_EXAMPLES = {int: "[1, 2]", float: "[0.1, 0.2]", str: "[a, b]"}
LIMIT_NAMES = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def allowed(field: FieldInfo) -> str:
    """Say what a setting may be, in the same words for `--help` and for a refusal."""
    groups = groups_of(field)
    if groups:
        names = dict.fromkeys(name for group in groups.values() for name in words_of(group))
        return f"a mapping of {', '.join(names)}"
    form = _form(field)
    if form:
        return form if isinstance(form, str) else " | ".join(form)

    # Limits belong to the first type: "number, above 0, or null".
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


def _alternatives(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in {Union, UnionType} else [annotation]


def _type_name(kind: Any) -> str:
    if get_origin(kind) is list:
        item = get_args(kind)[0]
        return f"a list such as {LIST_EXAMPLES[item]}" if item in LIST_EXAMPLES else f"a list, each {_type_name(item)}"
    if get_origin(kind) is dict:
        item = get_args(kind)[1]
        return "a mapping" if item is Any else f"a mapping, each value {allowed(FieldInfo.from_annotation(item))}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"a mapping of {', '.join(words_of(kind))}"
    return TYPE_NAMES.get(kind) or " | ".join(_literals(kind)) or str(kind)


def _literals(annotation: Any) -> list[str]:
    literals = [kind for kind in _alternatives(annotation) if get_origin(kind) is Literal]
    return [str(option) for literal in literals for option in get_args(literal)]


def _options(field: FieldInfo) -> list[str]:
    """List the single values that a setting may have; none if they cannot be listed."""
    form = _form(field)
    return list(form) if isinstance(form, tuple) else _literals(field.annotation)


def _form(field: FieldInfo) -> Any:
    return field.json_schema_extra.get("form") if isinstance(field.json_schema_extra, dict) else None


# --- help -------------------------------------------------------------------------------------------------------

INDENT, WIDTH = 35, 118


def help_text(
    command: str,
    about: str,
    models: Iterable[type[BaseModel]],
    presets: Mapping[str, Iterable[str]],
    starting_points: Mapping[str, str],
) -> str:
    """Return the text of `--help`: the presets, then every key with its default, its meaning, and what it may be."""
    lines = [f"python {command} key=value ...", "", about.strip()]

    if presets:
        lines += ["", "A preset sets a whole group, and group.field=value one setting of it, in any order.", ""]
        for group, names in presets.items():
            lines += _row(f"{group}=NAME", ", ".join(folded(list(names))))
    if starting_points:
        lines += ["", "A data set brings these presets with it, unless the command line names others:", ""]
        for data, chosen in starting_points.items():
            lines += _row(data, chosen)

    for model in models:
        lines += _help_of(model, "", model.__doc__ or "")
    lines += ["", "Exit codes: 0 done, 1 failed, 2 refused."]
    return "\n".join(lines)


def _help_of(model: type[BaseModel], prefix: str, heading: str) -> list[str]:
    """List the single settings of a model, then each of its groups under a heading of its own."""
    lines = ["", heading.strip(), ""] if heading else [""]
    groups: list[str] = []
    last: list[str] = []  # groups that cannot change the result

    for name, field in words_of(model).items():
        key = prefix + name
        # Those who choose a run's settings read from the top, so what cannot change the result comes last.
        for group in groups_of(field).values():
            place = groups if any(map(changes_result, every_setting(group).values())) else last
            place += _help_of(group, f"{key}.", f"{key}: {group.__doc__ or ''}")
        if not groups_of(field):
            word = f"{key} (required)" if field.is_required() else f"{key}={shlex.quote(shown(field.default))}"
            lines += _row(word, f"{field.description or ''} [{allowed(field)}]")
    return lines + groups + last


def _row(word: str, text: str) -> list[str]:
    """Return the lines of a word with its text to the right, wrapped."""
    first, *more = textwrap.wrap(text, WIDTH - INDENT)
    return [f"  {word:<{INDENT - 4}}  {first}", *(" " * INDENT + line for line in more)]
