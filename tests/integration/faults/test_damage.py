"""Files that are damaged, of a newer version, on a full disk or a network file system, a broken configuration, a second
daemon: a clear message with a hint, counted, and whatever else is well goes on."""

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys

import pyarrow.parquet
import pytest

pytestmark = pytest.mark.timeout(600)
RULES = """
early_stopping:
  strategies:
    patience_based: {patience: 8, min_delta: 0.0, mode: min, restore_best_weights: false}
limits: {decisions_per_hour: 1000}
store: {publish_s: 0.2}
"""


class Lived:
    """What a daemon left behind that has served a job and ended well."""

    def __init__(self, place, until):
        self.place = place
        place.config.write_text(RULES)
        daemon = place.daemon().ready()
        job = place.job("before", descent=2)
        assert job.ended() == 0
        (self.said,) = job.lines("runs")
        assert daemon.stop() == 0
        assert place.states()["before"][0] == "pruned"
        self.decisions = place.decisions()
        assert [row["status"] for row in self.decisions if row["action"] == "prune"] == ["applied"]


@pytest.fixture(scope="module")
def lived(tmp_path_factory, workplace, until):
    place = workplace(tmp_path_factory.mktemp("lived") / "place")
    yield Lived(place, until)
    place.shut()


@pytest.fixture
def copy(place, lived):
    """A workplace with a copy of that data."""
    shutil.copytree(lived.place.data, place.data)
    place.config.write_text(RULES)
    return place


def only(place, pattern):
    (path,) = [path for path in place.data.glob(pattern) if path.stat().st_size]
    return path


