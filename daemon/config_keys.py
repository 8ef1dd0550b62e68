"""Every key of a model as a flat list: for did-you-mean, the table of what acts, and the documentation."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .config_types import Section

Keys = tuple[str, ...]
"""Keys from the top; `*` stands for any name."""


@dataclass(frozen=True)
class Key:
    """One key that takes a value. `default` is None where it is required or has no default worth showing."""

    path: Keys
    meaning: str
    kind: str
    unit: str
    default: str

    def dotted(self) -> str:
        """The path with dots."""
        return ".".join(self.path)


def section_of(annotation: Any) -> tuple[Keys, type[Section] | None]:
    """The section behind an annotation and what stands between: ("*",) for a mapping by name."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return section_of(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        found = [section_of(one) for one in typing.get_args(annotation)]
        return next((one for one in found if one[1]), ((), None))
    if origin in (dict, list):
        between, section = section_of(typing.get_args(annotation)[-1])
        return ("*", *between) if section or origin is dict else (), section
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (), annotation
    return (), None


def fields_of(model: type[Section]) -> Iterator[tuple[str, FieldInfo | None, Any]]:
    """The fields of a section as (name, field, annotation); `*` for the sections that may be added by name."""
    for name, field in model.model_fields.items():
        yield name, field, field.annotation
    if model.model_config.get("extra") == "allow":
        extra = typing.get_type_hints(model).get("__pydantic_extra__")
        yield "*", None, typing.get_args(extra)[1]


def keys(model: type[Section], above: Keys = ()) -> Iterator[Key]:
    """All keys below `model`, in the order of the models."""
    for name, field, annotation in fields_of(model):
        between, section = section_of(annotation)
        if section is not None:
            yield from keys(section, (*above, name, *between))
        elif field is not None:
            more = field.json_schema_extra
            unit = more.get("unit", "") if isinstance(more, dict) else ""
            yield Key((*above, name, *between), field.description or "", kind_of(annotation), str(unit), _default(field))


def kind_of(annotation: Any) -> str:
    """What a key takes, for people."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0])
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is list:
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return kind_of(inner[1])
    if origin in (Union, types.UnionType):
        kinds = [kind_of(one) for one in inner if one is not type(None)]
        return kinds[0] if len(kinds) == 1 else "any value"
    names: dict[Any, str] = {bool: "true or false", int: "whole number", float: "number", str: "text", SecretStr: "secret"}
    return names.get(annotation, "any value")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.is_required() else ""
    if field.default is None:
        return ""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, list):
        return f"[{', '.join(map(str, field.default))}]"
    if isinstance(field.default, float) and field.default.is_integer():
        return str(int(field.default))
    return str(field.default) if field.default != {} else ""


def names_at(model: type[Section], path: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand in the section at `path`; none where there is no section."""
    section: type[Section] | None = model
    rest = list(path)
    while rest and section is not None:
        step = rest.pop(0)
        known = {name: annotation for name, _, annotation in fields_of(section)}
        between, section = section_of(known.get(str(step), known.get("*")))
        del rest[: len(between)]
    return [name for name, _, _ in fields_of(section) if name != "*"] if section is not None else []
