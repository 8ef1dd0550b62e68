"""Names to factories: a new policy, collector or tracker is a new file and one line in its room's registry."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from .errors import UsageError

T = TypeVar("T")
MOST_LISTED = 20
"""A daemon may know thousands of runs."""


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint that names the nearest known word, or lists what there is, at most MOST_LISTED of it.

    >>> did_you_mean("patiense", ["patience", "plateau"])
    'did you mean patience?'
    >>> did_you_mean("x", [f"run{i}" for i in range(1000, 3000)])[-30:]
    'run1018, run1019 and 1980 more'
    """
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    listed, left = sorted(known)[:MOST_LISTED], len(known) - MOST_LISTED
    return "known: " + ", ".join(listed) + (f" and {left} more" if left > 0 else "")


class Registry(Generic[T]):
    """An immutable table of factories of one kind of thing."""

    def __init__(self, kind: str, entries: Mapping[str, Callable[..., T]]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def make(self, name: str, /, **options: object) -> T:
        """Builds the thing called `name`; UsageError with a hint for an unknown name or option."""
        if name not in self._entries:
            raise UsageError(f"no {self.kind} is called {name!r}", did_you_mean(name, list(self._entries)))
        known = list(inspect.signature(self._entries[name]).parameters)
        for option in options:
            if option not in known:
                raise UsageError(f"{self.kind} {name} has no option {option!r}", did_you_mean(option, known))
        try:
            return self._entries[name](**options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.kind} {name}: {error}", "see docs/policies.md for its options") from error
