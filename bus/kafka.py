"""The log on Apache Kafka: the same face as LocalLog, for a fleet of hosts.

Topics are <prefix>.<namespace>.{metrics,runs,control,notices,dead_letters,state}; see docs/bus.md and docs/kafka.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec

from ..core.clock import Clock
from ..core.errors import ConfigError
from ..core.ports import Bus, Partition, StateLog
from .kafka_errors import quieten
from .kafka_settings import KafkaSettings as KafkaSettings

WARNINGS = 100
"""So many are kept."""


class KafkaLog:
    """One per process. Thread safe; each thread takes a handle of its own with `connect`. Unavailable or ConfigError, in one
    line and within seconds, where it cannot be used."""

    def __init__(self, settings: KafkaSettings, clock: Clock, counts: Mapping[str, int] | None = None) -> None:
        """`counts`: the partitions of each topic where that is known and nothing is to be made or looked at."""
        try:
            from .kafka_lag import Gauge
            from .kafka_topics import Clerk
        except ModuleNotFoundError as error:
            if error.name != "kafka":
                raise
            raise ConfigError("kafka-python is not installed", "pip install 'smart-tuner[kafka]'") from error
        quieten(clock)
        self.settings, self.clock = settings, clock
        self.counters: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.marks: dict[str, int] = {}
        self.closed = False
        if find_spec("crc32c") is None:
            self.warnings.append("the package crc32c is missing, so Kafka costs a second of CPU a megabyte: pip install crc32c")
        self.clerk = Clerk(settings)
        self._gauge = Gauge(self.clerk)
        try:
            self.counts = self.clerk.prepare() if counts is None else dict(counts)
        except BaseException:
            self.clerk.close()
            raise

    @property
    def partitions(self) -> int:
        """Of metrics, runs, control and state."""
        return self.settings.partitions

    def connect(self) -> Bus:
        """A member's handle; it connects when it is used."""
        from .kafka_member import KafkaMember

        return KafkaMember(self)

    def mark(self, name: str) -> int | None:
        """The position that came with the last message marked `name` and acknowledged to this process. Kafka keeps none:
        after a restart a spool's own header says how far it was read, and what comes twice is known by its seq."""
        return self.marks.get(name)

    def lag(self, group: str) -> dict[Partition, int]:
        """How many offsets of each partition the group has not committed yet; what it was last while Kafka is away."""
        return self._gauge.lag(group)

    def position_at(self, topic: str, partition: int, time_s: float) -> int:
        """The first offset appended at `time_s` (seconds since 1970) or later; the end if there is none."""
        return self.clerk.position_at((topic, partition), time_s)

    def state_log(self) -> StateLog:
        """The compacted topic; one for each thread."""
        from .kafka_state import KafkaStateLog

        return KafkaStateLog(self.settings, self.clerk, self.clock, self.counters)

    def status(self) -> dict[str, object]:
        """For `status`."""
        return {
            "transport": "kafka",
            "bootstrap": self.settings.bootstrap,
            "namespace": f"{self.settings.prefix}.{self.settings.namespace}",
            "partitions": self.partitions,
            "warnings": self.warnings[-WARNINGS:],
            "lag": {group: sum(lag.values()) for group, lag in self._gauge.known().items()},
        }

    def close(self) -> None:
        """Every handle raises Unavailable from now on. Idempotent."""
        self.closed = True
        self.clerk.close()
