"""What is said about a configuration: every problem as `place: path: message` with a hint, all of them at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError

Path = tuple[str | int, ...]
"""Keys and list indices from the top."""


def dotted(path: Path) -> str:
    """A path as people write it.

    >>> dotted(("monitoring", "metrics", "secondary", 2))
    'monitoring.metrics.secondary[2]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True)
class Problem:
    """One thing to change. `place` is `file:line` or the name of an environment variable."""

    place: str
    path: Path
    message: str
    hint: str = ""

    def __str__(self) -> str:
        head = f"{self.place}: {dotted(self.path)}: " if self.path else f"{self.place}: "
        return head + self.message + (f"\n    hint: {self.hint}" if self.hint else "")

    def line(self) -> int:
        """The line in the file; 0 for a variable or a file as a whole."""
        number = self.place.rpartition(":")[2]
        return int(number) if number.isdigit() else 0

    def plain(self) -> dict[str, str]:
        """As JSON shows it."""
        return {"place": self.place, "path": dotted(self.path), "message": self.message, "hint": self.hint}


class ConfigProblems(ConfigError):
    """Everything that is wrong with a configuration, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda one: (one.line(), one.place)))
        super().__init__("\n".join(map(str, self.problems)))


class Filled(str):
    """Text that came out of `${…}`: a message shows what was written, since what was put in may be a secret."""

    __slots__ = ("written",)
    written: str

    @classmethod
    def of(cls, text: str, written: str) -> Filled:
        """`text`, shown as `written`."""
        made = cls(text)
        made.written = written
        return made


def shown(value: Any) -> str:
    """A value as a message quotes it: short, on one line, a number bare.

    >>> shown("six"), shown("6.5"), shown({"a": 1})
    ('"six"', '6.5', 'a section')
    """
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = value.written if isinstance(value, Filled) else str(value)
    try:
        float(text)
        return text
    except ValueError:
        return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)
