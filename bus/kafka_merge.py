"""One order out of many partitions: records of one number (metrics/7, runs/7, control/7) come out by append time.

A partition is a queue of its own on Kafka, and a reader that is behind gets them in any order: the end of a run before its
metrics. So a record waits here until none that was appended before it can come any more: each other partition of its number
has been read up to its end, or further than the record's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..core.ports import Partition, Record

HEAVY_BYTES = 4 << 20
"""A partition with so much waiting is not fetched until others have caught up."""
_OVERHEAD_BYTES = 300
Key = tuple[float, str, int, int]


class Merge:
    """Not thread safe. `add` takes what was fetched, `release` frees what is in order, `take` hands it out."""

    def __init__(self) -> None:
        self._waiting: dict[Partition, deque[tuple[Key, Record]]] = {}
        self._bytes: dict[Partition, int] = {}
        self._last: dict[Partition, float] = {}
        self._ready: deque[Record] = deque()

    def open(self, partition: Partition) -> None:
        """From now on it takes part."""
        self._waiting[partition] = deque()
        self._bytes[partition] = 0
        self._last[partition] = 0.0

    def close(self, partition: Partition) -> None:
        """It belongs to somebody else: what waits here is read there."""
        for known in (self._waiting, self._bytes, self._last):
            known.pop(partition, None)
        self._ready = deque(record for record in self._ready if (record.topic, record.partition) != partition)

    def add(self, partition: Partition, records: Iterable[Record]) -> None:
        """In offset order. A time that goes back (another broker took the partition over) counts as no time passing."""
        last, waiting = self._last[partition], self._waiting[partition]
        for record in records:
            last = max(last, record.time)
            waiting.append(((last, *partition, record.offset), record))
            self._bytes[partition] += len(record.body) + _OVERHEAD_BYTES
        self._last[partition] = last

    @property
    def ready(self) -> bool:
        """Whether `take` has something."""
        return bool(self._ready)

    def heavy(self) -> set[Partition]:
        """What should not be fetched for now."""
        return {partition for partition, size in self._bytes.items() if size > HEAVY_BYTES}

    def mates(self) -> list[Partition]:
        """The partitions of every number that has something waiting."""
        numbers = {partition[1] for partition, waiting in self._waiting.items() if waiting}
        return [partition for partition in self._waiting if partition[1] in numbers]

    def release(self, behind: Callable[[Sequence[Partition]], set[Partition]]) -> None:
        """`behind` says which of these partitions have more than was added here; it must be asked after the last `add`."""
        mates = self.mates()
        alone = {number for number in {n for _, n in mates} if sum(p[1] == number for p in mates) == 1}
        late = behind([p for p in mates if p[1] not in alone]) if len(alone) < len({n for _, n in mates}) else set()
        frontier: dict[int, float] = {}
        for partition in late:
            number = partition[1]
            frontier[number] = min(frontier.get(number, self._last[partition]), self._last[partition])
        self._free(mates, frontier)

    def _free(self, mates: Iterable[Partition], frontier: Mapping[int, float]) -> None:
        found: list[tuple[Key, Record]] = []
        for partition in mates:
            limit, waiting = frontier.get(partition[1]), self._waiting[partition]
            while waiting and (limit is None or waiting[0][0][0] <= limit):
                one = waiting.popleft()
                self._bytes[partition] -= len(one[1].body) + _OVERHEAD_BYTES
                found.append(one)
        found.sort(key=lambda one: one[0])
        self._ready.extend(record for _, record in found)

    def take(self, limit: int) -> list[Record]:
        """The next records, at most `limit`."""
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