def flip(path):
    """Some bytes in the middle are others."""
    with path.open("rb+") as file:
        file.seek(path.stat().st_size // 2)
        found = file.read(64)
        file.seek(-64, os.SEEK_CUR)
        file.write(bytes(byte ^ 0x5A for byte in found))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def replace(path):
    path.write_bytes(random.Random(6).randbytes(path.stat().st_size))


DAMAGES = [
    ("metrics/*.parquet", flip),
    ("metrics/*.parquet", cut),
    ("runs/*.parquet", replace),
    ("decisions/*.parquet", replace),
    ("bus.db", replace),
    ("bus.db", cut),
    ("control.db", replace),
    ("state.db", replace),
]


@pytest.mark.parametrize(("pattern", "damage"), DAMAGES, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_a_damaged_file_is_set_aside_told_and_counted_and_nothing_that_was_stored_is_lost(copy, lived, until, pattern, damage):
    path = only(copy, pattern)
    damage(path)
    daemon = copy.daemon().ready()
    after = copy.job("after", steps=100)
    assert after.ended() == 0, after.said()
    until(lambda: copy.states().get("after") == ("finished", None), told=copy.said)
    status = daemon.ask()
    assert not status["problems"]
    assert status["counters"].get("damaged", 0) + status["counters"]["damaged_files"] == 1
    aside = [one for one in path.parent.iterdir() if ".damaged-" in one.name]
    assert aside
    until(lambda: any(one.name in copy.said() for one in aside), told=copy.said)
    if pattern in ("bus.db", "metrics/*.parquet") and damage is cut:
        assert any(one.name in copy.cli("doctor").stdout for one in aside)
    assert daemon.stop() == 0
    copy.whole("after", 100)
    copy.whole("before", lived.said["logged"])
    assert copy.states()["before"][0] == "pruned"
    found = {row["id"]: (row["action"], row["reason"], row["status"]) for row in copy.decisions(run="before")}
    assert found == {row["id"]: (row["action"], row["reason"], row["status"]) for row in lived.decisions}
    assert len(found) == len(copy.decisions(run="before"))


def make_newer_database(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")


def make_newer_table(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.replace_schema_metadata({"smarttuner.version": "99", "smarttuner": "{}"}), path)


NEWER = [
    ("bus.db", make_newer_database, 1),
    ("control.db", make_newer_database, 1),
    ("state.db", make_newer_database, 1),
    ("metrics/*.parquet", make_newer_table, 3),
    ("runs/*.parquet", make_newer_table, 3),
]


@pytest.mark.parametrize(("pattern", "change", "code"), NEWER, ids=[one[0] for one in NEWER])
def test_a_newer_version_is_refused_with_a_hint_and_left_untouched(copy, pattern, change, code):
    path = only(copy, pattern)
    change(path)
    before = hashlib.sha256(path.read_bytes()).digest()
    done = copy.cli("daemon", "--config", copy.config)
    assert done.returncode == code, done.stderr
    assert str(path) in done.stderr
    assert "99" in done.stderr
    assert "newer" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert before == hashlib.sha256(path.read_bytes()).digest()
    assert not (copy.data / "bus.sock").exists()


BROKEN = [
    (
        "early_stopping:\n  strategies:\n    patience_based: {patience: six}\n",
        ":3: early_stopping.strategies.patience_based.patience",
        "patience",
    ),
    ("limits: {}\nearly_stoping: {}\n", ":2: ", "early_stopping"),
    ("limits: {decisions_per_hour: 3\n", ":", ""),
    ("limits: {decisions_per_hour: 3}\nlimits: {}\n", ":2: ", ""),
]


@pytest.mark.parametrize(("text", "where", "hint"), BROKEN, ids=["value", "key", "yaml", "twice"])
def test_a_broken_configuration_is_refused_with_file_line_and_hint(place, text, where, hint):
    place.config.write_text(text)
    done = place.cli("daemon", "--config", place.config)
    assert done.returncode == 3
    assert f"{place.config}{where}" in done.stderr
    assert "hint: " in done.stderr
    assert hint in done.stderr.partition("hint: ")[2]
    assert "Traceback" not in done.stderr
    assert not place.data.exists()


def test_a_second_daemon_is_told_the_pid_of_the_first_which_goes_on(place, until):
    first = place.daemon().ready()
    job = place.job("job").reaches(20)
    done = place.cli("daemon", "--config", place.config)
    assert done.returncode == 1
    assert f"process {first.pid}" in done.stderr
    assert "--data-dir" in done.stderr.partition("hint: ")[2]
    assert "Traceback" not in done.stderr
    job.reaches(job.logged + 50)
    assert place.status()[0] == 0
    job.tell_to_end()
    assert job.ended() == 0
    until(lambda: place.states() == {"job": ("finished", None)}, told=place.states)
    assert first.stop() == 0
    place.whole("job", job.logged)


ON_NFS = (
    sys.executable,
    "-c",
    "from smarttuner.bus import filesystem; filesystem.kind = lambda path: 0x6969\n"
    "from smarttuner.daemon.cli.main import main; main()",
)


def test_a_data_directory_on_nfs_is_refused_and_nothing_is_made_in_it(place, until):
    daemon = place.daemon(launcher=ON_NFS)
    assert daemon.process.wait(60) == 3
    assert f"{place.data}: the data directory cannot lie on NFS" in place.said()
    assert "hint: choose a folder on a disk of this machine" in place.said()
    assert "Traceback" not in place.said()
    assert not place.data.exists() or not list(place.data.iterdir())


@pytest.fixture
def small_disk(place):
    """The data directory on a disk of its own with 48 MB."""
    place.data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place.data)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"a small disk needs the permission to mount: {done.stderr.strip() if done else 'no mount command'}")
    yield place
    place.shut()
    subprocess.run(["umount", str(place.data)], check=True)


def fill(path):
    """Takes all the room there is, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def test_a_full_disk_harms_no_job_is_told_once_and_nothing_is_lost(small_disk, until):
    place = small_disk
    daemon = place.daemon().ready()
    job = place.job("job", pause_s=0.004).reaches(100)
    filler = place.data / "filler"
    fill(filler)
    until(lambda: daemon.counter("publish_failed") > 2, told=lambda: daemon.ask()["counters"])
    fill(filler)
    job.reaches(job.logged + 300)
    code, status = place.status()
    assert code == 1
    assert any(problem.startswith("edge: ") and "is full" in problem for problem in status["problems"]), status["problems"]
    doctor = place.cli("doctor")
    assert "MiB free" in doctor.stdout
    said = [line.split(":")[0] for line in place.said().splitlines() if "is full" in line or "No space left" in line]
    assert "WARNING nothing can be put on the log, trying again; the jobs write on into their spools" in said
    assert len(said) == len(set(said)) <= 3, said  # the edge, the judge, the store: each once
    assert "hint: free space" in place.said()
    filler.unlink()
    until(lambda: place.status()[0] == 0, told=place.status)
    assert "the log takes records again" in place.said()
    job.tell_to_end()
    assert job.ended() == 0
    until(lambda: place.states() == {"job": ("finished", None)}, told=place.said)
    assert job.lines("runs")[0]["failures"] == 0
    assert daemon.stop() == 0
    place.whole("job", job.logged)
