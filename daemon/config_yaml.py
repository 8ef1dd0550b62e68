"""Our own YAML loader: text to a tree that knows the line of every node.

PyYAML's parser splits the text; what the words mean is decided here and in the models. An unquoted scalar stays text
(`Plain`) until a model asks for a number, a flag or a name, so `1e-5` is a number, `012` is twelve, and `on` is what the
key wants. Duplicate keys are problems. Depth, size and what aliases expand to are bounded.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from ..core.errors import ConfigError
from .config_errors import ConfigProblems, Path, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000
NULLS = {"", "~", "null", "Null", "NULL"}
HINTS = (
    ("\\t", "YAML indents with spaces, not tabs"),
    ("mapping values are not allowed", "check the indentation, and quote a value that holds ': '"),
    ("could not find expected ':'", "is there a colon and a space behind the key?"),
    ("cannot start any token", "put the value in quotes"),
    ("scanning a quoted scalar", "close the quotes"),
    ("expected <block end>", "check the indentation of this line against the lines above"),
    ("flow", "close the bracket, and separate the items by commas"),
    ("undefined alias", "an alias (*name) needs its anchor (&name) above it"),
)


class Plain(str):
    """An unquoted scalar, as it stands in the file."""

    __slots__ = ()


@dataclass
class Document:
    """A file as a tree of dict, list, str and None; `places` says for each path where it stands."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Node:
    line: int
    value: Any
    size: int = 1
    height: int = 1


def read_text(path: pathlib.Path) -> str:
    """The file's text; ConfigError where there is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a directory", f"give the file in it, for example {path / 'config.yaml'}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file", "smart-tuner config init writes one to start from") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "check the path and who may read it") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is over {MAX_BYTES // 1024} KiB", "is this really a configuration?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: byte {raw[error.start]:#04x} is not UTF-8", "save the file as UTF-8") from error


def parse(text: str, name: str) -> Document:
    """The tree of `text`; `name` stands for the file in places. ConfigProblems where it is not YAML; what a reader can go
    on behind (a duplicate key, a tag) is left in `problems`."""
    document = Document()
    composer = _Composer(text, name, document.problems)
    try:
        top = composer.document()
    except yaml.MarkedYAMLError as error:
        raise ConfigProblems([_syntax(error, name)]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"character U+{ord(text[error.position]):04X} is not allowed"
        raise ConfigProblems([Problem(f"{name}:{line}", (), what, "remove it, or write it in double quotes as \\x..")]) from error
    if top.value is None:
        return document
    if not isinstance(top.value, dict):
        what = "a list" if isinstance(top.value, list) else "one value"
        raise ConfigProblems(
            [Problem(f"{name}:{top.line}", (), f"holds {what}, not sections", "start with a line as `monitoring:`")]
        )
    document.tree = _expand(top, (), name, document.places)
    return document


def _syntax(error: yaml.MarkedYAMLError, name: str) -> Problem:
    message = " ".join(filter(None, (error.context, error.problem)))
    opened = "flow" in message or "quoted" in message
    mark = (error.context_mark if opened else None) or error.problem_mark
    hint = next((hint for part, hint in HINTS if part in message), "check this line and the one above")
    return Problem(f"{name}:{mark.line + 1 if mark else 1}", (), f"not YAML: {error.problem or message}", hint)


def _expand(node: _Node, path: Path, name: str, places: dict[Path, str]) -> Any:
    """The node as plain values. Total size and depth were bounded when it was composed."""
    if isinstance(node.value, dict):
        made = {}
        for key, (line, child) in node.value.items():
            places[(*path, key)] = f"{name}:{line}"
            made[key] = _expand(child, (*path, key), name, places)
        return made
    if isinstance(node.value, list):
        for i, child in enumerate(node.value):
            places[(*path, i)] = f"{name}:{child.line}"
        return [_expand(child, (*path, i), name, places) for i, child in enumerate(node.value)]
    return node.value


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Composer:
    """Events to nodes. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: str, name: str, problems: list[Problem]) -> None:
        self.name = name
        self.problems = problems
        self.anchors: dict[str, _Node] = {}
        self.nodes = 0
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))

    def document(self) -> _Node:
        """The only document of the stream."""
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return _Node(1, None)
        top = self._node(next(self.events), ())
        next(self.events)
        second = next(self.events)
        if not isinstance(second, yaml.StreamEndEvent):
            self._stop(second, (), "a second document begins", "one file holds one configuration: remove the line ---")
        return top

    def _stop(self, event: Any, path: Path, message: str, hint: str) -> NoReturn:
        raise ConfigProblems([*self.problems, Problem(f"{self.name}:{_line(event)}", path, message, hint)])

    def _note(self, event: Any, path: Path, message: str, hint: str) -> None:
        self.problems.append(Problem(f"{self.name}:{_line(event)}", path, message, hint))

    def _node(self, event: Any, path: Path) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            known = self.anchors.get(str(event.anchor))
            if known is None:
                self._stop(event, path, f"alias *{event.anchor} stands inside or before its anchor", "put the anchor above it")
            node = known
        else:
            node = self._fresh(event, path)
            if event.anchor:
                self.anchors[event.anchor] = node
        self.nodes += node.size if isinstance(event, yaml.AliasEvent) else 1
        if len(path) + node.height > MAX_DEPTH:
            self._stop(event, (), f"is nested deeper than {MAX_DEPTH} levels", "no section of ours is: remove it")
        if self.nodes > MAX_NODES:
            self._stop(event, (), f"holds more than {MAX_NODES} values, aliases counted", "is this really a configuration?")
        return node

    def _fresh(self, event: Any, path: Path) -> _Node:
        line = _line(event)
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._note(event, path, f"tag {event.tag!r} is not used here", "write the value without a tag")
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None and event.tag is None
            if plain and event.value in NULLS:
                return _Node(line, None)
            return _Node(line, Plain(event.value) if plain else event.value)
        if len(path) >= MAX_DEPTH:
            self._stop(event, (), f"is nested deeper than {MAX_DEPTH} levels", "no section of ours is: remove it")
        return self._list(line, path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(line, path)

    def _list(self, line: int, path: Path) -> _Node:
        items: list[_Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return _Node(line, items, 1 + sum(one.size for one in items), 1 + max((one.height for one in items), default=0))

    def _mapping(self, line: int, path: Path) -> _Node:
        items: dict[str, tuple[int, _Node]] = {}
        merged: dict[str, tuple[int, _Node]] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                hint = "a key is a word; put a value that starts with [ { * in quotes"
                self._stop(event, path, "a key is a list, a section or an alias", hint)
            key, at = str(event.value), _line(event)
            child = self._node(next(self.events), (*path, key))
            if key == "<<" and event.style is None:
                merged = self._merge(event, child, path) | merged
            elif key in items:
                hint = f"line {items[key][0]} has it already: keep one of them"
                self._note(event, (*path, key), "stands here twice", hint)
            else:
                items[key] = (at, child)
        items = merged | items
        nodes = [child for _, child in items.values()]
        return _Node(line, items, 1 + sum(one.size for one in nodes), 1 + max((one.height for one in nodes), default=0))

    def _merge(self, event: Any, node: _Node, path: Path) -> dict[str, tuple[int, _Node]]:
        made: dict[str, tuple[int, _Node]] = {}
        for one in reversed(node.value) if isinstance(node.value, list) else [node]:
            if isinstance(one.value, dict):
                made |= one.value
            else:
                self._note(event, (*path, "<<"), "merges something that is no section", "write <<: *anchor of a section")
        return made
