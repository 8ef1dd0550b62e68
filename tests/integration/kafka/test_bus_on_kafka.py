"""What the bus does on Kafka beyond the port's suite: topics, one order over topics, strays, losses, the state log."""

import itertools
import socket
import time

import kafka
import pytest
from kafka_site import Reader, message, number
from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.bus.partitions import partition_of
from smarttuner.core.clock import SystemClock
from smarttuner.core.errors import ConfigError, UsageError
from smarttuner.core.events import MetricChunk, Series, encode
from smarttuner.core.ports import CONTROL, METRICS, NOTICES, RUNS, Message
from workplace import until


@pytest.fixture
def make_log(kafka_broker, kafka_prefix):
    made = []

    def make(**changes):
        quick = {"partitions": 2, "session_timeout_s": 6.0, "heartbeat_s": 0.2, "fetch_wait_s": 0.2}
        log = KafkaLog(KafkaSettings(kafka_broker.bootstrap, kafka_prefix, **{**quick, **changes}), SystemClock())
        made.append(log)
        return log

    yield make
    for log in made:
        log.close()


def admin(log):
    return log.clerk._client()


def foreign(log):
    """Another client, with its own idea of partitions."""
    return kafka.KafkaProducer(bootstrap_servers=log.settings.bootstrap, enable_idempotence=False, acks="all")


def test_topics_are_made_as_they_must_be_and_are_found_good_again(make_log):
    log = make_log()
    assert log.counts == dict.fromkeys(("metrics", "runs", "control", "notices", "dead_letters", "state"), 2)
    assert make_log(create_topics=False).counts == log.counts


def test_topics_that_are_missing_or_wrong_are_one_line_with_what_to_do(make_log):
    with pytest.raises(ConfigError, match="is missing") as raised:
        make_log(create_topics=False)
    assert "kafka check --print" in raised.value.hint
    log = make_log()
    with pytest.raises(ConfigError, match="has 2 partitions, not 3"):
        make_log(partitions=3)
    name = log.settings.topic(RUNS)
    admin(log).alter_configs([kafka.admin.ConfigResource("topic", name, {"message.timestamp.type": "CreateTime"})])
    said, deadline = None, time.monotonic() + 30
    while said is None and time.monotonic() < deadline:  # the change needs a moment
        try:
            make_log()
        except ConfigError as error:
            said = error
    assert "CreateTime" in str(said)
    assert f"--entity-name {name}" in said.hint


def test_a_backlog_comes_in_one_order_over_its_topics(make_log):
    """Metrics are far larger than runs and control, whose partitions are read to their ends long before."""
    log = make_log(partitions=1)
    bus = log.connect()
    order = []
    for n in range(60):
        topic = RUNS if n % 20 == 7 else CONTROL if n % 20 == 13 else METRICS
        bus.publish([message(n, topic, "run", size=200_000 if topic == METRICS else 0)])
        order.append(topic)
    reader = Reader(log)
    found = reader.read(60)
    assert [number(record) for record in found] == list(range(60))
    assert [record.topic for record in found] == order
    for earlier, later in itertools.pairwise(found):
        assert earlier.time <= later.time
    bus.close()
    reader.bus.close()


def test_where_partitions_end_is_asked_of_their_leader_and_of_the_clerk_where_that_fails(make_log, monkeypatch):
    log = make_log()
    log.connect().publish([message(n, topic=topic) for n, topic in enumerate([METRICS, RUNS, METRICS, CONTROL, METRICS])])
    reader = Reader(log, topics=(METRICS, RUNS, CONTROL))
    reader.read(5)
    member = reader.bus._groups["g"]
    places = [(topic, partition_of("k", 2)) for topic in (METRICS, RUNS, CONTROL)]
    expected = dict(zip(places, (3, 1, 1), strict=True))
    asked, ends = [], log.clerk.ends
    monkeypatch.setattr(log.clerk, "ends", lambda partitions: asked.append(partitions) or ends(partitions))

    def answered_by_the_leader():
        """A busy one may take longer than the 1.5 s that it is given."""
        asked.clear()
        member._ends._rest_until = 0.0
        assert member._ends.of(places) == expected
        return not asked

    until(answered_by_the_leader)
    for wire in member._ends._leaders._wires.values():
        wire.stream.shutdown(socket.SHUT_RDWR)  # as a broker that is killed, or closes what is idle
    assert member._ends.of(places) == expected
    assert asked == [places]
    assert member._ends.of(places) == expected  # the leader rests
    assert asked == [places, places]
    until(answered_by_the_leader)


