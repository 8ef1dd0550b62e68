"""Messages to Kafka: in order, and every one acknowledged when `send` returns."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from ..core.clock import Clock
from ..core.errors import SmartTunerError, Unavailable
from .kafka_clients import CLIENT_ERRORS, explained
from .kafka_producer import Letter, Producer
from .kafka_settings import KafkaSettings

TICK_S = 0.001
"""The grain of append times on Kafka."""


def flights(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    """Cuts letters into what may be under way at once. A partition's letters stay in order; a key that goes to another
    topic than before waits for the acknowledgement, so that append times rise as the letters stand.

    >>> a, b = Letter("metrics", 0, "a", b""), Letter("runs", 0, "a", b"")
    >>> [[one.topic for one in flight] for flight in flights([a, a, b, b, a])]
    [['metrics', 'metrics'], ['runs', 'runs'], ['metrics']]
    """
    level: dict[int, int] = {}
    topic_of: dict[int, dict[str, str]] = {}
    found: list[list[Letter]] = []
    for one in letters:
        known = topic_of.setdefault(one.partition, {})
        if known.get(one.key, one.topic) != one.topic:
            level[one.partition] = level.get(one.partition, 0) + 1
            known.clear()
        known[one.key] = one.topic
        at = level.get(one.partition, 0)
        while len(found) <= at:
            found.append([])
        found[at].append(one)
    yield from found


class Publisher:
    """One producer, made when it is needed and never trusted again after a failure. Not thread safe."""

    def __init__(self, settings: KafkaSettings, clock: Clock, counters: Counter[str]) -> None:
        self._settings, self._clock, self._counters = settings, clock, counters
        self._producer: Producer | None = None
        self._pid = 0
        self._last: dict[str, str] = {}
        self._last_at = 0.0

    def send(self, letters: Sequence[Letter]) -> None:
        """Returns when all are acknowledged; Unavailable when for publish_timeout_s none was: of each partition a prefix is
        there then. A broker that is slow but goes on is waited for: giving up would send all of it once more."""
        for flight in flights(letters):
            self._let_time_pass(flight)
            try:
                self._connected().deliver(flight)
            except (*CLIENT_ERRORS, SmartTunerError, ValueError) as error:
                self.drop()
                self._counters["publish_failed"] += 1
                raise explained(self._settings, error, "not acknowledged") from error
            self._last = {one.key: one.topic for one in flight}
            self._last_at = self._clock.monotonic()

    def _let_time_pass(self, flight: Sequence[Letter]) -> None:
        """Append times count milliseconds: what follows on another topic must not get the same one."""
        if any(self._last.get(one.key, one.topic) != one.topic for one in flight):
            self._clock.sleep(max(0.0, self._last_at + TICK_S - self._clock.monotonic()))

    def _connected(self) -> Producer:
        if self._producer is not None and self._pid != os.getpid():
            self._producer = None  # a fork: the connection is the parent's, too
        if self._producer is None:
            self._producer, self._pid = Producer(self._settings, self._clock), os.getpid()
        return self._producer

    def drop(self) -> None:
        """Forgets the producer; what it has not sent is not sent any more."""
        producer, self._producer = self._producer, None
        if producer is not None and self._pid == os.getpid():
            producer.close()

    def close(self) -> None:
        """Nothing is under way between two calls."""
        self.drop()


def refuse_closed() -> Unavailable:
    """What a handle says when its log is gone."""
    return Unavailable("the connection to Kafka is closed", "the process is ending, or start it again")
