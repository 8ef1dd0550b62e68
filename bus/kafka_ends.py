"""Where partitions end, asked of their leaders on the caller's own thread: one round trip, no other thread to wake.

A member asks this before it hands out what it has read of several topics, so it stands in the way of every decision.
kafka-python's administrator needs two round trips and two changes of threads for it, four to six times as long.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from kafka.errors import KafkaError
from kafka.protocol.consumer import ListOffsetsRequest

from ..core.clock import Clock
from ..core.errors import SmartTunerError
from ..core.ports import Partition
from .kafka_connection import Target, open_wire
from .kafka_options import client_options, read_options
from .kafka_settings import KafkaSettings
from .kafka_topics import Clerk
from .kafka_wire import Deadline, Wire

ANSWER_S = 1.5
"""A leader that has not answered by then is asked by way of the clerk, who waits longer and knows why not."""
REST_S = 10.0
"""After a connection that failed the clerk is asked for so long."""
NEWEST = 7
"""Of the request; what came after it has nothing for us."""
LATEST = -1

_Topic = ListOffsetsRequest.ListOffsetsTopic
_Place = _Topic.ListOffsetsPartition


class Ends:
    """Not thread safe. Where a leader is not known or does not answer, `clerk` is asked instead."""

    def __init__(self, settings: KafkaSettings, clerk: Clerk, clock: Clock) -> None:
        self._settings, self._clerk, self._clock = settings, clerk, clock
        self._wires: dict[tuple[str, int], Wire] = {}
        self._rest_until = float("-inf")

    def of(self, partitions: Iterable[Partition], cluster: Any) -> dict[Partition, int]:
        """The next offset of each, as it is now; `cluster` is what a client knows of the leaders. Unavailable."""
        asked = list(partitions)
        leaders = self._by_leader(asked, cluster) if self._clock.monotonic() >= self._rest_until else None
        if leaders is None:
            return self._clerk.ends(asked)
        try:
            found: dict[Partition, int] = {}
            for leader, names in leaders.items():
                found.update(self._ask(leader, names))
        except (OSError, KafkaError, SmartTunerError, ValueError):
            self.close()
            self._rest_until = self._clock.monotonic() + REST_S
            return self._clerk.ends(asked)
        return found if len(found) == len(asked) else self._clerk.ends(asked)

    def _by_leader(self, partitions: Iterable[Partition], cluster: Any) -> dict[tuple[str, int], dict[str, list[int]]] | None:
        """By (host, port) the partitions of each topic, by its name there; None where one has no leader just now."""
        found: dict[tuple[str, int], dict[str, list[int]]] = {}
        for partition in partitions:
            place = self._clerk.place(partition)
            node = cluster.leader_for_partition(place)
            broker = cluster.broker_metadata(node) if node not in (None, -1) else None
            if broker is None:
                return None
            found.setdefault((broker.host, broker.port), {}).setdefault(place.topic, []).append(place.partition)
        return found

    def _ask(self, leader: tuple[str, int], names: dict[str, list[int]]) -> dict[Partition, int]:
        """What the leader says of those partitions that it leads indeed."""
        wire = self._wires.get(leader) or self._connected(leader)
        wire.patience(Deadline(self._clock, ANSWER_S))
        topics = [
            _Topic(name=name, partitions=[_Place(partition_index=n, current_leader_epoch=-1, timestamp=LATEST) for n in numbers])
            for name, numbers in names.items()
        ]
        version = wire.version(ListOffsetsRequest, NEWEST)
        answer = wire.ask(ListOffsetsRequest(replica_id=-1, isolation_level=0, topics=topics, version=version))
        return {
            (topic.name.rpartition(".")[2], one.partition_index): one.offset
            for topic in answer.topics
            for one in topic.partitions
            if not one.error_code
        }

    def _connected(self, leader: tuple[str, int]) -> Wire:
        settings = self._settings
        security = read_options(settings.client, settings.bootstrap).security
        target = Target(*leader, security, client_options(settings.bootstrap, settings.client))
        wire = open_wire(target, Deadline(self._clock, ANSWER_S), lambda step, what: None)
        wire.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wires[leader] = wire
        return wire

    def close(self) -> None:
        """The next question connects anew."""
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