def test_strays_are_forwarded_once_by_the_judge_and_skipped_by_everybody(make_log):
    log = make_log(partitions=4)
    right = partition_of("run-a", 4)
    stranger = foreign(log)
    topic = log.settings.topic(METRICS)
    for n in range(4):  # one of them where it belongs
        stranger.send(topic, b"%d" % n, b"run-a", partition=n).get(30)
    chunk = encode(MetricChunk("run-b", "a1", "x", 0, [Series("loss", [1], [0.5], [1.0])]))
    stranger.send(topic, chunk, None, partition=(partition_of("run-b", 4) + 1) % 4).get(30)
    stranger.send(topic, b"4", b"run-a", [("forwarded", b"?")], (right + 1) % 4).get(30)
    stranger.close(5)

    def read(group):
        bus, records, deadline = log.connect(), [], time.monotonic() + 30
        while len(records) < 6 and time.monotonic() < deadline:
            records += bus.poll([METRICS], group, timeout_s=0.2).records
        bus.close()
        return records

    for group in ("judge", "sink"):
        records = read(group)
        of_a = [record for record in records if record.key == "run-a"]
        assert sorted(number(record) for record in of_a) == [0, 1, 2, 3, 4]
        assert {record.partition for record in of_a if number(record) != 4} == {right}
        [of_b] = [record for record in records if record.key == "run-b"]
        assert (of_b.partition, of_b.body) == (partition_of("run-b", 4), chunk)
    assert (log.counters["forwarded"], log.counters["misplaced"]) == (4, 2)


def test_what_retention_took_before_it_was_read_is_counted(make_log):
    log = make_log(partitions=1)
    bus = log.connect()
    bus.publish([message(n) for n in range(20)])
    place = kafka.TopicPartition(log.settings.topic(METRICS), 0)
    admin(log).delete_records({place: 12})
    late, lost, found, deadline = log.connect(), {}, [], time.monotonic() + 30
    while len(found) < 8 and time.monotonic() < deadline:
        batch = late.poll([METRICS], "late", start=lambda p: 5, timeout_s=0.2)
        lost |= batch.fell_off
        found += [number(record) for record in batch.records]
    assert (lost, found, log.counters["fell_off"]) == ({(METRICS, 0): 7}, list(range(12, 20)), 7)
    followed, position = bus.follow(METRICS, "k", 3)
    assert ([number(record) for record in followed], position) == (list(range(12, 20)), 20)
    late.close()
    bus.close()


def test_a_position_that_no_offset_has_reads_from_the_earliest(make_log):
    log = make_log(partitions=1)
    bus = log.connect()
    bus.publish([message(n) for n in range(3)])
    found, deadline = [], time.monotonic() + 30
    while len(found) < 3 and time.monotonic() < deadline:
        found += bus.poll([METRICS], "g", start=lambda p: 1_000_000, timeout_s=0.2).records
    assert len(found) == 3
    assert log.counters["beyond_the_end"] == 1
    bus.close()


def test_positions_by_time(make_log):
    log = make_log(partitions=1)
    bus = log.connect()
    bus.publish([message(0)])
    time.sleep(0.01)
    [first] = bus.follow(METRICS, "k", 0)[0]
    bus.publish([message(1)])
    assert log.position_at(METRICS, 0, first.time) == 0
    assert log.position_at(METRICS, 0, first.time + 0.001) == 1
    assert log.position_at(METRICS, 0, first.time + 1e6) == 2
    bus.close()


