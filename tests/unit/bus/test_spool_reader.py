import itertools
import math
import os
import random
import signal
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.bus import spool_layout as layout
from smarttuner.bus.shipper import Shipper
from smarttuner.bus.spool import Spool
from smarttuner.bus.spool_reader import SpoolReader, check_descriptor
from smarttuner.core import events
from smarttuner.core.errors import CorruptData, Forbidden

KIB = 1 << 10


@pytest.fixture
def spool(tmp_path):
    made = Spool.create(str(tmp_path / "spool"), "r", "A1", "/data", ring_bytes=16 * KIB, group="g")
    yield made
    made.close()


@pytest.fixture
def reader(spool):
    return SpoolReader(os.dup(spool.fd))


def points(messages):
    """(position, series, step, value, time) of every point in metrics messages, in order of position within each."""
    for message in messages:
        if message.topic == "metrics":
            chunk = events.decode(message.body)
            rows = [
                (p, one.name, one.steps[i], float(one.values[i]), one.times[i])
                for one, at in chunk.positions()
                for i, p in enumerate(at)
            ]
            yield from sorted(rows, key=lambda row: row[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("log"), st.integers(1, 60), st.integers(0, 3)),
            st.tuples(st.just("event"), st.integers(0, 3000), st.just(0)),
            st.tuples(st.just("read"), st.integers(100, 5000), st.just(0)),
        ),
        max_size=120,
    ),
    st.integers(0, 400).map(lambda n: 4 * KIB + 8 * n),
)
def test_every_record_answered_true_arrives_once_and_in_order_over_many_laps(tmp_path_factory, acts, ring):
    made = Spool.create(str(tmp_path_factory.mktemp("laps")), "r", "A1", "/data", ring_bytes=ring)
    shipper = Shipper(SpoolReader(os.dup(made.fd)))
    expected, arrived, noted, sent, lost = [], [], [], [], 0

    def ship(limit):
        messages = shipper.read(0.0, limit)
        arrived.extend(points(messages))
        noted.extend(events.decode(m.body).text for m in messages if m.topic == "runs")
        shipper.reader.commit(shipper.reader.position)
        return messages

    for number, (act, size, first) in enumerate(acts):
        if act == "read":
            ship(size)
        elif act == "event":
            text = f"{number}" + "x" * size
            if made.event(events.encode(events.RunEvent("r", "A1", "note", 1.0, text=text))):
                sent.append(text)
        else:
            values = {f"s{i}": number + i / 100 for i in range(first, first + size)}
            position = made.next_position
            if made.log(number, values, float(number)):
                expected += [(position + i, name, number, value, float(number)) for i, (name, value) in enumerate(values.items())]
            else:
                lost += len(values)
    while ship(1 << 20):
        pass
    assert arrived == expected
    assert noted == sent
    assert made.next_position == len(expected) + lost
    assert made.unread == 0
    shipper.reader.close()
    made.close(unlink=True)


def test_a_chunk_carries_who_it_is_and_its_mark_is_the_place_to_go_on(spool, reader):
    for i in range(5):
        spool.log(i, {"loss": 1.0 / (i + 1), "x": math.nan}, float(i))
    (message,) = Shipper(reader).read(0.0)
    chunk = events.decode(message.body)
    assert (chunk.run, chunk.attempt, chunk.group, chunk.source, chunk.seq) == ("r", "A1", "g", "sdk", 0)
    assert message.key == "g"
    assert message.mark == ("spool:A1", reader.position)
    again = SpoolReader(os.dup(spool.fd), message.mark[1])
    assert Shipper(again).read(0.0) == []


def test_events_stand_between_the_points_they_were_written_between(spool, reader):
    spool.log(1, {"loss": 1.0}, 0.0)
    spool.event(events.encode(events.RunEvent("r", "A1", "started", 1.0, group="h")))
    spool.log(2, {"loss": 1.0}, 0.0)
    messages = Shipper(reader).read(0.0)
    assert [(m.topic, m.key) for m in messages] == [("metrics", "g"), ("runs", "h"), ("metrics", "h")]
    assert sorted(m.mark[1] for m in messages) == [m.mark[1] for m in messages]


def test_a_job_speaks_for_its_own_attempt_only(spool, reader):
    shipper = Shipper(reader)
    spool.event(events.encode(events.RunEvent("r", "another", "ended", 1.0, state="failed")))
    spool.event(events.encode(events.Notice("x", "y", 1.0)))
    spool.event(b"\x00\xff")
    assert shipper.read(0.0) == []
    assert shipper.strange_events == 3
    assert not shipper.ended


