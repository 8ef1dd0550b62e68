"""A table whose rows change, kept in files of which only those with changed rows are written again.

A row lives in the file it was born in. The newest file takes the new rows and bears the cursor: how far the topics are
folded in. It is written last, so a kill in between leaves rows that are ahead of the cursor, never behind it; folding the
same records into them again changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import CorruptData
from .arrow_columns import rows_of, table_of
from .parquet_files import read_facts, verify, write_file
from .tenure import Tenure, on_disk

MAX_ROWS = 1_000
MAX_TEXT_BYTES = 4 << 20
"""A file with this many rows, or this much text in them, takes no new ones: it bounds what a change writes again."""

Row = dict[str, Any]
_LARGEST = (1 << 63) - 1


class Facts(msgspec.Struct):
    """What a file of the table says of itself: `cursor` is the next offset by topic, as of when it was the newest;
    `seen` belongs to its rows, `extra` to the table; `following` is the start of the file that takes the next rows, said
    before that is made, so that two who would make one make the same."""

    cursor: dict[str, int] = {}
    seen: dict[str, list[int]] = {}
    extra: dict[str, Any] = {}
    following: int | None = None


class _File:
    """One file's rows while they are in memory."""

    def __init__(self, facts: Facts, rows: dict[str, Row]) -> None:
        self.facts = facts
        self.rows = rows
        self.text_bytes = sum(map(text_bytes, rows.values()))

    @property
    def full(self) -> bool:
        return len(self.rows) >= MAX_ROWS or self.text_bytes >= MAX_TEXT_BYTES


