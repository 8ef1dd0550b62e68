"""One order out of many partitions: records of one number (metrics/7, runs/7, control/7) come out by append time.

A partition is a queue of its own on Kafka, and a reader that is behind gets them in any order: the end of a run before its
metrics. So a record waits here until none that was appended before it can come any more: each other partition of its number
has been read up to its end, or further than the record's time.

Where a partition ends is asked. If one has not been read so far, the answer is kept until it has: what was known when the
question was put is in order then, whatever was appended since, so a stream that never pauses is never held up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..core.ports import Partition, Record

HEAVY_BYTES = 4 << 20
"""A partition with so much waiting is not fetched until others have caught up."""
_OVERHEAD_BYTES = 300
ASK_ANEW_S = 1.0
"""An answer that has not been reached by then is put aside: the end may have moved back (a topic that was made anew)."""
Key = tuple[float, str, int, int]


class Question(NamedTuple):
    """Where partitions ended when it was put, the newest append time that was known then, and when that was."""

    ends: Mapping[Partition, int]
    time: float
    put_at: float


class Merge:
    """Not thread safe. `add` takes what was fetched, `release` frees what is in order, `take` hands it out."""

    def __init__(self) -> None:
        self._waiting: dict[Partition, deque[tuple[Key, Record]]] = {}
        self._bytes: dict[Partition, int] = {}
        self._last: dict[Partition, float] = {}
        self._questions: dict[int, Question] = {}
        """Of each number the one whose ends have not been reached yet."""
        self._ready: deque[Record] = deque()

    def open(self, partition: Partition) -> None:
        """From now on it takes part."""
        self._questions.pop(partition[1], None)
        self._waiting[partition] = deque()
        self._bytes[partition] = 0
        self._last[partition] = 0.0

    def close(self, partition: Partition) -> None:
        """It belongs to somebody else: what waits here is read there."""
        for known in (self._waiting, self._bytes, self._last):
            known.pop(partition, None)
        self._questions.pop(partition[1], None)
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

    def mates(self) -> dict[int, list[Partition]]:
        """By number, the partitions of every number that has something waiting."""
        found: dict[int, list[Partition]] = {number: [] for (_, number), waiting in self._waiting.items() if waiting}
        for partition in self._waiting:
            if partition[1] in found:
                found[partition[1]].append(partition)
        return found

    def release(
        self,
        ends: Callable[[Sequence[Partition]], Mapping[Partition, int]],
        reached: Callable[[Partition, int], bool],
        now: float,
    ) -> None:
        """`ends` says where partitions end now, `reached` whether one was added here up to an offset; `now` is monotonic."""
        found: list[tuple[Key, Record]] = []
        unsure: dict[int, list[Partition]] = {}
        for number, mates in self.mates().items():
            if len(mates) == 1:
                self._free(mates, None, found)
            elif not self._unanswered(number, mates, reached, now, found) and any(self._waiting[one] for one in mates):
                unsure[number] = mates
        if unsure:
            known = ends([partition for mates in unsure.values() for partition in mates])
            for number, mates in unsure.items():
                late = {partition: known[partition] for partition in mates if not reached(partition, known[partition])}
                if late:
                    self._questions[number] = Question(late, max(self._last[partition] for partition in mates), now)
                self._free(mates, min(self._last[partition] for partition in late) if late else None, found)
        found.sort(key=lambda one: one[0])
        self._ready.extend(record for _, record in found)

    def _unanswered(
        self,
        number: int,
        mates: Sequence[Partition],
        reached: Callable[[Partition, int], bool],
        now: float,
        found: list[tuple[Key, Record]],
    ) -> bool:
        """Whether the number's question waits on; `found` takes what is in order by it already."""
        question = self._questions.get(number)
        if question is None:
            return False
        late = [partition for partition, end in question.ends.items() if not reached(partition, end)]
        self._free(mates, min(self._last[partition] for partition in late) if late else question.time, found)
        if late and now - question.put_at < ASK_ANEW_S:
            return True
        del self._questions[number]
        return False

    def _free(self, mates: Iterable[Partition], until: float | None, found: list[tuple[Key, Record]]) -> None:
        """Into `found` goes what was appended until then; None is without limit."""
        for partition in mates:
            waiting = self._waiting[partition]
            while waiting and (until is None or waiting[0][0][0] <= until):
                one = waiting.popleft()
                self._bytes[partition] -= len(one[1].body) + _OVERHEAD_BYTES
                found.append(one)

    def take(self, limit: int) -> list[Record]:
        """The next records, at most `limit`."""
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
