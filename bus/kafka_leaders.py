"""Who leads a partition, and a connection to each leader: for requests whose answer the caller's own thread waits for.

A client of kafka-python has a thread for this, which is woken for each request and wakes the caller for each answer. Beside threads
that compute, each of these changes costs milliseconds.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from kafka.errors import UnknownTopicOrPartitionError, for_code
from kafka.protocol.metadata import MetadataRequest

from ..core.clock import Clock
from ..core.errors import SmartTunerError, Unavailable
from ..core.ports import Partition
from .kafka_address import SCHEME, servers_of
from .kafka_connection import Target, open_wire
from .kafka_options import client_options, read_options
from .kafka_settings import KafkaSettings
from .kafka_wire import Deadline, Wire

Leader = tuple[str, int]
"""(host, port)"""
NEWEST = 9
"""Of the question who leads; what came after it has nothing for us."""
CLIENT_ID = "smart-tuner"


class Leaders:
    """Not thread safe, and nothing for the child of a fork. Connections are made when they are needed; Unavailable, an error of
    kafka-python or OSError where that fails, and then the caller drops what it was about and asks again."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._wires: dict[Leader, Wire] = {}
        self._leaders: dict[Partition, Leader] = {}
        self._brokers: tuple[Leader, ...] = ()

    @property
    def known(self) -> bool:
        """Whether a broker has answered before."""
        return bool(self._brokers)

    def of(self, partitions: Iterable[Partition]) -> dict[Leader, list[Partition]]:
        """The partitions by who leads them."""
        wanted = list(partitions)
        if any(partition not in self._leaders for partition in wanted):
            self._ask({topic for topic, _ in wanted})
        found: dict[Leader, list[Partition]] = {}
        for partition in wanted:
            if partition not in self._leaders:
                raise Unavailable(f"{self._settings.topic(partition[0])}/{partition[1]} has no leader", "look at the brokers")
            found.setdefault(self._leaders[partition], []).append(partition)
        return found

    def _ask(self, topics: Iterable[str]) -> None:
        """Asks whichever broker answers, on a connection for this alone: on the others an answer may be under way."""
        names = {self._settings.topic(topic): topic for topic in topics}
        with closing(self._any_wire()) as wire:
            version = wire.version(MetadataRequest, NEWEST)
            asked = [MetadataRequest.MetadataRequestTopic(name=name, version=version) for name in names]
            wire.patience(Deadline(self._clock, self._settings.request_timeout_s))
            answer = wire.ask(MetadataRequest(topics=asked, allow_auto_topic_creation=False, version=version))
        hosts: Mapping[int, Leader] = {one.node_id: (one.host, one.port) for one in answer.brokers}
        self._brokers = tuple(hosts.values())
        for one in answer.topics:
            error = for_code(one.error_code)
            if one.error_code and (not error.retriable or error is UnknownTopicOrPartitionError):
                raise error(one.name)
            for place in one.partitions:
                if place.leader_id in hosts:
                    self._leaders[names[one.name], place.partition_index] = hosts[place.leader_id]

    def _any_wire(self) -> Wire:
        last: Exception = Unavailable("the bus URL names no broker", "write kafka://host:port")
        for leader in dict.fromkeys((*self._brokers, *servers_of(SCHEME + self._settings.bootstrap))):
            try:
                return self._opened(leader)
            except (OSError, SmartTunerError) as error:
                last = error
        raise last

    def wire(self, leader: Leader) -> Wire:
        """The connection to it, made anew where there is none."""
        if leader not in self._wires:
            self._wires[leader] = self._opened(leader)
        return self._wires[leader]

    def _opened(self, leader: Leader) -> Wire:
        settings = self._settings
        security = read_options(settings.client, settings.bootstrap).security
        arguments: dict[str, Any] = client_options(settings.bootstrap, settings.client)
        deadline = Deadline(self._clock, settings.bootstrap_timeout_s)
        wire = open_wire(Target(*leader, security, arguments), deadline, _quietly, arguments.get("client_id", CLIENT_ID))
        wire.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return wire

    def drop(self, leader: Leader) -> None:
        """Its connection is not used again, and who leads is asked anew: what was asked there may still be answered."""
        self.forget()
        wire = self._wires.pop(leader, None)
        if wire is not None:
            wire.close()

    def forget(self) -> None:
        """Who leads is asked anew."""
        self._leaders.clear()

    def close(self) -> None:
        """The next use connects anew."""
        self.forget()
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()


def _quietly(step: str, what: str) -> None:
    """A connection that works is no news."""
