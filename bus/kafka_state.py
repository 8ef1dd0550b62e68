"""The state of a fleet's judges on Kafka's compacted topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..core.clock import Clock
from ..core.errors import Unavailable, UsageError
from ..core.ports import STATE
from .kafka_clients import close, consumer_options, make_consumer, reaching
from .kafka_publisher import Letter, Publisher
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

    def read(self, partition: int) -> Sequence[tuple[str, bytes | None]]:
        """The partition up to its end as it is now; Unavailable if nothing comes for request_timeout_s."""
        options = consumer_options(self._settings) | {"max_partition_fetch_bytes": FETCH_BYTES}
        consumer = make_consumer(self._settings, options)
        try:
            with reaching(self._settings, "the state cannot be read"):
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
                return found
        finally:
            close(consumer, 0.5)

    def write(self, partition: int, entries: Sequence[tuple[str, bytes | None]]) -> None:
        """Returns when all are acknowledged."""
        for key, body in entries:
            if not key:
                raise UsageError("a compacted topic takes no entry without a key", "name the attempt in the key")
            if body is not None and len(body) > STATE_BYTES - _ROOM_BYTES:
                raise UsageError(f"the state {key} has {len(body)} bytes", f"{STATE_BYTES - _ROOM_BYTES} are the limit: split it")
        self._publisher.send([Letter(STATE, partition, key, body) for key, body in entries])

    def close(self) -> None:
        """Idempotent."""
        self._publisher.close()
