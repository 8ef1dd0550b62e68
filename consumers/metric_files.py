"""The files of `metrics/`: what is in them when a partition is taken, what is set aside, and while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from ..core.errors import CorruptData
from ..core.ports import METRICS, Clock, Partition, Record
from .metric_partition import Counts, Facts, MetricPartition, StoredFile, plan
from .parquet_files import METRICS_SCHEMA, read_facts, verify, write_file
from .tenure import Tenure

VERIFY_AT_START_S = 2.0
"""How long the start may take to read pages against their checksums; the rest is read later, a file at a time."""


class MetricFiles:
    """The partitions of the metrics topic that are held. ConfigError for files of a newer version, Unavailable where the
    disk is away, Fenced where a partition is held no more."""

    def __init__(self, seal_rows: int, counts: Counts, clock: Clock, verify_s: float = VERIFY_AT_START_S) -> None:
        self.counts = counts
        self.problems: list[str] = []
        self._seal_rows = seal_rows
        self._clock = clock
        self._verify_until = clock.monotonic() + verify_s
        self.files: dict[str, StoredFile] = {}
        self._unverified: list[str] = []
        self._aside: dict[tuple[int, int], list[str]] = {}
        self._partitions: dict[int, MetricPartition] = {}

    def open(self, tenure: Tenure) -> None:
        """Finds out from a partition's visible files where it stands."""
        self.counts.leftovers_removed += tenure.leftovers
        found: dict[str, StoredFile] = {}
        for start, path in tenure.files("metrics"):
            one = self._look_at(tenure, path, start)
            if one:
                found[path] = one
        self._verify_newest(tenure, found)
        aside = tenure.aside("metrics")
        if not found and not tenure.number:  # so that a reader of an empty store finds columns and no rows
            path = tenure.path("metrics", 0)
            write_file(tenure, path, METRICS_SCHEMA, [], Facts(0, 0))
            found[path] = StoredFile(path, 0, Facts(0, 0), 0, tenure.size(path))
        self.files.update(found)
        self._aside.update({(tenure.number, start): paths for start, paths in aside.items()})
        stretches = plan(self.by_start(tenure.number), set(aside))
        self._partitions[tenure.number] = MetricPartition(tenure, self.files, stretches, self.counts, self._seal_rows)

    def forget(self, number: int) -> None:
        """Drops what is in memory of a partition; its files stay as they are."""
        one = self._partitions.pop(number, None)
        if one is not None:
            one.close()
        for path in [path for path, file in self.files.items() if file.partition == number]:
            del self.files[path]
        for key in [key for key in self._aside if key[0] == number]:
            del self._aside[key]
        self._unverified = [path for path in self._unverified if path in self.files]

    def forget_aside(self, one: StoredFile) -> list[str]:
        """The hidden paths of what was set aside under a file's name, which are to go with it."""
        return self._aside.pop((one.partition, one.facts.start), [])

    def _look_at(self, tenure: Tenure, path: str, start: int) -> StoredFile | None:
        try:
            said, rows = read_facts(path, tenure.footer(path))
            facts = msgspec.convert(said, Facts)
            if facts.start != start:
                raise CorruptData(f"{path}: its rows begin at {facts.start}", "do not copy or rename the files of this folder")
        except msgspec.ValidationError as error:
            self._set_aside(tenure, path, f"{path}: {error}")
        except CorruptData as error:
            self._set_aside(tenure, path, str(error))
        else:
            facts.marks = []
            return StoredFile(path, tenure.number, facts, rows, tenure.size(path))
        return None

    def _verify_newest(self, tenure: Tenure, found: dict[str, StoredFile]) -> None:
        """Checks the files that grow still, then the newest of the others as long as there is time."""
        for one in sorted(found.values(), key=lambda one: (one.facts.sealed, -one.facts.appended)):
            if one.facts.sealed and self._clock.monotonic() >= self._verify_until:
                self._unverified.append(one.path)
            elif not self._verified(tenure, one.path):
                del found[one.path]

    def verify_one(self) -> bool:
        """Checks one of the files that the start had no time for; False when there is none left."""
        while self._unverified:
            path = self._unverified.pop(0)
            if path in self.files and self.files[path].rows:
                if not self._verified(self._partitions[self.files[path].partition].tenure, path):
                    del self.files[path]
                return True
        return False

    def _verified(self, tenure: Tenure, path: str) -> bool:
        try:
            verify(tenure.whole(path))
        except CorruptData as error:
            self._set_aside(tenure, path, str(error))
            return False
        return True

    def _set_aside(self, tenure: Tenure, path: str, why: str) -> None:
        target = tenure.set_aside(path)
        self.counts.damaged_files += 1
        self.problems.append(f"a damaged file was set aside as {os.path.basename(target)}: {why}")

    def partition(self, number: int) -> MetricPartition:
        """A partition that is held."""
        return self._partitions[number]

    def take(self, record: Record) -> None:
        """Folds one record of the metrics topic in; its partition is held."""
        self._partitions[record.partition].take(record)

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

    def publish(self, number: int) -> None:
        """Makes everything taken of a partition visible."""
        one = self._partitions[number]
        one.publish()
        self.problems += one.problems
        one.problems.clear()

    def committed(self) -> Iterator[tuple[Partition, int]]:
        """For each partition the offset before which everything is visible on disk."""
        for number, one in self._partitions.items():
            yield (METRICS, number), one.committed

    def by_start(self, number: int) -> list[StoredFile]:
        """The visible files of a partition, the oldest first."""
        return sorted((one for one in self.files.values() if one.partition == number), key=lambda one: one.facts.start)
