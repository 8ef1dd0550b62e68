"""Decisions on their way to the jobs of this host: from the control topic onto the page of the attempt they are for."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ..bus.placements import Placements, ack_message
from ..bus.trail import Trail, mark_name
from ..core.errors import CorruptData, Unavailable
from ..core.events import Ack, Decision, Notice, decode, encode
from ..core.ports import CONTROL, NOTICES, Bus, Clock, Message, Record
from .outage import Outage

log = logging.getLogger("smarttuner.edge")
RECORDS_A_TURN = 500
WAIT_S = 0.5
RETRY_S = 0.5


class Follower:
    """A thread that follows `control` and places what is pending. Started again it goes on where its trail begins; what it
    meets twice is already on the page, answered, or past its not_after. Who has just published a decision in this process
    may call `look`, which saves a wake-up of that thread."""

    def __init__(
        self, connect: Callable[[], Bus], trail: Trail, placements: Placements, clock: Clock, counters: Counter[str]
    ) -> None:
        self._connect, self._trail, self._placements, self._clock, self._counters = connect, trail, placements, clock, counters
        self._positions: dict[int, int] = {}
        self._marked: dict[int, int] = {}
        self._outage = Outage(log, "control cannot be followed", clock)
        self._stopping = threading.Event()
        self._placing = threading.Lock()
        self._looker: Bus | None = None
        self._thread = threading.Thread(target=self._run, name="edge-control", daemon=True)

    @property
    def trouble(self) -> str:
        """Why no decision reaches its job, "" while they do. For any thread."""
        return self._outage.now

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
                self._begin()
                records, positions = self._looker.follow_partitions(CONTROL, self._positions, RECORDS_A_TURN)
                self._place(self._looker, records, positions)
            except Unavailable:
                self._counters["control_unavailable"] += 1

    def _begin(self) -> None:
        """Follows what is wanted now, and nothing else."""
        wanted = set(self._trail.wanted())
        for partition in self._positions.keys() - wanted:
            del self._positions[partition]
        for partition in wanted - self._positions.keys():
            self._positions[partition] = self._marked[partition] = self._trail.begin(partition)

    def _run(self) -> None:
        bus: Bus | None = None
        while not self._stopping.is_set():
            try:
                bus = bus or self._connect()
                self._outage.passed(self.step(bus, WAIT_S))
            except Unavailable as error:
                self._counters["control_unavailable"] += 1
                self._outage.met(str(error), kind=error.hint)
                self._stopping.wait(RETRY_S)
        if bus is not None:
            try:
                self._say_position(bus)
            except Unavailable:
                pass
            bus.close()

    def step(self, bus: Bus, timeout_s: float) -> bool:
        """Places what came, waiting up to `timeout_s` for it; whether anything came."""
        with self._placing:
            self._begin()
            asked = dict(self._positions)
        if not asked:
            self._stopping.wait(timeout_s)
            return False
        records, positions = bus.follow_partitions(CONTROL, asked, RECORDS_A_TURN, timeout_s)
        with self._placing:
            if self._positions == asked:  # else `look` took them meanwhile
                self._place(bus, records, positions)
        return bool(records)

    def _place(self, bus: Bus, records: Sequence[Record], positions: Mapping[int, int]) -> None:
        acks = [ack for record in records if (ack := self._take(record)) is not None]
        if acks:
            moved = [n for n, at in positions.items() if at != self._positions.get(n)]
            mark = (mark_name(moved[0]), positions[moved[0]]) if len(moved) == 1 else None
            bus.publish([ack_message(ack) for ack in acks[:-1]] + [ack_message(acks[-1], mark)])
            if mark is not None:
                self._marked.update(positions)
        self._positions.update(positions)

    def _take(self, record: Record) -> Ack | None:
        try:
            event = decode(record.body)
        except CorruptData:
            self._counters["control_unreadable"] += 1
            return None
        if not self._trail.allows(event, record) or not isinstance(event, Decision):
            return None
        if event.status != "pending" or event.mode != "act":
            return None
        return self._placements.place(event)

    def _say_position(self, bus: Bus) -> None:
        """A mark travels with a message only."""
        if not self._trail.marked:
            return
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
