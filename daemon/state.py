"""The judge's state.db: attempts (windows, latches, pending), cursor and outbox, changed in one transaction.

It is a projection of the log: deleting it costs a rebuild, nothing else. A damaged file is moved aside and rebuilt.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import msgspec

from ..core.errors import SmartTunerError, Unavailable
from ..core.ports import Clock, Message, Partition
from ..core.ulid import ulid

VERSION = 1
_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...])
_SCHEMA = """
CREATE TABLE attempts (attempt TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE judge (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE cursor (topic TEXT, partition INTEGER, next INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE outbox (
  n INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, headers BLOB NOT NULL
);
"""


class NewerState(SmartTunerError):
    """state.db was written by a newer Smart Tuner."""


class State:
    """One open state.db. Used by its lane's thread; `damaged` is where a broken file was put, if one was found."""

    def __init__(self, path: str, clock: Clock) -> None:
        self.path = path
        self.damaged: str | None = None
        self._lock = threading.RLock()
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error) and "not a database" not in str(error):
                raise _away(error) from error
            self.damaged = f"{path}.damaged-{ulid(clock.now())}"
            self._set_aside(self.damaged)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise NewerState(
                    f"{self.path}: version {version} was written by a newer Smart Tuner (this one knows {VERSION})",
                    "start the newer release, or move the file away: it is rebuilt from the log",
                )
            if version == 0:
                db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
            elif db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("database disk image is malformed")
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self, to: str) -> None:
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self.path + suffix):
                os.replace(self.path + suffix, to + suffix)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes visible and durable together, or not at all; Unavailable on a full disk."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._roll_back()
                raise _away(error) from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def save(self, attempts: Mapping[str, bytes | None], judge: bytes) -> None:
        """Writes the attempts that changed (None forgets one) and the judge's own body."""
        kept = [(name, body) for name, body in attempts.items() if body is not None]
        self._db.executemany("INSERT OR REPLACE INTO attempts VALUES (?, ?)", kept)
        self._db.executemany("DELETE FROM attempts WHERE attempt = ?", [(name,) for name, body in attempts.items() if body is None])
        self._db.execute("INSERT OR REPLACE INTO judge VALUES ('judge', ?)", (judge,))

    def load(self) -> tuple[dict[str, bytes], bytes | None]:
        """What was saved last."""
        with self._lock, closing(self._db.cursor()) as cursor:
            attempts = dict(cursor.execute("SELECT attempt, body FROM attempts").fetchall())
            row = cursor.execute("SELECT body FROM judge WHERE name = 'judge'").fetchone()
        return attempts, row[0] if row else None

    def advance(self, positions: Mapping[Partition, int]) -> None:
        """The next offsets to read."""
        rows = [(topic, partition, position) for (topic, partition), position in positions.items()]
        self._db.executemany("INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", rows)

    def positions(self) -> dict[Partition, int]:
        """The next offsets to read, as committed."""
        with self._lock:
            rows = self._db.execute("SELECT topic, partition, next FROM cursor").fetchall()
        return {(topic, partition): position for topic, partition, position in rows}

    def add(self, messages: Sequence[Message]) -> None:
        """Puts answers into the outbox, in order."""
        rows = [(m.topic, m.key, m.body, msgspec.msgpack.encode(m.headers)) for m in messages]
        self._db.executemany("INSERT INTO outbox (topic, key, body, headers) VALUES (?, ?, ?, ?)", rows)

    def unsent(self) -> list[tuple[int, Message]]:
        """What is in the outbox, in order, with its numbers."""
        with self._lock:
            rows = self._db.execute("SELECT n, topic, key, body, headers FROM outbox ORDER BY n").fetchall()
        return [(n, Message(topic, key, body, _headers.decode(headers))) for n, topic, key, body, headers in rows]

    def mark_sent(self, numbers: Sequence[int]) -> None:
        """Removes what was published."""
        with self.transaction():
            self._db.executemany("DELETE FROM outbox WHERE n = ?", [(n,) for n in numbers])

    def close(self) -> None:
        """Folds the write-ahead log in and closes."""
        with self._lock:
            self._db.close()


def _away(error: sqlite3.Error) -> Unavailable:
    return Unavailable(
        f"state.db: {error}", "free space on the disk of the data directory; nothing is lost, the daemon goes on by itself"
    )
