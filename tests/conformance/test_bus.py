"""What every transport must do. It knows a transport only through core.ports.Bus and the attributes in conftest.py."""

import collections
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from smarttuner.bus.partitions import partition_of
from smarttuner.core.errors import SmartTunerError, Unavailable
from smarttuner.core.ports import CONTROL, METRICS, NOTICES, RUNS, Message

KEYS = [f"run-{n}" for n in range(12)]
ALL = (METRICS, RUNS, CONTROL)


def message(n, topic=METRICS, key=None, size=0):
    return Message(topic, KEYS[n % len(KEYS)] if key is None else key, b"%d" % n + b" " * size)


def number(record):
    return int(record.body)


def read(transport, bus, count, topics=(METRICS,), group="g", **options):
    """Polls until `count` records came."""
    found = []
    deadline = time.monotonic() + transport.wait_s
    while len(found) < count and time.monotonic() < deadline:
        found += bus.poll(topics, group, timeout_s=0.1, **options).records
    return found


def read_all(transport, bus, topics=(METRICS,), group="g", **options):
    """Polls until nothing comes any more."""
    found, begun = [], time.monotonic()
    last = begun
    while time.monotonic() - last < transport.idle_s and time.monotonic() - begun < transport.wait_s:
        batch = bus.poll(topics, group, timeout_s=0.05, **options)
        if batch.records or batch.behind:
            last = time.monotonic()
        found += batch.records
    return found


def commit(transport, bus, positions, topics=(METRICS,), group="g"):
    """In the middle of a rebalance Kafka refuses a commit, and counts it: then again behind a poll."""
    deadline = time.monotonic() + transport.wait_s
    while True:
        refused = transport.commits_refused
        bus.commit(group, positions)
        if transport.commits_refused == refused:
            return
        assert time.monotonic() < deadline
        bus.poll(topics, group, timeout_s=0.05)


def by_partition(records):
    found = collections.defaultdict(list)
    for record in records:
        found[record.topic, record.partition].append(record)
    return found


def assert_ordered(records):
    for several in by_partition(records).values():
        offsets = [record.offset for record in several]
        assert offsets == sorted(set(offsets))


def test_what_is_published_is_read_whole_and_in_order(transport):
    bus = transport.connect()
    sent = [Message(METRICS, KEYS[n % 12], b"%d" % n, (("key-id", b"\x00\xff"), ("n", b"%d" % n))) for n in range(100)]
    bus.publish(sent[:1])
    bus.publish(sent[1:])
    bus.publish([])
    found = read(transport, bus, 100)
    assert sorted((number(r), r.key, r.headers) for r in found) == [(n, m.key, m.headers) for n, m in enumerate(sent)]
    assert_ordered(found)
    assert {r.partition for r in found} == {partition_of(key, transport.partitions) for key in KEYS}
    for key in KEYS:
        assert [number(r) for r in found if r.key == key] == list(range(KEYS.index(key), 100, 12))
    assert all(abs(r.time - time.time()) < 60 for r in found)


def test_append_times_rise_strictly_over_all_topics_and_polls_keep_that_order(transport):
    if not transport.total_order:
        pytest.skip("this transport orders within a partition only")
    bus = transport.connect()
    for n in range(60):
        bus.publish([message(n, ALL[n % 3])])
    whole = read(transport, bus, 60, ALL)
    assert [number(r) for r in whole] == list(range(60))
    assert all(a.time < b.time for a, b in itertools.pairwise(whole))
    assert read(transport, bus, 60, ALL, group="in small bites", limit=7) == whole


def test_groups_are_independent(transport):
    bus, other = transport.connect(), transport.connect()
    bus.publish([message(n) for n in range(20)])
    assert len(read(transport, bus, 20, group="one")) == 20
    assert len(read(transport, other, 20, group="two")) == 20
    assert read_all(transport, bus, group="one") == []


