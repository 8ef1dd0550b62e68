"""Opens one of our SQLite files: made whole or not at all, checked, migrated with a backup, set aside when damaged."""

from __future__ import annotations

import glob
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from ..core.errors import SmartTunerError, Unavailable
from ..core.ports import Clock
from ..core.ulid import ulid

KEEP_DAMAGED = 3
"""So many damaged files are kept beside a database; older ones go, so that a dying disk does not fill itself."""
BUSY_MS = 2000
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class NewerVersion(SmartTunerError):
    """The file was written by a newer Smart Tuner than this one."""


class DiskFull(Unavailable):
    """No room for what was to be written; nothing of it was."""


class Damaged(Unavailable):
    """The file is not what was written into it. `generation` is for its owner: which of its files that was."""

    generation = 0


@dataclass(frozen=True)
class Form:
    """How a database looks: `create` makes the newest, `migrations[n]` turns version n into n + 1 (SQL scripts)."""

    version: int
    create: str
    migrations: Mapping[int, str] = field(default_factory=dict)
    page_bytes: int = 4096


class Opened(NamedTuple):
    """A connection; whether the file is new; where a damaged one was put, and what was wrong with it."""

    connection: sqlite3.Connection
    fresh: bool
    damaged: str | None = None
    why: str = ""


def explained(error: sqlite3.Error, path: str) -> Unavailable:
    """An error of SQLite as one of ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    name = getattr(error, "sqlite_errorname", "")
    if code == sqlite3.SQLITE_FULL or name in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHMSIZE"):
        return DiskFull(f"{path}: {error}", "free space on the disk of the data directory; it goes on by itself then")
    if code in _DAMAGE:
        return Damaged(f"{path}: {error}", "it is set aside when it is opened next")
    return Unavailable(f"{path}: {error}", "look at the disk and the permissions of the data directory")


def open_database(path: str, form: Form, clock: Clock) -> Opened:
    """The database at `path`, made if need be. NewerVersion, or Unavailable where the disk does not let us."""
    fresh = not os.path.exists(path) or os.path.getsize(path) == 0
    if fresh:
        _make(path, form)
    try:
        return Opened(_checked(path, form), fresh)
    except Damaged as error:
        aside = set_aside(path, clock)
        _make(path, form)
        return Opened(_checked(path, form), True, aside, error.message)


def connect(path: str) -> sqlite3.Connection:
    """A connection in autocommit mode that several threads may use, one at a time."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
    try:
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA journal_size_limit=16777216")  # a write-ahead log that grew once is cut back when it begins anew
        db.execute("PRAGMA wal_autocheckpoint=0")  # its owner checkpoints beside the writers: an fsync is not theirs to wait for
    except BaseException:
        db.close()
        raise
    return db


def _make(path: str, form: Form) -> None:
    """Under another name first, so that a kill leaves a whole database or none."""
    _remove(path + ".new")
    _remove(path)
    try:
        with closing(sqlite3.connect(path + ".new", isolation_level=None)) as db:
            db.execute(f"PRAGMA page_size={form.page_bytes}")
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.executescript(f"BEGIN; {form.create}; PRAGMA user_version={form.version}; COMMIT;")
            db.execute("PRAGMA journal_mode=WAL")
        os.chmod(path + ".new", 0o600)
        os.replace(path + ".new", path)
    except sqlite3.Error as error:
        raise explained(error, path) from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}", "look at the disk and the permissions of the data directory") from error


def _checked(path: str, form: Form) -> sqlite3.Connection:
    try:
        db = connect(path)
    except sqlite3.Error as error:
        raise explained(error, path) from error
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > form.version:
            raise NewerVersion(
                f"{path}: version {version} was written by a newer Smart Tuner (this one knows up to {form.version})",
                f"start the newer release, or move {os.path.basename(path)} away to begin a new one",
            )
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok" or version < 1:
            raise Damaged(f"{path}: {found if found != 'ok' else 'has no version'}", "it is set aside when it is opened next")
        if version < form.version:
            _migrate(db, path, form, version)
        db.execute("PRAGMA journal_mode=WAL")
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            raise explained(error, path) from error
        raise
    return db


def _migrate(db: sqlite3.Connection, path: str, form: Form, version: int) -> None:
    """Backs up first; each step is one transaction together with its version, so that a kill resumes between steps."""
    backup = f"{path}.v{version}-backup"
    if not os.path.exists(backup):
        with closing(sqlite3.connect(backup + ".new")) as copy:
            db.backup(copy)
        os.replace(backup + ".new", backup)
    for step in range(version, form.version):
        db.executescript(f"BEGIN IMMEDIATE; {form.migrations[step]}; PRAGMA user_version={step + 1}; COMMIT;")


def set_aside(path: str, clock: Clock) -> str:
    """Moves a database and its write-ahead log to `<path>.damaged-<ulid>`; the oldest of many such go."""
    aside = f"{path}.damaged-{ulid(clock.now())}"
    for suffix in ("-wal", ""):  # the database last: a kill in between finds it damaged once more
        if os.path.exists(path + suffix):
            os.replace(path + suffix, aside + suffix)
    if os.path.exists(path + "-shm"):
        os.unlink(path + "-shm")
    kept = sorted(name for name in glob.glob(glob.escape(path) + ".damaged-*") if not name.endswith("-wal"))
    for name in kept[:-KEEP_DAMAGED]:
        _remove(name)
    return aside


def _remove(path: str) -> None:
    for suffix in ("-wal", "-shm", "-journal", ""):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)
