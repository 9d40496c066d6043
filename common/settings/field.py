"""What a setting is: a typed field with its meaning and its limits, in groups that refuse what they do not know.

Two kinds of settings exist. Those that can change the result make up a run's identity; those marked `identity=False`
only say how the same result is computed or watched (device, threads, logging).
"""

import functools
from types import UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, Tag
from pydantic.fields import FieldInfo

NEW = object()  # a setting that has always been there


def setting(
    default: Any,
    meaning: str,
    *,
    identity: bool = True,
    added_as: Any = NEW,
    form: str | tuple[str, ...] = "",
    **limits: Any,
) -> Any:
    """A field with its one-line meaning, as `--help` prints it.

    form: what its pattern asks for, in words; or the names to choose from.
    added_as: for a setting that joins a class that already has finished runs. It is the value that means
    "as before": runs with exactly this value keep the identity they had before the setting existed.
    """
    marks: dict[str, Any] = {"identity": identity, "form": form} | ({} if added_as is NEW else {"added_as": added_as})
    return Field(default, description=meaning, json_schema_extra=marks, **limits)


class Group(BaseModel):
    """A frozen set of settings that refuses names it does not know and converts nothing: true is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def words_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields by the words a user types: `json`, which no field may be called, is json_ in the code."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


@functools.cache
def every_setting(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted name -> field, groups opened; where a group is one of several, the settings of all of them."""
    settings: dict[str, FieldInfo] = {}
    for name, field in words_of(model).items():
        groups = groups_of(field)
        if not groups:
            settings[prefix + name] = field
        for group in groups.values():
            settings |= {
                key: each for key, each in every_setting(group, f"{prefix}{name}.").items() if key not in settings
            }
    return settings


def groups_of(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The classes of a group: none for a single setting, one, or several by the tag that tells them apart."""
    if get_origin(field.annotation) not in {Union, UnionType}:
        return {"": field.annotation} if _is_group(field.annotation) else {}
    found: dict[str, type[BaseModel]] = {}
    for kind in get_args(field.annotation):
        group, tag = get_args(kind) if get_origin(kind) is Annotated else (kind, None)
        if _is_group(group):
            found[tag.tag if isinstance(tag, Tag) else group.__name__] = group
    return found


def _is_group(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def changes_result(field: FieldInfo) -> bool:
    """Whether a setting is part of what a run is."""
    marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return bool(marks.get("identity", True))


def identity(settings: BaseModel) -> dict[str, Any]:
    """The settings that can change the result, as plain data."""
    kept: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if isinstance(value, BaseModel):
            value = identity(value)
            if not value:
                continue
        elif not changes_result(field) or ("added_as" in marks and value == marks["added_as"]):
            continue
        kept[name] = value + 0.0 if isinstance(value, float) else value  # makes 0.0 of -0.0, which is its equal
    return kept
