"""Reading without a group: the partitions and positions that the caller names, nothing remembered on the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.clock import Clock
from ..core.ports import Record
from .kafka_clients import reaching
from .kafka_fetcher import Fetcher, OutOfRange
from .kafka_settings import KafkaSettings
from .kafka_topics import Clerk

THERE_S = 5.0
"""What is there already is waited for so long, even by a reader that does not wait for more."""


class Follower:
    """One reader of one topic. Not thread safe."""

    def __init__(self, settings: KafkaSettings, clerk: Clerk, clock: Clock, topic: str) -> None:
        self._settings, self._clerk, self._clock, self._topic = settings, clerk, clock, topic
        self._fetcher = Fetcher(settings, clock)
        self._asked_at = clock.monotonic()

    def follow(self, positions: Mapping[int, int | None], limit: int, timeout_s: float) -> tuple[Sequence[Record], dict[int, int]]:
        """See core.ports.Bus.follow_partitions."""
        deadline = self._clock.monotonic() + timeout_s
        with reaching(self._settings, f"{self._topic} cannot be read"):
            self._move(positions)
            if timeout_s <= 0:
                ends = self._clerk.ends(self._fetcher.at)
                if not any(at < ends[partition] for partition, at in self._fetcher.at.items()):
                    return [], self._positions()
                deadline += THERE_S
            while True:
                found = self._fetch(deadline, limit)
                if found or self._clock.monotonic() >= deadline:
                    return found, self._positions()
                self._ask()

    def _positions(self) -> dict[int, int]:
        return {number: at for (_, number), at in self._fetcher.at.items()}

    def _move(self, positions: Mapping[int, int | None]) -> None:
        """These partitions are read and no other, from where they were left or from where it is said."""
        wanted = {(self._topic, number): at for number, at in positions.items()}
        for partition in self._fetcher.at.keys() - wanted.keys():
            self._fetcher.drop(partition)
        new = [partition for partition, at in wanted.items() if at is None]
        ends = self._clerk.ends(new)  # asked now: what is appended from here on is read
        early = self._clerk.earliest([partition for partition, at in wanted.items() if at is not None and at < 0])
        for partition, at in wanted.items():
            goal = ends[partition] if at is None else early[partition] if at < 0 else at
            if self._fetcher.at.get(partition) != goal:
                self._fetcher.seek(partition, goal)

    def _fetch(self, deadline: float, limit: int) -> list[Record]:
        try:
            found = self._fetcher.poll(min(deadline - self._clock.monotonic(), self._settings.quiet_s))
        except OutOfRange as error:
            for partition, earliest in self._clerk.earliest(error.at).items():
                self._fetcher.seek(partition, earliest)
            return []
        records: list[Record] = []
        for partition, several in found.items():
            records += several[: (room := limit - len(records))]
            if room < len(several):
                self._fetcher.seek(partition, several[max(0, room)].offset)
        return records

    def _ask(self) -> None:
        """A broker that says nothing is asked for now and then."""
        now = self._clock.monotonic()
        if now - max(self._fetcher.heard_at, self._asked_at) > self._settings.quiet_s:
            self._asked_at = now
            self._clerk.ends(self._fetcher.at)

    def close(self) -> None:
        """Nobody else notices."""
        self._fetcher.close()
