"""How settings are put into words: the lines of `--help`, and one line per problem when something is refused.

Both are read off the settings' own classes, so that what is printed is what is checked.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def problem(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    dotted = ".".join(path)
    if error["type"] == "extra_forbidden":
        *groups, _ = path
        parent = _descend(model, groups)
        options = sorted(parent.model_fields) if parent else []
        nearest = _nearest(dotted, [*model.model_fields, *every_setting(model)])
        prefix = ".".join(groups)
        where = f"allowed in {prefix}: " if prefix else "allowed: "
        return (
            f"{dotted}: no such setting"
            + (f", nearest: {nearest}" if nearest else "")
            + f"; {where}{', '.join(options)}"
        )
    field = _field(model, path)
    if error["type"] == "value_error":
        return (dotted + ": " if dotted else "") + str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{dotted}: missing; {field.description if field else ''}"
    given = _shown(error["input"])
    if field is None:
        return f"{dotted}: given {given}; {error['msg']}"
    options = _options(field.annotation)
    nearest = _nearest(given, options)
    return f"{dotted}: given {given}, allowed: {allowed(field)}" + (f", nearest: {nearest}" if nearest else "")


def unknown(what: str, given: Any, options: Iterable[str]) -> str:
    options = list(options)
    nearest = _nearest(str(given), options)
    return f"{what}: given {_shown(given)}, allowed: {', '.join(options)}" + (
        f", nearest: {nearest}" if nearest else ""
    )


def _nearest(given: str, options: Iterable[str]) -> str:
    options = list(options)
    matches = difflib.get_close_matches(given, options, n=1, cutoff=0.5)
    if not matches:  # the right field in the wrong group, or without its group
        last = given.rpartition(".")[2]
        fields = {option.rpartition(".")[2]: option for option in options}
        matches = [fields[name] for name in difflib.get_close_matches(last, fields, n=1, cutoff=0.7)]
    return matches[0] if matches else ""


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _group_of(field: FieldInfo) -> type[BaseModel] | None:
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None


def _descend(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    for part in path:
        field = model.model_fields.get(part)
        group = _group_of(field) if field else None
        if group is None:
            return None
        model = group
    return model


def _field(model: type[BaseModel], path: list[str]) -> FieldInfo | None:
    parent = _descend(model, path[:-1]) if path else None
    return parent.model_fields.get(path[-1]) if parent else None


def every_setting(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted name -> field, groups opened."""
    settings: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        group = _group_of(field)
        settings |= every_setting(group, f"{prefix}{name}.") if group else {prefix + name: field}
    return settings


def _options(annotation: Any) -> list[str]:
    return [str(option) for option in get_args(annotation)] if get_origin(annotation) is Literal else []


TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
LIMIT_NAMES = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words: the same for `--help` and for a refusal."""
    if options := _options(field.annotation):
        return " | ".join(options)
    group = _group_of(field)
    if group:
        return f"settings of {group.__name__}"
    types = [TYPE_NAMES.get(kind, str(kind)) for kind in get_args(field.annotation) or (field.annotation,)]
    limits = [
        words.format(getattr(mark, name))
        for mark in field.metadata
        for name, words in LIMIT_NAMES.items()
        if getattr(mark, name, None) is not None
    ]
    patterns = [f"like {field.description}" for mark in field.metadata if getattr(mark, "pattern", None)]
    return " or ".join([" ".join([types[0], *limits, *patterns]), *types[1:]])


def help_text(command: str, about: str, models: Iterable[type[BaseModel]], presets: Mapping[str, Iterable[str]]) -> str:
    """`--help`: every key with what it may be, its default and its meaning, then the presets."""
    lines = [f"python {command} key=value ...", "", about.strip()]
    for model in models:
        lines.append("")
        previous = ""
        for name, field in every_setting(model).items():
            group = name.rpartition(".")[0]
            if group != previous:
                lines.append("")
            previous = group
            default = "required" if field.is_required() else f"default {_shown(field.default)}"
            lines += [f"  {name} = {allowed(field)}   ({default})", f"      {field.description or ''}".rstrip()]
    for group, names in presets.items():
        lines += ["", f"  {group}=NAME loads a preset: {', '.join(names)}"]
    lines += ["", "Exit codes: 0 done, 1 failed, 2 refused."]
    return "\n".join(lines)
