"""A member's handle on a log in this process: the Bus port over memory or local files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Protocol

from ..core.errors import UsageError
from ..core.ports import Batch, Message, Partition, Record
from .groups import Groups, bell_of
from .head import Head
from .partitions import partition_of

POLL_BYTES = 8 << 20
"""About as much is read by one poll at most: it bounds what a reader of a long backlog holds."""
_time = itemgetter(Record._fields.index("time"))
_numbers = itertools.count(1)


class Log(Protocol):
    """What a member stands on."""

    head: Head
    groups: Groups

    def append(self, messages: Sequence[Message]) -> None: ...
    def read(self, partition: Partition, position: int, end: int, limit: int) -> tuple[Sequence[Record], bool]: ...
    def committed(self, group: str, partition: Partition) -> int | None: ...
    def commit(self, group: str, positions: Mapping[Partition, int]) -> None: ...


class Member:
    """One handle; not thread safe. See core.ports.Bus."""

    def __init__(self, log: Log) -> None:
        self._log, self._head = log, log.head
        self.number = next(_numbers)
        self._positions: dict[str, dict[Partition, int]] = {}
        self._closed = False

    def publish(self, messages: Sequence[Message]) -> None:
        """Appends in order; what was published when this returns survives SIGKILL where the log is on disk."""
        self._raise_if_closed()
        if messages:
            self._head.check(messages)
            self._log.append(messages)

    def poll(
        self,
        topics: Sequence[str],
        group: str,
        start: Callable[[Partition], int | None] | None = None,
        limit: int = 1000,
        timeout_s: float = 0.0,
    ) -> Batch:
        """The next records of this member's partitions, in one order over all of them."""
        self._raise_if_closed()
        self._check_topics(topics)
        try:
            names = (*topics, bell_of(group))
            for _ in self._tries(names, timeout_s):
                batch = self._look(topics, group, start, limit)
                if batch.records or batch.revoked or batch.fell_off:
                    return batch
            return Batch()
        finally:
            self._log.groups.rest(group, self.number)

    def follow(
        self, topic: str, key: str, position: int | None, limit: int = 1000, timeout_s: float = 0.0
    ) -> tuple[Sequence[Record], int]:
        """Without a group: the records of the key's partition from `position` on, and what to ask for next."""
        number = partition_of(key, self._head.partitions)
        records, positions = self.follow_partitions(topic, {number: position}, limit, timeout_s)
        return records, positions[number]

    def follow_partitions(
        self, topic: str, positions: Mapping[int, int | None], limit: int = 1000, timeout_s: float = 0.0
    ) -> tuple[Sequence[Record], Mapping[int, int]]:
        """The same for several partitions by their numbers; at most `limit` records of each."""
        self._raise_if_closed()
        self._check_topics([topic])
        following = {
            n: self._head.next((topic, n)) if at is None else self._head.within((topic, n), at) for n, at in positions.items()
        }
        for _ in self._tries([topic], timeout_s):
            found: list[Record] = []
            for n, at in following.items():
                ends, _ = self._head.ends([(topic, n)])
                records, _, following[n], _ = self._read((topic, n), at, ends[topic, n], limit)
                if records:
                    following[n] = records[-1].offset + 1
                    found += records
            if found:
                return found, following
        return [], following

    def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """What the group wants next."""
        self._raise_if_closed()
        self._check_topics([topic for topic, _ in positions])
        self._log.commit(group, positions)

    def close(self) -> None:
        """Leaves every group."""
        if not self._closed:
            self._closed = True
            for group in self._positions:
                self._log.groups.leave(group, self.number)

    def _tries(self, names: Sequence[str], timeout_s: float) -> Iterator[None]:
        """Once at once; then, until time is up, whenever one of the bells rang."""
        yield
        if timeout_s <= 0:
            return
        deadline = self._head.clock.monotonic() + timeout_s
        rung = True
        while rung:
            with self._head.bells.listen(names) as bell:
                yield  # what came between the last look and this bell rang for nobody
                remaining = deadline - self._head.clock.monotonic()
                rung = remaining > 0 and bell.acquire(timeout=min(remaining, 3600.0))
        yield

    def _look(self, topics: Sequence[str], group: str, start: Callable[[Partition], int | None] | None, limit: int) -> Batch:
        positions = self._positions.setdefault(group, {})
        owned, revoked = self._log.groups.visit(group, self.number, topics)
        if revoked:
            for partition in revoked:
                positions.pop(partition, None)
            return Batch(revoked=sorted(revoked))
        for partition in owned - positions.keys():
            positions[partition] = self._starting_at(partition, group, start)
        return self._gather(positions, limit)

    def _starting_at(self, partition: Partition, group: str, start: Callable[[Partition], int | None] | None) -> int:
        position = start(partition) if start is not None else None
        if position is None:
            position = self._log.committed(group, partition)
        if position is None or position < 0:
            return self._head.earliest(partition)
        return self._head.within(partition, position)

    def _gather(self, positions: dict[Partition, int], limit: int) -> Batch:
        """Reads on in all partitions; positions move behind what is returned."""
        ends, hidden_from = self._head.ends(positions)
        last = math.inf
        parts: list[Sequence[Record]] = []
        fell_off: dict[Partition, int] = {}
        for partition, end in ends.items():
            if positions[partition] >= end:
                continue
            records, more, position, missed = self._read(partition, positions[partition], end, limit)
            positions[partition] = position
            if missed:
                fell_off[partition] = missed
            if records:
                parts.append(records)
                if more:
                    last = min(last, records[-1].time)
        records = parts[0] if len(parts) == 1 else sorted(itertools.chain.from_iterable(parts), key=_time)
        if hidden_from < math.inf or last < math.inf:
            records = [record for record in records if record.time <= last and record.time < hidden_from]
        records = records[:limit]
        positions.update({(topic, n): offset + 1 for topic, n, offset, *_ in records})
        return Batch(records, (), fell_off)

    def _read(self, partition: Partition, position: int, end: int, limit: int) -> tuple[Sequence[Record], bool, int, int]:
        """Records, whether more follow, the position counted from, and how many retention took before they were read."""
        records, more = self._log.read(partition, position, end, limit)
        earliest = self._head.earliest(partition)  # after the read: retention may have overtaken it
        if position >= earliest:
            return records, more, position, 0
        missed = self._head.count(partition, position, earliest)
        self._head.counters["fell_off"] += missed
        return [record for record in records if record.offset >= earliest], more, earliest, missed

    def _check_topics(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if topic not in self._head.topics:
                raise UsageError(f"no topic is called {topic!r}", "topics are " + ", ".join(self._head.topics))

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise UsageError("this handle on the log is closed", "take a new one with connect()")
