"""The broker's bookkeeping: topics made and looked at, ends of partitions, times, commits of groups."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError, for_code
from kafka.structs import OffsetAndMetadata

from ..core.errors import ConfigError, SmartTunerError
from ..core.ports import Partition
from .kafka_clients import close, make_admin, reaching
from .kafka_settings import KafkaSettings, TopicNeed, faults, needs

log = logging.getLogger("smarttuner.bus.kafka")
LEADER_S = 10.0
"""New topics have leaders by then."""


class Clerk:
    """One connection for questions, which no waiting fetch holds up. Thread safe."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._admin: Any = None
        self._pid = 0

    def _client(self) -> Any:
        with self._lock:
            if self._admin is None or self._pid != os.getpid():
                self._admin, self._pid = make_admin(self._settings), os.getpid()
            return self._admin

    def close(self) -> None:
        """Idempotent; the next question connects anew."""
        with self._lock:
            admin, self._admin = self._admin, None
        if admin is not None and self._pid == os.getpid():
            close(admin, 1.0)

    def ends(self, partitions: Iterable[Partition], spec: Any = OffsetSpec.LATEST) -> dict[Partition, int]:
        """The next offset of each partition, as it is now."""
        asked = {self.place(p): spec for p in partitions}
        if not asked:
            return {}
        with reaching(self._settings, "where a partition ends"):
            found = self._client().list_partition_offsets(asked, timeout_ms=self._timeout_ms)
        return {self.partition(tp): one.offset for tp, one in found.items()}

    def earliest(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The first offset that each partition still has."""
        return self.ends(partitions, OffsetSpec.EARLIEST)

    def position_at(self, partition: Partition, time_s: float) -> int:
        """The first offset appended at `time_s` (seconds since 1970) or later; the end if there is none."""
        found = self.ends([partition], math.ceil(round(time_s * 1000, 2)))[partition]  # a float does not hold a millisecond
        return found if found >= 0 else self.ends([partition])[partition]

    def committed(self, group: str) -> dict[Partition, int]:
        """What the group committed, for our topics."""
        name = self._settings.group(group)
        with reaching(self._settings, f"the commits of {group}"):
            found = self._client().list_group_offsets({name: None})[name]
        return {self.partition(tp): one.offset for tp, one in found.items() if one.offset >= 0}

    def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """For a group that this process is no member of."""
        offsets = {self.place(p): OffsetAndMetadata(offset, "", -1) for p, offset in positions.items()}
        with reaching(self._settings, f"a commit of {group}"):
            self._client().alter_group_offsets(self._settings.group(group), offsets)

    def leave(self, group: str, member: str) -> None:
        """Takes a member out of the group."""
        with reaching(self._settings, f"leaving {group}"):
            self._client().remove_group_members(self._settings.group(group), [MemberToRemove(member_id=member)])

    def place(self, partition: Partition) -> TopicPartition:
        """The broker's name of a partition."""
        return TopicPartition(self._settings.topic(partition[0]), partition[1])

    def partition(self, place: TopicPartition) -> Partition:
        """Our name of it."""
        return place.topic.rpartition(".")[2], place.partition

    @property
    def _timeout_ms(self) -> int:
        return int(self._settings.request_timeout_s * 1000)

    # topics

    def prepare(self) -> dict[str, int]:
        """Makes what is missing where that is allowed, and looks whether all is as it must be; partitions by topic.
        ConfigError names the first thing that is wrong and what to do about it."""
        wanted = needs(self._settings)
        there = self._partitions(wanted)
        missing = [need for topic, need in wanted.items() if topic not in there]
        if missing:
            self._make(missing)
            there = self._partitions(wanted)
        configs = self._configs(wanted, there)
        for topic, need in wanted.items():
            if topic not in there:
                raise ConfigError(f"the topic {need.name} is missing", self._how_to_make())
            for said, hint in faults(need, there[topic], configs.get(topic, {})):
                raise ConfigError(said, hint)
        return there

    def look(self, topics: Iterable[str]) -> dict[str, int]:
        """The partitions of those of these topics that are there, whatever they are like."""
        wanted = needs(self._settings)
        return self._partitions({topic: wanted[topic] for topic in topics})

    def _partitions(self, wanted: Mapping[str, TopicNeed]) -> dict[str, int]:
        names = {need.name: topic for topic, need in wanted.items()}
        with reaching(self._settings, "topics"):
            found = self._client().describe_topics(list(names))
            for one in found:
                error = for_code(one["error_code"])
                if error is TopicAuthorizationFailedError:
                    raise error(one["name"])
        return {names[one["name"]]: len(one["partitions"]) for one in found if not one["error_code"]}

    def _make(self, missing: list[TopicNeed]) -> None:
        if not self._settings.create_topics:
            raise ConfigError(f"the topic {missing[0].name} is missing", self._how_to_make())
        replication = self._settings.replication_factor
        wanted = {
            need.name: {
                "num_partitions": need.partitions,
                "replication_factor": -1 if replication is None else replication,
                "configs": dict(need.configs),
            }
            for need in missing
        }
        admin = self._client()
        with reaching(self._settings, "creating topics"):
            answer = admin.create_topics(wanted, raise_errors=False)
            for one in answer["topics"]:
                error = for_code(one["error_code"])
                if one["error_code"] and error is not TopicAlreadyExistsError:  # another daemon was faster: just as well
                    raise error(f"{one['name']}: {one.get('error_message') or error.__name__}")
            admin.wait_for_topics(list(wanted), int(LEADER_S * 1000))

    def _how_to_make(self) -> str:
        return "smart-tuner kafka check --print gives the commands that make it, or set bus.kafka.create_topics to true"

    def _configs(self, wanted: Mapping[str, TopicNeed], there: Mapping[str, int]) -> dict[str, dict[str, str]]:
        """Settings by topic; none where we may not look."""
        names = {wanted[topic].name: topic for topic in there}
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        try:
            with reaching(self._settings, "settings of topics"):
                found = self._client().describe_configs(resources, config_filter="all").get("topic", {})
        except SmartTunerError as error:
            if not isinstance(error.__cause__, KafkaError):
                raise
            log.warning("the topics' settings could not be looked at (DescribeConfigs is needed for that): %s", error.message)
            return {}
        return {names[name]: {key: one["value"] for key, one in keys.items()} for name, keys in found.items()}
