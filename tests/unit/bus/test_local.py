import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from smarttuner.bus.database import DiskFull, NewerVersion
from smarttuner.bus.local import REBOOT_GAP, LocalLog
from smarttuner.bus.reserve import Reserve
from smarttuner.bus.retention import DAY_S, MIB, Limits, Retention
from smarttuner.core.clock import ManualClock, SystemClock
from smarttuner.core.errors import ConfigError, Unavailable
from smarttuner.core.ports import CONTROL, METRICS, RUNS, TOPICS, Message

SMALL = Retention(Limits(MIB, DAY_S, 2 * MIB), Limits(MIB, DAY_S, 2 * MIB), MIB)


def messages(first, end, topic=METRICS, size=0):
    return [Message(topic, "k", b"%d" % n + b" " * size) for n in range(first, end)]


def open_log(folder, clock=None, limits=SMALL, **options):
    return LocalLog(str(folder), clock or ManualClock(), limits=limits, housekeeping=False, **options)


def numbers(records):
    return [int(record.body) for record in records]


def tables(path):
    with closing(sqlite3.connect(path)) as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_metrics_have_a_file_of_their_own(tmp_path):
    open_log(tmp_path, partitions=2).close()
    assert {"metrics_0", "metrics_1"} <= tables(tmp_path / "bus.db")
    assert not {name for name in tables(tmp_path / "control.db") if name.startswith("metrics")}
    assert {"runs_1", "control_1", "notices_1", "dead_letters_1"} <= tables(tmp_path / "control.db")


def test_a_writer_of_metrics_that_is_stuck_does_not_keep_control_from_being_written_and_followed(tmp_path):
    log = open_log(tmp_path)
    with log._files[0].writing:
        bus = log.connect()
        bus.publish(messages(0, 3, CONTROL))
        assert numbers(bus.follow(CONTROL, "k", 0)[0]) == [0, 1, 2]
        assert numbers(bus.poll([CONTROL, RUNS], "g").records) == [0, 1, 2]
    log.close()


def test_after_a_reboot_new_offsets_lie_behind_any_that_may_have_been_lost(tmp_path):
    log = open_log(tmp_path, boot="one")
    log.connect().publish(messages(0, 5))
    log.close()
    log = open_log(tmp_path, boot="one")
    log.connect().publish(messages(5, 6))
    log.close()
    log = open_log(tmp_path, boot="two")
    bus = log.connect()
    bus.publish(messages(6, 7))
    position_ahead_of_the_file = 9
    batch = bus.poll([METRICS], "g", start=lambda p: position_ahead_of_the_file)
    assert numbers(batch.records) == [6]
    assert batch.records[0].offset == 6 + REBOOT_GAP
    assert not batch.fell_off
    bus.commit("g", {(METRICS, 0): 3})
    assert log.lag("g") == {(METRICS, 0): 4}
    log.close()


@pytest.mark.parametrize("gone", [["bus.db"], ["control.db"], ["bus.db", "control.db", "control.reserve"]])
def test_positions_of_a_file_that_was_removed_do_not_swallow_new_records(tmp_path, gone):
    log = open_log(tmp_path)
    log.connect().publish(messages(0, 9) + messages(0, 9, RUNS))
    log.close()
    for name in gone:
        os.unlink(tmp_path / name)
    log = open_log(tmp_path)
    bus = log.connect()
    bus.publish(messages(9, 11) + messages(9, 11, RUNS))
    found = bus.poll([METRICS, RUNS], "g", start=lambda p: 9).records
    assert [(r.topic, int(r.body)) for r in found] == [(METRICS, 9), (METRICS, 10), (RUNS, 9), (RUNS, 10)]
    log.close()


def test_times_go_on_rising_after_a_restart_with_a_clock_that_went_back_and_nothing_left(tmp_path):
    clock = ManualClock(2e9)
    log = open_log(tmp_path, clock)
    bus = log.connect()
    bus.publish(messages(0, 3))
    clock.turn(2 * DAY_S)
    log.maintain()
    assert bus.poll([METRICS], "g").records == ()
    last_us = log.head.last_us
    log.close()
    log = open_log(tmp_path, ManualClock(1e9))
    bus = log.connect()
    bus.publish(messages(3, 4))
    (record,) = bus.poll([METRICS], "g").records
    assert record.offset == 3
    assert round(record.time * 1e6) > last_us - 1
    log.close()


def test_a_damaged_file_is_told_counted_and_replaced_and_the_other_is_untouched(tmp_path):
    log = open_log(tmp_path)
    log.connect().publish(messages(0, 9) + messages(0, 9, RUNS))
    log.close()
    (tmp_path / "bus.db").write_bytes(os.urandom(20_000))
    log = open_log(tmp_path)
    assert log.counters["damaged"] == 1
    (warning,) = log.warnings
    assert "bus.db.damaged-" in warning
    bus = log.connect()
    bus.publish(messages(9, 10))
    assert numbers(bus.poll([METRICS, RUNS], "g", start=lambda p: 0).records) == [*range(9), 9]
    log.close()


