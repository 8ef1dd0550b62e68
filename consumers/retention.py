"""Retention of `metrics/`: whole files expire, the oldest first, in two steps that no reader trips over.

First a file is replaced by one without rows, which a reader that listed the folder before finds still. It is unlinked when
nobody listed the folder for an hour: a name that disappears between listing and opening is an error in pandas. The newest
file of a partition stays: it says where to go on reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from .folder_watch import FolderWatch
from .metric_files import MetricFiles
from .metric_partition import Facts, StoredFile
from .parquet_files import METRICS_SCHEMA, read_facts, write_file

QUIET_S = 3600.0
MAX_EMPTIED = 1_000
"""Files without rows that are kept for readers at most: a folder that somebody lists all day does not grow for ever."""


@dataclass(frozen=True)
class Retention:
    """How much of the metrics is kept: rows of a file go when its last one was appended `age_s` ago, and the oldest
    files go when all together are over `size_bytes`. None keeps them for ever."""

    age_s: float | None = None
    size_bytes: int | None = None


class Expiry:
    """Holds the metrics of the partitions that are held to their limits. `folder` is the one that their readers list, None
    where that cannot be seen: then an emptied file stays until there are too many of them."""

    def __init__(self, files: MetricFiles, keep: Retention, now: float, folder: str | None) -> None:
        self._files = files
        self._keep = keep
        self._watch = FolderWatch(folder) if folder is not None else None
        self._last_listed = now

    def expire(self, now: float) -> None:
        """Empties what is over the limits and unlinks what was emptied long enough ago. Unavailable where the disk is away."""
        if self._watch is None or self._watch.listed():
            self._last_listed = now
        age = self._keep.age_s
        if age is not None:
            self._seal_old(now - age)
        over = sum(one.size for one in self._files.files.values()) - (self._keep.size_bytes or 1 << 62)
        for one in sorted(self._files.files.values(), key=lambda one: one.facts.appended):
            old = age is not None and one.facts.appended < now - age
            if one.rows and one.facts.sealed and (old or over > 0):
                over -= one.size - self._empty(one, now).size
        for number in self._files.numbers:
            self._unlink(number, now)

    def close(self) -> None:
        """Ends the watch of the folder."""
        if self._watch is not None:
            self._watch.close()

    def _seal_old(self, before: float) -> None:
        """A file that grows no more and is too old is sealed, so that it can expire."""
        for number in self._files.numbers:
            newest = self._files.by_start(number)[-1:]
            if newest and newest[0].rows and newest[0].facts.appended < before:
                self._files.partition(number).finish()

    def _empty(self, one: StoredFile, now: float) -> StoredFile:
        tenure = self._files.partition(one.partition).tenure
        facts = msgspec.convert(read_facts(one.path, tenure.footer(one.path))[0], Facts)
        facts.emptied = now
        if one is not self._files.by_start(one.partition)[-1]:
            facts.marks = []  # those of the newest are needed to go on
        write_file(tenure, one.path, METRICS_SCHEMA, [], facts)
        facts.marks = []
        emptied = StoredFile(one.path, one.partition, facts, 0, tenure.size(one.path))
        self._files.files[one.path] = emptied
        self._files.counts.expired_files += 1
        return emptied

    def _unlink(self, number: int, now: float) -> None:
        """Only from the oldest on, so that no gap opens between files."""
        known = self._files.by_start(number)
        emptied = 0
        while emptied < len(known) - 1 and known[emptied].facts.sealed and not known[emptied].rows:
            emptied += 1
        for i, one in enumerate(known[:emptied]):
            since = max(one.facts.emptied or 0.0, self._last_listed)
            if since <= now - QUIET_S or emptied - i > MAX_EMPTIED:
                self._remove(one)

    def _remove(self, one: StoredFile) -> None:
        tenure = self._files.partition(one.partition).tenure
        for other in self._files.forget_aside(one):
            tenure.remove(other)  # first: without its successor it would be read again
        tenure.remove(one.path)
        del self._files.files[one.path]
        self._files.counts.removed_files += 1