class RowFiles:
    """The rows of one partition of a table, by key. Times are µs since 1970 here. A damaged file is set aside: the cursor
    falls back to where the file before it ended, so that its rows are folded again as far as the bus has them."""

    def __init__(self, tenure: Tenure, table: str, schema: pa.Schema, key: str, leading_topic: str) -> None:
        self.cursor: dict[str, int] = {}
        self.visible: dict[str, int] = {}
        self.extra: dict[str, Any] = {}
        self.problems: list[str] = []
        self.damaged = 0
        self._tenure, self._table, self._schema, self._key = tenure, table, schema, key
        self._leading_topic = leading_topic
        self._home: dict[str, int] = {}  # key -> start of the file it lives in
        self._loaded: dict[int, _File] = {}
        self._changed: set[int] = set()
        self._newest = 0
        self._open()

    def _open(self) -> None:
        good: list[int] = []
        bad: dict[int, str] = {}
        fallen: dict[str, int] | None = None
        facts = Facts()
        for start, path in self._tenure.files(self._table):
            try:
                verify(self._tenure.whole(path))
                facts = msgspec.convert(read_facts(path, self._tenure.footer(path))[0], Facts)
            except (CorruptData, msgspec.ValidationError) as error:
                bad[start] = str(error)
                fallen = dict(facts.cursor) if fallen is None else fallen
                continue
            good.append(start)
            for name in _read(self._tenure.whole(path), [self._key]).column(0).to_pylist():
                self._home[name] = start
        self._begin(good, fallen)
        for start, why in bad.items():
            target = self._tenure.set_aside(self._path(start))
            self.damaged += 1
            self.problems.append(f"a damaged file was set aside as {os.path.basename(target)}: {why}")
        if not good:
            self._write(0, self.cursor)

    def _begin(self, good: list[int], fallen: dict[str, int] | None) -> None:
        if not good:
            self._loaded[0] = _File(Facts(), {})
            return
        self._newest = good[-1]
        newest = self._load(self._newest)
        self.cursor, self.extra = dict(newest.facts.cursor), newest.facts.extra
        if fallen is not None:
            self.cursor = {topic: min(at, fallen.get(topic, 0)) for topic, at in self.cursor.items()}
            self._write(self._newest, self.cursor)  # before the file is set aside: a kill in between begins anew
        self.visible = dict(self.cursor)

    def scan(self, columns: list[str]) -> Iterator[Row]:
        """The named columns of all rows that are on disk."""
        for _, path in self._tenure.files(self._table):
            yield from _read(self._tenure.whole(path), columns).to_pylist()

    def __contains__(self, key: str) -> bool:
        return key in self._home

    def get(self, key: str) -> tuple[Row, list[int]] | None:
        """A row as a copy, and what was noted with it."""
        start = self._home.get(key)
        if start is None:
            return None
        file = self._load(start)
        return dict(file.rows[key]), file.facts.seen.get(key, [])

    def put(self, row: Row, seen: list[int] | None = None) -> None:
        """Adds a row or takes the place of the one with its key; visible after the next `publish`."""
        key = row[self._key]
        if key not in self._home:
            full = self._load(self._newest)
            if full.full and self._newest not in self._changed:
                if full.facts.following is None:
                    full.facts.following = max(self._newest + 1, self.cursor.get(self._leading_topic, 0))
                    self._changed.add(self._newest)
                self._newest = full.facts.following
                self._loaded[self._newest] = _File(Facts(), {})
            self._home[key] = self._newest
        start = self._home[key]
        file = self._load(start)
        if key in file.rows:
            file.text_bytes -= text_bytes(file.rows[key])
        file.rows[key] = row
        file.text_bytes += text_bytes(row)
        if seen is not None:
            file.facts.seen[key] = seen
        self._changed.add(start)

    def advance(self, topic: str, following: int) -> None:
        """Everything before offset `following` of a topic is folded in."""
        self.cursor[topic] = following

    @property
    def waiting(self) -> bool:
        """Whether rows changed that no reader sees yet."""
        return bool(self._changed)

    def publish(self) -> None:
        """Makes all changes visible, the cursor last. Unavailable on a full disk: it can be tried again."""
        if not self._changed and self.cursor == self.visible:
            return
        for start in sorted(self._changed - {self._newest}):
            self._write(start, self._load(start).facts.cursor)
            self._changed.discard(start)
        self._write(self._newest, dict(self.cursor))
        self._changed.clear()
        self.visible = dict(self.cursor)
        self._loaded = {self._newest: self._loaded[self._newest]}

    def _path(self, start: int) -> str:
        return self._tenure.path(self._table, start)

    def _load(self, start: int) -> _File:
        if start not in self._loaded:
            path = self._path(start)
            with on_disk(path):
                facts = msgspec.convert(read_facts(path, self._tenure.footer(path))[0], Facts)
                table = _read(self._tenure.whole(path))
            self._loaded[start] = _File(facts, {row[self._key]: row for row in rows_of(table)})
        return self._loaded[start]

    def _write(self, start: int, cursor: dict[str, int]) -> None:
        file = self._load(start)
        extra = self.extra if start == self._newest else {}
        facts = Facts(cursor, file.facts.seen, extra, file.facts.following)
        table = table_of(list(file.rows.values()), self._schema)
        write_file(self._tenure, self._path(start), self._schema, [table], facts)
        file.facts = facts


def _read(path: str, columns: list[str] | None = None) -> pa.Table:
    with pq.ParquetFile(path) as file:  # pq.read_table would import pyarrow.dataset and half a second of other modules
        return file.read(columns=columns, use_threads=False)


def text_bytes(row: Row) -> int:
    """About how many bytes of text a row holds."""
    return sum(len(value) for value in row.values() if isinstance(value, str))


def micros(seconds: float | None) -> int | None:
    """Seconds since 1970 as whole µs; None for a time that no calendar knows."""
    if seconds is None or not -62_135_596_800 <= seconds <= 253_402_300_799:
        return None
    return round(seconds * 1e6)


def whole(number: int | None) -> int | None:
    """A number that fits in a column of 64 bits; None for one that does not."""
    return number if number is not None and abs(number) <= _LARGEST else None


def json_text(value: Any) -> str:
    """A value as JSON text; not-finite numbers, which came as words, stay words."""
    return msgspec.json.encode(value).decode()
