"""The newest records of one partition in memory, and which offsets the partition has."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from ..core.ports import Record

_OVERHEAD_BYTES = 300
"""What a Record costs beside its key and body, about."""
_offset = attrgetter("offset")


def weight(record: Record) -> int:
    """What a record costs in memory, in bytes, about."""
    return len(record.body) + len(record.key) + _OVERHEAD_BYTES


class Offsets:
    """The offsets of one partition: `earliest` <= offset < `next`, less the gaps (first, next) in which nothing ever was."""

    def __init__(self, earliest: int = 0, following: int = 0, gaps: Sequence[tuple[int, int]] = ()) -> None:
        self.earliest = earliest
        self.next = following
        self.gaps = list(gaps)

    def skip(self, count: int) -> None:
        """Leaves out the next `count` offsets."""
        if self.earliest == self.next:
            self.earliest += count  # nothing is there: a partition that begins later needs no gap
        else:
            self.gaps.append((self.next, self.next + count))
        self.next += count

    def forget_before(self, offset: int) -> None:
        """Retention removed what is before `offset`."""
        self.earliest = max(self.earliest, offset)

    def count(self, first: int, end: int) -> int:
        """How many records there were or are from `first` up to, not including, `end`."""
        inside = sum(max(0, min(end, b) - max(first, a)) for a, b in self.gaps)
        return max(0, end - first - inside)


class Tail:
    """Every record of a partition from offset `first` on, at most about `limit_bytes` of them (None: all). Not thread safe."""

    def __init__(self, first: int, limit_bytes: int | None) -> None:
        self.first = first
        self.bytes = 0
        self._limit_bytes = limit_bytes
        self._records: list[Record] = []
        self._start = 0  # what stands before it is dropped already, and cut off now and then

    def add(self, record: Record) -> None:
        """The record follows all others."""
        self._records.append(record)
        self.bytes += weight(record)
        if self._limit_bytes is not None:
            while self.bytes > self._limit_bytes:
                self._drop()

    def _drop(self) -> None:
        oldest = self._records[self._start]
        self.first = oldest.offset + 1
        self.bytes -= weight(oldest)
        self._start += 1
        if self._start > 64 and self._start * 2 > len(self._records):
            del self._records[: self._start]
            self._start = 0

    def forget_before(self, offset: int) -> None:
        """Drops the records before `offset`."""
        while self._start < len(self._records) and self._records[self._start].offset < offset:
            self._drop()

    def oldest(self) -> Record | None:
        """The oldest record that is here."""
        return self._records[self._start] if self._start < len(self._records) else None

    def read(self, position: int, end: int, limit: int, limit_bytes: int) -> tuple[list[Record], bool]:
        """Of the records in [position, end), position >= first, at most `limit` and about `limit_bytes`; whether more follow."""
        first = bisect_left(self._records, position, self._start, key=_offset)
        behind = bisect_left(self._records, end, first, key=_offset)
        found = self._records[first : min(behind, first + limit)]
        size = 0
        for count, record in enumerate(found, 1):
            size += len(record.body)
            if size > limit_bytes and count < len(found):
                return found[:count], True
        return found, first + len(found) < behind
