"""pydantic's errors as problems that a person can act on: where in the file, what is wrong, what to write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .config_errors import Path, Problem, dotted, shown
from .config_keys import keys, names_at
from .config_types import Section
from .config_yaml import Document

BOUNDS = {
    "greater_than": ("gt", "is not above", "write a number above {}"),
    "greater_than_equal": ("ge", "is below", "write {} or more"),
    "less_than": ("lt", "is not below", "write a number below {}"),
    "less_than_equal": ("le", "is above", "write {} or less"),
}
CHOICE = re.compile(r"'([^']*)'")


def problems_of(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """Each of pydantic's errors with its place in the file."""
    return [_problem(one, document, model) for one in error.errors(include_url=False)]


def place_of(document: Document, path: Path) -> str:
    """Where `path` stands, or the nearest section above it."""
    for end in range(len(path), 0, -1):
        if path[:end] in document.places:
            return document.places[path[:end]]
    return "configuration"


def path_in(tree: Any, loc: tuple[int | str, ...]) -> Path:
    """pydantic's location without what does not stand in the file: keys behind a scalar, words of a union."""
    path: list[int | str] = []
    for i, step in enumerate(loc):
        tree = {} if tree is None else tree
        if isinstance(tree, Mapping):
            if step in tree:
                tree = tree[step]
            elif i < len(loc) - 1:
                continue
            path.append(step)
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
            path.append(step)
    return tuple(path)


def _problem(error: ErrorDetails, document: Document, model: type[BaseModel]) -> Problem:
    context = error.get("ctx", {})
    path = path_in(document.tree, error["loc"])
    at = context.get("at", "") if error["type"] == "smart_tuner" else ""
    if at:
        path = path[:-1] if at == "." else (*path[:-1], at)
    name = str(path[-1]) if path else ""
    if error["type"] == "extra_forbidden":
        message, hint = f"there is no key {name}", _nearest(name, path[:-1], model)
    else:
        message, hint = _said(error, context, name)
    return Problem(place_of(document, path), path, message, hint)


def _said(error: ErrorDetails, context: Mapping[str, Any], name: str) -> tuple[str, str]:
    kind, value = error["type"], error["input"]
    if kind == "smart_tuner":
        return context["said"], f"write {name}: {context['write']}" if context["write"] else context["hint"]
    if kind == "missing":
        return "is missing", f"write a line `{name}: …` under it"
    if kind == "literal_error":
        choices = CHOICE.findall(str(context["expected"]))
        return f"{shown(value)} is not known here", _choose(str(value), choices, name)
    if kind in BOUNDS:
        bound, what, hint = BOUNDS[kind]
        return f"{value if isinstance(value, int | float) else shown(value)} {what} {context[bound]:g}", hint.format(
            f"{context[bound]:g}"
        )
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return f"{shown(value)} stands where a section belongs", "indent its keys below it, one a line"
    if kind == "list_type":
        return f"{shown(value)} is not a list", "write [a, b], or one `- item` a line"
    if kind == "too_short":
        return "is empty", "write at least one item"
    if kind == "string_too_long":
        return f"is longer than {context['max_length']} characters", "shorten it"
    return error["msg"], "see docs/configuration.md"


def _choose(value: str, choices: list[str], name: str) -> str:
    near = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.6)
    known = ", ".join(choices)
    if near and not name.isdigit():
        return f"did you mean {name}: {near[0]}? Known: {known}"
    return f"did you mean {near[0]}? Known: {known}" if near else f"known: {known}"


def _nearest(name: str, above: Path, model: type[BaseModel]) -> str:
    """The key that was meant: one of this section with a similar name, else one of that name elsewhere."""
    assert issubclass(model, Section)
    here = names_at(model, above)
    near = difflib.get_close_matches(name.lower(), here, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    everywhere = [one.path for one in keys(model)]
    sections = {path[: i + 1] for path in everywhere for i in range(len(path))}
    elsewhere = sorted(path for path in sections if path[-1] == name and path[:-1] != above)
    section = tuple("*" if isinstance(step, int) else step for step in above)
    below = [path[len(section) : -1] for path in elsewhere if section and path[: len(section)] == section]
    if below:
        return f"{name} belongs under {dotted(min(below, key=len))} here"
    if elsewhere:
        return f"{name} belongs under {dotted(elsewhere[0][:-1]) or 'the top'}"
    return f"known here: {', '.join(here)}" if here else "remove it"