def test_a_poll_returns_at_most_its_limit(transport):
    bus = transport.connect()
    bus.publish([message(n) for n in range(50)])
    sizes = []
    while sum(sizes) < 50:
        sizes.append(len(bus.poll([METRICS], "g", limit=8, timeout_s=transport.wait_s).records))
    assert max(sizes) <= 8


def test_members_share_a_group_and_read_the_same_numbers_of_each_topic(transport):
    one, two = transport.connect(), transport.connect()
    seen = {one: [], two: []}
    deadline = time.monotonic() + transport.wait_s
    settled = 0
    while settled < 6 and time.monotonic() < deadline:  # both must have polled until the partitions are shared out
        for bus in seen:
            bus.poll(ALL, "g", timeout_s=0.02)
        settled += 1
    one.publish([message(n, ALL[n % 3]) for n in range(120)])
    while sum(map(len, seen.values())) < 120 and time.monotonic() < deadline:
        for bus, records in seen.items():
            records += bus.poll(ALL, "g", timeout_s=0.02).records
    everything = seen[one] + seen[two]
    assert sorted(map(number, everything)) == list(range(120))
    owned = [{r.partition for r in records} for records in seen.values()]
    assert not owned[0] & owned[1]
    if transport.partitions > 1:
        assert all(owned)


def test_close_hands_partitions_over_at_once(transport):
    one, two = transport.connect(), transport.connect()
    one.poll([METRICS], "g", timeout_s=0.05)
    two.poll([METRICS], "g", timeout_s=0.05)
    one.publish([message(n) for n in range(24)])
    one.close()
    one.close()
    assert sorted(map(number, read(transport, two, 24))) == list(range(24))


def test_a_closed_handle_says_so(transport):
    bus = transport.connect()
    bus.close()
    with pytest.raises(SmartTunerError):
        bus.publish([message(1)])
    with pytest.raises(SmartTunerError):
        bus.poll([METRICS], "g")


def test_start_is_asked_once_for_each_partition_newly_assigned(transport):
    bus = transport.connect()
    bus.publish([message(n) for n in range(40)])
    asked = []
    found = read(transport, bus, 40, start=lambda p: asked.append(p))
    read_all(transport, bus, start=lambda p: asked.append(p))
    assert len(found) == 40
    assert sorted(asked) == [(METRICS, n) for n in range(transport.partitions)]


def test_replay_from_any_offset_gives_the_same_records(transport):
    bus = transport.connect()
    bus.publish([message(n) for n in range(60)])
    whole = by_partition(read(transport, bus, 60))
    for cut in (0, 1, 3):
        wanted = {p: records[min(cut, len(records) - 1)].offset for p, records in whole.items()}
        again = transport.connect()
        expected = {p: [r for r in records if r.offset >= wanted[p]] for p, records in whole.items()}
        count = sum(map(len, expected.values()))
        found = by_partition(read(transport, again, count, group=f"replay-{cut}", start=wanted.get))
        assert found == expected
        again.close()


def test_without_a_start_a_group_goes_on_at_its_commit(transport):
    bus = transport.connect()
    bus.publish([message(n) for n in range(30)])
    whole = by_partition(read(transport, bus, 30))
    commit(transport, bus, {p: records[1].offset for p, records in whole.items()})
    bus.close()
    expected = {p: records[1:] for p, records in whole.items()}
    assert by_partition(read(transport, transport.connect(), 30 - len(whole))) == expected
    assert sum(transport.lag("g").values()) == 30 - len(whole)


class Worker:
    """A consumer with a store of its own: it takes records one by one, puts its position away with each, and polls again
    when it has put away all that it read."""

    def __init__(self, transport, store):
        self.bus, self.store, self.owned, self.waiting = transport.connect(), store, set(), []

    def start(self, partition):
        self.owned.add(partition)
        return self.store.get(partition, (None, []))[0]

    def step(self, limit, records):
        if not self.waiting:
            batch = self.bus.poll(ALL, "workers", start=self.start, limit=limit)
            self.owned -= set(batch.revoked)
            self.waiting = list(batch.records)
        taken, self.waiting = self.waiting[:records], self.waiting[records:]
        for record in taken:
            partition = (record.topic, record.partition)
            assert partition in self.owned
            _, seen = self.store.get(partition, (None, []))
            self.store[partition] = (record.offset + 1, [*seen, number(record)])


