"""What the edge itself says on the bus: refusals of decisions, and lines for people."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from ..bus.placements import ack_message
from ..core.errors import Unavailable
from ..core.events import Ack, Notice, encode, topic_key
from ..core.ports import NOTICES, Bus, Clock, Message
from .edge_stream import Stream

log = logging.getLogger("smarttuner.edge")
MAX_REMEMBERED = 10_000


class Voice:
    """Belongs to the edge's thread. What finds no place on the bus is counted, not kept: decisions expire by themselves."""

    def __init__(self, bus: Bus, clock: Clock, counters: Counter[str]) -> None:
        self._bus, self._clock, self._counters = bus, clock, counters
        self._told: set[str] = set()

    def refuse(self, acks: Iterable[Ack]) -> None:
        """Publishes the refusals."""
        messages = [ack_message(ack) for ack in acks]
        try:
            if messages:
                self._bus.publish(messages)
        except Unavailable:
            self._counters["acks_lost"] += len(messages)

    def tell(self, what: str, text: str, stream: Stream) -> None:
        """A notice, once an attempt and kind of trouble; the counters tell of the rest."""
        notice = Notice(what, text, self._clock.now(), run=stream.run, attempt=stream.attempt, group=stream.shipper.group)
        self._once(f"{what}:{stream.attempt}", notice, topic_key(stream.run, stream.shipper.group))

    def warn(self, what: str, text: str, about: str) -> bool:
        """A notice that is about no attempt, once for each `about`; whether it was the first."""
        return self._once(f"{what}:{about}", Notice(what, text, self._clock.now()), what)

    def _once(self, name: str, notice: Notice, key: str) -> bool:
        if name in self._told:
            return False
        if len(self._told) < MAX_REMEMBERED:
            self._told.add(name)
        try:
            self._bus.publish([Message(NOTICES, key, encode(notice))])  # which the notice log writes down
        except Unavailable:
            self._counters["notices_lost"] += 1
            log.warning("%s%s", f"{notice.run}: " if notice.run else "", notice.text)
        return True
