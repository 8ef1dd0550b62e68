"""A member of a consumer group: what it owns, where it reads, and how partitions change hands.

kafka-python's consumer is the member of the group and fetches nothing (all its partitions are paused); what is read comes by
kafka_fetcher, on the caller's thread. A partition that is taken away is told by one poll and given up by the next, as the port
says: the client's listener runs in the middle of a poll and ends it at once (it raises Handover); our next poll is what joins the
group again, and only then may another member get the partition. What is newly assigned is read from where `start` says.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import MemberState, OffsetAndMetadata

from ..core.clock import Clock
from ..core.errors import Unavailable
from ..core.ports import Batch, Partition
from .kafka_assignor import NumbersAssignor
from .kafka_clients import close, group_options, make_consumer, reaching
from .kafka_ends import Ends
from .kafka_fetcher import Fetcher, OutOfRange
from .kafka_merge import Merge
from .kafka_settings import KafkaSettings
from .kafka_topics import Clerk

ATTEND_S = 0.1
"""The client is polled so often for its part in the group, and at once when it has to join."""
BEHIND_S = 1.0
"""A poll that may not wait still waits so long for what is known to be there."""
JOINING_S = 0.05
"""A member between two assignments takes at least so long for a poll: a join needs some of its polls."""
CLOSE_S = 2.0
REFUSED_COMMITS = (CommitFailedError, RebalanceInProgressError, IllegalGenerationError, UnknownMemberIdError)
"""What a commit in the middle of a rebalance is answered with, or one of a member that was put out."""

Start = Callable[[Partition], int | None]


class Handover(Exception):
    """Ends a poll of the client: partitions have changed hands."""


def _not_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], Handover))


logging.getLogger("kafka.coordinator.consumer").addFilter(_not_ours)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Runs on the client's own thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[TopicPartition] = set()
        self.fired = False
        self.closing = False

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.took(revoked)
        self._interrupt()

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self.took(lost)
        self._interrupt()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        if assigned:
            self._interrupt()

    def took(self, places: Iterable[TopicPartition]) -> None:
        with self._lock:
            self._taken |= set(places)

    def taken(self) -> set[TopicPartition]:
        """Once each."""
        with self._lock:
            taken, self._taken = self._taken, set()
            return taken

    def _interrupt(self) -> None:
        if not self.closing:
            self.fired = True
            raise Handover


class _Joined:
    """A join that ended between two polls. The client drops its result and begins another, which makes every member join anew,
    or (where the leader joined because the topics changed) forgets it and sends no heartbeat ever after. As this it is taken
    for one that is under way, and taken up by the next poll."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self._task = task

    def add_callback(self, call: Callable[..., Any]) -> None:
        self._task.add_callback(call)

    def add_errback(self, call: Callable[..., Any]) -> None:
        self._task.add_errback(call)


