"""The series of a spool: their names are written once, records carry ids."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from .spool_layout import (
    MAX_NAME_CHARACTERS,
    MAX_SERIES,
    NAME_HEAD,
    NAMES_BYTES,
    NAMES_OFFSET,
    POINTS,
    WORD_NAMES,
    WORD_REFUSED,
    padded,
)

MAX_SHAPES = 4096
_KIND_AND_COUNT = struct.Struct("@HHI")


class Shape(NamedTuple):
    """How records with the same names in the same order are packed: `pack` makes all but the first word, `store` puts the
    whole into the ring. `size` in bytes; `ids` are kind, count and series as they stand in the record."""

    keys: tuple[Any, ...]
    pack: Callable[..., bytes]
    store: Callable[..., None]
    size: int
    points: int
    ids: bytes


NO_SHAPE = Shape((), struct.pack, struct.pack_into, 1 << 62, 0, b"")
"""Of no record: it fits nowhere."""


class SeriesNames:
    """The job's side of the names area."""

    __slots__ = ("_buffer", "_coming", "_ids", "_shapes", "_used", "_words")

    def __init__(self, buffer: memoryview, words: memoryview) -> None:
        self._buffer, self._words = buffer, words
        self._ids: dict[str, int] = {}
        self._used = 0
        self._coming: tuple[str, int] | None = None
        self._shapes: dict[tuple[Any, ...], Shape] = {}

    def shape(self, keys: tuple[Any, ...]) -> Shape | None:
        """The form of records with these names; None if one of them is not usable."""
        known = self._shapes.get(keys)
        if known is not None:
            return known
        ids = [self.define(name) for name in keys]
        if not ids or min(ids) < 0:
            return None
        blob = _KIND_AND_COUNT.pack(POINTS, 0, len(ids)) + struct.pack(f"@{len(ids)}I", *ids)
        blob = blob.ljust(padded(len(blob)), b"\0")
        body = struct.Struct(f"@2q{len(blob)}sq{1 + len(ids)}d")  # as few kinds of code as can be: each is cold in a training
        store = struct.Struct(f"@II{body.size}s").pack_into
        if len(self._shapes) >= MAX_SHAPES:
            self._shapes.clear()
        self._shapes[keys] = Shape(keys, body.pack, store, body.size + 8, len(ids), blob)
        return self._shapes[keys]

    def define(self, name: Any) -> int:
        """The id of a series, its name written if it is new; -1 (counted) if it is not usable or there is no room."""
        known = self._ids.get(name, -1) if isinstance(name, str) else -1
        if known >= 0:
            return known
        if self._coming is not None:  # an exception of a signal's handler has cut it off
            self._publish(*self._coming)
            return self.define(name)
        try:
            spelled = str.encode(name)
        except (TypeError, UnicodeEncodeError):
            spelled = b""
        size = padded(NAME_HEAD.size + len(spelled))
        usable = len(spelled) > 0 and len(name) <= MAX_NAME_CHARACTERS
        if not usable or len(self._ids) >= MAX_SERIES or self._used + size > NAMES_BYTES:
            self._words[WORD_REFUSED] += 1
            return -1
        at = NAMES_OFFSET + self._used
        self._buffer[at : at + NAME_HEAD.size] = NAME_HEAD.pack(len(spelled), 0, zlib.crc32(spelled))
        self._buffer[at + NAME_HEAD.size : at + NAME_HEAD.size + len(spelled)] = spelled
        self._coming = name, self._used + size
        self._publish(*self._coming)
        return self._ids[name]

    def _publish(self, name: str, used: int) -> None:
        """The name is written. In such an order that doing it again changes nothing: a name that came twice, or never, would
        put the values of all later ones under wrong names."""
        self._words[WORD_NAMES] = self._used = used
        self._ids.setdefault(name, len(self._ids))
        self._coming = None
