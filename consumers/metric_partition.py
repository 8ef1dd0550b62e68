"""One partition of the metrics topic on its way into files: which offsets are stored, which are wanted, what is written.

The files of a partition tile its offsets: each begins where the one before it ends. A file that was damaged leaves a hole,
which is read again from the bus into a file of the same name; what is stored already is skipped by its offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ..core.errors import CorruptData
from ..core.events import MetricChunk, decode_as
from ..core.ports import Record
from .compaction import read_block, write_compacted
from .parquet_files import METRICS_SCHEMA, GrowingFile, read_facts
from .points import Points, SeriesMark
from .tenure import Tenure

GROUP_ROWS = 131_072
"""Rows that are encoded again at each publish at most; more are frozen into sorted row groups."""
GROWING_GROUP_ROWS = 8_192
MAX_SOURCES = 4_096
MAX_MARKS = 50_000
"""(attempt, source) pairs, and series of them, whose last positions are remembered: the least recent source is forgotten first,
and what it sent is taken again if it is ever shipped again."""


class Facts(msgspec.Struct):
    """What a metrics file says of itself. Rows come from offsets [start, next); `appended` is the append time of the
    last record; `marks` are [run, attempt, source, {series: last position}] at `next`."""

    start: int
    next: int
    sealed: bool = False
    emptied: float | None = None
    appended: float = 0.0
    marks: list[tuple[str, str, str, dict[str, int]]] = []


@dataclass
class StoredFile:
    """A visible metrics file: its facts (without the marks) and size in bytes."""

    path: str
    partition: int
    facts: Facts
    rows: int
    size: int


@dataclass
class Stretch:
    """Offsets that go into one file: [at, end) are wanted still, [start, visible) are in the file that readers see.
    `path` is that file where there is one, `marks_from` the file whose marks hold at `at` (None: those of the stretch
    before this one)."""

    start: int
    at: int
    end: int | None = None
    path: str | None = None
    marks_from: str | None = None
    visible: int = -1
    done: bool = False


@dataclass
class Counts:
    """What was taken and what was not, since the start."""

    points: int = 0
    repeated_points: int = 0
    repeated_records: int = 0
    skipped_records: int = 0
    damaged_files: int = 0
    leftovers_removed: int = 0
    not_compacted: int = 0
    published: int = 0
    sealed: int = 0
    expired_files: int = 0
    removed_files: int = 0
    fenced: int = 0
    partitions_taken: int = 0
    partitions_let_go: int = 0


Marks = dict[tuple[str, str, str], dict[str, SeriesMark]]


def plan(files: Sequence[StoredFile], damaged: set[int]) -> list[Stretch]:
    """The stretches of one partition that are still to be read, from its files (by start) and the starts of those that
    were set aside: holes first, the open end last. Never empty."""
    stretches: list[Stretch] = []
    known = {one.facts.start: one for one in files}
    starts = sorted(known.keys() | damaged)
    last: StoredFile | None = None
    for start, end in zip(starts, [*starts[1:], None], strict=bool(starts)):
        one = known.get(start)
        if one is not None:
            last = one
            if not one.facts.sealed and (end is None or one.facts.next < end):
                stretches.append(Stretch(start, one.facts.next, end, one.path, one.path))
            continue
        first = start if last is None else max(start, last.facts.next)
        if end is None or first < end:
            follows = bool(stretches) and stretches[-1].end == first
            stretches.append(Stretch(first, first, end, marks_from=last.path if last and not follows else None))
    if not stretches or stretches[-1].end is not None:
        at = last.facts.next if last else 0
        stretches.append(Stretch(at, at, marks_from=last.path if last else None))
    return stretches


class MetricPartition:
    """Takes the records of one partition in, and publishes them as rows. Not thread safe."""

    def __init__(
        self,
        tenure: Tenure,
        files: dict[str, StoredFile],
        stretches: list[Stretch],
        counts: Counts,
        seal_rows: int,
    ) -> None:
        self.tenure = tenure
        self.number = tenure.number
        self._files = files
        self.problems: list[str] = []
        self._ahead = stretches
        self._counts = counts
        self._seal_rows = seal_rows
        self._points = Points(tenure.number)
        self._marks: Marks = {}
        self._begin()

    def _begin(self) -> None:
        """Goes on with the first of the stretches ahead."""
        now = self._ahead[0]
        file = GrowingFile.resume(self.tenure, now.path, METRICS_SCHEMA) if now.path else None
        if now.marks_from is not None and now.marks_from in self._files:
            said = msgspec.convert(read_facts(now.marks_from, self.tenure.footer(now.marks_from))[0], Facts).marks
            self._marks = {
                (run, attempt, source): {name: SeriesMark(last) for name, last in marks.items()}
                for run, attempt, source, marks in said
            }
        now.visible = now.at
        self._now, self._file = now, file
        self._waiting, self._appended = 0, 0.0

    @property
    def position(self) -> int:
        """The next offset that is wanted from the bus."""
        return self._now.at

    @property
    def committed(self) -> int:
        """Everything before this offset is in files that readers see."""
        return self._now.visible

    @property
    def waiting(self) -> int:
        """Rows in memory that no reader sees yet."""
        return self._waiting

    @property
    def copied_bytes(self) -> int:
        """Bytes of the growing file that the next publish writes again."""
        return self._file.size if self._file else 0

    def take(self, record: Record) -> None:
        """Folds a record in; one that is stored already is skipped, one that holds no metrics is counted."""
        now = self._now
        while now.end is not None and record.offset >= now.end:
            now.at = now.end  # all that the bus still has of the hole was read
            self._finish()
            now = self._now
        if record.offset < now.at:
            self._counts.repeated_records += 1
            return
        before = len(self._points)
        try:
            chunk = decode_as(record.body, MetricChunk)
            source = (chunk.run, chunk.attempt, chunk.source)
            marks = self._marks.pop(source, None) or {}
            self._marks[source] = marks  # the most recent is the last
            self._counts.repeated_points += self._points.add(chunk, marks, record.offset, record.time)
        except (CorruptData, OverflowError):
            self._counts.skipped_records += 1  # the judge's lane keeps it as a dead letter and says so
        if len(self._marks) > MAX_SOURCES:
            del self._marks[next(iter(self._marks))]
        taken = len(self._points) - before
        self._counts.points += taken
        self._waiting += taken
        self._appended = record.time
        now.at = record.offset + 1

    def pass_over(self, following: int) -> None:
        """The records before offset `following` that are not taken yet are left out: they cannot be."""
        self._now.at = max(self._now.at, following if self._now.end is None else min(following, self._now.end))

    def publish(self) -> None:
        """Makes everything taken visible. Unavailable on a full disk: then nothing changed and it can be tried again."""
        now = self._now
        if now.at == now.visible:
            return
        frozen = self._file.rows if self._file else 0
        if frozen + len(self._points) >= self._seal_rows or (now.end is not None and now.at >= now.end):
            self._finish()
            return
        if self._file is None:
            self._file = GrowingFile(self.tenure, self._path, METRICS_SCHEMA)
        block = self._points.block()
        freeze = len(block) >= GROUP_ROWS
        if freeze:
            groups = list(block.sorted().groups(GROWING_GROUP_ROWS, 2 * GROWING_GROUP_ROWS))
            self._file.publish(groups, self._facts(), freeze)
            self._points.clear()
        else:
            self._file.publish([block.table(0, len(block))] if len(block) else [], self._facts(), freeze)
        self._published(frozen + len(block), sealed=False)

    def close(self) -> None:
        """Lets go of the growing file."""
        if self._file:
            self._file.close()

    def finish(self) -> None:
        """Seals the file that grows, if there is one, so that it can expire."""
        if self._file is not None and self._now.end is None:
            self._finish()

    def _finish(self) -> None:
        """Seals the stretch's file and goes on with the next stretch; where it was the open end, with a new file."""
        done = self._now
        if not done.done:
            self._seal()
            done.done = True
        if done.end is None:
            self._ahead[0] = Stretch(done.at, done.at)
        elif self._ahead[0] is done:
            self._ahead.pop(0)
        self._begin()  # may fail and be tried again

    def _seal(self) -> None:
        block, grown = self._points.block(), None
        frozen = self._file.rows if self._file else 0
        if self._file and frozen:
            try:
                grown = read_block(self._path, self.number, self._file.groups)
            except CorruptData as error:
                self._counts.not_compacted += 1
                self.problems.append(str(error))
        if self._file and frozen and grown is None:
            self._file.publish([block.table(0, len(block))] if len(block) else [], self._facts(sealed=True), freeze=True)
        else:
            write_compacted(self.tenure, self._path, grown, block, self._facts(sealed=True))
        self._points.clear()
        if self._file:
            self._file.close()
            self._file = None
        self._counts.sealed += 1
        self._published(frozen + len(block), sealed=True)

    def _facts(self, sealed: bool = False) -> Facts:
        known = sum(map(len, self._marks.values()))
        while known > MAX_MARKS and len(self._marks) > 1:
            known -= len(self._marks.pop(next(iter(self._marks))))
        marks = [(*source, {name: mark.last for name, mark in series.items()}) for source, series in self._marks.items()]
        return Facts(self._now.start, self._now.at, sealed, appended=self._appended, marks=marks)

    def _published(self, rows: int, sealed: bool) -> None:
        facts = Facts(self._now.start, self._now.at, sealed, appended=self._appended)
        self._files[self._path] = StoredFile(self._path, self.number, facts, rows, self.tenure.size(self._path))
        self._now.visible = self._now.at
        self._waiting = 0
        self._counts.published += 1

    @property
    def _path(self) -> str:
        return self.tenure.path("metrics", self._now.start)
