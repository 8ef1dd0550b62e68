"""One SQLite file of the local log: a table for each partition, in which the offset is the row id."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from ..core.errors import ConfigError, Unavailable
from ..core.ports import Clock, Partition, Record
from .database import Damaged, Form, connect, explained, open_database, set_aside
from .tail import Offsets

VERSION = 1
READ_BYTES = 8 << 20
_ROW = "offset, time_us, key, body, headers"
_READ = "offset, time_us, CAST(key AS BLOB), CAST(body AS BLOB), CAST(headers AS BLOB)"
"""Whatever bytes a damaged page holds: they become a record, which its reader calls corrupt, not an error without end."""
_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...])


def form(topics: Sequence[str], partitions: int) -> Form:
    """Version 1: the records; what is known of each partition; marks, commits and facts by name."""
    tables = "".join(
        f"CREATE TABLE {topic}_{n} (offset INTEGER PRIMARY KEY, time_us INTEGER NOT NULL, key TEXT NOT NULL,"
        " body BLOB NOT NULL, headers BLOB);\n"
        for topic in topics
        for n in range(partitions)
    )
    return Form(
        VERSION,
        tables
        + """
        CREATE TABLE offsets (topic TEXT, partition INTEGER, earliest INTEGER NOT NULL, next INTEGER NOT NULL, gaps TEXT NOT NULL,
            PRIMARY KEY (topic, partition)) WITHOUT ROWID;
        CREATE TABLE marks (name TEXT PRIMARY KEY, position INTEGER NOT NULL, time_us INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE commits (consumers TEXT, topic TEXT, partition INTEGER, position INTEGER NOT NULL,
            PRIMARY KEY (consumers, topic, partition)) WITHOUT ROWID;
        CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
        """
        + f"INSERT INTO facts VALUES ('partitions', {partitions}), ('last_us', 0)",
    )


def _unpacked(headers: bytes | None) -> tuple[tuple[str, bytes], ...]:
    try:
        return _headers.decode(headers) if headers else ()
    except msgspec.DecodeError:
        return ()


class LogFile:
    """Thread safe: one writer at a time (`writing` is its lock), readers beside it. Errors are Unavailable, DiskFull, Damaged."""

    def __init__(self, path: str, topics: Sequence[str], partitions: int, clock: Clock) -> None:
        self.path, self.topics, self._clock = path, tuple(topics), clock
        self.partitions = [(topic, n) for topic in topics for n in range(partitions)]
        self.writing, self._reading, self._keeping = threading.Lock(), threading.Lock(), threading.Lock()
        self._form = form(topics, partitions)
        self._connections: list[sqlite3.Connection] = []
        self.generation = 0
        self._open()
        found = self.fact("partitions")
        if found != partitions:
            self.close()
            raise ConfigError(
                f"{path} was made with {found} partitions, not {partitions}",
                f"write partitions: {found}, or move the file away",
            )

    def _open(self) -> None:
        self._db, _, self.damaged, self.why = open_database(self.path, self._form, self._clock)
        self._connections = [self._db]
        try:
            for _ in range(2):
                self._connections.append(connect(self.path))
        except sqlite3.Error as error:
            self._disconnect()
            raise explained(error, self.path) from error
        _, self._reader, self._keeper = self._connections

    def _disconnect(self) -> None:
        for db in self._connections:
            db.close()

    def replace(self) -> str:
        """Sets the damaged file aside and begins a new one; where it was put. The caller holds `writing`."""
        with self._reading, self._keeping:
            self._disconnect()
            self.generation += 1
            aside = set_aside(self.path, self._clock)
            self._open()
        return aside

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; the caller holds `writing`."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._explained(error, self.generation) from error
            raise

    def append(self, records: Sequence[Record], marks: Mapping[str, int]) -> None:
        """Records of this file's topics, in order, and marks with them."""
        rows: dict[Partition, list[tuple[int, int, str, bytes, bytes | None]]] = {}
        for topic, n, offset, key, body, time, headers in records:
            packed = msgspec.msgpack.encode(headers) if headers else None
            rows.setdefault((topic, n), []).append((offset, round(time * 1e6), key, body, packed))
        with self.transaction() as db:
            for (topic, n), several in rows.items():
                db.executemany(f"INSERT INTO {topic}_{n} ({_ROW}) VALUES (?, ?, ?, ?, ?)", several)
            if marks:
                last_us = round(records[-1].time * 1e6)
                db.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", [(k, v, last_us) for k, v in marks.items()])

    def read(self, partition: Partition, position: int, end: int, limit: int) -> tuple[list[Record], bool]:
        """Records in [position, end), at most `limit` and about READ_BYTES of them, and whether more may follow."""
        topic, n = partition
        found: list[Record] = []
        size = 0
        with self._read() as db:
            rows = db.execute(
                f"SELECT {_READ} FROM {topic}_{n} WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT ?", (position, end, limit)
            )
            for offset, time_us, key, body, headers in rows:
                text = (key or b"").decode("utf-8", "replace")
                found.append(Record(topic, n, offset, text, body or b"", time_us / 1e6, _unpacked(headers)))
                size += len(found[-1].body)
                if size > READ_BYTES:
                    break
            rows.close()
        return found, bool(found) and found[-1].offset + 1 < end

    def offsets(self) -> dict[Partition, Offsets]:
        """What is known of each partition."""
        with self._read() as db:
            kept = {(t, n): Offsets(a, b, msgspec.json.decode(gaps, type=list[tuple[int, int]])) for t, n, a, b, gaps in
                    db.execute("SELECT topic, partition, earliest, next, gaps FROM offsets")}  # fmt: skip
            found = {}
            for topic, n in self.partitions:
                known = found[topic, n] = kept.get((topic, n), Offsets())
                first, last = db.execute(f"SELECT min(offset), max(offset) FROM {topic}_{n}").fetchone()
                if last is not None:
                    known.next = max(known.next, last + 1)
                    known.earliest = max(known.earliest, first)
        return found

    def save_offsets(self, offsets: Mapping[Partition, Offsets], last_us: int) -> None:
        """Remembers what the records that are left do not say; the caller holds `writing`."""
        with self.transaction() as db:
            self._put_offsets(db, offsets, last_us)

    def _put_offsets(self, db: sqlite3.Connection, offsets: Mapping[Partition, Offsets], last_us: int) -> None:
        rows = [
            (t, n, o.earliest, o.next, msgspec.json.encode([gap for gap in o.gaps if gap[1] > o.earliest]).decode())
            for (t, n), o in offsets.items()
        ]
        db.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("UPDATE facts SET value = max(value, ?) WHERE name = 'last_us'", (last_us,))

    def delete_before(self, offsets: Mapping[Partition, Offsets], last_us: int) -> None:
        """Removes what is before `earliest` of each partition; the caller holds `writing` and keeps the piece small."""
        with self.transaction() as db:
            for (topic, n), known in offsets.items():
                db.execute(f"DELETE FROM {topic}_{n} WHERE offset < ?", (known.earliest,))
            self._put_offsets(db, offsets, last_us)

    def oldest(self, partition: Partition, limit: int) -> list[tuple[float, Partition, int, int]]:
        """(time, partition, offset, bytes) of the partition's oldest records, at most `limit`."""
        sql = f"SELECT time_us, offset, length(body) + length(key) + 40 FROM {partition[0]}_{partition[1]} ORDER BY offset LIMIT ?"
        with self._keep() as db:
            return [(time_us / 1e6, partition, offset, size) for time_us, offset, size in db.execute(sql, (limit,))]

    def last_us(self) -> int:
        """The last append time that the file knows of, in microseconds."""
        with self._read() as db:
            times = [
                db.execute(f"SELECT time_us FROM {topic}_{n} ORDER BY offset DESC LIMIT 1").fetchone()
                for topic, n in self.partitions
            ]
        known = [int(row[0]) for row in times if row]
        return max([int(self.fact("last_us") or 0), *known])

    def sizes(self) -> tuple[int, int]:
        """Bytes that hold something, and bytes that are free inside the file."""
        with self._keep() as db:
            pages, free, page = (
                db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * page, free * page

    def reclaim(self, pages: int) -> None:
        """Gives free pages back to the disk, so many at most; the caller holds `writing`."""
        with self._explaining():
            self._db.executescript(f"PRAGMA incremental_vacuum({pages})")  # execute() would step once, which is one page

    def wal_bytes(self) -> int:
        """The size of the write-ahead log."""
        try:
            return os.path.getsize(self.path + "-wal")
        except OSError:
            return 0

    def checkpoint(self) -> None:
        """Folds the write-ahead log in, beside the writer; the next writer begins it anew if nothing came meanwhile."""
        with self._keep() as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def marks(self) -> dict[str, int]:
        """Every mark."""
        with self._read() as db:
            return dict(db.execute("SELECT name, position FROM marks").fetchall())

    def forget_marks(self, before_us: int) -> int:
        """Drops marks that nobody moved since; the caller holds `writing`."""
        with self.transaction() as db:
            return int(db.execute("DELETE FROM marks WHERE time_us < ?", (before_us,)).rowcount)

    def commits(self) -> dict[tuple[str, Partition], int]:
        """What each group wants next."""
        with self._read() as db:
            return {(group, (topic, n)): at for group, topic, n, at in db.execute("SELECT * FROM commits")}

    def commit(self, commits: Iterable[tuple[str, Partition, int]]) -> None:
        """Remembers what groups want next; the caller holds `writing`."""
        with self.transaction() as db:
            rows = [(group, topic, n, position) for group, (topic, n), position in commits]
            db.executemany("INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?)", rows)

    def fact(self, name: str) -> str | int | None:
        """A fact by name."""
        with self._read() as db:
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        value: str | int | None = row[0] if row else None
        return value

    def state(self, name: str, value: str | int) -> None:
        """Changes a fact; the caller holds `writing`."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Folds the write-ahead log in and closes."""
        with self.writing, self._reading, self._keeping:
            self._disconnect()

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._reading, self._explaining():
            yield self._reader

    @contextmanager
    def _keep(self) -> Iterator[sqlite3.Connection]:
        """Housekeeping's own connection: readers do not wait for its fsync."""
        with self._keeping, self._explaining():
            yield self._keeper

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        generation = self.generation
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(error, generation) from error

    def _explained(self, error: sqlite3.Error, generation: int) -> Unavailable:
        found = explained(error, self.path)
        if isinstance(found, Damaged):
            found.generation = generation
        return found
