"""The judge: one consumer for all that decides about a run, over shared windows, in the one order of the log.

Metrics fold in offset order; a record of runs or control is a cut: what came before is judged, then it is folded. Time
enters as timers: before a record with append time a is folded, every timer due at or before a fires. So the decisions, their
ids and their order depend on the log alone, and not on how it was cut into batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..bus.claims import Claims
from ..core.errors import CorruptData
from ..core.events import MetricChunk, Request, RunEvent, decode
from ..core.ports import CONTROL, METRICS, RUNS, Message, Record
from ..core.switches import Switches
from .attempt import Attempt, Rules
from .backlog import Backlog
from .candidates import judge_in_order
from .cuts import Cuts
from .docket import Docket, Gates
from .screening import MOST_POINTS, MOST_SERIES, Screening
from .stretch import Stretch
from .switchboard import Switchboard


class Judge:
    """Folds metrics, runs and control; answers with decisions, acks of the gate, notices and dead letters."""

    name = "judge"
    topics: tuple[str, ...] = (METRICS, RUNS, CONTROL)

    def __init__(self, rules: Rules, gates: Gates, primary: str = "val_loss", not_after_s: float = 600.0) -> None:
        self.counters: Counter[str] = Counter()
        self._docket = Docket(gates, self.counters)
        self._cuts = Cuts(self._docket, rules, primary)
        self._screening = Screening(self._docket.attempts, self._docket.cohorts, self.counters)
        self._not_after_s = not_after_s
        self._records = 0
        """Records of metrics folded by this process: what the order of points of several runs goes by."""
        self._backlog = Backlog()
        self._next: tuple[Rules, Gates, str, float] | None = None

    @property
    def attempts(self) -> dict[str, Attempt]:
        """The attempts that are judged, by id."""
        return self._docket.attempts

    @property
    def switches(self) -> Switches:
        """What people have switched off."""
        return self._docket.switches

    @property
    def claims(self) -> Claims:
        """Which daemon judges which partition, as control says."""
        return self._cuts.claims

    def current(self, run: str) -> Attempt | None:
        """The newest attempt of a run, a live one first."""
        return self._cuts.current(run)

    def adopt(self, rules: Rules, gates: Gates, primary: str, not_after_s: float) -> None:
        """Takes a new configuration before the next batch (called from any thread)."""
        self._next = (rules, gates, primary, not_after_s)

    def _adopt(self) -> None:
        """Windows of series that stay judged go on; a policy whose mode changed may speak again."""
        if self._next is None:
            return
        (rules, self._docket.gates, primary, self._not_after_s), self._next = self._next, None
        self._cuts.rules, self._cuts.primary = rules, primary
        for name, attempt in self.attempts.items():
            for latch in attempt.adopt(rules, primary):
                attempt.standing.latches.pop(latch, None)
            self._docket.silences.arm(attempt)
            self._docket.cohorts.join(attempt)
            self._docket.changed.add(name)

    # -- folding ---------------------------------------------------------------------------------------------------

    def handle(self, records: Sequence[Record], now: float) -> list[Message]:
        """Folds records in their order; `now` (wall clock) only tells what is stale and, when nothing came, what is due."""
        self._adopt()
        self._docket.silences.oldest = now - self._not_after_s
        stretch = Stretch()
        for record in records:
            try:
                event = decode(record.body)
            except CorruptData as error:
                self._docket.answers.dead_letter(record, error)
                continue
            if self._is_folded(event, record):
                continue
            if isinstance(event, MetricChunk) and record.topic == METRICS:
                self._records += 1
                if self._docket.is_due(record.time):
                    self._judge(stretch)
                    self._docket.fire(record.time)
                if Backlog.holds(event, record, now - self._not_after_s):
                    self._judge(stretch)
                    self._warm(event, record)
                else:
                    self._end_of_stale(record.time)
                    self._gather(stretch, event, record)
                    if stretch.points >= MOST_POINTS or len(stretch) >= MOST_SERIES:
                        self._judge(stretch)
            else:
                self._judge(stretch)
                self._docket.fire(record.time)
                self._cuts.fold(event, record)
                if isinstance(event, RunEvent) and event.attempt in self.attempts:
                    self._docket.cohorts.join(self.attempts[event.attempt])
        self._judge(stretch)
        if not records:
            self._docket.fire(now)
            self._end_of_stale(now)
        return self._docket.answers.take()

    def _is_folded(self, event: Any, record: Record) -> bool:
        """An attempt that was taken over may be ahead of its partition's cursor; what a person asked of its run, too, which
        would find another attempt now than it did (those of one key are saved together). A switch is the partition's."""
        if isinstance(event, Request) and Switchboard.takes(event):
            return False
        attempt = self.attempts.get(getattr(event, "attempt", None) or "")
        if attempt is not None:
            return bool(attempt.folded) and record.offset < attempt.folded.get(record.topic, 0)
        if not isinstance(event, Request):
            return False
        mates = [one for one in self.attempts.values() if one.standing.record.run == event.run]
        return any(record.offset < one.folded.get(record.topic, 0) for one in mates)

    def _warm(self, chunk: MetricChunk, record: Record) -> None:
        """Backlog older than a decision may be: it warms the windows and decides nothing."""
        attempt = self._cuts.attempt(chunk, record.time, record.partition)
        attempt.note(chunk)
        self._docket.silences.heard(attempt, chunk, record.time, stale=True)
        self._backlog.take(chunk, record.time)
        for one, positions in chunk.positions(attempt.windows):
            if one.steps:
                points = (one.steps, one.values, one.times)
                window = attempt.windows[one.name]
                columns = self._screening.extend(window, chunk.source, positions, points, record.time, self._records)
                if columns is not None:
                    self._docket.cohorts.take(attempt, one.name, columns)

    def _end_of_stale(self, time: float) -> None:
        """What the backlog's attempts are found to deserve from here on is a new trigger."""
        if not self._backlog.points or not self._backlog.is_over(time):
            return
        for name in self._backlog.points:
            if name in self.attempts:
                self._docket.rearm_latches(self.attempts[name])
        ends = self._backlog.ends
        self._docket.answers.notice("backlog", self._backlog.end(self._not_after_s), ends, level="info")

    def _gather(self, stretch: Stretch, chunk: MetricChunk, record: Record) -> None:
        attempt = self._cuts.attempt(chunk, record.time, record.partition)
        another = attempt.note(chunk)
        if attempt.standing.record.over:
            self.counters["points_after_end"] += chunk.points()
            return
        if attempt.greeting is not None:
            self._judge(stretch)
            self._cuts.greet(attempt, attempt.greeting, record.time)
        elif another:
            self._judge(stretch)
            self._cuts.find_best(attempt, chunk, record.time)
        self._docket.silences.heard(attempt, chunk, record.time, stale=False)
        for one, positions in chunk.positions(attempt.windows):
            if one.steps:
                stretch.add((chunk.attempt, one.name, chunk.source), positions, one, record.time, self._records)

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, stretch: Stretch) -> None:
        """Judges what was gathered since the last cut: candidates of all series in the order of the log."""
        if stretch.points:
            judge_in_order(self._screening.candidates(stretch.take()), self._docket.fire, self._docket.conclude)

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def changed(self) -> Collection[str]:
        """The attempts that changed since they were `saved`."""
        return self._docket.changed

    def changes(self, names: Iterable[str] | None = None) -> tuple[dict[str, bytes | None], bytes]:
        """The bytes of each attempt that changed (or of `names`), None for one that is forgotten, and the judge's own body."""
        wanted = self._docket.changed if names is None else names
        bodies = {name: (self.attempts[name].dump() if name in self.attempts else None) for name in wanted}
        switches = {str(number): self.switches.dump(number) for number in self.switches.partitions()}
        plain = {"counters": dict(self.counters), "stale": self._backlog.dump(), "switches": switches}
        return bodies, msgspec.msgpack.encode(plain)

    def saved(self, names: Iterable[str] | None = None) -> None:
        """What `changes` gave of these, or of all, is durable."""
        if names is None:
            self._docket.changed.clear()
        else:
            self._docket.changed.difference_update(names)

    def load(self, attempts: Mapping[str, bytes], body: bytes | None) -> None:
        """Forgets everything and takes the saved state instead."""
        plain = msgspec.msgpack.decode(body) if body else {}
        self.counters.clear()
        self.counters.update(plain.get("counters", {}))
        self._docket.clear()
        self._backlog = Backlog(plain.get("stale"))
        self._cuts.claims = Claims()
        for number, switches in plain.get("switches", {}).items():
            self._docket.take_switches(int(number), switches)
        self.take(None, {name: (body, {}) for name, body in attempts.items()})
        self._docket.changed.clear()

    def own(self, partition: int) -> bytes:
        """What is saved of a partition beside its attempts."""
        return self.switches.dump(partition)

    def take(self, partition: int | None, attempts: Mapping[str, tuple[bytes, Mapping[str, int]]], own: bytes = b"") -> None:
        """Takes over the attempts of a partition (None: of several) as they were saved, each with the offsets before which
        it is folded, and what `own` gave."""
        if partition is not None:
            self._docket.take_switches(partition, own)
        for name, (body, folded) in sorted(attempts.items()):
            attempt = self.attempts[name] = Attempt.load(body, self._cuts.rules, self._cuts.primary)
            attempt.partition, attempt.folded = (attempt.partition if partition is None else partition), folded
            self._docket.rearm(attempt)
            self._docket.cohorts.join(attempt)
            self._docket.changed.add(name)

    def drop(self, partition: int) -> None:
        """Forgets the attempts of a partition that is another daemon's now."""
        self.switches.drop(partition)
        for name in [name for name, one in self.attempts.items() if one.partition == partition]:
            self._docket.forget(name)
            self._docket.changed.discard(name)

    def touch(self, attempt: str) -> None:
        """What is saved of this attempt has changed, though not in here."""
        if attempt in self.attempts:
            self._docket.changed.add(attempt)
