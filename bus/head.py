"""The live end of a log, in memory: it gives records their offsets and times, and says what may be seen.

One order over all topics: append times rise strictly, and what was appended later is not shown before what was appended
earlier, although two writers (one a file) may be at work at once.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..core.errors import CorruptData, Unavailable, UsageError
from ..core.letters import limit_of
from ..core.ports import Clock, Message, Partition, Record
from .bells import Bells
from .partitions import partition_of
from .tail import Offsets, Tail


class Head:
    """Thread safe, never blocks for long. Of each partition there may be one writer at a time between `begin` and `finish`."""

    def __init__(self, clock: Clock, topics: Sequence[str], partitions: int, tail_bytes: Mapping[str, int | None]) -> None:
        if partitions < 1:
            raise UsageError(f"a topic cannot have {partitions} partitions", "give it at least 1")
        self.clock, self.topics, self.partitions = clock, tuple(topics), partitions
        self.bells = Bells()
        self.counters: Counter[str] = Counter()
        self._tail_bytes = tail_bytes
        self._lock = threading.Lock()
        self._last_us = 0
        self._pending: dict[float, frozenset[str]] = {}
        self._held: set[str] = set()
        self._closed = False
        self._offsets = {(topic, n): Offsets() for topic in topics for n in range(partitions)}
        self._tails = {p: Tail(0, tail_bytes[p[0]]) for p in self._offsets}
        self._opened_at = dict.fromkeys(self._offsets, 0)

    def restore(self, offsets: Mapping[Partition, Offsets], last_us: int) -> None:
        """Goes on where an earlier process ended, before anybody reads or writes; `last_us` is the last append time."""
        self._offsets.update(offsets)
        self._tails.update({p: Tail(known.next, self._tail_bytes[p[0]]) for p, known in offsets.items()})
        self._opened_at.update({p: known.next for p, known in offsets.items()})
        self._last_us = max(self._last_us, last_us)

    def check(self, messages: Iterable[Message]) -> None:
        """UsageError or CorruptData for messages that may not be published, before any of them is."""
        for message in messages:
            if message.topic not in self.topics:
                raise UsageError(f"no topic is called {message.topic!r}", "topics are " + ", ".join(self.topics))
            if len(message.body) > (limit := limit_of(message.topic)):
                raise CorruptData(f"a body of {len(message.body)} bytes is over the limit of {limit}", "split it where it is made")

    def begin(self, messages: Sequence[Message]) -> list[Record]:
        """The records that the messages will be; invisible until `finish`, which must follow."""
        with self._lock:
            self._raise_if_closed()
            now_us = int(self.clock.now() * 1e6)
            taken: dict[Partition, int] = {}
            records = []
            for topic, key, body, headers, _ in messages:
                partition = (topic, partition_of(key, self.partitions))
                offset = taken.get(partition, self._offsets[partition].next)
                taken[partition] = offset + 1
                self._last_us = max(self._last_us + 1, now_us)
                records.append(Record(topic, partition[1], offset, key, body, self._last_us / 1e6, headers))
            self._pending[records[0].time] = frozenset(p[0] for p in taken)
            return records

    def finish(self, records: Sequence[Record], stored: bool) -> None:
        """Shows the records, or forgets them where they could not be stored, and wakes who waits for them."""
        with self._lock:
            topics = self._pending.pop(records[0].time)
            if stored:
                for record in records:
                    partition = (record.topic, record.partition)
                    self._tails[partition].add(record)
                    self._offsets[partition].next = record.offset + 1
                self.counters["published"] += len(records)
            self._held |= topics
            waking = set(self._held)
            if not self._pending:  # else they may be hidden behind the other writer, whose finish must wake their readers
                self._held.clear()
        self.bells.ring(waking)

    def ends(self, partitions: Iterable[Partition]) -> tuple[dict[Partition, int], float]:
        """The next offset of each partition, and the append time from which on nothing may be shown yet."""
        with self._lock:
            self._raise_if_closed()
            ends = {p: self._offsets[p].next for p in partitions}
            if not self._pending:
                return ends, math.inf
            topics = {p[0] for p in ends}
            return ends, min((time for time, written in self._pending.items() if written & topics), default=math.inf)

    def recent(
        self, partition: Partition, position: int, end: int, limit: int, limit_bytes: int
    ) -> tuple[list[Record], bool] | None:
        """As Tail.read; None where `position` is older than what is in memory."""
        with self._lock:
            tail = self._tails[partition]
            return tail.read(position, end, limit, limit_bytes) if position >= tail.first else None

    def earliest(self, partition: Partition) -> int:
        """The earliest offset there is."""
        return self._offsets[partition].earliest

    def within(self, partition: Partition, position: int) -> int:
        """`position`, unless this log is an older copy that never came so far: then where it began to be written again."""
        with self._lock:
            if position <= self._offsets[partition].next:
                return position
            self.counters["ahead"] += 1
            return self._opened_at[partition]

    def next(self, partition: Partition) -> int:
        """The offset that the next record will have."""
        return self._offsets[partition].next

    def count(self, partition: Partition, first: int, end: int) -> int:
        """How many records there were or are in [first, end)."""
        with self._lock:
            return self._offsets[partition].count(first, end)

    def oldest(self, partition: Partition) -> Record | None:
        """The oldest record in memory."""
        with self._lock:
            return self._tails[partition].oldest()

    def bytes(self, topics: Iterable[str]) -> int:
        """What the records in memory of these topics cost, about."""
        with self._lock:
            return sum(tail.bytes for (topic, _), tail in self._tails.items() if topic in topics)

    def forget_before(self, partition: Partition, offset: int) -> int:
        """Retention removes what is before `offset`; how many records that were."""
        with self._lock:
            known = self._offsets[partition]
            removed = known.count(known.earliest, offset)
            known.forget_before(offset)
            self._tails[partition].forget_before(offset)
            self.counters["expired"] += removed
            return removed

    def begin_at(self, partition: Partition, first: int) -> None:
        """All records of the partition are gone; its next offset is `first`. Nobody may be writing to it."""
        with self._lock:
            known = self._offsets[partition]
            self.counters["lost"] += known.count(known.earliest, known.next)
            known.skip(first - known.next)
            known.forget_before(first)
            self._tails[partition] = Tail(first, self._tail_bytes[partition[0]])

    def change(self, partition: Partition, act: Callable[[Offsets], None]) -> Offsets:
        """Changes the offsets of a partition nobody is writing to (gaps)."""
        with self._lock:
            act(self._offsets[partition])
            return self._offsets[partition]

    def offsets(self, partition: Partition) -> Offsets:
        """A copy of what is known about the partition's offsets."""
        with self._lock:
            known = self._offsets[partition]
            return Offsets(known.earliest, known.next, known.gaps)

    @property
    def last_us(self) -> int:
        """The last append time given, in microseconds since 1970."""
        return self._last_us

    def close(self) -> None:
        """From now on everything raises Unavailable; who waits wakes."""
        with self._lock:
            self._closed = True
        self.bells.ring_all()

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("the log is closed", "the daemon is going down; what is in the spools waits for the next one")