def scribble_over(folder, name, log):
    """Damages an open file's pages behind the first two, as a dying disk does."""
    for file in log._files:
        file.checkpoint()
    size = os.path.getsize(folder / name)
    assert size > 20 * 4096
    with open(folder / name, "r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xa5" * (size - 2 * 4096))


def test_damage_met_by_a_reader_under_way_costs_what_was_in_the_file_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("smarttuner.bus.local.TAIL_BYTES", dict.fromkeys(TOPICS, 0))
    log = open_log(tmp_path, limits=Retention())
    bus = log.connect()
    bus.publish(messages(0, 2000, size=500))
    assert numbers(bus.poll([METRICS], "g", limit=10).records) == list(range(10))
    scribble_over(tmp_path, "bus.db", log)
    lost, found = 0, []
    for _ in range(10):
        batch = bus.poll([METRICS], "g")
        lost += sum(batch.fell_off.values())
        found += batch.records
    assert lost + len(found) == 1990
    assert lost > 0
    assert log.counters["damaged"] == 1
    bus.publish(messages(2000, 2003))
    assert numbers(bus.poll([METRICS], "g").records) == [2000, 2001, 2002]
    log.close()
    log = open_log(tmp_path)
    assert numbers(log.connect().poll([METRICS], "h").records) == [2000, 2001, 2002]
    assert log.counters["damaged"] == 0
    log.close()


def test_damage_met_by_housekeeping_sets_the_file_aside(tmp_path):
    log = open_log(tmp_path)
    bus = log.connect()
    bus.publish(messages(0, 3000, size=800))
    scribble_over(tmp_path, "bus.db", log)
    log.maintain()
    log.maintain()
    assert log.counters["damaged"] == 1
    bus.publish(messages(0, 1))
    log.close()


def test_a_newer_log_is_refused_and_the_directory_free_again(tmp_path):
    open_log(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "control.db")) as db:
        db.execute("PRAGMA user_version=2")
    for _ in range(2):
        with pytest.raises(NewerVersion, match=r"control\.db: version 2"):
            open_log(tmp_path)


def test_another_number_of_partitions_is_refused_with_the_one_that_fits(tmp_path):
    open_log(tmp_path, partitions=2).close()
    with pytest.raises(ConfigError, match="2 partitions") as refused:
        open_log(tmp_path, partitions=3)
    assert "partitions: 2" in refused.value.hint


def test_space_is_given_back_to_the_disk(tmp_path):
    clock = ManualClock()
    log = open_log(tmp_path, clock)
    bus = log.connect()
    for n in range(0, 800, 100):
        bus.publish(messages(n, n + 100, size=20_000))
    log._files[0].checkpoint()
    before = os.path.getsize(tmp_path / "bus.db")
    clock.turn(2 * DAY_S)
    log.maintain()
    log._files[0].checkpoint()
    assert before > 16_000_000
    assert os.path.getsize(tmp_path / "bus.db") < 2_000_000
    assert log.counters["expired"] == 800
    log.close()


def test_the_write_ahead_log_is_folded_in_and_stays_small(tmp_path):
    log = open_log(tmp_path, limits=Retention())
    bus = log.connect()
    for n in range(60):
        bus.publish(messages(n * 50, n * 50 + 50, size=20_000))
        log.maintain()
    assert log._files[0].wal_bytes() < 20 * MIB
    log.close()


def test_marks_that_nobody_moves_are_forgotten_after_months(tmp_path):
    clock = ManualClock()
    log = open_log(tmp_path, clock)
    bus = log.connect()
    bus.publish([Message(METRICS, "k", b"1", mark=("old", 1)), Message(METRICS, "k", b"1", mark=("young", 1))])
    clock.turn(60 * DAY_S)
    bus.publish([Message(METRICS, "k", b"1", mark=("young", 2))])
    clock.turn(60 * DAY_S)
    log.maintain()
    log.close()
    log = open_log(tmp_path, clock)
    assert (log.mark("old"), log.mark("young")) == (None, 2)
    log.close()


def test_a_mark_is_the_furthest_of_both_files(tmp_path):
    log = open_log(tmp_path)
    log.connect().publish([Message(METRICS, "k", b"1", mark=("s", 1)), Message(RUNS, "k", b"1", mark=("s", 2))])
    log.close()
    log = open_log(tmp_path)
    assert log.mark("s") == 2
    log.connect().publish([Message(METRICS, "k", b"1", mark=("s", 3))])
    log.close()
    log = open_log(tmp_path)
    assert log.mark("s") == 3
    log.close()


