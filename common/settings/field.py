"""A setting is a typed field with a meaning and limits; settings form groups, which refuse any name they do not know.

There are two kinds. Settings that can change the result make up a run's identity. Those marked `identity=False`
only say how the same result is computed or watched: device, threads, logging.
"""

import functools
from types import UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, Tag
from pydantic.fields import FieldInfo

ALWAYS = object()  # the setting has been there from the start


def setting(
    default: Any,
    meaning: str,
    *,
    identity: bool = True,
    added_as: Any = ALWAYS,
    form: str | tuple[str, ...] = "",
    **limits: Any,
) -> Any:
    """Make a field with the one-line meaning that `--help` prints.

    form: the pattern in words, or the names to choose from.
    added_as: the value that means "as before", for a setting that is added when finished runs exist. Runs with
    exactly this value keep the identity that they had before the setting existed.
    """
    marks: dict[str, Any] = {"identity": identity, "form": form} | (
        {} if added_as is ALWAYS else {"added_as": added_as}
    )
    return Field(default, description=meaning, json_schema_extra=marks, **limits)


class Group(BaseModel):
    """A group is a frozen set of settings. It refuses unknown names and converts nothing: true is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def words_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields by the words that a user types: no field may be called `json`, so in the code it is json_."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


@functools.cache
def every_setting(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Map the dotted name of every single setting to its field. Where a group is one of several, all are listed."""
    settings: dict[str, FieldInfo] = {}
    for name, field in words_of(model).items():
        groups = groups_of(field)
        if not groups:
            settings[prefix + name] = field
        for group in groups.values():
            for key, member in every_setting(group, f"{prefix}{name}.").items():
                settings.setdefault(key, member)
    return settings


def groups_of(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """Return the classes that a group may have, by the tags that tell them apart.

    A single setting has none, and the tag of an only class is empty.
    """
    if get_origin(field.annotation) not in {Union, UnionType}:
        return {"": field.annotation} if _is_group(field.annotation) else {}

    groups: dict[str, type[BaseModel]] = {}
    for kind in get_args(field.annotation):
        group, tag = get_args(kind) if get_origin(kind) is Annotated else (kind, None)
        if _is_group(group):
            groups[tag.tag if isinstance(tag, Tag) else group.__name__] = group
    return groups


def _is_group(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def changes_result(field: FieldInfo) -> bool:
    """Say whether a setting can change the result, and so is part of a run's identity."""
    marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return bool(marks.get("identity", True))


def identity(settings: BaseModel) -> dict[str, Any]:
    """Return the settings that can change the result, as plain data."""
    kept: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}

        # What is left out here leaves no trace in the hash, so that finished runs are found again.
        if isinstance(value, BaseModel):
            value = identity(value)
            if not value:
                continue
        elif not changes_result(field) or ("added_as" in marks and value == marks["added_as"]):
            continue

        kept[name] = value + 0.0 if isinstance(value, float) else value  # makes 0.0 of -0.0, which is its equal
    return kept
