"""Where partitions end, asked of their leaders on the caller's own thread: one round trip, no other thread to wake.

A member asks this before it hands out what it has read of several topics, so it stands in the way of every decision.
kafka-python's administrator needs two round trips and two changes of threads for it, four to six times as long.
"""

from __future__ import annotations

from collections.abc import Iterable

from kafka.errors import KafkaError

from ..core.clock import Clock
from ..core.errors import SmartTunerError
from ..core.ports import Partition
from .kafka_frames import LIST_OFFSETS, LIST_OFFSETS_VERSION, list_offsets, listed
from .kafka_leaders import Leaders
from .kafka_settings import KafkaSettings
from .kafka_topics import Clerk
from .kafka_wire import Deadline

ANSWER_S = 1.5
"""A leader that has not answered by then is asked by way of the clerk, who waits longer and knows why not."""
REST_S = 10.0
"""After a connection that failed the clerk is asked for so long."""


class Ends:
    """Not thread safe. Where a leader is not known or does not answer, `clerk` is asked instead."""

    def __init__(self, settings: KafkaSettings, clerk: Clerk, clock: Clock) -> None:
        self._settings, self._clerk, self._clock = settings, clerk, clock
        self._leaders = Leaders(settings, clock)
        self._rest_until = float("-inf")

    def of(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset of each, as it is now. Unavailable."""
        asked = list(partitions)
        if self._clock.monotonic() < self._rest_until:
            return self._clerk.ends(asked)
        try:
            found = self._ask(asked)
        except (OSError, KafkaError, SmartTunerError, ValueError):
            self.close()
            self._rest_until = self._clock.monotonic() + REST_S
            return self._clerk.ends(asked)
        if len(found) == len(asked):
            return found
        self._leaders.forget()  # one leads no longer
        return self._clerk.ends(asked)

    def _ask(self, partitions: list[Partition]) -> dict[Partition, int]:
        """What the leaders say of those partitions that they lead indeed."""
        found: dict[Partition, int] = {}
        for leader, several in self._leaders.of(partitions).items():
            ours = {(self._settings.topic(topic), number): (topic, number) for topic, number in several}
            wire = self._leaders.wire(leader)
            wire.patience(Deadline(self._clock, ANSWER_S))
            wire.post(LIST_OFFSETS, LIST_OFFSETS_VERSION, list_offsets(ours))
            answer = listed(wire.receipt())
            found.update({ours[place]: offset for place, (error_code, offset) in answer.items() if not error_code})
        return found

    def close(self) -> None:
        """The next question connects anew."""
        self._leaders.close()