def test_what_waits_wakes_when_the_log_closes(tmp_path):
    log = open_log(tmp_path)
    bus, told = log.connect(), []
    bus.poll([METRICS], "g")

    def wait():
        try:
            bus.poll([METRICS], "g", timeout_s=60)
        except Unavailable as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    log.close()
    log.close()
    thread.join(20)
    assert told


def test_a_reserve_is_really_allocated_given_once_and_taken_back_only_with_room_to_spare(tmp_path):
    it = Reserve(str(tmp_path / "r"), MIB)
    assert it.held
    assert os.stat(tmp_path / "r").st_blocks * 512 >= MIB
    assert it.release()
    assert not it.release()
    assert not it.held
    assert it.restore()
    it.release()
    it.size_bytes = 1 << 60
    assert not it.restore()
    assert not (tmp_path / "r").exists()


def test_metrics_wait_while_control_lives_on_the_reserve(tmp_path, monkeypatch):
    log = open_log(tmp_path)
    bus = log.connect()
    log._reserve.release()
    monkeypatch.setattr(log._reserve, "size_bytes", 1 << 60)
    with pytest.raises(DiskFull, match="full"):
        bus.publish(messages(0, 1))
    bus.publish(messages(0, 1, CONTROL))
    assert log.counters["refused_full"] == 1
    monkeypatch.setattr(log._reserve, "size_bytes", MIB)
    bus.publish(messages(0, 1))
    log.close()


def test_a_long_history_is_read_in_bites_of_bytes(tmp_path):
    log = open_log(tmp_path, limits=Retention())
    bus = log.connect()
    for n in range(0, 160, 20):
        bus.publish(messages(n, n + 20, size=200_000))
    found, sizes = [], []
    while records := bus.poll([METRICS], "g").records:
        found += numbers(records)
        sizes.append(sum(len(r.body) for r in records))
    assert found == list(range(160))
    assert max(sizes) < 9 * MIB
    log.close()


def test_impossible_limits_are_a_mistake_in_the_configuration():
    with pytest.raises(ConfigError, match="make no sense"):
        Limits(max_bytes=10, max_age_s=1.0, hard_bytes=5)


PUBLISHER = """
import itertools, sys
from smarttuner.bus.local import LocalLog
from smarttuner.bus.retention import DAY_S, MIB, Limits, Retention
from smarttuner.core.clock import SystemClock
from smarttuner.core.ports import Message
both = Limits(MIB, DAY_S, 2 * MIB)
log = LocalLog(sys.argv[1], SystemClock(), 2, Retention(both, both, MIB), housekeeping=False)
bus = log.connect()
for n in itertools.count(int(sys.argv[2]), 10):
    numbers = range(n, n + 10)
    bus.publish([Message("runs" if k % 4 else "metrics", f"k{k % 5}", b"%d" % k + b" " * 5000, mark=("s", k)) for k in numbers])
    log.maintain()
    print(n + 9, flush=True)
"""


def test_kills_at_any_moment_of_publishing_and_tidying_lose_double_and_tear_nothing(tmp_path):
    chance, following = random.Random(5), 0
    for kill in range(6):
        child = subprocess.Popen([sys.executable, "-c", PUBLISHER, str(tmp_path), str(following)], stdout=subprocess.PIPE)
        returned = int(child.stdout.readline())
        time.sleep(chance.random() * 0.2)
        child.kill()
        returned = max([returned, *(int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n"))])
        child.stdout.close()
        child.wait()
        log = open_log(tmp_path, SystemClock(), partitions=2)
        bus, found = log.connect(), []
        while records := bus.poll([METRICS, RUNS], f"g{kill}").records:
            found += records
        assert [r.time for r in found] == sorted({r.time for r in found})
        for topic in (METRICS, RUNS):  # the oldest are gone, the rest is whole
            of_topic = numbers(r for r in found if r.topic == topic)
            assert of_topic == [n for n in range(of_topic[0], of_topic[-1] + 1) if (n % 4 != 0) == (topic == RUNS)]
        last = max(numbers(found))
        assert last >= returned
        assert log.mark("s") == last
        assert log.counters["damaged"] == 0
        following = last + 1
        log.close()
    assert found[0].offset > 0


def test_status_names_files_groups_and_lag(tmp_path):
    log = open_log(tmp_path)
    bus = log.connect()
    bus.publish(messages(0, 5))
    bus.poll([METRICS], "g")
    bus.commit("g", {(METRICS, 0): 2})
    found = log.status()
    assert found["files"].keys() == {"bus.db", "control.db"}
    assert (found["groups"], found["lag"], found["reserve"]) == ({"g": 1}, {"g": 3}, True)
    log.close()
