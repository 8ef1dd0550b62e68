"""A Java client's properties file: `key=value` lines with Java's comments, continuations and escapes."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from ..core.errors import ConfigError

MAX_BYTES = 256 * 1024
ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.S)
SHORT = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
SPLIT = re.compile(r"(?P<key>(?:\\.|[^\\=:\s])+)\s*(?:[=:]\s*)?(?P<value>.*)", re.S)


class Properties(NamedTuple):
    """The values by key, and where each stands (`file:line`)."""

    values: dict[str, str]
    places: dict[str, str]


def read_properties(path: str) -> Properties:
    """The file's keys. ConfigError where it cannot be read or is none."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "check the path and who may read it") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is over {MAX_BYTES // 1024} KiB", "is this really a properties file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8", "save it as UTF-8, or write the character as \\uXXXX") from error
    return parse_properties(text, path)


def parse_properties(text: str, name: str) -> Properties:
    """`text` as a properties file called `name` in errors.

    >>> parse_properties("# a comment\\nssl.truststore.type = PEM\\nclient.id: a\\\\\\n  b", "f").values
    {'ssl.truststore.type': 'PEM', 'client.id': 'ab'}
    """
    found = Properties({}, {})
    for number, line in _logical(text):
        parts = SPLIT.fullmatch(line)
        if parts is None:
            raise ConfigError(f"{name}:{number}: is no line of a properties file", "write key=value")
        key, value = _plain(parts["key"]), _plain(parts["value"])
        if key in found.values:
            raise ConfigError(f"{name}:{number}: {key} stands here twice", f"{found.places[key]} has it already: keep one of them")
        if "${" in value:
            hint = "write the value itself, or move the key under bus.kafka.client, where ${NAME} and ${file:/path} are filled in"
            raise ConfigError(f"{name}:{number}: {key}: ${{…}} is not filled in inside a properties file", hint)
        found.values[key], found.places[key] = value, f"{name}:{number}"
    return found


def _logical(text: str) -> list[tuple[int, str]]:
    """Lines with continuations joined, without comments and blank ones, each with the number of its first line."""
    lines: list[tuple[int, str]] = []
    open_line = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.lstrip(" \t\f")
        if not open_line and (not line or line[0] in "#!"):
            continue
        goes_on = (len(line) - len(line.rstrip("\\"))) % 2 == 1
        line = line[:-1] if goes_on else line
        if open_line:
            first, head = lines[-1]
            lines[-1] = (first, head + line)
        else:
            lines.append((number, line))
        open_line = goes_on
    return lines


def _plain(text: str) -> str:
    return ESCAPE.sub(lambda match: chr(int(match[1][1:], 16)) if len(match[1]) == 5 else SHORT.get(match[1], match[1]), text)


def readable_by_others(path: str) -> bool:
    """Whether anybody but its owner and group may read the file, which may hold a password."""
    try:
        return bool(os.stat(path).st_mode & 0o004)
    except OSError:
        return False
