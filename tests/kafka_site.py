"""What the fault tests of the bus on Kafka do: publishers and readers that behave as the product does."""

import contextlib
import threading
import time

from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.core.clock import SystemClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Message

TOPICS = (METRICS, RUNS, CONTROL)
PATIENCE_S = 60.0
QUICK = {
    "partitions": 2,
    "publish_timeout_s": 3.0,
    "request_timeout_s": 1.0,
    "bootstrap_timeout_s": 1.0,
    "session_timeout_s": 3.0,
    "heartbeat_s": 0.3,
    "fetch_wait_s": 0.2,
    "quiet_s": 1.0,
    "join_timeout_s": 20.0,
}
"""Real settings with less patience, so that a fault need not last for half a minute. A broker on a busy machine may be silent
for a second as well: what a test does while nothing is wrong is done patiently, or again."""
WHOLE = {name: QUICK[name] for name in ("partitions", "heartbeat_s", "fetch_wait_s")}
"""For a way on which nothing goes wrong: the product's own patience."""


class Site:
    """A broker, the way to it through the proxy, and logs that are closed in the end."""

    def __init__(self, broker, proxy, prefix):
        self.broker, self.proxy, self.prefix = broker, proxy, prefix
        self.logs = []

    def log(self, direct=False, patient=False, refused=False, **changes):
        """A KafkaLog with quick settings, tried again until it is there unless it must be `refused`; `direct` does not go
        through the proxy and is `patient`."""
        where = self.broker.bootstrap if direct else self.proxy.bootstrap
        settings = WHOLE if direct or patient else QUICK

        def made():
            return KafkaLog(KafkaSettings(where, self.prefix, **{**settings, **changes}), SystemClock())

        self.logs.append(made() if refused else retried(made))
        return self.logs[-1]


def message(n, topic=METRICS, key="k", size=0):
    return Message(topic, key, b"%d" % n + b" " * size)


def number(record):
    return int(record.body)


def retried(step, patience_s=PATIENCE_S):
    """What `step` returns once Kafka is there again."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return step()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Stream:
    """Publishes numbered messages of several keys, as the edge does: a batch that failed is sent again by a new handle."""

    def __init__(self, log, keys=5, batch=10):
        self.log, self.keys, self.batch = log, [f"run-{n}" for n in range(keys)], batch
        self.sent = self.failed = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        bus = self.log.connect()
        while not self._stopping.is_set():
            numbers = range(self.sent, self.sent + self.batch)
            try:
                bus.publish([message(n, TOPICS[n // 7 % 3], self.keys[n % len(self.keys)]) for n in numbers])
                self.sent += self.batch
                time.sleep(0.01)
            except Unavailable:
                self.failed += 1
                bus.close()
                bus = self.log.connect()
        bus.close()

    def reach(self, count):
        """Waits until so many more are acknowledged."""
        goal, deadline = self.sent + count, time.monotonic() + PATIENCE_S
        while self.sent < goal and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.sent >= goal

    def stop(self):
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class Reader:
    """Reads like a lane with a store of its own: a new handle after an error, from where its store is."""

    def __init__(self, log, group="g", topics=TOPICS):
        self.log, self.group, self.topics = log, group, topics
        self.store, self.records, self.errors = {}, [], []
        self.bus = log.connect()

    def step(self, timeout_s=0.1):
        try:
            batch = self.bus.poll(self.topics, self.group, start=self.store.get, timeout_s=timeout_s)
        except Unavailable as error:
            self.errors.append(error)
            self.bus.close()
            self.bus = self.log.connect()
            return None
        for record in batch.records:
            self.store[record.topic, record.partition] = record.offset + 1
        self.records += batch.records
        return batch

    def read(self, count):
        """Until so many different numbers have come."""
        deadline = time.monotonic() + PATIENCE_S
        while len(set(map(number, self.records))) < count and time.monotonic() < deadline:
            self.step()
        return self.records


@contextlib.contextmanager
def streaming(log, **options):
    stream = Stream(log, **options)
    try:
        yield stream
    finally:
        stream.stop()


def assert_whole_and_in_order(records, sent, keys=5):
    """Nothing is lost, an offset comes once, and what is left when repetitions are dropped is in order within each key."""
    places = [(r.topic, r.partition, r.offset) for r in records]
    assert len(places) == len(set(places))
    first = list(dict.fromkeys(map(number, records)))
    assert sorted(first)[:sent] == list(range(sent))
    for key in range(keys):
        of_key = [n for n in first if n % keys == key]
        assert of_key == sorted(of_key)
