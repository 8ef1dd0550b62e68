"""What comes into a configuration from outside its file: `${…}` and SMART_TUNER__… variables."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .config_errors import ConfigProblems, Filled, Path, Problem
from .config_yaml import Document, Plain, parse

PREFIX = "SMART_TUNER__"
OPTIONAL = (("monitoring", "platforms"), ("monitoring", "alerts"))
"""Each section directly under one of these can be away: the work goes on without it."""
REFERENCE = re.compile(r"\$(?:(\$)|\{([^{}]*)(\}|$|(?=\{)))")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_FILE_BYTES = 64 * 1024
MAX_TEXT = 64 * 1024


@dataclass
class Filling:
    """What came of the references: problems, and for each optional part that is off why (place, path, what)."""

    problems: list[Problem] = field(default_factory=list)
    off: dict[Path, Problem] = field(default_factory=dict)
    unknown: set[Path] = field(default_factory=set)


class _Missing(Exception):
    """Nothing stands behind a reference: what, and what to do."""


def override(document: Document, environ: Mapping[str, str]) -> None:
    """Puts SMART_TUNER__A__B=value at a.b over what the file says; values are YAML as behind the colon of a line."""
    for variable in sorted((name for name in environ if name.startswith(PREFIX)), key=lambda name: (name.count("__"), name)):
        words = variable[len(PREFIX) :].lower().split("__")
        if not all(words):
            hint = f"two underscores between keys, as {PREFIX}BUS__URL"
            document.problems.append(Problem(variable, (), "names no key", hint))
            continue
        _put(document, variable, words, environ[variable])


def _put(document: Document, variable: str, words: list[str], written: str) -> None:
    tree = document.tree
    path: Path = ()
    for i, word in enumerate(words):
        name = next((known for known in tree if known.lower().replace(".", "_") == word), word)
        path = (*path, name)
        if i == len(words) - 1:
            _forget(document, path)
            tree[name] = _value(document, variable, path, written)
        elif not isinstance(tree.get(name), dict):
            if tree.get(name) is not None:
                hint = f"give the whole value in {PREFIX}{'__'.join(words[: i + 1]).upper()}"
                document.problems.append(Problem(variable, path, "is no section: no key in it can be set", hint))
                return
            tree[name] = {}
        document.places.setdefault(path, variable)
        tree = tree[name] if i < len(words) - 1 else tree


def _forget(document: Document, path: Path) -> None:
    for known in [one for one in document.places if one[: len(path)] == path]:
        del document.places[known]


def _value(document: Document, variable: str, path: Path, written: str) -> Any:
    """A list or section in brackets, else one scalar: no character of a password means anything."""
    text = written.strip()
    if text[:1] not in ("[", "{", '"', "'"):
        return Plain(text) if text not in ("", "~", "null") else None
    try:
        value = parse("value: " + text.replace("\n", " "), variable)
    except ConfigProblems as error:
        document.problems += [Problem(variable, path, one.message, one.hint) for one in error.problems]
        return None
    document.problems += [Problem(variable, (*path, *one.path[1:]), one.message, one.hint) for one in value.problems]
    document.places |= {(*path, *inner[1:]): variable for inner in value.places}
    return value.tree["value"]


def fill(document: Document, environ: Mapping[str, str], folder: pathlib.Path) -> Filling:
    """Replaces `${ENV}`, `${ENV:-default}`, `${file:/path}` and `$$` in every value of the tree."""
    filler = _Filler(document.places, environ, folder)
    document.tree = filler.walk(document.tree, ())
    return filler.filling


class _Filler:
    def __init__(self, places: Mapping[Path, str], environ: Mapping[str, str], folder: pathlib.Path) -> None:
        self.places = places
        self.environ = environ
        self.folder = folder
        self.filling = Filling()

    def walk(self, value: Any, path: Path) -> Any:
        """The value at `path` with its references replaced."""
        if isinstance(value, dict):
            return {key: self.walk(one, (*path, key)) for key, one in value.items()}
        if isinstance(value, list):
            return [self.walk(one, (*path, i)) for i, one in enumerate(value)]
        return self._scalar(value, path) if isinstance(value, str) and "$" in value else value

    def _scalar(self, value: str, path: Path) -> str:
        place = self.places.get(path, "?")
        try:
            return _filled(value, self.environ, self.folder)
        except _Missing as missing:
            problem = Problem(place, path, *missing.args)
            if path[:2] in OPTIONAL and len(path) > 3:
                self.filling.off.setdefault(path[:3], problem)
            else:
                self.filling.problems.append(problem)
        except ValueError as error:
            self.filling.problems.append(Problem(place, path, str(error), "write ${NAME}, or $$ for a dollar sign"))
        self.filling.unknown.add(path)
        return Filled.of("unset", str(value))


def _filled(value: str, environ: Mapping[str, str], folder: pathlib.Path) -> str:
    """ValueError: the reference is not well formed. _Missing: nothing stands behind it."""

    def stands_for(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        if match[3] != "}":
            raise ValueError(f"${{{match[2]} is not closed by }}")
        return _reference(match[2], environ, folder)

    made = REFERENCE.sub(stands_for, value)
    if len(made) > MAX_TEXT:
        raise ValueError(f"grows to over {MAX_TEXT} characters")
    return Filled.of(made, str(value)) if made != value else value


def _reference(inside: str, environ: Mapping[str, str], folder: pathlib.Path) -> str:
    if inside.startswith("file:"):
        return _file(folder / inside[len("file:") :])
    name, default_given, default = inside.partition(":-")
    if not NAME.fullmatch(name):
        raise ValueError(f'"{name}" is not the name of a variable')
    found = environ.get(name, "")
    if not found and not default_given:
        state = "is empty" if name in environ else "is not set"
        raise _Missing(f"{name} {state}", f"export {name}=…, or write ${{{name}:-default}}")
    return found or default


def _file(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise _Missing(f"{path} is over {MAX_FILE_BYTES // 1024} KiB", "is this the right file?")
        text = raw.decode().rstrip("\r\n")
    except OSError as error:
        raise _Missing(f"{path}: {error.strerror}", "check the path and who may read it") from error
    except UnicodeDecodeError as error:
        raise _Missing(f"{path} is not UTF-8 text", "store the secret as text") from error
    if not text:
        raise _Missing(f"{path} is empty", "write the value into it")
    return text
