"""THE loop: one lane drives one consumer. Only here is retried, dead-lettered, counted, slept and caught broadly.

    records = bus.poll(...)
    with one transaction: answers = consumer.handle(records); outbox.add(answers); cursor.advance(records)
    bus.publish(outbox.unsent()); outbox.mark_sent()

A kill anywhere repeats or resumes: what is in the outbox is sent again on start, and ids make the repetition harmless.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..core.errors import SmartTunerError, Unavailable
from ..core.events import Notice, encode
from ..core.letters import Place, letter_to
from ..core.ports import NOTICES, Batch, Bus, Clock, Consumer, Message, Partition, Record
from .outage import Outage

log = logging.getLogger("smarttuner.lane")
LIMIT = 2000
"""Records of one poll."""
RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)
POISON_TRIES = 3


class Store(Protocol):
    """Where a lane's consumer keeps what it folded, its cursor and its outbox. `commit` is one transaction."""

    def position(self, partition: Partition) -> int | None:
        """The next offset to read, as durable; None: wherever the group was."""

    def reload(self) -> None:
        """The consumer's state as it was committed last."""

    def revoke(self, partitions: Sequence[Partition]) -> None:
        """They are another member's from the next poll on: makes them durable now, and forgets them."""

    def commit(
        self, answers: Sequence[Message], positions: Mapping[Partition, int], now: float, at_once: bool
    ) -> Mapping[Partition, int] | None:
        """Makes what was folded so far durable: now if there are answers or `at_once`, else when it is due; the durable
        positions when they moved."""

    @property
    def waiting(self) -> bool:
        """Whether answers came from elsewhere than `commit`: with a partition that was taken over."""

    def unsent(self) -> Sequence[tuple[int, Message]]:
        """Answers that are durable and not known to be published."""

    def mark_sent(self, numbers: Sequence[int]) -> None:
        """They are published."""

    def finish(self, now: float) -> Mapping[Partition, int] | None:
        """Makes everything durable at once: the lane stops."""