def test_an_older_attempt_of_its_run_is_answered_for_where_its_user_is_the_same(spool, reader):
    asked = []
    shipper = Shipper(reader, may_answer=lambda attempt: asked.append(attempt) or attempt == "A0")
    acks = [events.Ack("d", "r", "A0", "failed", 1.0, group="before"), events.Ack("d", "r", "A00", "failed", 1.0)]
    acks += [events.Ack("d", "r", "A2", "failed", 1.0), events.Ack("d", "other", "A0", "failed", 1.0)]
    for ack in acks:
        spool.event(events.encode(ack))
    spool.event(events.encode(events.RunEvent("r", "A0", "ended", 1.0, state="failed")))
    (message,) = shipper.read(0.0)
    assert (message.key, events.decode(message.body)) == ("before", acks[0])
    assert asked == ["A0", "A00"]
    assert shipper.strange_events == 4


def test_one_call_of_many_series_is_cut_into_bodies_under_the_limit(tmp_path):
    made = Spool.create(str(tmp_path), "r", "A9", "/data")
    for step in range(3):
        assert made.log(step, {f"a rather long name of a series, number {i}": math.pi * i for i in range(4000)}, 1.7e9 + 0.123456)
    shipper = Shipper(SpoolReader(os.dup(made.fd)))
    messages = []
    while got := shipper.read(0.0):
        messages += got
    assert all(len(m.body) <= events.MAX_BODY_BYTES for m in messages)
    assert [row[0] for row in sorted(points(messages))] == list(range(12000))
    assert messages[-1].mark[1] == shipper.reader.position
    made.close()


def damage(spool, at, data=b"\xde\xad\xbe\xef"):
    os.pwrite(spool.fd, data, layout.RING_OFFSET + at)


def test_a_mismatch_is_read_again_and_only_after_a_second_is_damage(spool, reader):
    for i in range(10):
        spool.log(i, {"loss": float(i)}, 0.0)
    size = reader.behind // 10
    good = os.pread(spool.fd, 4, layout.RING_OFFSET + 4 * size + 40)
    damage(spool, 4 * size + 40)
    shipper = Shipper(reader)
    assert [row[2] for row in points(shipper.read(0.0))] == [0, 1, 2, 3]
    assert shipper.read(0.0) == shipper.read(0.9) == []
    damage(spool, 4 * size + 40, good)
    assert [row[2] for row in points(shipper.read(0.95))] == [4, 5, 6, 7, 8, 9]


def test_damage_costs_the_damaged_record_and_no_other(spool, reader):
    for i in range(10):
        spool.log(i, {"loss": float(i)}, 0.0)
    size = reader.behind // 10
    damage(spool, 4 * size + 40)
    shipper = Shipper(reader)
    shipper.read(0.0)
    shipper.read(1.0)
    with pytest.raises(CorruptData, match=f"^{size} bytes"):
        shipper.read(2.1)
    assert [row[2] for row in points(shipper.read(2.2))] == [5, 6, 7, 8, 9]
    assert reader.lost_bytes == size
    assert not reader.broken


def test_what_a_stale_lap_left_behind_does_not_pass(spool, reader):
    for lap in range(40):
        for i in range(20):
            assert spool.log(lap * 20 + i, {"loss": 1.0}, 0.0)
        reader.read(0.0)
        reader.commit(reader.position)
    spool.words[layout.WORD_HEAD] += 72  # a head that runs ahead of what was written
    assert reader.read(0.0) == []
    with pytest.raises(CorruptData):
        reader.read(1.5)


@pytest.mark.parametrize("seed", range(25))
def test_random_bytes_are_never_fatal_and_end_in_a_clear_error(spool, seed):
    source = random.Random(seed)
    for i in range(100):
        spool.log(i, {"loss": float(i), f"s{i % 7}": 1.0}, 0.0)
    reader = SpoolReader(os.dup(spool.fd))
    shipper, now, complaints = Shipper(reader), 0.0, 0
    places = [(16, 40), (layout.NAMES_OFFSET, layout.NAMES_OFFSET + 200), (layout.RING_OFFSET, layout.RING_OFFSET + 12 * KIB)]
    for _ in range(60):
        start, end = source.choice(places)
        os.pwrite(spool.fd, source.randbytes(source.choice((1, 8, 40))), source.randrange(start, end))
        now += 0.6
        try:
            for message in shipper.read(now, source.choice((100, 5000))):
                events.decode(message.body)
        except CorruptData as error:
            complaints += bool(error.hint)
        if reader.broken:
            break
    assert complaints or reader.behind == 0