def test_the_state_log_gives_back_what_was_written_in_order(make_log):
    log = make_log()
    state = log.state_log()
    assert list(state.read(0)) == []
    state.write({0: [("a/1", b"1"), ("b/1", b"x" * 3_000_000), ("a/1", b"2")]})
    state.write({1: [("c/1", b"other")]})
    state.write({0: [("b/1", None), ("d/2", b"")]})
    read = log.state_log().read(0)
    assert [key for key, _ in read][-5:] == ["a/1", "b/1", "a/1", "b/1", "d/2"]
    assert dict(read) == {"a/1": b"2", "b/1": None, "d/2": b""}
    with pytest.raises(UsageError, match="split it"):
        state.write({0: [("big", b"x" * (8 << 20))]})
    state.close()


def test_partitions_are_told_as_taken_before_another_reads_them(make_log):
    log = make_log(partitions=2)
    sender, first, second = log.connect(), Reader(log), Reader(log)
    sender.publish([message(n, METRICS, f"run-{n}") for n in range(8)])
    first.read(8)
    assert {partition for _, partition in first.store} == {0, 1}
    told, deadline = set(), time.monotonic() + 60
    while not told and time.monotonic() < deadline:
        batch = first.step(0.05)
        told |= set(batch.revoked)
        if not told:
            second.step(0.05)
            assert not second.bus._groups["g"]._ours
    [number_told] = {partition for _, partition in told}
    assert told == {(topic, number_told) for topic in (METRICS, RUNS, CONTROL)}
    second.store = dict(first.store)
    sender.publish([message(n, METRICS, f"run-{n}") for n in range(8, 24)])
    while len(first.records) + len(second.records) < 24 and time.monotonic() < deadline:
        first.step(0.05)
        second.step(0.05)
    assert sorted(number(record) for record in first.records + second.records) == list(range(24))
    assert {record.partition for record in second.records} == {number_told}
    for bus in (sender, first.bus, second.bus):
        bus.close()


def test_notices_may_have_one_partition(make_log, kafka_broker, kafka_prefix):
    settings = KafkaSettings(kafka_broker.bootstrap, kafka_prefix, partitions=2)
    client = kafka.KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    configs = {"message.timestamp.type": "LogAppendTime"}
    client.create_topics({settings.topic(NOTICES): {"num_partitions": 1, "replication_factor": 1, "configs": configs}})
    client.close()
    log = make_log()
    bus = log.connect()
    bus.publish([Message(NOTICES, f"k{n}", b"%d" % n) for n in range(10)])
    found = Reader(log, topics=(NOTICES,)).read(10)
    assert [number(record) for record in found] == list(range(10))
    bus.close()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_another_client_compressed_is_read(make_log, kafka_broker, codec):
    confluent = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed: pip install 'smart-tuner[dev]'")
    log = make_log()
    producer = confluent.Producer({"bootstrap.servers": kafka_broker.bootstrap, "compression.codec": codec})
    for n in range(20):
        producer.produce(log.settings.topic(METRICS), b"%d" % n + b" " * 500, b"k", partition=partition_of("k", 2))
    assert producer.flush(60) == 0
    bus, found, deadline = log.connect(), [], time.monotonic() + 60
    while len(found) < 20 and time.monotonic() < deadline:
        found += bus.poll([METRICS], "g", start=lambda partition: -1, timeout_s=0.5).records
    assert [int(one.body) for one in found] == list(range(20))
    bus.close()


def test_an_empty_poll_is_the_end_only_when_all_was_fetched(make_log):
    log = make_log()
    bus = log.connect()
    bus.publish([message(n) for n in range(50)])
    seen, batch = 0, bus.poll([METRICS], "g", start=lambda partition: -1)
    while seen < 50:
        assert batch.records or batch.revoked or batch.behind  # joining, or not fetched yet: time must not pass
        seen += len(batch.records)
        batch = bus.poll([METRICS], "g", limit=7, timeout_s=0.05)
    deadline = time.monotonic() + 60
    while batch.behind:
        assert time.monotonic() < deadline
        batch = bus.poll([METRICS], "g", timeout_s=0.2)
    bus.close()
