"""What a daemon stands on: the log inside it with state.db beside it, or a fleet's log on Apache Kafka."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ..bus.directory import require_local
from ..bus.housekeeping import Housekeeper
from ..bus.local import LocalLog
from ..bus.places import Place
from ..bus.retention import Limits, Retention
from ..bus.trail import SharedLog
from ..consumers.judge import Judge
from ..core.clock import Clock
from ..core.ports import DEAD_LETTERS, Bus, Partition
from ..core.ulid import ulid
from .config import Config
from .lane import Store
from .state import State
from .stores import JudgeStore

log = logging.getLogger("smarttuner.daemon")
HARD = 2
"""What a group has not read yet may take this many times bus.retention_bytes before it is removed all the same."""


class HostLog(Protocol):
    """What lanes, edge and status want of a log."""

    @property
    def counters(self) -> Mapping[str, int]: ...
    def connect(self) -> Bus: ...
    def mark(self, name: str) -> int | None: ...
    def lag(self, group: str) -> Mapping[Partition, int]: ...


class Ground(Protocol):
    """`shared` is the log where many hosts share it; `damages` counts broken files, `damage` says what became of them;
    `partitions` are those of what is judged, `judged_here` their numbers."""

    @property
    def bus(self) -> HostLog: ...
    @property
    def shared(self) -> SharedLog | None: ...
    @property
    def damages(self) -> int: ...
    def damage(self) -> list[str]: ...
    def judge_store(self, judge: Judge) -> Store: ...
    def letter_partitions(self) -> int: ...
    @property
    def partitions(self) -> int: ...
    @property
    def judged_here(self) -> Collection[int]: ...
    def told(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class LocalGround:
    """One host: the log and the judge's state are files of the data directory."""

    shared = None

    def __init__(self, place: Place, config: Config, clock: Clock) -> None:
        self._clock = clock
        wanted = config.bus.retention_bytes
        limits = Retention(metrics=Limits(wanted, config.bus.retention_s, HARD * wanted))
        self.bus = LocalLog(str(place.folder), clock, limits=limits)
        self.state = State(str(place.folder / "state.db"), clock)
        self._keeper = Housekeeper(self.state.fold)

    @property
    def damages(self) -> int:
        return self.state.damages

    def damage(self) -> list[str]:
        found = list(self.bus.warnings)
        if self.state.damaged:
            found.append(f"state.db was damaged: it is kept as {self.state.damaged}, and what it held is rebuilt from the log")
        return found

    def judge_store(self, judge: Judge) -> Store:
        return JudgeStore(judge, self.state, self._clock)

    def letter_partitions(self) -> int:
        return self.bus.head.partitions

    @property
    def partitions(self) -> int:
        return self.bus.head.partitions

    @property
    def judged_here(self) -> Collection[int]:
        return range(self.partitions)

    def told(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._keeper.stop()
        self.state.close()
        self.bus.close()


class FleetGround:
    """Many hosts: the log is Kafka's, and the judge's state follows its partitions there. The data directory holds the socket
    and, unless the store lies elsewhere, the rows of the partitions that this daemon has."""

    damages = 0

    def __init__(self, place: Place, config: Config, clock: Clock) -> None:
        from ..bus.kafka import KafkaLog
        from .config_kafka import settings_of

        settings = settings_of(config.bus.kafka, place.bus, config.bus.retention_s)
        self.bus = self.shared = KafkaLog(settings, clock)
        self._clock = clock
        self._state = self.bus.state_log()
        self.daemon = f"{socket.gethostname()}/{ulid(clock.now())}"
        self._fleet: Any = None

    def damage(self) -> list[str]:
        return list(self.bus.warnings)

    def judge_store(self, judge: Judge) -> Store:
        from .fleet import FleetStore

        bus = self.bus
        self._fleet = FleetStore(judge, self._state, bus.connect, self._clock, self.daemon, bus.partitions)
        store: Store = self._fleet
        return store

    def letter_partitions(self) -> int:
        return self.bus.counts[DEAD_LETTERS]

    @property
    def partitions(self) -> int:
        return self.bus.partitions

    @property
    def judged_here(self) -> Collection[int]:
        return self._fleet.epochs if self._fleet else ()

    def told(self) -> dict[str, Any]:
        return {**self.bus.status(), "daemon": self.daemon, "judged_here": self.judged_here or {}}

    def close(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
        self._state.close()
        self.bus.close()


def ground_of(place: Place, config: Config, clock: Clock) -> Ground:
    """Makes the data directory where it is missing, and opens the log. NewerVersion, InUse, ConfigError or Unavailable say
    in one line why it cannot be had."""
    place.folder.mkdir(parents=True, exist_ok=True)
    require_local(str(place.folder), "the data directory")
    return LocalGround(place, config, clock) if place.is_local else FleetGround(place, config, clock)
