"""How `control` is followed by who hands decisions on to jobs: which partitions, from where, and whose decisions count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from ..core.events import Claim, Decision
from ..core.ports import CONTROL, Clock, Record
from .claims import Claims
from .partitions import partition_of


def mark_name(partition: int) -> str:
    """Under this name the bus keeps how far `control` was followed."""
    return f"edge:control:{partition}"


class SharedLog(Protocol):
    """What a fleet's log can do beyond the port (bus/kafka.py)."""

    @property
    def partitions(self) -> int: ...
    def position_at(self, topic: str, partition: int, time_s: float) -> int: ...


class Trail(Protocol):
    """Which partitions of `control` are followed, from where, and whose decisions count there."""

    marked: bool
    """Whether it begins at marks, so that they are to be left."""

    def wanted(self) -> Iterable[int]:
        """The partitions that concern this host now."""

    def begin(self, partition: int) -> int:
        """The position to begin at; Unavailable where it cannot be had."""

    def allows(self, event: object, record: Record) -> bool:
        """Whether this event, read at its place, is a decision to be obeyed. Called for each, in order."""


class WholeTrail:
    """A log of this host alone: every partition, from the mark on, and every decision."""

    marked = True

    def __init__(self, mark: Callable[[str], int | None], partitions: int = 1) -> None:
        self._mark, self._partitions = mark, partitions

    def wanted(self) -> Iterable[int]:
        return range(self._partitions)

    def begin(self, partition: int) -> int:
        return self._mark(mark_name(partition)) or 0

    def allows(self, event: object, record: Record) -> bool:
        return isinstance(event, Decision)


class FleetTrail:
    """A log of many hosts: the partitions of the jobs that are here, from 90 s back, and only who owns the partition.
    `keys` are what those jobs' messages are keyed by."""

    marked = False

    def __init__(self, log: SharedLog, keys: Callable[[], Iterable[str]], clock: Clock, counters: Counter[str]) -> None:
        self._log, self._keys, self._clock, self._counters = log, keys, clock, counters
        self._claims = Claims()

    def wanted(self) -> Iterable[int]:
        return {partition_of(key, self._log.partitions) for key in self._keys()}

    def begin(self, partition: int) -> int:
        return self._log.position_at(CONTROL, partition, self._claims.begin(partition, self._clock.now()))

    def allows(self, event: object, record: Record) -> bool:
        if isinstance(event, Claim):
            self._claims.hear(event, record.partition)
        if not isinstance(event, Decision):
            return False
        fresh = self._claims.allow(event, record.partition, record.time)
        if not fresh and event.status == "pending":
            self._counters["orders_stale"] += 1
        return fresh
