"""The rules that make kafka-python trustworthy (the end of spec/kafka.md), each with what happens when it is taken away.

(5), a snapshot of the group's generation with each poll, is for transactions, which nothing here uses; what stands for it is
that a member which the group has put out is told so before it reads on. (6), a sequence in every message, is above the bus.
"""

import os
import subprocess
import sys
import threading
import time

import kafka
import pytest
from kafka_site import QUICK, Reader, message, number, retried
from smarttuner.bus import kafka_clients, kafka_leaders, kafka_member, kafka_producer, kafka_publisher
from smarttuner.core.errors import CorruptData, Unavailable, UsageError
from smarttuner.core.ports import METRICS
from workplace import until

WITHOUT = pytest.mark.parametrize("rule", [True, False], ids=["with", "without"])


@WITHOUT
def test_1_what_is_under_way_is_bounded_while_the_broker_is_away(site, monkeypatch, rule):
    bus = site.log(in_flight_bytes=300_000 if rule else 1 << 40).connect()
    retried(lambda: bus.publish([message(0)]))
    taken = []
    produce = kafka_producer.produce

    def counting(batches, timeout_ms):
        taken.append(sum(map(len, batches.values())))
        return produce(batches, timeout_ms)

    monkeypatch.setattr(kafka_producer, "produce", counting)
    site.proxy.black_hole()
    with pytest.raises(Unavailable):
        bus.publish([message(n, key=f"run-{n}", size=50_000) for n in range(200)])
    assert (max(taken) <= 300_000) == rule
    bus.close()


@WITHOUT
def test_2_after_a_failed_delivery_the_next_publish_goes_through(site, monkeypatch, rule):
    """Without: the connection is used on, and each answer is taken for that to the next request."""
    if not rule:
        monkeypatch.setattr(kafka_leaders.Leaders, "drop", lambda leaders, leader: None)
        monkeypatch.setattr(kafka_leaders.Leaders, "close", lambda leaders: None)
        monkeypatch.setattr(kafka_publisher.Publisher, "drop", lambda publisher: None)
    log = site.log(request_timeout_s=1.0)
    bus = log.connect()
    retried(lambda: bus.publish([message(n) for n in range(10)]))
    site.proxy.black_hole()
    with pytest.raises(Unavailable):
        bus.publish([message(n) for n in range(10, 20)])
    site.proxy.heal()
    if rule:
        retried(lambda: bus.publish([message(n) for n in range(10, 20)]))
        retried(lambda: bus.publish([message(n) for n in range(20, 30)]))
        found = [number(record) for record in Reader(log, topics=(METRICS,)).read(30)]
        assert list(dict.fromkeys(found)) == list(range(30))
    else:
        for _ in range(2):
            with pytest.raises(Unavailable):
                bus.publish([message(n) for n in range(10, 20)])
        monkeypatch.undo()
    bus.close()


@WITHOUT
def test_3_a_reader_says_that_the_broker_is_away(site, rule):
    reader = Reader(site.log(quiet_s=1.0 if rule else 1e9), topics=(METRICS,))
    while not reader.bus._groups or not reader.bus._groups["g"]._ours:
        reader.step()
    reader.errors.clear()
    site.proxy.black_hole()
    deadline = time.monotonic() + (60.0 if rule else 4.0)
    while not reader.errors and time.monotonic() < deadline:
        reader.step(0.2)
    assert bool(reader.errors) == rule
    site.proxy.heal()
    reader.bus.close()


def test_3_a_reader_that_has_no_partition_says_it_too(site):
    """There are more members than partitions, or the broker went in the middle of a join."""
    log = site.log(partitions=1)
    readers = [Reader(log, topics=(METRICS,)) for _ in range(2)]

    def idle():
        for reader in readers:
            reader.step()
        groups = [reader.bus._groups.get("g") for reader in readers]
        joined = all(one and one._consumer and one._consumer.group_metadata().generation_id >= 0 for one in groups)
        without = [reader for reader, one in zip(readers, groups, strict=True) if one and not one._ours]
        return joined and len(without) == 1 and without

    (reader,) = until(idle)
    reader.errors.clear()
    site.proxy.black_hole()
    until(lambda: reader.step(0.2) is None)
    assert reader.errors[0].hint
    site.proxy.heal()
    for one in readers:
        one.bus.close()


@WITHOUT
def test_3_a_join_that_hangs_is_begun_anew(site, rule):
    """A stranger in the group joins and then never polls, so that every join waits for it."""
    log = site.log(direct=True, join_timeout_s=1.0 if rule else 1e9)
    settings = log.settings
    stranger = Reader(log, topics=(METRICS,))
    while not stranger.bus._groups or not stranger.bus._groups["g"]._ours:
        stranger.step()
    reader = Reader(log, topics=(METRICS,))
    deadline = time.monotonic() + (60.0 if rule else 4.0)
    while not log.counters["joined_anew"] and time.monotonic() < deadline:
        reader.step()
    assert bool(log.counters["joined_anew"]) == rule
    stranger.bus.close()
    log.connect().publish([message(0)])
    assert [number(record) for record in reader.read(1)] == [0]
    reader.bus.close()
    assert settings.join_timeout_s


