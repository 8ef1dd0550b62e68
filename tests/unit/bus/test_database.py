import os
import sqlite3
from contextlib import closing

import pytest
from smarttuner.bus import database
from smarttuner.bus.database import Damaged, DiskFull, Form, NewerVersion, open_database
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import Unavailable

ONE = Form(1, "CREATE TABLE things (name TEXT)")
TWO = Form(2, "CREATE TABLE things (name TEXT, size INTEGER)", {1: "ALTER TABLE things ADD COLUMN size INTEGER DEFAULT 7"})


def opened(path, form=ONE):
    found = open_database(str(path), form, ManualClock())
    found.connection.close()
    return found


def ask(path, sql):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def tell(path, sql):
    with closing(sqlite3.connect(path)) as db:
        db.execute(sql)
        db.commit()


def test_a_new_file_is_whole_private_and_gives_space_back(tmp_path):
    path = tmp_path / "a.db"
    assert opened(path).fresh
    assert not opened(path).fresh
    assert ask(path, "PRAGMA user_version") == [(1,)]
    assert ask(path, "PRAGMA auto_vacuum") == [(2,)]
    assert ask(path, "PRAGMA journal_mode") == [("wal",)]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", ["a.db", "a.db.new"])
def test_what_a_kill_while_making_leaves_is_no_obstacle(tmp_path, left):
    (tmp_path / left).write_bytes(b"")
    assert opened(tmp_path / "a.db").fresh
    assert not (tmp_path / "a.db.new").exists()


def test_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "a.db"
    opened(path)
    tell(path, "PRAGMA user_version=9")
    with pytest.raises(NewerVersion, match="version 9") as refused:
        opened(path)
    assert "newer release" in refused.value.hint
    assert ask(path, "PRAGMA user_version") == [(9,)]


def test_an_older_version_is_backed_up_then_migrated(tmp_path):
    path = tmp_path / "a.db"
    opened(path)
    tell(path, "INSERT INTO things VALUES ('x')")
    opened(path, TWO)
    assert ask(path, "SELECT * FROM things") == [("x", 7)]
    assert ask(path, "PRAGMA user_version") == [(2,)]
    assert ask(tmp_path / "a.db.v1-backup", "SELECT * FROM things") == [("x",)]


def test_a_migration_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.db"
    opened(path)
    with pytest.raises(Unavailable):
        opened(path, Form(2, "", {1: "ALTER TABLE things ADD COLUMN size INTEGER; INSERT INTO nowhere VALUES (1)"}))
    assert ask(path, "PRAGMA user_version") == [(1,)]
    opened(path, TWO)
    assert ask(path, "PRAGMA table_info(things)")[1][1] == "size"


def scribble(path, at, count, byte=b"\xa5"):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(byte * count)


@pytest.mark.parametrize(("at", "count"), [(0, 100), (0, 8192), (4096 * 3, 4096 * 20)])
def test_a_damaged_file_is_set_aside_and_a_fresh_one_made(tmp_path, at, count):
    path = tmp_path / "a.db"
    opened(path)
    with closing(sqlite3.connect(path)) as db:
        db.executemany("INSERT INTO things VALUES (?)", [(f"thing {n}" * 20,) for n in range(2000)])
        db.commit()
    scribble(path, at, count)
    found = opened(path)
    assert found.fresh
    assert found.why
    assert os.path.getsize(found.damaged) > 100_000
    assert ask(path, "SELECT count(*) FROM things") == [(0,)]


def test_a_file_that_is_no_database_is_set_aside(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(os.urandom(5000))
    assert opened(path).damaged.startswith(f"{path}.damaged-")


def test_only_the_latest_damaged_files_are_kept(tmp_path):
    path, clock = tmp_path / "a.db", ManualClock()
    for _ in range(6):
        path.write_bytes(b"no database at all " * 300)
        last = open_database(str(path), ONE, clock)
        last.connection.close()
        clock.turn(1)
    kept = sorted(name for name in os.listdir(tmp_path) if "damaged" in name)
    assert len(kept) == database.KEEP_DAMAGED
    assert str(tmp_path / kept[-1]) == last.damaged


def test_errors_of_sqlite_become_ours():
    full, corrupt, busy = sqlite3.OperationalError("full"), sqlite3.DatabaseError("malformed"), sqlite3.OperationalError("busy")
    for error, code in ((full, sqlite3.SQLITE_FULL), (corrupt, sqlite3.SQLITE_CORRUPT), (busy, sqlite3.SQLITE_BUSY)):
        error.sqlite_errorcode = code
    assert isinstance(database.explained(full, "p"), DiskFull)
    assert isinstance(database.explained(corrupt, "p"), Damaged)
    assert type(database.explained(busy, "p")) is Unavailable