@pytest.mark.parametrize("seed", range(6))
def test_a_rebalance_in_mid_batch_loses_and_doubles_nothing(transport, seed):
    if seed >= transport.seeds:
        pytest.skip("a rebalance takes its time here")
    chance = random.Random(seed)
    sender = transport.connect()
    store, workers, sent = {}, [], 0
    deadline = time.monotonic() + 3 * transport.wait_s
    while time.monotonic() < deadline and (sent < 300 or sum(len(seen) for _, seen in store.values()) < sent):
        act = chance.random()
        if sent < 300:
            sender.publish([message(n, ALL[n % 3]) for n in range(sent, sent + 5)])
            sent += 5
        if not workers or (act < 0.1 and len(workers) < 4):
            workers.append(Worker(transport, store))
        elif act < 0.18:
            workers.pop(chance.randrange(len(workers))).bus.close()  # in mid-batch, too
        elif act < 0.35 and transport.drills:
            transport.rebalance("workers")
        for worker in workers:
            worker.step(limit=chance.choice([1, 3, 50]), records=chance.choice([1, 4, 100]))
    seen = [n for _, numbers in store.values() for n in numbers]
    assert sorted(seen) == list(range(300))
    for _, numbers in store.values():
        for key in range(12):
            of_key = [n for n in numbers if n % 12 == key]
            assert of_key == sorted(of_key)


def test_a_member_learns_what_was_taken_before_another_gets_it(transport):
    if not transport.drills:
        pytest.skip("this transport tells of a rebalance in its own time")
    one = transport.connect()
    one.publish([message(n) for n in range(12)])
    read(transport, one, 12)
    two = transport.connect()
    assert two.poll([METRICS], "g").records == ()
    transport.rebalance("g")
    one.publish([message(n) for n in range(12, 24)])
    batch = one.poll([METRICS], "g")
    assert [p for p, _ in batch.revoked] == [METRICS] * transport.partitions
    assert not batch.records
    assert not two.poll([METRICS], "g").records  # `one` may still be putting away what it read
    found = [*one.poll([METRICS], "g").records]
    found += read_all(transport, two)
    found += read_all(transport, one)
    assert set(range(12, 24)) <= set(map(number, found))


def test_follow_reads_from_the_end_or_from_a_position_without_a_group(transport):
    bus = transport.connect()
    bus.publish([message(n, CONTROL, "job") for n in range(5)])
    records, position = bus.follow(CONTROL, "job", None)
    assert list(records) == []
    bus.publish([message(n, CONTROL, "job") for n in range(5, 8)])
    records, following = bus.follow(CONTROL, "job", position, timeout_s=transport.wait_s)
    assert [number(r) for r in records] == [5, 6, 7]
    assert bus.follow(CONTROL, "job", following) == ([], following)
    first, position = bus.follow(CONTROL, "job", 0, limit=2, timeout_s=transport.wait_s)
    assert [number(r) for r in first] == [0, 1]
    rest, position = bus.follow(CONTROL, "job", position, timeout_s=transport.wait_s)
    assert [number(r) for r in rest] == [2, 3, 4, 5, 6, 7]
    assert position == following


