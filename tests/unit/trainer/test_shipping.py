"""A job that ships by itself, over a log in memory: all of it, in order, once; decisions back; and one reader at a time."""

import os
import threading
import time

import pytest
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.spool import Spool
from smarttuner.bus.spool_file import opened_spool, own
from smarttuner.bus.vigil import Vigil
from smarttuner.core.clock import SystemClock
from smarttuner.core.errors import ConfigError, Unavailable
from smarttuner.core.events import Claim, Decision, MetricChunk, RunEvent, decode, encode
from smarttuner.core.ports import CONTROL, METRICS, NOTICES, RUNS, Message
from smarttuner.daemon.edge import Edge, EdgeSettings
from smarttuner.trainer import direct
from smarttuner.trainer import shipping as shipping_module
from smarttuner.trainer.direct import Direct
from smarttuner.trainer.shipping import Route, Shipping
from smarttuner.trainer.voice import Voice

PATIENCE_S = 60.0
ADDRESS = "kafka://broker:9092"


def until(claim):
    deadline = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


class Broker:
    """A log as a job sees it. While `away` nothing is acknowledged; the first `torn` publishes fail behind a prefix."""

    def __init__(self):
        self.log = MemoryLog(SystemClock())
        self.partitions, self.away, self.torn, self.opened = 1, False, 0, 0
        self.reading = self.log.connect()

    def open(self):
        self.opened += 1
        if self.away:
            raise Unavailable("no broker answers", "wait")
        return self

    def connect(self):
        return Handle(self, self.log.connect())

    def mark(self, name):
        return None

    def position_at(self, topic, partition, time_s):
        return 0

    def close(self):
        pass

    def on(self, topic, key="r"):
        return [decode(one.body) for one in self.reading.follow(topic, key, 0, 100_000)[0]]

    def points(self, attempt=None):
        """(position, step) of each point, as often as it came."""
        chunks = [one for one in self.on(METRICS) if attempt in (None, one.attempt)]
        return [(at, s.steps[i]) for c in chunks for s, positions in c.positions() for i, at in enumerate(positions)]


