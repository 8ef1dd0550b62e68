"""The metrics store: everything on the bus ends here as Parquet that a bare `pandas.read_parquet` reads.

Rows gather in memory and become visible about once a second. What a kill takes from memory is read again from the bus: the
position is derived from the visible files alone, so no row is lost and none is written twice. In a fleet each store holds
the partitions that the bus gives it, and touches the files of no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from ..core.errors import CorruptData, Unavailable
from ..core.events import Ack, Decision, Notice, RunEvent, decode, encode
from ..core.ports import CONTROL, METRICS, NOTICES, RUNS, Clock, Message, Partition, Record
from .decisions_table import DecisionsTable
from .metric_files import VERIFY_AT_START_S, MetricFiles
from .metric_partition import Counts
from .retention import Expiry, Retention
from .row_files import RowFiles
from .runs_table import RunsTable
from .tenure import Directory, Fenced, Place, Tenure

SEAL_ROWS = 1_000_000
MAX_WAITING_ROWS = 262_144
"""Rows in memory at which the store publishes at once, looked at every 16 records: it bounds memory under a backlog."""
PUBLISH_COST = 20.0
"""Publishing may take one part in this many of the time."""
COPY_BYTES_PER_S = 4 << 20
"""The growing file is written anew at each publish; this bounds what that costs a disk on average."""
CURSOR_EVERY_S = 30.0
"""How often a position is written that moved without a row to show."""
RETENTION_EVERY_S = 60.0


class _Held:
    """One partition that is held: `runs/` and `decisions/` of it; `metrics/` is in MetricFiles."""

    def __init__(self, tenure: Tenure) -> None:
        self.tenure = tenure
        self.runs = RunsTable(tenure)
        self.decisions = DecisionsTable(tenure)

    @property
    def files(self) -> tuple[RowFiles, RowFiles]:
        return self.runs.rows, self.decisions.rows

    def position(self, topic: str, visible: bool = False) -> int:
        """The next offset wanted, or with `visible` the one before which all is on disk."""
        mine = (self.decisions.rows,) if topic == CONTROL else self.files
        return min((one.visible if visible else one.cursor).get(topic, 0) for one in mine)


class MetricsStore:
    """The consumer of metrics, runs and control that keeps `metrics/`, `runs/` and `decisions/`, in the data directory
    `folder` unless `place` is another. One thread. ConfigError for files of a newer version, Unavailable where the disk is
    full or away: nothing is lost then, and the same call can be made again; Fenced where a partition is another daemon's.

    The only store of its place holds all that is there from the start. In one that is shared it holds a partition from
    `position` or the first record until `revoke` or `reload`.
    """

    name = "metrics_store"
    topics: tuple[str, ...] = (METRICS, RUNS, CONTROL)

    def __init__(
        self,
        folder: str,
        clock: Clock,
        *,
        retention: Retention | None = None,
        seal_rows: int = SEAL_ROWS,
        publish_s: float | None = None,
        place: Place | None = None,
    ) -> None:
        self._clock = clock
        self._place = place or Directory(folder, clock)
        self._publish_s = publish_s or self._place.publish_s
        self._counts = Counts()
        self._due = self._cursor_due = self._retention_due = self._flushed = 0.0
        self._torn = False
        self._damaged_rows = self._dropped_acks = 0
        self._problems: list[str] = []
        self._held: dict[int, _Held] = {}
        self._revoked: set[int] = set()
        self._metrics = MetricFiles(seal_rows, self._counts, clock, VERIFY_AT_START_S)
        self._expiry = Expiry(self._metrics, retention or Retention(), clock.now(), self._place.metrics)
        self._hold_all()

    def _hold_all(self) -> None:
        if not self._place.shared:
            for number in sorted({0} | self._place.numbers()):
                self._of(number)

    def reload(self) -> None:
        """After a step that failed: what may be half folded, or may be another store's by now, is forgotten and read again
        from the bus. Of the only store of a folder what waits for room on a full disk is whole and stays."""
        if self._torn or self._place.shared:
            for number in list(self._held):
                self._forget(number)
            self._torn = False
            self._hold_all()

    @contextmanager
    def _whole_or_torn(self) -> Iterator[None]:
        """Marks the memory as torn where something fails that is not Unavailable, after which it is whole by design. What
        is held no more is forgotten."""
        before, self._torn = self._torn, True
        try:
            yield
        except Unavailable as error:
            self._torn = before
            if isinstance(error, Fenced):
                self._lose(error)
            raise
        self._torn = before

    def _lose(self, error: Fenced) -> None:
        self._counts.fenced += 1
        self._problems.append(error.message)
        self._forget(error.number)
        self._revoked.add(error.number)

    def _of(self, number: int) -> _Held:
        """The partition, taken over where it is not held. Unavailable where it was taken away and not given back."""
        held = self._held.get(number)
        if held is None:
            if number in self._revoked:
                raise Unavailable(f"partition {number} is another daemon's now", "nothing to do: the lane begins anew")
            held = self._held[number] = self._take_over(number)
        return held

    def _take_over(self, number: int) -> _Held:
        tenure = self._place.take(number)
        try:
            self._metrics.open(tenure)
            held = _Held(tenure)
        except BaseException:
            self._metrics.forget(number)
            tenure.release()
            raise
        self._counts.partitions_taken += 1
        return held

    def _forget(self, number: int) -> None:
        """Lets a partition go; what is in memory of it and not visible is read from the bus by whoever holds it next."""
        held = self._held.pop(number, None)
        self._metrics.forget(number)
        if held is not None:
            self._damaged_rows += sum(one.damaged for one in held.files)
            self._dropped_acks += held.decisions.dropped_acks
            self._metrics.problems += [text for one in held.files for text in one.problems]
            held.tenure.release()
            self._counts.partitions_let_go += 1

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """These go to another daemon: makes what was taken of them visible and lets them go. What cannot be published any
        more is on the bus still."""
        for number in sorted({number for topic, number in partitions if topic in self.topics}):
            try:
                if number in self._held and not self._torn:
                    self._publish(number)
            except Unavailable as error:
                self._counts.fenced += isinstance(error, Fenced)
            finally:
                self._forget(number)
                self._revoked.add(number)

    def position(self, partition: Partition) -> int | None:
        """The offset to read a partition from, by the files alone; 0 where there are none: the earliest that is left. To
        ask is to be assigned: it is taken over where it is not held."""
        topic, number = partition
        if topic not in self.topics:
            return None
        self._revoked.discard(number)
        held = self._held.get(number)
        if held is not None and not held.tenure.held:
            self._forget(number)
        held = self._of(number)
        return self._metrics.partition(number).position if topic == METRICS else held.position(topic)

    def pass_over(self, positions: Mapping[Partition, int]) -> None:
        """Goes on at these offsets where it is not as far: what lies before them was set aside as poison."""
        for (topic, number), following in positions.items():
            runs, decisions = self._of(number).files
            if topic == METRICS:
                self._metrics.partition(number).pass_over(following)
                continue
            for table in (runs, decisions) if topic == RUNS else (decisions,):
                table.advance(topic, max(following, table.cursor.get(topic, 0)))

    def committed(self) -> Mapping[Partition, int]:
        """What is visible on disk of the partitions that are held: the bus must keep the records from these offsets on."""
        known = dict(self._metrics.committed())
        for number, held in self._held.items():
            for topic in (RUNS, CONTROL):
                known[topic, number] = held.position(topic, visible=True)
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
                if record.partition not in self._held:
                    self._of(record.partition)
                self._metrics.take(record)
        return list(self._told(now))

    def _fold(self, record: Record) -> None:
        held = self._of(record.partition)
        runs, decisions = held.files
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
            held.runs.fold(event, record.offset)
        elif isinstance(event, Ack) and new_for_decisions:
            held.decisions.answer(event)
        elif isinstance(event, Decision) and new_for_decisions:
            held.decisions.decide(event)
        if new_for_runs:
            runs.advance(RUNS, record.offset + 1)
        if new_for_decisions:
            decisions.advance(record.topic, record.offset + 1)

    def _told(self, now: float) -> Iterator[Message]:
        sources = [self._problems, self._metrics.problems, *(one.problems for held in self._held.values() for one in held.files)]
        for problems in sources:
            for text in problems:
                notice = Notice("fenced" if problems is self._problems else "damaged file", text, now, count=1)
                yield Message(NOTICES, self.name, encode(notice))
            problems.clear()

    def tick(self, now: float) -> None:
        """Publishes when it is due, and looks after old files now and then."""
        rows = self._metrics.waiting or any(one.waiting for held in self._held.values() for one in held.files)
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
        fenced: Fenced | None = None
        for number in list(self._held):
            try:
                with self._whole_or_torn():
                    self._publish(number)
            except Fenced as error:  # the others are as whole as they were
                fenced = error
        if fenced is not None:
            raise fenced
        took = self._clock.monotonic() - began
        self._due = now + max(self._publish_s, PUBLISH_COST * took, copied / COPY_BYTES_PER_S)
        self._cursor_due = now + CURSOR_EVERY_S
        self._flushed = now

    def _publish(self, number: int) -> None:
        """The points first: whoever reads that a run has ended finds what it logged."""
        self._metrics.publish(number)
        for one in self._held[number].files:
            one.publish()

    @property
    def counters(self) -> dict[str, int]:
        """What was taken, and every kind of thing that was repeated, skipped, damaged or removed, since the start."""
        counts = asdict(self._counts)
        held = list(self._held.values())
        counts["damaged_files"] += self._damaged_rows + sum(one.damaged for pair in held for one in pair.files)
        counts["dropped_acks"] = self._dropped_acks + sum(one.decisions.dropped_acks for one in held)
        counts["waiting_rows"] = self._metrics.waiting
        counts["partitions"] = len(held)
        return counts
