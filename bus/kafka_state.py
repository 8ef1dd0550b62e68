"""The state of a fleet's judges on Kafka's compacted topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core.clock import Clock
from ..core.errors import Unavailable, UsageError
from ..core.ports import STATE
from .kafka_clients import close, consumer_options, make_consumer, reaching
from .kafka_producer import Letter
from .kafka_publisher import Publisher
from .kafka_settings import STATE_BYTES, KafkaSettings
from .kafka_topics import Clerk

POLL_MS = 500
FETCH_BYTES = 8 << 20
WRITE_TIMEOUT_S = 30.0
_ROOM_BYTES = 64 << 10


class KafkaStateLog:
    """See core.ports.StateLog. Not thread safe."""

    def __init__(self, settings: KafkaSettings, clerk: Clerk, clock: Clock, counters: Counter[str]) -> None:
        self._settings, self._clerk, self._clock = settings, clerk, clock
        patient = replace(settings, publish_timeout_s=max(settings.publish_timeout_s, WRITE_TIMEOUT_S))
        self._publisher = Publisher(patient, clock, counters)
        self._reader: Any = None

    def read(self, partition: int) -> Sequence[tuple[str, bytes | None]]:
        """The partition up to its end as it is now; Unavailable if nothing comes for request_timeout_s. A daemon that takes
        many partitions over reads each twice: by one consumer, which is made anew after a failure."""
        if self._reader is None:
            self._reader = make_consumer(
                self._settings, consumer_options(self._settings) | {"max_partition_fetch_bytes": FETCH_BYTES}
            )
        try:
            with reaching(self._settings, "the state cannot be read"):
                return self._read(self._reader, partition)
        except BaseException:
            self._let_reader_go()
            raise

    def _read(self, consumer: Any, partition: int) -> list[tuple[str, bytes | None]]:
        place = self._clerk.place((STATE, partition))
        end = self._clerk.ends([(STATE, partition)])[STATE, partition]
        first = self._clerk.earliest([(STATE, partition)])[STATE, partition]
        consumer.assign([place])
        consumer.seek(place, first)
        found: list[tuple[str, bytes | None]] = []
        at, moved = first, self._clock.monotonic()
        while at < end:
            for one in consumer.poll(timeout_ms=POLL_MS, max_records=1000).get(place, ()):
                if one.offset < end:
                    found.append(((one.key or b"").decode(errors="replace"), one.value))
            position = consumer.position(place, timeout_ms=POLL_MS)  # behind what compaction took, too
            if position is not None and position > at:
                at, moved = position, self._clock.monotonic()
            elif self._clock.monotonic() - moved > self._settings.request_timeout_s:
                raise Unavailable(f"state/{partition} stands still at {at} of {end}", "smart-tuner kafka check")
        consumer.assign([])
        return found

    def _let_reader_go(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            close(reader, 0.5)

    def write(self, entries: Mapping[int, Sequence[tuple[str, bytes | None]]]) -> None:
        """Returns when all are acknowledged."""
        letters = [Letter(STATE, partition, key, body) for partition, several in entries.items() for key, body in several]
        for _, _, key, body, _ in letters:
            if not key:
                raise UsageError("a compacted topic takes no entry without a key", "name the attempt in the key")
            if body is not None and len(body) > STATE_BYTES - _ROOM_BYTES:
                raise UsageError(f"the state {key} has {len(body)} bytes", f"{STATE_BYTES - _ROOM_BYTES} are the limit: split it")
        self._publisher.send(letters)

    def close(self) -> None:
        """Idempotent."""
        self._let_reader_go()
        self._publisher.close()