class Handle:
    def __init__(self, broker, bus):
        self._broker, self._bus = broker, bus

    def __getattr__(self, name):
        return getattr(self._bus, name)

    def publish(self, messages):
        if self._broker.away:
            raise Unavailable("no broker answers", "wait")
        if self._broker.torn:
            self._broker.torn -= 1
            self._bus.publish(messages[: len(messages) // 2])
            raise Unavailable("cut", "wait")
        self._bus.publish(messages)


class Job:
    def __init__(self, folder, broker, attempt="01A", ring_bytes=1 << 20):
        self.folder, self.broker = folder, broker
        self.spool = Spool.create(str(folder / "spool"), "r", attempt, ADDRESS, ring_bytes)
        self.route = Route(ADDRESS, broker.open, (str(folder / "spool"),))
        self.made = []

    def ship(self):
        self.made.append(Shipping(self.spool, self.route, SystemClock(), Voice(quiet=True)))
        self.made[-1].start()
        return self.made[-1]

    def direct(self):
        bell = Doorbell(str(self.folder), self.spool, {})
        self.made.append(Direct(bell, self.spool, self.route, SystemClock(), Voice(quiet=True)))
        return self.made[-1]

    def log(self, first, count):
        for step in range(first, first + count):
            assert self.spool.log(step, {"loss": float(step)}, 1.7e9 + step)

    def end(self):
        for one in self.made:
            one.close(PATIENCE_S) if isinstance(one, Shipping) else one.close()
        self.spool.close()


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def job(tmp_path, broker):
    made = Job(tmp_path, broker)
    yield made
    made.end()


def whole(steps):
    return [(step, step) for step in range(steps)]


def test_all_that_is_logged_arrives_in_order_and_frees_the_spool(job, broker):
    shipping = job.ship()
    job.log(0, 5000)
    until(lambda: job.spool.unread == 0)
    job.log(5000, 10)
    shipping.ring()
    until(lambda: job.spool.unread == 0)
    assert broker.points() == whole(5010)


def test_a_job_that_ships_by_itself_tells_of_its_own_silence(job, broker, monkeypatch):
    monkeypatch.setattr(shipping_module, "Vigil", lambda: Vigil(first_s=0.5))
    job.ship()
    job.log(0, 10)
    until(lambda: [one for one in broker.on(RUNS) if one.event == "note"])
    told = next(one for one in broker.on(RUNS) if one.event == "note")
    assert (told.attempt, told.details["pid"], told.details.get("stopped")) == ("01A", os.getpid(), None)
    assert told.details["quiet_s"] >= 0.5


def test_a_broker_that_is_away_costs_nothing_and_a_torn_publish_is_said_again_in_order(job, broker):
    broker.away = True
    shipping = job.ship()
    job.log(0, 3000)
    until(lambda: broker.opened > 1)
    broker.torn, broker.away = 2, False
    until(lambda: job.spool.unread == 0)
    broker.away = True
    job.log(3000, 500)
    shipping.ring()
    until(lambda: shipping.counters["away"] > 1)
    broker.away = False
    until(lambda: job.spool.unread == 0)
    came = broker.points()
    assert list(dict.fromkeys(came)) == whole(3500)


@pytest.mark.parametrize("served", ["before it is full", "once it is full"])
def test_what_a_full_spool_dropped_is_counted_and_told(tmp_path, broker, served):
    job = Job(tmp_path, broker, ring_bytes=64 << 10)
    broker.away = True
    if served == "before it is full":
        job.ship()
        until(lambda: broker.opened)
    for step in range(5000):
        job.spool.log(step, {"loss": 1.0}, 1.7e9)
    assert job.spool.dropped > 0
    broker.away = False
    if served == "once it is full":
        job.ship()
    until(lambda: any(one.what == "points_dropped" for one in broker.on(NOTICES)))
    until(lambda: job.spool.unread == 0)
    (told,) = [one for one in broker.on(NOTICES) if one.what == "points_dropped"]
    assert f"{job.spool.dropped} points" in told.text
    assert len(broker.points()) == 5000 - job.spool.dropped
    job.end()


def decision(name, epoch, attempt="01A", **more):
    now = time.time()
    fields = {"params": {"value": 0.5}, "mode": "act", "epoch": epoch} | more
    return encode(Decision(name, "r", attempt, "set-lr", "person", "t", "why", now, now + 600, **fields))


def test_only_who_holds_the_partition_is_obeyed(job, broker):
    told = [
        decision("unclaimed", 1),
        encode(Claim(0, 2, "b", 1.0)),
        decision("stale", 1),
        decision("other", 2, attempt="01B"),
        decision("observed", 2, mode="observe"),
        decision("good", 2),
    ]
    broker.reading.publish([Message(CONTROL, "r", body) for body in told])
    shipping = job.ship()
    until(job.spool.revision)
    assert [one.id for one in job.spool.orders()] == ["good"]
    assert shipping.counters["stale"] == 2


def test_what_a_dead_job_left_is_shipped_by_the_next_and_its_end_is_told(tmp_path, job, broker):
    left = os.fork()
    if left == 0:
        one = Job(tmp_path, broker, attempt="01OLD")
        one.log(0, 700)
        os._exit(0)
    os.waitpid(left, 0)
    job.log(0, 10)
    job.ship()
    until(lambda: any(isinstance(one, RunEvent) for one in broker.on(RUNS)))
    assert broker.points("01OLD") == whole(700)
    assert broker.points("01A") == whole(10)
    assert [(one.attempt, one.state, one.ended_by) for one in broker.on(RUNS)] == [("01OLD", "failed", "died")]
    until(lambda: not (tmp_path / "spool" / "01OLD.spool").exists())


def test_whoever_reads_a_spool_is_alone_with_it(job, broker):
    fd, _ = opened_spool(job.spool.path)
    assert own(fd)
    job.log(0, 10)
    shipping = job.ship()
    time.sleep(0.1)
    assert broker.points() == []
    os.close(fd)
    until(lambda: job.spool.unread == 0)
    fd, _ = opened_spool(job.spool.path)
    assert not own(fd)
    shipping.close(PATIENCE_S)
    assert own(fd)
    os.close(fd)


def test_the_child_of_a_fork_does_not_keep_its_parents_lock(job, broker):
    shipping = job.ship()
    job.log(0, 1)
    until(lambda: job.spool.unread == 0)
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(release)
        os.read(hold, 1)
        os._exit(0)
    shipping.close(PATIENCE_S)
    fd, _ = opened_spool(job.spool.path)
    assert own(fd)
    os.close(fd)
    os.close(release)
    os.close(hold)
    os.waitpid(child, 0)


def test_what_cannot_be_helped_is_given_up_and_nobody_waits_for_it(job):
    def broken():
        raise ConfigError("kafka-python is not installed", "install it")

    job.route = Route(ADDRESS, broken)
    one = job.direct()
    until(lambda: not one.connected)
    assert one._shipping.hopeless.startswith("kafka-python is not installed")
    job.log(0, 10)


def test_a_job_that_has_ended_says_no_more_word_about_its_broker(job, capsys):
    asked, answer = threading.Event(), threading.Event()

    def late():
        asked.set()
        answer.wait(PATIENCE_S)
        raise Unavailable("no broker answers", "wait")

    job.made.append(one := Shipping(job.spool, Route(ADDRESS, late), SystemClock(), Voice()))
    one.start()
    assert asked.wait(PATIENCE_S)
    one.close(0.0)
    answer.set()
    until(lambda: one.stopped)
    assert one.counters["away"] == 1
    assert capsys.readouterr().err == ""


def test_a_spool_that_is_gone_before_decisions_are_followed_raises_nothing(job, broker, monkeypatch):
    opened = []

    def gone(path):  # the second is the thread's that follows control
        opened.append(path)
        if len(opened) > 1:
            raise FileNotFoundError(path)
        return opened_spool(path)

    monkeypatch.setattr(shipping_module, "opened_spool", gone)
    shipping = job.ship()
    job.log(0, 10)
    until(lambda: len(opened) > 1)
    shipping.ring()
    until(lambda: job.spool.unread == 0)
    assert broker.points() == whole(10)


def test_a_daemon_that_comes_takes_over_and_one_that_goes_hands_back(tmp_path, job, broker, monkeypatch):
    monkeypatch.setattr(direct, "PROBE_S", 0.0)
    monkeypatch.setattr(direct, "TAKE_OVER_S", 0.2)
    monkeypatch.setattr("smarttuner.bus.doorbell.CHECK_INTERVAL_S", 0.05)
    one = job.direct()
    logged, stopping = [0], threading.Event()

    def train():
        while not stopping.is_set():
            job.spool.log(logged[0], {"loss": 1.0}, 1.7e9)
            logged[0] += 1
            one.ring_if_armed()
            one.check()
            time.sleep(0.002)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        until(lambda: len(broker.points()) > 20)
        edge = Edge(broker.log, EdgeSettings(str(tmp_path), addresses=(ADDRESS,)), SystemClock(), lambda *_: {})
        edge.start()
        until(lambda: [row["state"] for row in edge.spools()] == ["connected"])
        assert one._shipping is None
        served = len(broker.points())
        until(lambda: len(broker.points()) > served + 20)
        edge.stop()
        until(lambda: one._shipping is not None)
        alone = len(broker.points())
        until(lambda: len(broker.points()) > alone + 20)
    finally:
        stopping.set()
        thread.join()
    until(lambda: job.spool.unread == 0 or one.ring())
    came = broker.points()
    assert came == whole(logged[0])
    assert all(isinstance(chunk, MetricChunk) for chunk in broker.on(METRICS))