def test_several_partitions_are_followed_at_once_and_each_goes_on_where_it_was(transport):
    bus = transport.connect()
    sent = [message(n, CONTROL) for n in range(36)]
    bus.publish(sent[:24])
    numbers = sorted({partition_of(key, transport.partitions) for key in KEYS})
    found, positions = follow_all(transport, bus, dict.fromkeys(numbers, 0), 24)
    assert sorted(map(number, found)) == list(range(24))
    assert_ordered(found)
    assert set(positions) == set(numbers)
    bus.publish(sent[24:])
    late = dict(positions) | {numbers[0]: None}  # None: from the end
    found, _ = follow_all(transport, bus, positions, 12)
    assert sorted(map(number, found)) == list(range(24, 36))
    found, _ = follow_all(transport, bus, late, 12 - sum(r.partition == numbers[0] for r in found))
    assert not [r for r in found if r.partition == numbers[0]]


def follow_all(transport, bus, positions, count):
    """Follows until `count` records came."""
    found, deadline = [], time.monotonic() + transport.wait_s
    while len(found) < count and time.monotonic() < deadline:
        records, positions = bus.follow_partitions(CONTROL, positions, timeout_s=0.1)
        found += records
    return found, positions


def test_offsets_may_have_gaps(transport):
    if not transport.drills:
        pytest.skip("gaps come from this transport itself")
    bus = transport.connect()
    for n in range(0, 40, 10):
        bus.publish([message(k, key="one") for k in range(n, n + 10)])
        transport.skip_offsets(METRICS, partition_of("one", transport.partitions), 1000)
    found = read(transport, bus, 40)
    assert [number(r) for r in found] == list(range(40))
    assert found[-1].offset == 3039
    in_a_gap = found[9].offset + 500
    again = read(transport, transport.connect(), 30, group="again", start=lambda p: in_a_gap)
    assert [number(r) for r in again] == list(range(10, 40))
    followed, position = bus.follow(METRICS, "one", in_a_gap)
    assert [number(r) for r in followed] == list(range(10, 40))
    assert position == 3040
    partition = (METRICS, partition_of("one", transport.partitions))
    bus.commit("g", {partition: found[5].offset})
    assert transport.lag("g")[partition] == 35


def test_a_position_beyond_the_end_does_not_swallow_what_comes(transport):
    if not transport.drills:
        pytest.skip("this transport resets such a position in its own way")
    bus = transport.connect()
    bus.poll([METRICS], "g", start=lambda p: 1_000_000)
    bus.publish([message(n) for n in range(12)])
    assert len(read(transport, bus, 12)) == 12
    assert bus.follow(METRICS, KEYS[0], 1_000_000)[0]


def test_retention_by_age_removes_what_is_old_and_read(transport):
    if not transport.drills:
        pytest.skip("retention runs in this transport's own time")
    transport.limit(max_age_s=3600)
    bus = transport.connect()
    bus.publish([message(n) for n in range(12)])
    transport.age(4000)
    bus.publish([message(n) for n in range(12, 24)])
    transport.expire()
    assert sorted(map(number, read_all(transport, bus))) == list(range(12, 24))


def test_retention_by_size_removes_the_oldest(transport):
    if not transport.drills:
        pytest.skip("retention runs in this transport's own time")
    transport.limit(max_bytes=1 << 20)
    bus = transport.connect()
    for n in range(0, 300, 10):
        bus.publish([message(k, size=10_000) for k in range(n, n + 10)])
    transport.expire()
    kept = sorted(map(number, read_all(transport, bus)))
    assert kept == list(range(300 - len(kept), 300))
    assert 60 <= len(kept) <= 110


def fall_off(transport):
    """A group that committed record 10 of 300 and is then overtaken by retention; the bus, what it read, the batches."""
    bus = transport.connect()
    first = [message(k, size=10_000) for k in range(12)]
    bus.publish(first)
    seen = by_partition(read(transport, bus, 12, group="slow"))
    bus.commit("slow", {p: records[-1].offset for p, records in seen.items()})
    bus.close()
    bus = transport.connect()
    for n in range(12, 300, 12):
        bus.publish([message(k, size=10_000) for k in range(n, n + 12)])
        transport.expire()
    batches = []
    while not batches or batches[-1].records or batches[-1].fell_off:
        batches.append(bus.poll([METRICS], "slow"))
    return bus, [r for batch in batches for r in batch.records], batches


