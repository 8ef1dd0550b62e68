"""Reading without a group: the partitions and positions that the caller names, nothing remembered on the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kafka.errors import OffsetOutOfRangeError

from ..core.clock import Clock
from ..core.ports import Partition, Record
from .kafka_clients import close, consumer_options, make_consumer, reaching
from .kafka_group import record_of
from .kafka_settings import KafkaSettings
from .kafka_topics import Clerk

THERE_S = 5.0
"""What is there already is waited for so long, even by a reader that does not wait for more."""
CLOSE_S = 0.5


class Follower:
    """One reader of one topic. Not thread safe."""

    def __init__(self, settings: KafkaSettings, clerk: Clerk, clock: Clock, topic: str) -> None:
        self._settings, self._clerk, self._clock, self._topic = settings, clerk, clock, topic
        self._at: dict[Partition, int] = {}
        """Where the client reads next."""
        self._consumer: Any = make_consumer(settings, consumer_options(settings))
        self._heard_at = clock.monotonic()

    def follow(self, positions: Mapping[int, int | None], limit: int, timeout_s: float) -> tuple[Sequence[Record], dict[int, int]]:
        """See core.ports.Bus.follow_partitions."""
        deadline = self._clock.monotonic() + timeout_s
        with reaching(self._settings, f"{self._topic} cannot be read"):
            self._move(positions)
            if timeout_s <= 0:
                ends = self._clerk.ends(self._at)
                if not any(at < ends[partition] for partition, at in self._at.items()):
                    return [], self._positions()
                deadline += THERE_S
            while True:
                found = self._fetch(deadline, limit)
                if found or self._clock.monotonic() >= deadline:
                    return found, self._positions()
                self._ask()

    def _positions(self) -> dict[int, int]:
        return {number: at for (_, number), at in self._at.items()}

    def _move(self, positions: Mapping[int, int | None]) -> None:
        """The client reads these partitions and no other; it is moved where it is not yet."""
        wanted = {(self._topic, number): at for number, at in positions.items()}
        if wanted.keys() != self._at.keys():
            self._consumer.assign([self._clerk.place(partition) for partition in sorted(wanted)])
        new = [partition for partition, at in wanted.items() if at is None]
        ends = self._clerk.ends(new)  # asked now: what is appended from here on is read
        early = self._clerk.earliest([partition for partition, at in wanted.items() if at is not None and at < 0])
        known, self._at = self._at, {}
        for partition, at in wanted.items():
            goal = ends[partition] if at is None else early[partition] if at < 0 else at
            if known.get(partition) != goal:
                self._consumer.seek(self._clerk.place(partition), goal)
            self._at[partition] = goal

    def _fetch(self, deadline: float, limit: int) -> list[Record]:
        wait_ms = max(0, int((deadline - self._clock.monotonic()) * 1000))
        wait_ms = min(wait_ms, int(self._settings.quiet_s * 1000))
        try:
            found = self._consumer.poll(timeout_ms=wait_ms, max_records=limit)
        except OffsetOutOfRangeError as error:
            self._out_of_range(error)
            return []
        records = []
        for place, several in found.items():
            partition = self._clerk.partition(place)
            self._at[partition] = several[-1].offset + 1
            records += [record_of(partition, one) for one in several]
        if records:
            self._heard_at = self._clock.monotonic()
        return records

    def _out_of_range(self, error: OffsetOutOfRangeError) -> None:
        places = {self._clerk.partition(place) for place in error.args[0]}
        for partition, earliest in self._clerk.earliest(places).items():
            self._consumer.seek(self._clerk.place(partition), earliest)
            self._at[partition] = earliest

    def _ask(self) -> None:
        """The client waits for a broker without a word; so it is asked for now and then."""
        now = self._clock.monotonic()
        if now - self._heard_at > self._settings.quiet_s:
            self._heard_at = now
            self._clerk.ends(self._at)

    def close(self) -> None:
        """Nobody else notices."""
        close(self._consumer, CLOSE_S)
