import math
import threading

import pytest
from smarttuner.bus.bells import Bells
from smarttuner.bus.head import Head
from smarttuner.bus.tail import Offsets, Tail, weight
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import CorruptData, Unavailable, UsageError
from smarttuner.core.ports import CONTROL, METRICS, TOPICS, Message, Record


def head(clock=None, partitions=1):
    return Head(clock or ManualClock(), TOPICS, partitions, dict.fromkeys(TOPICS))


def metrics(n=1):
    return [Message(METRICS, "k", b"m")] * n


def control(n=1):
    return [Message(CONTROL, "k", b"c")] * n


def test_times_rise_by_a_microsecond_while_the_clock_stands_still_or_goes_back():
    clock = ManualClock(1000.0)
    it = head(clock)
    first = it.begin(metrics(3))
    assert [round(r.time * 1e6) for r in first] == [1_000_000_000, 1_000_000_001, 1_000_000_002]
    it.finish(first, stored=True)
    clock._now = 900.0
    second = it.begin(control())
    assert round(second[0].time * 1e6) == 1_000_000_003
    it.finish(second, stored=True)


def test_what_was_appended_later_is_hidden_until_what_was_appended_earlier_is_there():
    it = head()
    slow = it.begin(metrics(2))
    quick = it.begin(control())
    it.finish(quick, stored=True)
    ends, hidden_from = it.ends([(METRICS, 0), (CONTROL, 0)])
    assert ends == {(METRICS, 0): 0, (CONTROL, 0): 1}
    assert hidden_from == slow[0].time < quick[0].time
    assert it.ends([(CONTROL, 0)])[1] == math.inf  # who reads control alone need not wait for metrics
    it.finish(slow, stored=True)
    assert it.ends([(METRICS, 0), (CONTROL, 0)]) == ({(METRICS, 0): 2, (CONTROL, 0): 1}, math.inf)


def test_the_end_of_the_slow_writer_wakes_the_readers_of_what_was_hidden_behind_it():
    it = head()
    slow, quick = it.begin(metrics()), it.begin(control())
    with it.bells.listen([CONTROL]) as bell:
        it.finish(quick, stored=True)
        assert bell.acquire(timeout=5)
        assert it.ends([(METRICS, 0), (CONTROL, 0)])[1] == slow[0].time
    with it.bells.listen([CONTROL]) as bell:
        it.finish(slow, stored=True)
        assert bell.acquire(timeout=5)


def test_what_could_not_be_stored_leaves_no_trace_but_its_time():
    it = head()
    failed = it.begin(metrics(5))
    it.finish(failed, stored=False)
    again = it.begin(metrics())
    it.finish(again, stored=True)
    assert again[0].offset == 0
    assert again[0].time > failed[-1].time
    assert it.counters["published"] == 1


def test_messages_are_checked_before_any_is_taken():
    it = head()
    with pytest.raises(UsageError, match="topics are"):
        it.check([*metrics(), Message("nowhere", "k", b"")])
    with pytest.raises(CorruptData):
        it.check([Message(METRICS, "k", b"x" * (256 * 1024 + 1))])
    with pytest.raises(UsageError):
        head(partitions=0)


def test_a_closed_head_wakes_and_refuses():
    it = head()
    with it.bells.listen([METRICS]) as bell:
        it.close()
        assert bell.acquire(timeout=5)
    for act in (lambda: it.begin(metrics()), lambda: it.ends([(METRICS, 0)])):
        with pytest.raises(Unavailable, match="closed"):
            act()


def test_offsets_count_what_there_was_without_the_gaps():
    it = Offsets()
    it.skip(10)
    assert (it.earliest, it.next, it.gaps) == (10, 10, [])  # nothing was there: it begins later
    it.next = 15
    it.skip(100)
    it.next += 5
    assert it.count(10, 120) == 10
    assert it.count(12, 60) == 3
    assert it.count(50, 118) == 3
    it.forget_before(117)
    it.forget_before(3)
    assert it.earliest == 117


def record(n, size=100):
    return Record(METRICS, 0, n, "k", b"x" * size, float(n))


def test_a_tail_keeps_the_newest_within_its_bytes():
    it = Tail(0, 10 * weight(record(0)))
    for n in range(1000):
        it.add(record(n))
    assert it.first == 990
    assert it.bytes == 10 * weight(record(0))
    assert [r.offset for r in it.read(995, 998, 10, 1 << 20)[0]] == [995, 996, 997]
    assert it.read(992, 1000, 3, 1 << 20) == ([record(n) for n in (992, 993, 994)], True)
    assert it.read(998, 1000, 3, 1 << 20) == ([record(n) for n in (998, 999)], False)
    found, more = it.read(990, 1000, 10, 350)
    assert (len(found), more) == (4, True)
    it.forget_before(996)
    assert it.oldest() == record(996)
    it.forget_before(2000)
    assert it.oldest() is None
    assert it.bytes == 0


def test_a_bell_rings_for_its_names_only_and_once():
    bells = Bells()
    with bells.listen(["a", "b"]) as bell:
        bells.ring(["c"])
        assert not bell.acquire(blocking=False)
        bells.ring(["a", "b"])
        assert bell.acquire(timeout=5)
    assert bells._listening == {}


def test_no_ring_is_missed_between_looking_and_listening():
    bells, found, seen = Bells(), [], []

    def listen():
        while len(seen) < 2000:
            with bells.listen(["x"]) as bell:
                seen.extend(found[len(seen) :])
                if len(seen) < 2000:
                    assert bell.acquire(timeout=30)
                    seen.extend(found[len(seen) :])

    thread = threading.Thread(target=listen)
    thread.start()
    for n in range(2000):
        found.append(n)
        bells.ring(["x"])
    thread.join(60)
    assert seen == list(range(2000))