def test_commits_protect_what_a_group_has_not_read(transport):
    if not transport.drills:
        pytest.skip("no protection in this transport")
    transport.limit(max_bytes=1 << 20)
    _, found, batches = fall_off(transport)
    assert not any(batch.fell_off for batch in batches)
    assert sorted(map(number, found))[-288:] == list(range(12, 300))


def test_a_group_that_falls_off_is_told_how_many_records_it_lost(transport):
    if not transport.drills:
        pytest.skip("retention runs in this transport's own time")
    transport.limit(max_bytes=1 << 20, hard_bytes=1 << 20)
    bus, found, batches = fall_off(transport)
    lost = collections.Counter()
    for batch in batches:
        lost.update(batch.fell_off)
    assert sum(lost.values()) + len(found) == 288 + len({r.partition for r in found})
    assert sum(lost.values()) > 100
    assert not bus.poll([METRICS], "slow").fell_off
    assert bus.follow(METRICS, KEYS[0], 0)[0]  # reads on from the earliest there is


def test_marks_travel_with_their_messages(transport):
    bus = transport.connect()
    assert transport.mark("spool-a") is None
    bus.publish([message(1)._replace(mark=("spool-a", 10)), message(2), message(3, RUNS)._replace(mark=("spool-b", 7))])
    assert (transport.mark("spool-a"), transport.mark("spool-b")) == (10, 7)
    bus.publish([message(4)._replace(mark=("spool-a", 11)), message(5, CONTROL)._replace(mark=("spool-a", 12))])
    assert transport.mark("spool-a") == 12
    if transport.durable:
        transport.restart()
        expected = (12, 7) if transport.marks_last else (None, None)
        assert (transport.mark("spool-a"), transport.mark("spool-b")) == expected


def test_unknown_topics_and_bodies_over_the_limit_are_refused_whole(transport):
    bus = transport.connect()
    with pytest.raises(SmartTunerError, match="no topic"):
        bus.publish([message(1), Message("metrix", "k", b"1")])
    with pytest.raises(SmartTunerError, match="limit"):
        bus.publish([message(1), message(2, size=300_000)])
    with pytest.raises(SmartTunerError, match="no topic"):
        bus.poll(["metrix"], "g")
    assert read_all(transport, bus) == []


def test_a_poll_wakes_when_something_comes(transport):
    bus, sender = transport.connect(), transport.connect()
    bus.poll([METRICS], "g", timeout_s=transport.idle_s)
    found = []
    waiting = threading.Thread(target=lambda: found.extend(bus.poll([METRICS], "g", timeout_s=60).records))
    waiting.start()
    sender.publish([message(1, NOTICES)])
    time.sleep(0.1)
    assert not found
    sender.publish([message(2)])
    waiting.join(transport.wait_s)
    assert [number(r) for r in found] == [2]


def test_a_follower_wakes_when_something_comes(transport):
    bus, sender = transport.connect(), transport.connect()
    _, position = bus.follow(CONTROL, "k", None)
    found = []
    waiting = threading.Thread(target=lambda: found.extend(bus.follow(CONTROL, "k", position, timeout_s=60)[0]))
    waiting.start()
    sender.publish([message(2, CONTROL, "k")])
    waiting.join(transport.wait_s)
    assert [number(r) for r in found] == [2]


