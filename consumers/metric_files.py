"""The folder `metrics/`: what is in it at start, what is set aside, and its partitions while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from ..core.errors import CorruptData
from ..core.ports import METRICS, Clock, Partition, Record
from .metric_partition import Counts, Facts, MetricPartition, StoredFile, plan
from .parquet_files import (
    METRICS_SCHEMA,
    file_name,
    prepare,
    read_facts,
    set_aside,
    set_aside_before,
    verify,
    visible_files,
    write_file,
)

VERIFY_AT_START_S = 2.0
"""How long the start may take to read pages against their checksums; the rest is read later, a file at a time."""


class MetricFiles:
    """All partitions of the metrics topic. ConfigError for files of a newer version, Unavailable where the disk is away."""

    def __init__(self, folder: str, seal_rows: int, counts: Counts, clock: Clock, verify_s: float = VERIFY_AT_START_S) -> None:
        self.folder = folder
        self.counts = counts
        self.problems: list[str] = []
        self._seal_rows = seal_rows
        self._clock = clock
        self._verify_s = verify_s
        self.files: dict[str, StoredFile] = {}
        self._unverified: list[str] = []
        self._aside: dict[tuple[int, int], list[str]] = {}
        self._partitions: dict[int, MetricPartition] = {}
        self._open()

    def _open(self) -> None:
        self.counts.leftovers_removed += prepare(self.folder)
        for number, start, path in visible_files(self.folder):
            found = self._look_at(path, number, start)
            if found:
                self.files[path] = found
        self._verify_newest()
        self._aside = set_aside_before(self.folder)
        for number in {one.partition for one in self.files.values()} | {number for number, _ in self._aside}:
            self._add(number, self._damaged(number))
        if not self.files:  # so that a reader of an empty store finds columns and no rows
            path = os.path.join(self.folder, file_name(0, 0))
            write_file(path, METRICS_SCHEMA, [], Facts(0, 0))
            self.files[path] = StoredFile(path, 0, Facts(0, 0), 0, os.path.getsize(path))
            self._partitions.pop(0, None)
            self._add(0, self._damaged(0))

    def _damaged(self, number: int) -> set[int]:
        return {start for n, start in self._aside if n == number}

    def forget_aside(self, one: StoredFile) -> list[str]:
        """The hidden paths of what was set aside under a file's name, which are to go with it."""
        return self._aside.pop((one.partition, one.facts.start), [])

    def _look_at(self, path: str, number: int, start: int) -> StoredFile | None:
        try:
            said, rows = read_facts(path)
            facts = msgspec.convert(said, Facts)
            if facts.start != start:
                raise CorruptData(f"{path}: its rows begin at {facts.start}", "do not copy or rename the files of this folder")
        except msgspec.ValidationError as error:
            self._set_aside(path, f"{path}: {error}")
        except CorruptData as error:
            self._set_aside(path, str(error))
        else:
            facts.marks = []
            return StoredFile(path, number, facts, rows, os.path.getsize(path))
        return None

    def _verify_newest(self) -> None:
        """Checks the files that grow still, then the newest of the others as long as there is time."""
        newest = sorted(self.files.values(), key=lambda one: (one.facts.sealed, -one.facts.appended))
        deadline = self._clock.monotonic() + self._verify_s
        for one in newest:
            if (one.facts.sealed or not self._verify_s) and self._clock.monotonic() >= deadline:
                self._unverified.append(one.path)
            else:
                self._verify(one.path)

    def verify_one(self) -> bool:
        """Checks one of the files that the start had no time for; False when there is none left."""
        while self._unverified:
            path = self._unverified.pop(0)
            if path in self.files and self.files[path].rows:
                self._verify(path)
                return True
        return False

    def _verify(self, path: str) -> None:
        try:
            verify(path)
        except CorruptData as error:
            self._set_aside(path, str(error))
            del self.files[path]

    def _set_aside(self, path: str, why: str) -> None:
        target = set_aside(path)
        self.counts.damaged_files += 1
        self.problems.append(f"a damaged file was set aside as {os.path.basename(target)}: {why}")

    def _add(self, number: int, damaged: set[int]) -> MetricPartition:
        stretches = plan(self.by_start(number), damaged)
        one = MetricPartition(self.files, self.folder, number, stretches, self.counts, self._seal_rows)
        self._partitions[number] = one
        return one

    def partition(self, number: int) -> MetricPartition:
        """The partition of that number, begun where it is new."""
        return self._partitions.get(number) or self._add(number, set())

    def position(self, number: int) -> int:
        """The next offset wanted of a partition; 0 (the earliest there is) for one that has no files."""
        return self._partitions[number].position if number in self._partitions else 0

    def take(self, record: Record) -> None:
        """Folds one record of the metrics topic in."""
        one = self._partitions.get(record.partition) or self._add(record.partition, set())
        one.take(record)

    @property
    def numbers(self) -> list[int]:
        """The partitions that are known."""
        return sorted(self._partitions)

    @property
    def waiting(self) -> int:
        """Rows in memory that no reader sees yet."""
        return sum(one.waiting for one in self._partitions.values())

    @property
    def copied_bytes(self) -> int:
        """Bytes that a publish writes again, as things stand."""
        return sum(one.copied_bytes for one in self._partitions.values() if one.waiting)

    def publish(self) -> None:
        """Makes everything taken visible."""
        for one in self._partitions.values():
            one.publish()
            self.problems += one.problems
            one.problems.clear()

    def committed(self) -> Iterator[tuple[Partition, int]]:
        """For each partition the offset before which everything is visible on disk."""
        for number, one in self._partitions.items():
            yield (METRICS, number), one.committed

    def close(self) -> None:
        """Lets go of what is open; the files stay as they are."""
        for one in self._partitions.values():
            one.close()

    def by_start(self, number: int) -> list[StoredFile]:
        """The visible files of a partition, the oldest first."""
        return sorted((one for one in self.files.values() if one.partition == number), key=lambda one: one.facts.start)