@WITHOUT
def test_4_the_topics_are_known_before_a_member_subscribes(site, monkeypatch, rule):
    known = []
    subscribe = kafka.KafkaConsumer.subscribe

    def looking(consumer, topics, listener):
        known.append(all(consumer._cluster.partitions_for_topic(topic) for topic in topics))
        return subscribe(consumer, topics=topics, listener=listener)

    monkeypatch.setattr(kafka.KafkaConsumer, "subscribe", looking)
    if not rule:
        monkeypatch.setattr(kafka.KafkaConsumer, "partitions_for_topic", lambda consumer, topic: {0})
    bus = site.log(direct=True).connect()
    bus.poll([METRICS], "g")
    assert known == [rule]
    bus.close()


@WITHOUT
def test_5_a_member_that_was_put_out_is_told_before_it_reads_on(site, monkeypatch, rule):
    """It was cut off for longer than its session; another has read on meanwhile. Without: it goes on where it was."""
    log = site.log(partitions=1, quiet_s=1e9, request_timeout_s=2.0)
    cut_off = Reader(log, topics=(METRICS,))
    direct = site.log(direct=True, partitions=1)
    sender = direct.connect()
    sender.publish([message(n) for n in range(10)])
    cut_off.read(10)
    if not rule:
        member = cut_off.bus._groups["g"]
        member._listener.closing = True  # it interrupts no poll
        monkeypatch.setattr(member, "_taken", set)
        monkeypatch.setattr(member, "_certain", lambda: True)
    site.proxy.black_hole()
    other = Reader(direct, topics=(METRICS,))
    sender.publish([message(n) for n in range(10, 20)])
    other.read(20)
    site.proxy.heal()
    sender.publish([message(n) for n in range(20, 30)])
    told_first, deadline = None, time.monotonic() + (60.0 if rule else 6.0)
    while told_first is None and time.monotonic() < deadline:
        batch = cut_off.step()
        other.step(0.01)
        if batch is not None and (batch.revoked or batch.records):
            told_first = bool(batch.revoked)
    assert bool(told_first) == rule
    cut_off.bus.close()
    other.bus.close()


@WITHOUT
def test_7_what_no_broker_would_take_is_refused_before_it_is_sent(site, monkeypatch, rule):
    log = site.log(direct=True)
    bus = log.connect()
    if rule:
        with pytest.raises(CorruptData):
            bus.publish([message(0), message(1, size=2 << 20)])
        with pytest.raises(UsageError):
            log.state_log().write({0: [("", b"x")]})
    else:
        monkeypatch.setattr(kafka_member, "MAX_BODY_BYTES", 1 << 30)
        with pytest.raises(Unavailable):  # and half of it is there
            bus.publish([message(0), message(1, size=2 << 20)])
    bus.publish([message(2)])
    found = [number(record) for record in Reader(log, topics=(METRICS,)).read(1 if rule else 2)]
    assert found == ([2] if rule else [0, 2])
    bus.close()


FORKING = """
import os, sys
from smarttuner.bus import kafka_publisher
from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.core.clock import SystemClock
from smarttuner.core.ports import Message

def port():
    [wire] = bus._publisher._producer._leaders._wires.values()
    return wire.stream.getsockname()[1]

bus = KafkaLog({settings!r}, SystemClock()).connect()
bus.publish([Message("metrics", "k", b"0")])
bus.poll(["metrics"], "g")
rule, parents = {rule}, port()
child = os.fork()
if child == 0:
    if not rule:
        bus._publisher._pid = os.getpid()
    bus.publish([Message("metrics", "k", b"1")])
    while not bus.poll(["metrics"], "another", timeout_s=1.0).records:
        pass
    os._exit(8 if port() == parents else 7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
bus.publish([Message("metrics", "k", b"2")])
os._exit(0)
"""


@WITHOUT
def test_8_a_handle_works_in_a_child_too(site, rule):
    """Without: parent and child share a connection, and take each other's answers for their own."""
    log = site.log(direct=True, session_timeout_s=QUICK["session_timeout_s"])  # the child leaves no group that it was in
    code = FORKING.format(settings=log.settings, rule=rule)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ)
    assert child.stdout.split() == ["7" if rule else "8"], child.stderr
    assert [number(record) for record in Reader(log, topics=(METRICS,)).read(3)] == [0, 1, 2]


def test_clients_that_cannot_be_made_leave_nothing_behind(site):
    site.proxy.cut()
    settings = site.log(direct=True).settings
    away = type(settings)(**{**QUICK, "bootstrap": site.proxy.bootstrap, "prefix": "x", "bootstrap_timeout_s": 0.2})
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(Unavailable):
            kafka_clients.make_consumer(away, kafka_clients.consumer_options(away))
        with pytest.raises(Unavailable):
            kafka_clients.make_admin(away)
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
