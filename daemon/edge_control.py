"""Decisions on their way to the jobs of this host: from the control topic onto the page of the attempt they are for."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from ..bus.partitions import partition_of
from ..bus.placements import Placements, ack_message
from ..core.errors import CorruptData, Unavailable
from ..core.events import Ack, Decision, Notice, decode, encode
from ..core.ports import CONTROL, NOTICES, Bus, Clock, Message, Record

log = logging.getLogger("smarttuner.edge")
RECORDS_A_TURN = 500
WAIT_S = 0.5
RETRY_S = 0.5


def mark_name(partition: int) -> str:
    """Under this name the bus keeps how far `control` was followed."""
    return f"edge:control:{partition}"


class Follower:
    """A thread that follows `control` and places what is pending. Started again it goes on at its mark; what it meets
    twice is already on the page, answered, or past its not_after. Who has just published a decision in this process may
    call `look`, which saves a wake-up of that thread."""

    def __init__(
        self,
        connect: Callable[[], Bus],
        mark: Callable[[str], int | None],
        placements: Placements,
        clock: Clock,
        counters: Counter[str],
        partitions: int = 1,
    ) -> None:
        self._connect, self._placements, self._clock, self._counters = connect, placements, clock, counters
        self._keys = dict(_keys(partitions))
        self._positions = {partition: mark(mark_name(partition)) or 0 for partition in self._keys}
        self._marked = dict(self._positions)
        self._stopping = threading.Event()
        self._placing = threading.Lock()
        self._looker: Bus | None = None
        self._thread = threading.Thread(target=self._run, name="edge-control", daemon=True)

    def start(self) -> None:
        """From now on decisions reach their jobs."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the thread after the decision in hand."""
        self._stopping.set()
        self._thread.join(timeout_s)
        with self._placing:
            if self._looker is not None:
                self._looker.close()

    def look(self) -> None:
        """Places what has been published, on the caller's thread. From any thread; what fails is left to our own."""
        with self._placing:
            if not self._thread.is_alive() or self._stopping.is_set():
                return
            try:
                self._looker = self._looker or self._connect()
                for partition, key in self._keys.items():
                    records, position = self._looker.follow(CONTROL, key, self._positions[partition], RECORDS_A_TURN)
                    self._place(self._looker, partition, records, position)
            except Unavailable:
                self._counters["control_unavailable"] += 1

    def _run(self) -> None:
        bus: Bus | None = None
        while not self._stopping.is_set():
            try:
                bus = bus or self._connect()
                self.step(bus, WAIT_S)
            except Unavailable as error:
                self._counters["control_unavailable"] += 1
                log.warning("control cannot be followed: %s", error)
                self._stopping.wait(RETRY_S)
        if bus is not None:
            try:
                self._say_position(bus)
            except Unavailable:
                pass
            bus.close()

    def step(self, bus: Bus, timeout_s: float) -> None:
        """Places what came, waiting up to `timeout_s` for it."""
        wait_s = timeout_s / len(self._keys)
        for partition, key in self._keys.items():
            asked = self._positions[partition]
            records, position = bus.follow(CONTROL, key, asked, RECORDS_A_TURN, wait_s)
            with self._placing:
                if self._positions[partition] == asked:  # else `look` took them meanwhile
                    self._place(bus, partition, records, position)

    def _place(self, bus: Bus, partition: int, records: Sequence[Record], position: int) -> None:
        acks = [ack for record in records if (ack := self._take(record)) is not None]
        if acks:
            mark = (mark_name(partition), position)
            bus.publish([ack_message(ack) for ack in acks[:-1]] + [ack_message(acks[-1], mark)])
            self._marked[partition] = position
        self._positions[partition] = position

    def _take(self, record: Record) -> Ack | None:
        try:
            event = decode(record.body)
        except CorruptData:
            self._counters["control_unreadable"] += 1
            return None
        if not isinstance(event, Decision) or event.status != "pending" or event.mode != "act":
            return None
        return self._placements.place(event)

    def _say_position(self, bus: Bus) -> None:
        """A mark travels with a message only."""
        now = self._clock.now()
        bus.publish(
            [
                Message(
                    NOTICES,
                    "edge",
                    encode(Notice("edge_stopped", f"control was followed to {position}", now, level="info")),
                    (),
                    (mark_name(partition), position),
                )
                for partition, position in self._positions.items()
                if position != self._marked[partition]
            ]
        )


def _keys(partitions: int) -> Iterator[tuple[int, str]]:
    """For each partition a key that belongs to it."""
    found: set[int] = set()
    for number in count():
        partition = partition_of(str(number), partitions)
        if partition not in found:
            found.add(partition)
            yield partition, str(number)
        if len(found) == partitions:
            return