def test_publishers_and_readers_at_once_lose_nothing_and_keep_one_order(transport):
    def publish(which):
        bus = transport.connect()
        for n in range(0, 400, 4):
            bus.publish([Message(ALL[(n // 4 + which) % 3], f"key-{which}", b"%d" % k) for k in range(n, n + 4)])

    def consume(into, group):
        bus = transport.connect()
        into += read(transport, bus, 1600, ALL, group=group, limit=37)

    seen = [[], []]
    threads = [threading.Thread(target=publish, args=(which,)) for which in range(4)]
    threads += [threading.Thread(target=consume, args=(into, f"g{i}")) for i, into in enumerate(seen)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * transport.wait_s)
    for records in seen:
        assert len(records) == 1600
        assert_ordered(records)
        for which in range(4):
            for topic in ALL:
                numbers = [number(r) for r in records if r.key == f"key-{which}" and r.topic == topic]
                assert numbers == sorted(set(numbers))
    if transport.total_order:
        assert seen[0] == seen[1]
        assert all(a.time < b.time for a, b in itertools.pairwise(seen[0]))


def test_all_is_there_after_a_restart(transport):
    if not transport.durable:
        pytest.skip("memory keeps nothing")
    bus = transport.connect()
    bus.publish([message(n, ALL[n % 3]) for n in range(60)])
    whole = read(transport, bus, 60, ALL)
    commit(transport, bus, {p: records[-1].offset + 1 for p, records in by_partition(whole).items()}, ALL)
    transport.restart()
    bus = transport.connect()
    assert read_all(transport, bus, ALL) == []
    bus.publish([message(60)])
    last = read(transport, bus, 1, ALL)
    assert last[0].time > whole[-1].time
    again = read(transport, bus, 61, ALL, group="again", limit=9)
    assert by_partition(again) == by_partition([*whole, *last])


@pytest.mark.parametrize("after", [1, 40])
def test_what_publish_returned_for_survives_sigkill(transport, after):
    if not transport.durable:
        pytest.skip("memory keeps nothing")
    transport.let_go()
    code = transport.publisher() + (
        "from smarttuner.core.ports import Message\nimport itertools\n"
        "def message(n):\n"
        "    return Message('control' if n % 8 == 3 else 'metrics', 'k', b'%d' % n, mark=('spool', n))\n"
        "for n in itertools.count(step=4):\n"
        "    bus.publish([message(k) for k in range(n, n + 4)])\n"
        "    print(n + 3, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    returned = [int(child.stdout.readline()) for _ in range(after)]
    child.send_signal(signal.SIGKILL)
    returned += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    child.stdout.close()
    child.wait()
    transport.restart()
    found = read_all(transport, transport.connect(), (METRICS, CONTROL))
    numbers = [number(r) for r in found]
    assert numbers == list(range(len(numbers)))  # a prefix, in order, none torn, none twice
    assert len(numbers) > returned[-1]
    assert transport.mark("spool") == (numbers[-1] if transport.marks_last else None)


def fill(transport, bus):
    """Publishes metrics until they are refused; how many were taken, and the refusal."""
    sent = 0
    while True:
        try:
            if sent % 400 == 0:
                transport.expire()  # as the housekeeper does each second
            bus.publish([message(n, size=5_000) for n in range(sent, sent + 4)])
        except Unavailable as error:
            return sent, str(error)
        sent += 4


def fill_disk(path):
    with open(path, "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def test_a_full_disk_refuses_metrics_loses_nothing_and_still_takes_control(transport):
    if not transport.durable or not hasattr(transport, "small_disk"):
        pytest.skip("no disk of its own")
    with transport.small_disk(20) as folder:
        others = os.path.join(folder, "other people's data")
        with open(others, "wb") as file:
            file.write(b"x" * (6 << 20))
        bus = transport.connect()
        sent, refusal = fill(transport, bus)
        assert sent > 100
        assert "full" in refusal
        fill_disk(others)
        for n in range(50):  # acks while there is no room at all: the reserve
            bus.publish([message(n, CONTROL)])
        with pytest.raises(Unavailable, match="full"):
            bus.publish([message(sent, size=5_000)])
        bus.commit("another group", {(METRICS, 0): 1})
        assert sorted(map(number, read_all(transport, bus))) == list(range(sent))
        assert sorted(map(number, read_all(transport, transport.connect(), [CONTROL], group="h"))) == list(range(50))
        os.unlink(others)
        transport.expire()
        bus.publish([message(sent, size=5_000)])
        assert list(map(number, read_all(transport, bus))) == [sent]
