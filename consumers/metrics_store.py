"""The metrics store: everything on the bus ends here as Parquet that a bare `pandas.read_parquet` reads.

Rows gather in memory and become visible about once a second. What a kill takes from memory is read again from the bus: the
position is derived from the visible files alone, so no row is lost and none is written twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from ..core.errors import CorruptData, Unavailable
from ..core.events import Ack, Decision, Notice, RunEvent, decode, encode
from ..core.ports import CONTROL, METRICS, NOTICES, RUNS, Clock, Message, Partition, Record
from .decisions_table import DecisionsTable
from .metric_files import VERIFY_AT_START_S, MetricFiles
from .metric_partition import Counts
from .parquet_files import prepare, visible_files
from .retention import Expiry, Retention
from .row_files import RowFiles
from .runs_table import RunsTable

SEAL_ROWS = 1_000_000
MAX_WAITING_ROWS = 262_144
"""Rows in memory at which the store publishes at once, looked at every 16 records: it bounds memory under a backlog."""
PUBLISH_EVERY_S = 1.0
PUBLISH_COST = 20.0
"""Publishing may take one part in this many of the time."""
COPY_BYTES_PER_S = 4 << 20
"""The growing file is written anew at each publish; this bounds what that costs a disk on average."""
CURSOR_EVERY_S = 30.0
"""How often a position is written that moved without a row to show."""
RETENTION_EVERY_S = 60.0


class _Tables:
    """`runs/` and `decisions/` of one partition."""

    def __init__(self, folder: str, number: int) -> None:
        self.runs = RunsTable(os.path.join(folder, "runs"), number)
        self.decisions = DecisionsTable(os.path.join(folder, "decisions"), number)

    @property
    def files(self) -> tuple[RowFiles, RowFiles]:
        return self.runs.rows, self.decisions.rows

    def position(self, topic: str, visible: bool = False) -> int:
        """The next offset wanted, or with `visible` the one before which all is on disk."""
        mine = (self.decisions.rows,) if topic == CONTROL else self.files
        return min((one.visible if visible else one.cursor).get(topic, 0) for one in mine)


class MetricsStore:
    """The consumer of metrics, runs and control that keeps `metrics/`, `runs/` and `decisions/` under the data directory
    `folder`. One owner at a time, one thread. ConfigError for files of a newer version, Unavailable where the disk is full
    or away: nothing is lost then, and the same call can be made again."""

    name = "metrics_store"
    topics: tuple[str, ...] = (METRICS, RUNS, CONTROL)

    def __init__(
        self,
        folder: str,
        clock: Clock,
        *,
        retention: Retention | None = None,
        seal_rows: int = SEAL_ROWS,
        publish_s: float = PUBLISH_EVERY_S,
    ) -> None:
        self._clock = clock
        self._retention = retention or Retention()
        self._folder = folder
        self._seal_rows = seal_rows
        self._publish_s = publish_s
        self._counts = Counts()
        self._due = self._cursor_due = self._retention_due = self._flushed = 0.0
        self._open(verify_s=VERIFY_AT_START_S)

    def _open(self, verify_s: float) -> None:
        """Finds out from the visible files where everything stands."""
        self._torn = False
        self._metrics = MetricFiles(os.path.join(self._folder, "metrics"), self._seal_rows, self._counts, self._clock, verify_s)
        self._expiry = Expiry(self._metrics, self._retention, self._clock.now())
        self._tables: dict[int, _Tables] = {}
        numbers = {0}
        for name in ("runs", "decisions"):
            folder = os.path.join(self._folder, name)
            self._counts.leftovers_removed += prepare(folder)
            numbers |= {number for number, _, _ in visible_files(folder)}
        for number in sorted(numbers):
            self._of(number)

    def reload(self) -> None:
        """After a step that failed: what may be half folded is forgotten and read again from the bus. What waits for room
        on a full disk is whole and stays."""
        if self._torn:
            self._metrics.close()
            self._expiry.close()
            self._open(verify_s=0.0)

    @contextmanager
    def _whole_or_torn(self) -> Iterator[None]:
        """Marks the memory as torn where something fails that is not Unavailable, after which it is whole by design."""
        before, self._torn = self._torn, True
        try:
            yield
        except Unavailable:
            self._torn = before
            raise
        self._torn = before

    def _of(self, number: int) -> _Tables:
        if number not in self._tables:
            self._tables[number] = _Tables(self._folder, number)
        return self._tables[number]

    def position(self, partition: Partition) -> int | None:
        """The offset to read a partition from, by the files alone; 0 where there are none: the earliest that is left."""
        topic, number = partition
        if topic == METRICS:
            return self._metrics.position(number)
        return self._of(number).position(topic) if topic in (RUNS, CONTROL) else None

    def pass_over(self, positions: Mapping[Partition, int]) -> None:
        """Goes on at these offsets where it is not as far: what lies before them was set aside as poison."""
        for (topic, number), following in positions.items():
            if topic == METRICS:
                self._metrics.partition(number).pass_over(following)
                continue
            runs, decisions = self._of(number).files
            for table in (runs, decisions) if topic == RUNS else (decisions,):
                table.advance(topic, max(following, table.cursor.get(topic, 0)))

    def committed(self) -> Mapping[Partition, int]:
        """What is visible on disk: the bus must keep the records from these offsets on."""
        known = dict(self._metrics.committed())
        for number, tables in self._tables.items():
            for topic in (RUNS, CONTROL):
                known[topic, number] = tables.position(topic, visible=True)
        return known

    def handle(self, records: Sequence[Record], now: float) -> list[Message]:
        """Folds records in; what is stored already is skipped. The messages are notices about damaged files."""
        with self._whole_or_torn():
            for number, record in enumerate(records):
                if record.topic != METRICS:
                    self._fold(record)
                    continue
                if number % 16 == 0 and self._metrics.waiting >= MAX_WAITING_ROWS:
                    self.flush(now)
                self._metrics.take(record)
        return list(self._told(now))

    def _fold(self, record: Record) -> None:
        tables = self._of(record.partition)
        runs, decisions = tables.files
        new_for_runs = record.topic == RUNS and record.offset >= runs.cursor.get(RUNS, 0)
        new_for_decisions = record.offset >= decisions.cursor.get(record.topic, 0)
        if not (new_for_runs or new_for_decisions):
            self._counts.repeated_records += 1
            return
        try:
            event = decode(record.body)
        except CorruptData:
            self._counts.skipped_records += 1  # the judge's lane keeps it as a dead letter and says so
            event = None
        if isinstance(event, RunEvent) and new_for_runs:
            tables.runs.fold(event, record.offset)
        elif isinstance(event, Ack) and new_for_decisions:
            tables.decisions.answer(event)
        elif isinstance(event, Decision) and new_for_decisions:
            tables.decisions.decide(event)
        if new_for_runs:
            runs.advance(RUNS, record.offset + 1)
        if new_for_decisions:
            decisions.advance(record.topic, record.offset + 1)

    def _told(self, now: float) -> Iterator[Message]:
        sources = [self._metrics.problems, *(one.problems for tables in self._tables.values() for one in tables.files)]
        for problems in sources:
            for text in problems:
                notice = Notice("damaged file", text, now, count=1)
                yield Message(NOTICES, self.name, encode(notice))
            problems.clear()

    def tick(self, now: float) -> None:
        """Publishes when it is due, and looks after old files now and then."""
        rows = self._metrics.waiting or any(one.waiting for tables in self._tables.values() for one in tables.files)
        if now < self._flushed:
            self._due = self._cursor_due = self._retention_due = now  # the clock was put back
        if now >= self._due and (rows or now >= self._cursor_due):
            self.flush(now)
        if now >= self._retention_due:
            self._retention_due = now + RETENTION_EVERY_S
            with self._whole_or_torn():
                self._expiry.expire(now)
                self._metrics.verify_one()

    def flush(self, now: float) -> None:
        """Makes everything taken visible at once."""
        copied = self._metrics.copied_bytes
        began = self._clock.monotonic()
        with self._whole_or_torn():
            self._metrics.publish()
            for tables in self._tables.values():
                for one in tables.files:
                    one.publish()
        took = self._clock.monotonic() - began
        self._due = now + max(self._publish_s, PUBLISH_COST * took, copied / COPY_BYTES_PER_S)
        self._cursor_due = now + CURSOR_EVERY_S
        self._flushed = now

    @property
    def counters(self) -> dict[str, int]:
        """What was taken, and every kind of thing that was repeated, skipped, damaged or removed, since the start."""
        counts = asdict(self._counts)
        tables = self._tables.values()
        counts["damaged_files"] += sum(one.damaged for pair in tables for one in pair.files)
        counts["dropped_acks"] = sum(one.decisions.dropped_acks for one in tables)
        counts["waiting_rows"] = self._metrics.waiting
        return counts
