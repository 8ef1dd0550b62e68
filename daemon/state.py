"""The judge's state.db: attempts (windows, latches, pending), cursor and outbox, changed in one transaction.

It is a projection of the log: deleting it costs a rebuild, nothing else. A damaged file is moved aside and rebuilt.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from urllib.parse import quote

import msgspec

from ..bus.database import Damaged, Form, explained, open_database
from ..core.errors import Unavailable
from ..core.ports import Clock, Message, Partition

_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...])
_FORM = Form(
    version=1,
    create="""
    CREATE TABLE attempts (attempt TEXT PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE judge (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE cursor (topic TEXT, partition INTEGER, next INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID;
    CREATE TABLE outbox (
      n INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, headers BLOB NOT NULL
    )""",
)
_SAVE = "INSERT INTO attempts VALUES (?, ?) ON CONFLICT (attempt) DO UPDATE SET body = excluded.body"
"""With a table that has row ids one page an attempt is written: a seventh of the time of REPLACE in one WITHOUT ROWID."""
FOLD_BYTES = 4 << 20
LAST_RESORT_PAGES = 16_000
"""So many pages in the write-ahead log (64 MB) are folded in by the judge itself, should nobody call `fold`."""


class State:
    """One open state.db, used by its lane's thread. NewerVersion for a file of a newer release; every other trouble is
    Unavailable. `damaged` is where a broken file was put, if one was found: at opening or under way; `damages` counts them."""

    def __init__(self, path: str, clock: Clock) -> None:
        self.path = path
        self.damaged: str | None = None
        self.damages = 0
        self._clock = clock
        self._lock = threading.RLock()
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db, _, damaged, _ = open_database(self.path, _FORM, self._clock)
        db.execute(f"PRAGMA wal_autocheckpoint={LAST_RESORT_PAGES}")
        self.damaged = damaged or self.damaged
        self.damages += damaged is not None
        return db

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Errors of SQLite as Unavailable; a file that turns out to be damaged is opened anew for the next try."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                self._roll_back()
                said = explained(error, self.path)
                if isinstance(said, Damaged):
                    self._db.close()
                    self._db = self._open()
                    said = Unavailable(said.message, f"kept as {self.damaged}; the daemon rebuilds it from the log")
                raise said from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes visible and durable together, or not at all; Unavailable on a full disk."""
        with self._using() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield
                db.execute("COMMIT")
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:  # a damaged file: the connection is closed next
            pass

    def save(self, attempts: Mapping[str, bytes | None], judge: bytes) -> None:
        """Writes the attempts that changed (None forgets one) and the judge's own body."""
        kept = [(name, body) for name, body in attempts.items() if body is not None]
        self._db.executemany(_SAVE, kept)
        if len(kept) < len(attempts):
            gone = [(name,) for name, body in attempts.items() if body is None]
            self._db.executemany("DELETE FROM attempts WHERE attempt = ?", gone)
        self._db.execute("INSERT OR REPLACE INTO judge VALUES ('judge', ?)", (judge,))

    def load(self) -> tuple[dict[str, bytes], bytes | None]:
        """What was saved last."""
        with self._using() as db:
            attempts = dict(db.execute("SELECT attempt, body FROM attempts").fetchall())
            row = db.execute("SELECT body FROM judge WHERE name = 'judge'").fetchone()
        return attempts, row[0] if row else None

    def advance(self, positions: Mapping[Partition, int]) -> None:
        """The next offsets to read."""
        rows = [(topic, partition, position) for (topic, partition), position in positions.items()]
        self._db.executemany("INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", rows)

    def positions(self) -> dict[Partition, int]:
        """The next offsets to read, as committed."""
        with self._using() as db:
            rows = db.execute("SELECT topic, partition, next FROM cursor").fetchall()
        return {(topic, partition): position for topic, partition, position in rows}

    def add(self, messages: Sequence[Message]) -> None:
        """Puts answers into the outbox, in order."""
        rows = [(m.topic, m.key, m.body, msgspec.msgpack.encode(m.headers)) for m in messages]
        self._db.executemany("INSERT INTO outbox (topic, key, body, headers) VALUES (?, ?, ?, ?)", rows)

    def unsent(self) -> list[tuple[int, Message]]:
        """What is in the outbox, in order, with its numbers."""
        with self._using() as db:
            rows = db.execute("SELECT n, topic, key, body, headers FROM outbox ORDER BY n").fetchall()
        return [(n, Message(topic, key, body, _headers.decode(headers))) for n, topic, key, body, headers in rows]

    def mark_sent(self, numbers: Sequence[int]) -> None:
        """Removes what was published."""
        with self.transaction():
            self._db.executemany("DELETE FROM outbox WHERE n = ?", [(n,) for n in numbers])

    def fold(self) -> None:
        """Folds the write-ahead log in when it has grown, beside the judge, which need not wait for the fsync. For a thread
        that tidies about once a second; Unavailable where it cannot be."""
        try:
            if os.path.getsize(self.path + "-wal") < FOLD_BYTES:
                return
            with closing(sqlite3.connect(f"file:{quote(self.path)}?mode=rw", uri=True)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except FileNotFoundError:  # nothing was written since it was opened
            return
        except sqlite3.Error as error:
            raise explained(error, self.path) from error

    def close(self) -> None:
        """Folds the write-ahead log in and closes."""
        with self._lock:
            self._db.close()
