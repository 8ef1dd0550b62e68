"""Records to the leaders of their partitions, on the caller's thread: one round trip for all that one publish holds.

kafka-python's producer wakes a thread of its own for each record and is woken by it for each acknowledgement: six to nine times
the CPU, two to six times the time. Its records, messages and logins are used here, its thread and queue are not.
Of each partition one batch is under way at a time and is sent again until it is acknowledged, so order holds without the idempotent
producer; a connection on which an answer failed to come is never used again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka.errors import KafkaError, for_code
from kafka.record.default_records import DefaultRecordBatchBuilder

from ..core.clock import Clock
from ..core.errors import SmartTunerError, Unavailable
from ..core.ports import Partition
from .kafka_connection import Failed
from .kafka_frames import PRODUCE, PRODUCE_VERSION, Place, produce, produced
from .kafka_leaders import Leader, Leaders
from .kafka_options import client_options
from .kafka_settings import KafkaSettings
from .kafka_wire import Deadline, Wire

NOT_ANSWERED = 7
"""The code of a request that timed out: a broker that leaves a partition out has not acknowledged it."""
CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
BATCH_BYTES = 262_144
LARGEST_BATCH = 900_000
"""A topic takes a mebibyte by default; a record that is larger by itself goes alone."""
PAUSES_S = (0.02, 0.1, 0.25, 0.5)
FAILURES = (OSError, KafkaError, SmartTunerError)


class Letter(NamedTuple):
    """One message with its place. `body` None takes the key away from a compacted topic."""

    topic: str
    partition: int
    key: str
    body: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Asked(NamedTuple):
    """What waits for an answer: of each partition, how many of its letters."""

    wire: Wire
    counts: dict[Partition, int]


class Producer:
    """Not thread safe, and nothing for the child of a fork."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        options: dict[str, Any] = client_options(settings.bootstrap, settings.client, "producer")
        self._settings, self._clock = settings, clock
        self._batch_bytes = min(options.get("batch_size", BATCH_BYTES), LARGEST_BATCH)
        self._codec = CODECS[options.get("compression_type")]
        self._timeout_s = options.get("request_timeout_ms", settings.request_timeout_s * 1000) / 1000
        self._leaders = Leaders(settings, clock)
        self._throttle_s = 0.0

    def deliver(self, letters: Sequence[Letter]) -> None:
        """Returns when all are acknowledged; raises when for publish_timeout_s none was, or at once where waiting does not
        help. Of each partition a prefix is there then."""
        queues: dict[Partition, deque[Letter]] = {}
        for one in letters:
            queues.setdefault((one.topic, one.partition), deque()).append(one)
        heard_at, tries = self._clock.monotonic(), 0
        patience_s = self._settings.publish_timeout_s if self._leaders.known else self._settings.bootstrap_timeout_s
        while queues:
            before = sum(map(len, queues.values()))
            trouble = self._round(queues)
            if sum(map(len, queues.values())) < before:
                heard_at, tries = self._clock.monotonic(), 0
                patience_s = self._settings.publish_timeout_s
            if trouble is not None:
                if not _may_pass(trouble) or self._clock.monotonic() - heard_at >= patience_s:
                    raise trouble
                self._clock.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                tries += 1

    def _round(self, queues: dict[Partition, deque[Letter]]) -> Exception | None:
        """One batch of each partition to its leader; what went wrong, if anything did."""
        try:
            leaders = self._leaders.of(queues)
        except FAILURES as error:
            self._leaders.close()
            return error
        trouble: Exception | None = None
        asked: dict[Leader, Asked] = {}
        for leader, partitions in leaders.items():
            try:
                asked[leader] = self._ask(self._leaders.wire(leader), partitions, queues)
            except FAILURES as error:
                self._leaders.drop(leader)
                trouble = error
        for leader, one in asked.items():
            try:
                trouble = self._hear(one, queues) or trouble
            except FAILURES as error:
                self._leaders.drop(leader)
                trouble = error
        if trouble is not None:
            self._leaders.forget()
        return trouble

    def _ask(self, wire: Wire, partitions: Sequence[Partition], queues: dict[Partition, deque[Letter]]) -> Asked:
        """As much as may be under way at once."""
        counts: dict[Partition, int] = {}
        batches: dict[Place, bytearray] = {}
        size = 0
        for topic, number in partitions:
            if counts and size + self._batch_bytes > self._settings.in_flight_bytes:
                break
            batch, counts[topic, number] = self._batch(queues[topic, number])
            batches[self._settings.topic(topic), number] = batch
            size += len(batch)
        wire.patience(Deadline(self._clock, self._timeout_s + self._throttle_s))
        wire.post(PRODUCE, PRODUCE_VERSION, produce(batches, int(self._timeout_s * 1000)))
        return Asked(wire, counts)

    def _batch(self, letters: deque[Letter]) -> tuple[bytearray, int]:
        """The first of these letters as Kafka keeps them, and how many they are."""
        builder = DefaultRecordBatchBuilder(2, self._codec, False, -1, -1, -1, self._batch_bytes)
        now_ms, count = int(self._clock.now() * 1000), 0
        for one in letters:
            if builder.append(count, now_ms, one.key.encode(), one.body, one.headers) is None:
                break
            count += 1
        return builder.build(), count

    def _hear(self, asked: Asked, queues: dict[Partition, deque[Letter]]) -> Exception | None:
        """Strikes out what is acknowledged; the first error, if there is one."""
        answers, self._throttle_s = produced(asked.wire.receipt())
        trouble: Exception | None = None
        for partition, count in asked.counts.items():
            place = self._settings.topic(partition[0]), partition[1]
            error_code = answers.get(place, NOT_ANSWERED)
            if error_code:
                trouble = trouble or for_code(error_code)(place[0])
                continue
            queue = queues[partition]
            for _ in range(count):
                queue.popleft()
            if not queue:
                del queues[partition]
        return trouble

    def close(self) -> None:
        """What is not acknowledged is not sent again by this one."""
        self._leaders.close()


def _may_pass(error: Exception) -> bool:
    """Whether the same may succeed in a while."""
    if isinstance(error, KafkaError):
        return bool(error.retriable)
    if isinstance(error, Failed):
        return error.step not in ("tls", "sasl")
    return isinstance(error, OSError | Unavailable)
