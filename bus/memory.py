"""The log in memory: for tests, simulation and replay. It keeps nothing when the process ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from ..core.ports import METRICS, TOPICS, Bus, Clock, Message, Partition, Record
from .groups import Groups
from .head import Head
from .member import POLL_BYTES, Member
from .retention import DEFAULT, Retention

_FILES = ((METRICS,), tuple(topic for topic in TOPICS if topic != METRICS))
"""The topics that share a limit, as they share a file in the local log."""


class MemoryLog:
    """The same face as LocalLog. Thread safe; each thread takes a handle of its own with `connect`."""

    def __init__(self, clock: Clock, partitions: int = 1, limits: Retention = DEFAULT) -> None:
        self.head = Head(clock, TOPICS, partitions, dict.fromkeys(TOPICS))
        self.groups = Groups(clock, self.head.bells, partitions)
        self.counters = self.head.counters
        self._limits = limits
        self._writing = threading.Lock()
        self._marks: dict[str, int] = {}
        self._commits: dict[tuple[str, Partition], int] = {}

    def connect(self) -> Bus:
        """A member's handle."""
        return Member(self)

    def mark(self, name: str) -> int | None:
        """The position that came with the last message marked `name`."""
        return self._marks.get(name)

    def lag(self, group: str) -> dict[Partition, int]:
        """How many records of each partition the group has not committed yet; partitions it never committed are left out."""
        commits = {p: position for (name, p), position in list(self._commits.items()) if name == group}
        return {p: self.head.count(p, max(at, self.head.earliest(p)), self.head.next(p)) for p, at in commits.items()}

    def status(self) -> dict[str, object]:
        """For `status`: members and lag by group."""
        return {
            "transport": "memory",
            "partitions": self.head.partitions,
            "groups": self.groups.members(),
            "lag": {group: sum(self.lag(group).values()) for group in {name for name, _ in self._commits.copy()}},
        }

    def rebalance(self, group: str) -> None:
        """See Groups.rebalance."""
        self.groups.rebalance(group)

    def skip_offsets(self, partition: Partition, count: int) -> None:
        """Leaves a gap of `count` offsets."""
        with self._writing:
            self.head.change(partition, lambda offsets: offsets.skip(count))

    def maintain(self) -> None:
        """Applies retention; an append does so for its own size."""
        with self._writing:
            for topics in _FILES:
                self._expire(topics)

    def close(self) -> None:
        """Every handle raises Unavailable from now on."""
        self.head.close()

    # what a member stands on

    def append(self, messages: Sequence[Message]) -> None:
        """Shows the messages, marks with them."""
        with self._writing:
            records = self.head.begin(messages)
            self._marks.update(message.mark for message in messages if message.mark is not None)
            self.head.finish(records, stored=True)
            for topics in _FILES:
                if self.head.bytes(topics) > self._limits.of(topics[0]).max_bytes:
                    self._expire(topics)

    def read(self, partition: Partition, position: int, end: int, limit: int) -> tuple[Sequence[Record], bool]:
        """Up to `limit` records in [position, end), and whether more follow."""
        found = None
        while found is None:
            found = self.head.recent(partition, max(position, self.head.earliest(partition)), end, limit, POLL_BYTES)
        return found

    def committed(self, group: str, partition: Partition) -> int | None:
        """What the group wants next, if it ever said so."""
        return self._commits.get((group, partition))

    def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """Remembers what the group wants next."""
        with self._writing:
            self._commits.update({(group, partition): position for partition, position in positions.items()})

    def _expire(self, topics: Sequence[str]) -> None:
        limits = self._limits.of(topics[0])
        too_old = self.head.clock.now() - limits.max_age_s
        while True:
            size = self.head.bytes(topics)
            oldest = [r for t in topics for n in range(self.head.partitions) if (r := self.head.oldest((t, n))) is not None]
            if size <= limits.hard_bytes:
                oldest = [record for record in oldest if not self._awaited(record)]
                if size <= limits.max_bytes:
                    oldest = [record for record in oldest if record.time < too_old]
            if not oldest:
                return
            first = min(oldest, key=lambda record: record.time)
            self.head.forget_before((first.topic, first.partition), first.offset + 1)

    def _awaited(self, record: Record) -> bool:
        """A group that commits has not read it yet."""
        at = (record.topic, record.partition)
        return any(p == at and position <= record.offset for (_, p), position in self._commits.items())
