"""Who reads which partition: groups, their members, and how partitions change hands.

A partition is handed over cooperatively: its owner learns from one poll that it is taken away, and with the next (or with
close) says that it has put away what it read; only then another member gets it and asks its `start`. So a rebalance in
mid-batch doubles nothing. A member that has not polled for `session_s` while others want its partitions is put out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.ports import Clock, Partition
from .bells import Bells

SESSION_S = 300.0


@dataclass
class _Member:
    topics: tuple[str, ...]
    seen: float
    owned: set[Partition] = field(default_factory=set)
    leaving: set[Partition] = field(default_factory=set)
    """Told to the member as revoked; free as soon as it polls again."""
    lost: set[Partition] = field(default_factory=set)
    """Taken without asking; to be told."""
    shaken: bool = False
    polling: bool = False
    wanted: frozenset[Partition] | None = None
    """Its share, until the group changes."""


@dataclass
class _Group:
    members: dict[int, _Member] = field(default_factory=dict)
    owner: dict[Partition, int] = field(default_factory=dict)
    turn: int = 0

    def share_anew(self) -> None:
        for one in self.members.values():
            one.wanted = None


def bell_of(group: str) -> str:
    """The bell that rings when a partition of the group becomes free."""
    return f"group {group}"


class Groups:
    """All groups of one log. Thread safe."""

    def __init__(self, clock: Clock, bells: Bells, partitions: int) -> None:
        self._clock, self._bells, self._partitions = clock, bells, partitions
        self.session_s = SESSION_S
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}

    def visit(self, group: str, member: int, topics: Sequence[str]) -> tuple[set[Partition], set[Partition]]:
        """A member polls: the partitions it owns now, and those taken away since its last visit. Joins on the first."""
        with self._lock:
            known = self._groups.setdefault(group, _Group())
            one = known.members.get(member)
            if one is None or one.topics != tuple(topics):
                one = self._join(group, known, member, tuple(topics), one)
            one.seen, one.polling = self._clock.monotonic(), True
            if one.leaving:
                self._free(group, known, one.leaving)
                one.leaving = set()
            self._put_out_silent(group, known, member)
            if one.wanted is None:
                one.wanted = self._wanted(known, member)
            wanted = one.wanted
            revoked = one.lost | (one.owned if one.shaken else one.owned - wanted)
            one.lost, one.shaken = set(), False
            if revoked:
                one.leaving = revoked & one.owned
                one.owned = one.owned - revoked
                return set(one.owned), revoked
            if wanted != one.owned:
                for partition in wanted - one.owned:
                    if known.owner.setdefault(partition, member) == member:
                        one.owned.add(partition)
            return set(one.owned), set()

    def rest(self, group: str, member: int) -> None:
        """The poll is over: from now on the member works, and its session runs."""
        with self._lock:
            one = self._groups[group].members.get(member) if group in self._groups else None
            if one is not None:
                one.seen, one.polling = self._clock.monotonic(), False

    def leave(self, group: str, member: int) -> None:
        """The member's partitions are free at once."""
        with self._lock:
            known = self._groups.get(group)
            if known is not None and known.members.pop(member, None) is not None:
                self._free(group, known, {p for p, owner in known.owner.items() if owner == member})
                known.share_anew()
                if not known.members:
                    del self._groups[group]

    def rebalance(self, group: str) -> None:
        """Takes every partition of the group away, to be handed out anew to the next member in turn. For tests and drills."""
        with self._lock:
            known = self._groups.get(group, _Group())
            known.turn += 1
            known.share_anew()
            for one in known.members.values():
                one.shaken = True
        self._bells.ring([bell_of(group)])

    def put_out(self, group: str, member: int) -> None:
        """Treats the member as dead: others own its partitions at once, while it may still be at work. For tests and drills."""
        with self._lock:
            known = self._groups.get(group)
            if known is not None and member in known.members:
                self._put_out(group, known, member)

    def members(self) -> dict[str, int]:
        """How many members each group has."""
        with self._lock:
            return {name: len(known.members) for name, known in self._groups.items()}

    def _join(self, group: str, known: _Group, member: int, topics: tuple[str, ...], one: _Member | None) -> _Member:
        if one is None:
            one = known.members[member] = _Member(topics, self._clock.monotonic())
        one.topics = topics
        known.share_anew()
        self._bells.ring([bell_of(group)])
        return one

    def _wanted(self, known: _Group, member: int) -> frozenset[Partition]:
        """Ranges of partition numbers, the same for every topic: who reads a run's metrics reads its control, too."""
        wanted = set()
        for topic in known.members[member].topics:
            readers = [name for name, one in sorted(known.members.items()) if topic in one.topics]
            for n in range(self._partitions):
                if readers[(n * len(readers) // self._partitions + known.turn) % len(readers)] == member:
                    wanted.add((topic, n))
        return frozenset(wanted)

    def _free(self, group: str, known: _Group, partitions: set[Partition]) -> None:
        for partition in partitions:
            known.owner.pop(partition, None)
        self._bells.ring([bell_of(group)])

    def _put_out_silent(self, group: str, known: _Group, member: int) -> None:
        oldest = self._clock.monotonic() - self.session_s
        for name, one in list(known.members.items()):
            if name != member and not one.polling and one.seen < oldest and (one.owned or one.leaving):
                self._put_out(group, known, name)

    def _put_out(self, group: str, known: _Group, member: int) -> None:
        one = known.members[member]
        one.lost |= one.owned
        held = {p for p, owner in known.owner.items() if owner == member}
        one.owned, one.leaving = set(), set()
        one.topics = ()  # out of the sharing until it polls again
        known.share_anew()
        self._free(group, known, held)
