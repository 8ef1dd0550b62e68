"""Who reads which partition: the same numbers of every topic to the same member, and as few changes of hands as possible.

Whoever reads metrics/7 reads runs/7 and control/7. A partition changes hands in two rounds (the cooperative protocol): its
owner gives it up in the first, and only when it has joined again does another member get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from kafka.coordinator.assignors.abstract import RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

NAME = "smart-tuner-numbers"
VERSION = 1
"""Of the protocol: from this one on a member says what it owns."""

Place = tuple[str, int]


class Standing(NamedTuple):
    """What a member asks for and what it has."""

    topics: frozenset[str]
    owned: frozenset[Place]


def share(partitions: Mapping[str, Iterable[int]], members: Mapping[str, Standing]) -> dict[str, set[Place]]:
    """What each member shall read when all hands have changed."""
    wanted: dict[str, set[Place]] = {name: set() for name in members}
    for topic, numbers in partitions.items():
        readers = [name for name in sorted(members) if topic in members[name].topics]
        if readers:
            for number, name in _spread(sorted(numbers), readers, members).items():
                wanted[name].add((topic, number))
    return wanted


def _spread(numbers: list[int], readers: list[str], members: Mapping[str, Standing]) -> dict[int, str]:
    """Numbers to readers, evenly; whoever has a number of any topic keeps it while that is even."""
    owned = {name: {n for _, n in members[name].owned} for name in readers}
    least, more = divmod(len(numbers), len(readers))
    order = sorted(readers, key=lambda name: (-len(owned[name]), name))
    room = {name: least + (place < more) for place, name in enumerate(order)}
    owner: dict[int, str] = {}
    for number in numbers:
        for name in order:
            if number in owned[name] and room[name]:
                owner[number] = name
                room[name] -= 1
                break
    free = iter([name for name in order for _ in range(room[name])])
    for number in numbers:
        if number not in owner:
            owner[number] = next(free)
    return owner


def first_round(wanted: Mapping[str, set[Place]], members: Mapping[str, Standing]) -> dict[str, set[Place]]:
    """Without what another member still has."""
    holders: dict[Place, set[str]] = {}
    for name, standing in members.items():
        for place in standing.owned:
            holders.setdefault(place, set()).add(name)
    return {name: {p for p in places if holders.get(p, {name}) <= {name}} for name, places in wanted.items()}


class NumbersAssignor:
    """What kafka-python's coordinator asks, on its own thread. `standing` gives (member id, partitions assigned), `assigned` is
    called when an assignment has come, `reborn` with what a member had that the group has put out."""

    name = NAME

    def __init__(
        self,
        standing: Callable[[], tuple[str, set[Place]]],
        assigned: Callable[[], None],
        reborn: Callable[[set[Place]], None],
    ) -> None:
        self._standing, self._assigned, self._reborn = standing, assigned, reborn
        self._member = ""

    def supported_protocols(self) -> list[Any]:
        """Never eager: a partition that stays is not interrupted."""
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: Iterable[str]) -> Any:
        """What is said with a join. A member that the group has put out joins under a new id: what it had may be another's
        by now, so it claims nothing and is told to begin anew."""
        member, owned = self._standing()
        if owned and member != self._member:
            self._reborn(owned)
            owned = set()
        names = sorted({topic for topic, _ in owned})
        place = ConsumerProtocolSubscription.TopicPartition
        claims = [place(topic=name, partitions=sorted(n for topic, n in owned if topic == name)) for name in names]
        return ConsumerProtocolSubscription(version=VERSION, topics=sorted(topics), user_data=b"", owned_partitions=claims)

    def assign(self, cluster: Any, members: Iterable[Any]) -> dict[str, Any]:
        """The leader's work: an assignment for each member."""
        standings = {one.member_id: _standing_of(one.metadata) for one in members}
        topics = {topic for standing in standings.values() for topic in standing.topics}
        partitions = {topic: cluster.partitions_for_topic(topic) or () for topic in topics}
        found = first_round(share(partitions, standings), standings)
        return {name: ConsumerProtocolAssignment(VERSION, _by_topic(places), b"") for name, places in found.items()}

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """We are who we are from here on."""
        self._member, _ = self._standing()
        self._assigned()


def _standing_of(metadata: Any) -> Standing:
    claims = getattr(metadata, "owned_partitions", None) or ()
    return Standing(frozenset(metadata.topics), frozenset((one.topic, n) for one in claims for n in one.partitions))


def _by_topic(places: set[Place]) -> list[tuple[str, list[int]]]:
    return [(name, sorted(n for topic, n in places if topic == name)) for name in sorted({topic for topic, _ in places})]
