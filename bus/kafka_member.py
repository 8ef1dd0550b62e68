"""A handle on Kafka: the Bus port. Its clients are made when they are needed, and made anew after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..core.errors import CorruptData, UsageError
from ..core.events import MAX_BODY_BYTES, decode, topic_key
from ..core.ports import CONTROL, DEAD_LETTERS, METRICS, RUNS, TOPICS, Batch, Message, Partition, Record
from .kafka_follower import Follower
from .kafka_group import GroupReader
from .kafka_producer import Letter
from .kafka_publisher import Publisher, refuse_closed
from .kafka_settings import LETTER_BYTES
from .partitions import partition_of

if TYPE_CHECKING:
    from .kafka import KafkaLog

FORWARDER = "judge"
"""The group that puts misplaced records where they belong; all groups read them there, and only there."""
FORWARDED = "forwarded"
KEYED = (METRICS, RUNS, CONTROL)
_ROOM_BYTES = 64 << 10
"""What headers and framing may take of a message."""


class KafkaMember:
    """One handle; not thread safe. See core.ports.Bus."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._publisher = Publisher(log.settings, log.clock, log.counters)
        self._groups: dict[str, GroupReader] = {}
        self._followers: dict[str, Follower] = {}
        self._closed = False
        self._pid = os.getpid()

    def publish(self, messages: Sequence[Message]) -> None:
        """Returns when all are acknowledged; Unavailable means that of each partition a prefix is there."""
        self._check_open()
        self._check(messages)
        self._publisher.send([self._letter(message) for message in messages])
        self._log.marks.update(message.mark for message in messages if message.mark is not None)

    def _check(self, messages: Sequence[Message]) -> None:
        self._check_topics([message.topic for message in messages])
        for message in messages:
            limit = LETTER_BYTES - _ROOM_BYTES if message.topic == DEAD_LETTERS else MAX_BODY_BYTES
            if len(message.body) > limit:
                raise CorruptData(f"a body of {len(message.body)} bytes is over the limit of {limit}", "split it where it is made")

    def _letter(self, message: Message) -> Letter:
        partition = partition_of(message.key, self._log.counts[message.topic])
        return Letter(message.topic, partition, message.key, message.body, message.headers)

    def poll(
        self,
        topics: Sequence[str],
        group: str,
        start: Callable[[Partition], int | None] | None = None,
        limit: int = 1000,
        timeout_s: float = 0.0,
    ) -> Batch:
        """The next records of this member's partitions; of one number in the order of their append times."""
        self._check_open()
        self._check_topics(topics)
        reader = self._groups.get(group)
        if reader is not None and reader.topics != tuple(topics):
            self._groups.pop(group).close()
            reader = None
        if reader is None:
            log = self._log
            reader = GroupReader(log.settings, log.clerk, log.clock, log.counters, group, topics)
            self._groups[group] = reader
        batch = reader.poll(start, limit, timeout_s)
        return batch if not batch.records else batch._replace(records=self._placed(batch.records, group))

    def _placed(self, records: Sequence[Record], group: str) -> list[Record]:
        """Without those that stand where their key does not belong (another client's partitioner, or no key): the judge's
        group forwards them once, before it goes on, and every group reads them in their right place."""
        placed: list[Record] = []
        strays: list[Message] = []
        for record in records:
            stray = self._stray(record) if record.topic in KEYED else None
            if stray is None:
                placed.append(record)
            else:
                strays.append(stray)
        if strays and group == FORWARDER:
            self._publisher.send([self._letter(stray) for stray in strays])
            self._log.counters["forwarded"] += len(strays)
        return placed

    def _stray(self, record: Record) -> Message | None:
        """What a misplaced record must become, if it is one that was not forwarded yet."""
        count = self._log.counts[record.topic]
        if record.key and partition_of(record.key, count) == record.partition:
            return None
        if any(name == FORWARDED for name, _ in record.headers):
            self._log.counters["misplaced"] += 1
            return None
        key = record.key or _key_of(record)
        if key is None or partition_of(key, count) == record.partition:
            return None
        came_from = f"{record.topic}/{record.partition}@{record.offset}".encode()
        return Message(record.topic, key, record.body, (*record.headers, (FORWARDED, came_from)))

    def follow(
        self, topic: str, key: str, position: int | None, limit: int = 1000, timeout_s: float = 0.0
    ) -> tuple[Sequence[Record], int]:
        """Without a group: the records of the key's partition from `position` on, and what to ask for next."""
        self._check_topics([topic])
        number = partition_of(key, self._log.counts[topic])
        records, positions = self.follow_partitions(topic, {number: position}, limit, timeout_s)
        return records, positions[number]

    def follow_partitions(
        self, topic: str, positions: Mapping[int, int | None], limit: int = 1000, timeout_s: float = 0.0
    ) -> tuple[Sequence[Record], Mapping[int, int]]:
        """The same for several partitions by their numbers; at most `limit` records in all."""
        self._check_open()
        self._check_topics([topic])
        if topic not in self._followers:
            self._followers[topic] = Follower(self._log.settings, self._log.clerk, self._log.clock, topic)
        return self._followers[topic].follow(positions, limit, timeout_s)

    def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """What the group wants next: on Kafka a gauge of its lag, and where a group without a store goes on."""
        self._check_open()
        self._check_topics([topic for topic, _ in positions])
        if group in self._groups:
            self._groups[group].commit(positions)
        else:
            self._log.clerk.commit(group, positions)

    def close(self) -> None:
        """Leaves every group."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            for reader in self._groups.values():
                reader.close()
            for follower in self._followers.values():
                follower.close()
            self._publisher.close()

    def _check_open(self) -> None:
        if self._log.closed:
            raise refuse_closed()
        if self._closed:
            raise UsageError("this handle on the log is closed", "take a new one with connect()")
        if self._pid != os.getpid():  # the parent's threads are not here: its clients would never answer
            self._pid = os.getpid()
            self._groups, self._followers = {}, {}

    def _check_topics(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if topic not in TOPICS:
                raise UsageError(f"no topic is called {topic!r}", "topics are " + ", ".join(TOPICS))


def _key_of(record: Record) -> str | None:
    """The key that a record without one should have had."""
    try:
        event = decode(record.body)
    except CorruptData:
        return None  # it goes to the dead letters from where it is
    run = getattr(event, "run", None)
    return topic_key(run, getattr(event, "group", None)) if run else None