def test_a_truncated_spool_is_corrupt_data_not_a_crash(spool, reader):
    for i in range(50):
        spool.log(i, {"loss": 1.0}, 0.0)
    fd = os.dup(spool.fd)
    spool.close()
    os.ftruncate(fd, layout.RING_OFFSET + 100)
    with pytest.raises(CorruptData, match="truncated"):
        Shipper(reader).read(0.0)
    os.ftruncate(fd, 0)
    with pytest.raises(CorruptData, match="truncated"):
        reader.read(9.0)
    with pytest.raises(CorruptData):
        SpoolReader(fd)


@pytest.mark.parametrize("body", [b"", b"x" * 9000, b"\0" * (2 << 20)])
def test_a_file_that_is_no_spool_is_refused_when_opened(tmp_path, body):
    path = tmp_path / "x.spool"
    path.write_bytes(body)
    fd = os.open(path, os.O_RDWR)
    with pytest.raises(CorruptData):
        SpoolReader(fd)
    os.close(fd)


def test_a_descriptor_that_is_not_what_it_should_be_is_refused_with_the_reason(spool, tmp_path, monkeypatch):
    check_descriptor(spool.fd, os.geteuid(), spool.size)
    with pytest.raises(Forbidden, match="uid 12345"):
        check_descriptor(spool.fd, 12345, spool.size)
    with pytest.raises(Forbidden, match="announced"):
        check_descriptor(spool.fd, os.geteuid(), spool.size + 1)
    for flags, reason in ((os.O_RDONLY, "reading and writing"), (os.O_RDWR | os.O_APPEND, "appending")):
        fd = os.open(spool.path, flags)
        with pytest.raises(Forbidden, match=reason):
            check_descriptor(fd, os.geteuid(), None)
        os.close(fd)
    left, right = socket.socketpair()
    with pytest.raises(Forbidden, match="regular file"):
        check_descriptor(left.fileno(), os.geteuid(), None)
    left.close()
    right.close()
    monkeypatch.setattr("smarttuner.bus.filesystem.kind", lambda _: 0x65735546)
    with pytest.raises(Forbidden, match="FUSE"):
        check_descriptor(spool.fd, os.geteuid(), None)


def test_hostile_times_and_values_still_make_bodies_that_decode(spool, reader):
    spool.log(1, {"a": math.inf, "b": -math.inf}, math.nan)
    spool.log(2, {"a": 1e308, "b": -0.0}, 1e300)
    rows = list(points(Shipper(reader).read(0.0)))
    assert [row[4] for row in rows] == [0.0] * 4


def test_threads_and_a_signal_handler_log_at_once_and_every_point_arrives_once(tmp_path):
    made = Spool.create(str(tmp_path), "r", "T1", "/data")
    shipper = Shipper(SpoolReader(os.dup(made.fd)))
    steps, taken, refused, arrived, heard = itertools.count(), [], [], [], set()
    stopping = threading.Event()

    def write(name):
        step = next(steps)
        (taken if made.log(step, {name: 1.0}, 0.0) else refused).append((name, step))

    def beside():
        while not stopping.is_set():
            write("thread")

    def drain():
        found = list(points(shipper.read(0.0)))
        shipper.reader.commit(shipper.reader.position)
        arrived.extend(found)
        heard.update(row[1] for row in found)
        return found

    old = signal.signal(signal.SIGALRM, lambda *_: write("handler"))
    other = threading.Thread(target=beside)
    other.start()
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.002)
    try:
        for i in itertools.count():
            write("main")
            if i % 500 == 0:
                drain()
                if i >= 8_000 and len(heard) == 3:  # a thread may begin late
                    break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        stopping.set()
        other.join()
    while drain():
        pass
    found = [(row[1], row[2]) for row in arrived]
    assert {name for name, _ in found} == {"main", "thread", "handler"}
    assert len(set(found)) == len(found), "a record arrived twice"
    assert set(found) <= set(taken)
    assert len(taken) + len(refused) - len(found) == made.dropped
    for name in ("main", "thread"):
        own = [step for one, step in found if one == name]
        assert own == sorted(own)
    assert [row[0] for row in arrived] == sorted({row[0] for row in arrived})
    made.close()
