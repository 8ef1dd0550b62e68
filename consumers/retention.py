"""Retention of `metrics/`: whole files expire, the oldest first, in two steps that no reader trips over.

First a file is replaced by one without rows; an hour later, when nobody can still hold an old listing of the folder, it is
unlinked. The newest file of a partition is never unlinked: it says where to go on reading.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec

from .metric_files import MetricFiles
from .metric_partition import Facts, StoredFile
from .parquet_files import DAMAGED, METRICS_SCHEMA, on_disk, read_facts, write_file

UNLINK_AFTER_S = 3600.0


@dataclass(frozen=True)
class Retention:
    """How much of the metrics is kept: rows of a file go when its last one was appended `age_s` ago, and the oldest
    files go when all together are over `size_bytes`. None keeps them for ever."""

    age_s: float | None = None
    size_bytes: int | None = None


def expire(files: MetricFiles, keep: Retention, now: float) -> None:
    """Empties what is over the limits and unlinks what was emptied an hour ago. Unavailable where the disk is away."""
    if keep.age_s is not None:
        for number in files.numbers:
            newest = files.by_start(number)[-1:]
            if newest and newest[0].rows and newest[0].facts.appended < now - keep.age_s:
                files.partition(number).finish()
    over = sum(one.size for one in files.files.values()) - (keep.size_bytes if keep.size_bytes is not None else 1 << 62)
    for one in sorted(files.files.values(), key=lambda one: one.facts.appended):
        old = keep.age_s is not None and one.facts.appended < now - keep.age_s
        if one.rows and one.facts.sealed and (old or over > 0):
            over -= one.size - _empty(files, one, now).size
    for number in files.numbers:
        for one in files.by_start(number)[:-1]:
            if one.rows or not one.facts.sealed or (one.facts.emptied or 0.0) > now - UNLINK_AFTER_S:
                break  # only from the oldest on, so that no gap opens between files
            _unlink(files, one)


def _empty(files: MetricFiles, one: StoredFile, now: float) -> StoredFile:
    facts = msgspec.convert(read_facts(one.path)[0], Facts)
    facts.emptied = now
    write_file(one.path, METRICS_SCHEMA, [], facts)
    facts.marks = []
    files.files[one.path] = StoredFile(one.path, one.partition, facts, 0, os.path.getsize(one.path))
    files.counts.expired_files += 1
    return files.files[one.path]


def _unlink(files: MetricFiles, one: StoredFile) -> None:
    folder, name = os.path.split(one.path)
    with on_disk(one.path):
        for other in os.listdir(folder):
            if other.startswith(DAMAGED + name):
                os.unlink(os.path.join(folder, other))  # first: without its successor it would be read again
        os.unlink(one.path)
    del files.files[one.path]
    files.counts.removed_files += 1