class Lane:
    """One consumer, its store and its place on the bus. `connect` gives a fresh handle on the bus.

    `published` is called when answers have been put on the log. A sink that nobody waits for rests `pause_s` after a batch
    that took all there was: it then folds many records at once instead of waking for each beside the judge.
    """

    def __init__(
        self,
        consumer: Consumer,
        connect: Callable[[], Bus],
        store: Store,
        clock: Clock,
        *,
        published: Callable[[], None] | None = None,
        pause_s: float = 0.0,
    ) -> None:
        self.name = consumer.name
        self._published, self._pause_s = published, pause_s
        self.consumer, self.store, self.clock = consumer, store, clock
        self._connect = connect
        self._bus: Bus | None = None
        self._positions: dict[Partition, int] = {}
        self._failures = 0
        self._single: int = 0
        self._last_records: Sequence[Record] = ()
        self.records = 0
        self.errors = 0
        self.last_error = ""
        self.fell_off = 0
        self.set_aside = 0
        self.last_step_at = clock.monotonic()
        self._outage = Outage(log, self.name, clock)

    @property
    def failing(self) -> bool:
        """Whether the last step raised."""
        return self._failures > 0 or self._single > 0

    def step(self, now: float, wait_s: float = 0.0) -> bool:
        """One turn; whether there was anything to do. Raises what went wrong, after which the next step starts from what
        is durable."""
        self.last_step_at = self.clock.monotonic()
        self._last_records = ()
        try:
            return self._turn(self._bus or self._start(), now, wait_s)
        except BaseException:
            self._drop()
            raise

    def _start(self) -> Bus:
        self.store.reload()
        self._positions = {}
        self._bus = self._connect()
        self._send(self._bus)
        return self._bus

    def _turn(self, bus: Bus, now: float, wait_s: float) -> bool:
        limit = 1 if self._single else LIMIT
        batch = bus.poll(self.consumer.topics, self.consumer.name, self.store.position, limit, wait_s)
        self._last_records = batch.records
        if batch.revoked:
            self.store.revoke(batch.revoked)
        now = max(now, self.clock.now()) if batch.records else now
        answers = self._losses(batch, now)
        if batch.records or not batch.behind:
            answers += self.consumer.handle(batch.records, now)
        self._advance(batch)
        self._commit(bus, answers, now)
        self.records += len(batch.records)
        self._failures = 0
        self._outage.passed(bool(batch.records))
        self._single = max(0, self._single - len(batch.records)) if batch.records else 0
        return bool(batch.records) or bool(answers)

    def _advance(self, batch: Batch) -> None:
        for partition in batch.revoked:
            self._positions.pop(partition, None)
        for record in batch.records:
            self._positions[record.topic, record.partition] = record.offset + 1

    def _commit(self, bus: Bus, answers: Sequence[Message], now: float) -> None:
        durable = self.store.commit(answers, self._positions, now, at_once=bool(self._single))
        if answers or self.store.waiting:
            self._send(bus)
        if durable:
            bus.commit(self.consumer.name, durable)

    def _send(self, bus: Bus) -> None:
        waiting = self.store.unsent()
        if waiting:
            bus.publish([message for _, message in waiting])
            if self._published is not None:
                self._published()
            self.store.mark_sent([number for number, _ in waiting])

    def _losses(self, batch: Batch, now: float) -> list[Message]:
        """Records that retention removed before this group had read them: a counted, alerted loss."""
        lost = sum(batch.fell_off.values())
        if not lost:
            return []
        self.fell_off += lost
        where = ", ".join(f"{topic}/{partition}: {count}" for (topic, partition), count in batch.fell_off.items())
        text = (
            f"{self.name} fell off the log: {lost} records were removed before they were read ({where}); raise bus.retention_bytes"
        )
        return [Message("notices", self.name, encode(Notice("fell_off", text, now, "alert", count=lost)))]

    def _drop(self) -> None:
        """What is in memory may be half folded: the next step starts from what is durable."""
        bus, self._bus = self._bus, None
        if bus is not None:
            try:
                bus.close()
            except SmartTunerError as error:
                log.warning("%s: %s", self.name, error)

    def run(self, stopping: threading.Event, wait_s: float = 0.2) -> None:
        """Turns until `stopping` is set, then drains what is there and makes it durable."""
        while not stopping.is_set():
            try:
                self.step(self.clock.now(), wait_s)
                if self._pause_s and len(self._last_records) < LIMIT:
                    stopping.wait(self._pause_s)
            except Exception as error:
                self.failed(error)
                stopping.wait(RETRY_S[min(self._failures, len(RETRY_S)) - 1])
        self.drain()

    def failed(self, error: Exception) -> None:
        """Counts what a step raised and says it once an outage; after some tries at one batch, singles out a poisonous record."""
        self._failures += 1
        self.errors += 1
        said = f"{type(error).__name__}: {error}"
        self.last_error = said
        ours = isinstance(error, SmartTunerError)
        self._outage.met(said, None if ours else error, error.hint if isinstance(error, Unavailable) else "")
        if isinstance(error, Unavailable) or not self._last_records or self._failures < POISON_TRIES:
            return
        if len(self._last_records) > 1:
            self._single, self._failures = len(self._last_records), 0
        else:
            self._try_to_set_aside(self._last_records[0], said)

    def _try_to_set_aside(self, record: Record, why: str) -> None:
        try:
            self._set_aside(record, why)
        except Exception as error:  # the disk or the log is away just now: the record fails, and comes here, again
            self.errors += 1
            self._outage.met(f"could not set a record aside: {error}")
        else:
            self._failures, self._single = 0, max(0, self._single - 1)

    def _set_aside(self, record: Record, why: str) -> None:
        """A record that cannot be folded is kept in dead_letters, and only then the partition goes on."""
        self.store.reload()
        self.store.position((record.topic, record.partition))  # a fleet's store takes its partition again
        self._single = max(1, self._single)  # what is committed is committed at once
        bus = self._connect()
        try:
            notice = Notice("dead_letter", f"{Place.of(record)}: {self.name} cannot take it: {why}", self.clock.now())
            bus.publish([letter_to(record, why, self.name), Message(NOTICES, record.key, encode(notice))])
            self.set_aside += 1
            self._positions = {(record.topic, record.partition): record.offset + 1}
            self._commit(bus, (), self.clock.now())
        finally:
            bus.close()

    def drain(self, turns: int = 1000) -> None:
        """Takes what is on the bus, makes it durable, and leaves the group."""
        try:
            while turns and self.step(self.clock.now()):
                turns -= 1
            durable = self.store.finish(self.clock.now())
            if self._bus is not None:
                self._send(self._bus)
                if durable:
                    self._bus.commit(self.consumer.name, durable)
        except Exception as error:
            self.failed(error)
        finally:
            self._drop()