class GroupReader:
    """One member of one group, reading one set of topics. Not thread safe."""

    def __init__(
        self,
        settings: KafkaSettings,
        clerk: Clerk,
        clock: Clock,
        counters: Counter[str],
        group: str,
        topics: Sequence[str],
    ) -> None:
        self._settings, self._clerk, self._clock, self._counters = settings, clerk, clock, counters
        self.group, self.topics = group, tuple(topics)
        self._listener = _Listener()
        self._ends = Ends(settings, clerk, clock)
        self._merge = Merge()
        self._fetcher = Fetcher(settings, clock)
        self._attended_at = float("-inf")
        self._assigned_at = self._polled_at = float("-inf")
        self._joined_after: float | None = None
        self._places: set[TopicPartition] = set()
        self._assigned_to_us: set[Partition] = set()
        self._lost: set[Partition] = set()
        """To be told as taken away: what the member had that was given up."""
        self._session_s = settings.session_timeout_s
        self._consumer: Any = None
        self._joined_at = self._asked_at = clock.monotonic()

    def _join(self) -> None:
        """A new member. The topics' metadata must be there before it subscribes: a join that comes first may hang."""
        options = group_options(self._settings, self.group)
        self._session_s = options["session_timeout_ms"] / 1000
        assignor = NumbersAssignor(
            self._standing, self._assigned, lambda owned: self._listener.took(TopicPartition(*p) for p in owned)
        )
        options["partition_assignment_strategy"] = [lambda: assignor]
        self._consumer = make_consumer(self._settings, options)
        self._listener = _Listener()
        self._joined_at = self._clock.monotonic()
        self._joined_after = None
        try:
            with reaching(self._settings, f"joining {self.group}"):
                self._subscribe()
        except BaseException:
            self.close()
            raise

    def _subscribe(self) -> None:
        names = [self._settings.topic(topic) for topic in self.topics]
        for name in names:
            if not self._consumer.partitions_for_topic(name):
                raise Unavailable(f"the topic {name} is not on Kafka at {self._settings.bootstrap}", "smart-tuner kafka check")
        self._consumer.subscribe(topics=names, listener=self._listener)

    def _standing(self) -> tuple[str, set[tuple[str, int]]]:
        """For the assignor, on the client's thread."""
        consumer = self._consumer
        return consumer.group_metadata().member_id, {(tp.topic, tp.partition) for tp in consumer.assignment()}

    def _assigned(self) -> None:
        self._assigned_at = self._clock.monotonic() if self._joined_after is None else self._joined_after
        self._joined_after = None

    def _take_up_join(self) -> None:
        coordinator = self._consumer._coordinator
        task = coordinator._join_task
        if coordinator.rejoining and task is not None and task.is_done:
            coordinator._join_task = _Joined(task)
            coordinator.request_rejoin()
            self._joined_after = self._polled_at

    def _certain(self) -> bool:
        """Whether the group cannot have put us out: it has heard from us within a session. A member that was paused or cut
        off may find what it had fetched before, or what was held back on the way, and its partitions be another's."""
        heartbeat = self._consumer._coordinator.heartbeat
        heard_at: float = max(heartbeat.last_receive, self._assigned_at)
        return self._clock.monotonic() - heard_at < self._session_s

    # reading

    def poll(self, start: Start | None, limit: int, timeout_s: float) -> Batch:
        """See core.ports.Bus.poll."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            if self._consumer is None:
                self._join()
            taken = self._taken()
            if taken:
                return Batch(revoked=sorted(taken))
            with reaching(self._settings, f"{self.group} cannot read"):
                self._begin(start)
                fell_off = self._read(deadline, timeout_s)
            if self._listener.fired:
                self._listener.fired = False
                continue
            if self._merge.ready and not self._certain():
                self._counters["sessions_lost"] += 1
                self._join_anew()
                continue
            records = self._merge.take(limit)
            if records or fell_off:
                return Batch(records, (), fell_off)
            self._watch()
            if self._clock.monotonic() >= deadline:
                return Batch(behind=self._may_be_behind())

    def _taken(self) -> set[Partition]:
        """What is not ours any more, and may not be touched by us from here on."""
        told = {self._clerk.partition(tp) for tp in self._listener.taken()} | self._lost
        self._lost = set()
        taken = (told | (self._ours.keys() - self._assignment())) & self._ours.keys()
        for partition in taken:
            self._fetcher.drop(partition)
            self._merge.close(partition)
        return taken

    def _assignment(self) -> set[Partition]:
        """What the client says is ours; it changes on the client's own thread."""
        places = self._consumer.assignment()
        if places != self._places:
            self._places, self._assigned_to_us = places, {self._clerk.partition(tp) for tp in places}
        return self._assigned_to_us

    def _begin(self, start: Start | None) -> None:
        """Asks for each newly assigned partition where to read, and reads from nowhere else."""
        new = self._assignment() - self._ours.keys()
        if not new:
            return
        wanted = {partition: start(partition) if start is not None else None for partition in sorted(new)}
        unknown = [partition for partition, offset in wanted.items() if offset is None]
        if unknown:
            known = self._clerk.committed(self.group)
            wanted.update({partition: known.get(partition) for partition in unknown})
        first = self._clerk.earliest([partition for partition, offset in wanted.items() if offset is None or offset < 0])
        for partition, offset in wanted.items():
            at = first[partition] if offset is None or offset < 0 else offset
            place = self._clerk.place(partition)
            self._consumer.seek(place, at)  # else it asks the group for a position that it does not need
            self._consumer.pause(place)
            self._fetcher.seek(partition, at)
            self._merge.open(partition)

    def _read(self, deadline: float, timeout_s: float) -> dict[Partition, int]:
        """What came waits in the merge, or is ready. How many were lost to retention."""
        now = self._clock.monotonic()
        if self._unsettled or now - self._attended_at >= ATTEND_S:
            self._attend()
            if self._listener.fired:
                return {}
        wait_s = 0.0 if self._merge.ready else min(deadline - now, ATTEND_S)
        if timeout_s <= 0 and not self._merge.ready and self._fetcher.behind:
            wait_s = BEHIND_S
        try:
            found = self._fetcher.poll(wait_s)
        except OutOfRange as error:
            return self._out_of_range(error.at)
        for partition, records in found.items():
            self._merge.add(partition, records)
        if found and self._unsettled:
            self._attend()  # who was put out meanwhile may have read what is another's
        self._merge.release(self._ends.of, self._reached, self._clock.monotonic())
        self._fetcher.hold(self._merge.heavy())
        return {}

    @property
    def _ours(self) -> Mapping[Partition, int]:
        """Of each partition that is ours: the offset behind what was fetched."""
        return self._fetcher.at

    @property
    def _unsettled(self) -> bool:
        """Whether the client has to join, or was put out."""
        coordinator = self._consumer._coordinator
        return coordinator.rejoin_needed or coordinator.state is not MemberState.STABLE

    def _attend(self) -> None:
        """The client's part in its group; a join needs some time of some polls."""
        wait_s = JOINING_S if self._unsettled else 0.0
        self._take_up_join()
        try:
            self._consumer.poll(timeout_ms=int(wait_s * 1000), max_records=1)
        except KafkaError:
            if not self._listener.fired:
                raise
        self._attended_at = self._polled_at = self._clock.monotonic()
        taken = self._listener.taken()
        self._listener.took(taken)
        self._listener.fired = self._listener.fired or bool(taken)

    def _reached(self, partition: Partition, end: int) -> bool:
        return self._ours[partition] >= end

    def _may_be_behind(self) -> bool:
        """An empty poll is not the end: a partition may not have been fetched at all yet, or wait for its mates."""
        if self._consumer is None or self._unsettled or self._merge.mates():
            return True
        if not self._assignment() <= self._ours.keys():
            return True
        return self._fetcher.behind or not self._ours.keys() <= self._fetcher.ends.keys()

    def _out_of_range(self, wanted: Mapping[Partition, int]) -> dict[Partition, int]:
        """Retention was faster than we (or the topic was made anew): reads on from the earliest there is."""
        lost = {}
        for partition, earliest in self._clerk.earliest(wanted).items():
            self._fetcher.seek(partition, earliest)
            if wanted[partition] < earliest:
                lost[partition] = earliest - wanted[partition]
                self._counters["fell_off"] += lost[partition]
            else:
                self._counters["beyond_the_end"] += 1
        return lost

    # watching

    def _watch(self) -> None:
        """A join that hangs is begun anew; a broker that is away is said, not waited for in silence."""
        now = self._clock.monotonic()
        if self._consumer.group_metadata().generation_id >= 0:
            self._joined_at = now
        elif now - self._joined_at > self._settings.join_timeout_s:
            self._counters["joined_anew"] += 1
            self._join_anew()
            return
        if now - max(self._fetcher.heard_at, self._asked_at) > self._settings.quiet_s:
            self._asked_at = now
            self._clerk.ends(self._ours or [(self.topics[0], 0)])  # nothing is ours while we join, or stand by

    def _join_anew(self) -> None:
        """As a new member, with the next turn; what we had is told as taken away first."""
        self._lost |= self._ours.keys()
        self.close()

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """The group's gauge: a commit in the middle of a rebalance is refused, counted and left out."""
        offsets = {self._clerk.place(p): OffsetAndMetadata(offset, "", -1) for p, offset in positions.items()}
        if self._consumer is None:
            self._counters["commits_refused"] += 1
            return
        try:
            with reaching(self._settings, f"a commit of {self.group}"):
                self._consumer.commit(offsets, timeout_ms=int(self._settings.request_timeout_s * 1000))
        except Unavailable as error:
            if not isinstance(error.__cause__, REFUSED_COMMITS):
                raise
            self._counters["commits_refused"] += 1

    def close(self) -> None:
        """Leaves the group: others take over at once. While a join is under way the broker hears nothing else on the
        member's own connection, so it leaves by another."""
        consumer, self._consumer = self._consumer, None
        self._ends.close()
        self._fetcher.close()
        if consumer is None:
            return
        self._listener.closing = True
        known = consumer.group_metadata()
        if known.state != MemberState.STABLE and known.member_id:
            with contextlib.suppress(Unavailable):
                self._clerk.leave(self.group, known.member_id)
        close(consumer, CLOSE_S)
