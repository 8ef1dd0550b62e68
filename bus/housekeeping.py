"""Keeps the files of the local log small: retention in small bites, space given back, write-ahead logs folded in."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from operator import itemgetter

from ..core.errors import SmartTunerError, Unavailable
from ..core.ports import Partition
from .head import Head
from .log_file import LogFile
from .reserve import Reserve
from .retention import DAY_S, MIB, Limits, Retention

BITE_RECORDS = 256
"""So many records go in one transaction at most: no writer waits longer than for that."""
BITES = 400
"""So many bites a file at one tidying at most."""
CHECKPOINT_BYTES = 4 * MIB
WAL_BYTES = 64 * MIB
"""Above it the writers wait for a checkpoint, else a busy write-ahead log would grow for ever."""
RECLAIM_PAGES = 512
MARKS_EVERY_S = 3600.0
MARKS_AGE_S = 90 * DAY_S
"""A mark is one of an attempt's spool; nobody ships a spool that was silent so long."""


class Housekeeping:
    """One tidying at a time: called by its thread, or by hand where the clock is turned by hand."""

    def __init__(
        self,
        head: Head,
        files: Sequence[LogFile],
        limits: Retention,
        commits: dict[tuple[str, Partition], int],
        reserve: Reserve,
    ) -> None:
        self._head, self._files, self._limits, self._commits, self._reserve = head, tuple(files), limits, commits, reserve
        self._tidying = threading.Lock()
        self._marks_at = 0.0

    def tidy(self) -> list[tuple[LogFile, Unavailable]]:
        """Retention, free pages, write-ahead logs, old marks, the reserve; the files that could not be tidied, and why."""
        troubles = []
        with self._tidying:
            now = self._head.clock.now()
            marks = now >= self._marks_at
            if marks:
                self._marks_at = now + MARKS_EVERY_S
            self._reserve.restore()
            for file in self._files:
                try:
                    self._tidy(file)
                    if marks:
                        with file.writing:
                            file.forget_marks(int((now - MARKS_AGE_S) * 1e6))
                except Unavailable as error:  # the other file has its own troubles
                    troubles.append((file, error))
        return troubles

    def _tidy(self, file: LogFile) -> None:
        self._fold(file)
        self._expire(file, self._limits.of(file.topics[0]))
        self._reclaim(file, self._limits.of(file.topics[0]))
        self._fold(file)

    def _expire(self, file: LogFile, limits: Limits) -> None:
        for _ in range(BITES):
            ends = self._bite(file, limits)
            if not ends:
                return
            with file.writing:
                for partition, offset in ends.items():  # readers look at this after they read: nothing is missed unseen
                    self._head.forget_before(partition, offset)
                file.delete_before({p: self._head.offsets(p) for p in ends}, self._head.last_us)

    def _bite(self, file: LogFile, limits: Limits) -> dict[Partition, int]:
        """For each partition the offset up to which to delete now: the oldest records of the file that may go."""
        size, _ = file.sizes()
        too_old = self._head.clock.now() - limits.max_age_s
        awaited: dict[Partition, int] = {}
        for (_, partition), position in self._commits.copy().items():
            awaited[partition] = min(position, awaited.get(partition, position))
        rows = heapq.merge(*(file.oldest(p, BITE_RECORDS) for p in file.partitions), key=itemgetter(0))
        ends: dict[Partition, int] = {}
        kept: set[Partition] = set()
        for time, partition, offset, weight in itertools.islice(rows, BITE_RECORDS):
            over = size > limits.max_bytes or time < too_old
            if not over:
                break
            if partition in kept or (offset >= awaited.get(partition, offset + 1) and size <= limits.hard_bytes):
                kept.add(partition)
                continue
            ends[partition] = offset + 1
            size -= weight
        return ends

    def _reclaim(self, file: LogFile, limits: Limits) -> None:
        """Free pages are used again first; only what is far more than that goes back to the disk."""
        spare = min(limits.max_bytes // 8, 64 * MIB)
        for _ in range(BITES):
            _, free = file.sizes()
            if free <= spare:
                return
            with file.writing:
                file.reclaim(RECLAIM_PAGES)

    def _fold(self, file: LogFile) -> None:
        if file.wal_bytes() > CHECKPOINT_BYTES:
            file.checkpoint()
        if file.wal_bytes() > WAL_BYTES:
            with file.writing:
                file.checkpoint()


class Housekeeper:
    """The thread that tidies about once a second."""

    def __init__(self, tidy: Callable[[], None], every_s: float = 1.0) -> None:
        self._tidy, self._every_s = tidy, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bus-housekeeper", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self._tidy()
            except SmartTunerError:  # the disk is full or away: writers meet the same and say so; tried again in a second
                continue

    def stop(self) -> None:
        """Returns when it is at rest."""
        self._stopping.set()
        self._thread.join()
