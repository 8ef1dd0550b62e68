"""How this fleet uses Kafka: names, sizes and patience. No client is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core.errors import ConfigError
from ..core.ports import DEAD_LETTERS, NOTICES, STATE, TOPICS

DAY_S = 86_400.0
STATE_BYTES = 8 << 20
"""The largest entry of the state log."""
COMPACTION_LAG_MS = 3_600_000
"""What a fenced daemon still writes must not push out what stands before the claim, until the new owner has written it again."""
LETTER_BYTES = 2 << 20
"""The largest dead letter: what a foreign emitter could publish (1 MiB by default), and its headers."""


@dataclass(frozen=True)
class KafkaSettings:
    """`client` holds any dotted Kafka key as it stands in a properties file; what is not named keeps its default."""

    bootstrap: str
    prefix: str = "smart-tuner"
    namespace: str = "default"
    partitions: int = 12
    replication_factor: int | None = None
    """None: what the brokers have as default."""
    create_topics: bool = True
    retention_s: float = 7 * DAY_S
    client: Mapping[str, str] = field(default_factory=dict)
    publish_timeout_s: float = 10.0
    """A publish that is not acknowledged by then is Unavailable."""
    request_timeout_s: float = 5.0
    """A broker that has not answered by then is tried anew on another connection."""
    bootstrap_timeout_s: float = 3.0
    session_timeout_s: float = 10.0
    """A daemon that is silent for so long loses its partitions."""
    heartbeat_s: float = 1.0
    max_poll_interval_s: float = 120.0
    """A lane that has not polled for so long loses its partitions, and a rebalance waits for it no longer."""
    join_timeout_s: float = 30.0
    """A member that has no part in its group by then joins anew."""
    quiet_s: float = 5.0
    """After so long without a record a reader asks whether the broker is there."""
    fetch_wait_s: float = 0.5
    in_flight_bytes: int = 8 << 20
    """So much is sent and not yet acknowledged at most."""

    def __post_init__(self) -> None:
        if self.partitions < 1:
            raise ConfigError(f"bus.kafka.partitions: {self.partitions} is less than 1", "12 is the default")

    def topic(self, topic: str) -> str:
        """The topic's name on the broker."""
        return f"{self.prefix}.{self.namespace}.{topic}"

    def group(self, group: str) -> str:
        """The group's name on the broker."""
        return f"{self.prefix}.{self.namespace}.{group}"


@dataclass(frozen=True)
class TopicNeed:
    """What a topic must be like."""

    name: str
    partitions: int
    may_have_fewer: bool
    configs: Mapping[str, str]


def needs(settings: KafkaSettings) -> dict[str, TopicNeed]:
    """What each topic must be like, by our own name for it."""
    event = {
        "cleanup.policy": "delete",
        "retention.ms": str(int(settings.retention_s * 1000)),
        "message.timestamp.type": "LogAppendTime",
    }
    found = {}
    for topic in TOPICS:
        configs = {**event, "max.message.bytes": str(LETTER_BYTES if topic == DEAD_LETTERS else 1 << 20)}
        found[topic] = TopicNeed(settings.topic(topic), settings.partitions, topic in (NOTICES, DEAD_LETTERS), configs)
    state = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(STATE_BYTES),
        "min.cleanable.dirty.ratio": "0.1",
        "min.compaction.lag.ms": str(COMPACTION_LAG_MS),
    }
    found[STATE] = TopicNeed(settings.topic(STATE), settings.partitions, False, state)
    return found


STRICT = ("cleanup.policy", "message.timestamp.type", "min.compaction.lag.ms")
"""What must be just so; of max.message.bytes more is fine, and retention is the operator's own matter."""


def faults(need: TopicNeed, partitions: int, configs: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is wrong with a topic that is there: (sentence, what to do)."""
    found = []
    if partitions != need.partitions and not (need.may_have_fewer and partitions < need.partitions):
        found.append((
            f"the topic {need.name} has {partitions} partitions, not {need.partitions}",
            f"set bus.kafka.partitions to {partitions} if every topic has as many, else use another bus.kafka.namespace",
        ))  # fmt: skip
    for key in STRICT:
        if key in configs and key in need.configs and configs[key] != need.configs[key]:
            found.append((f"the topic {need.name} has {key}={configs[key]}, not {need.configs[key]}", _alter(need, key)))
    size = "max.message.bytes"
    if size in configs and int(configs[size]) < int(need.configs[size]):
        found.append((f"the topic {need.name} takes messages up to {configs[size]} bytes only", _alter(need, size)))
    return found


def _alter(need: TopicNeed, key: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {need.name} --add-config {key}={need.configs[key]}"
