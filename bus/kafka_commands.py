"""The commands with which an operator makes the topics and gives the permissions that a fleet needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import NamedTuple

from ..core.ports import CONTROL, METRICS, NOTICES, RUNS
from .kafka_security import Security
from .kafka_settings import KafkaSettings, TopicNeed, needs

JOB_TOPICS = ((METRICS, ("Write",)), (RUNS, ("Write",)), (NOTICES, ("Write",)), (CONTROL, ("Read",)))
"""What a job uses that publishes by itself: no group, nothing to create."""


class Command(NamedTuple):
    """A command, and what it is for."""

    purpose: str
    line: str


def principal_of(security: Security) -> str:
    """Who the broker takes us for, as its permissions name it; a part in capitals is for a person to fill in."""
    if security.authenticates:
        claims = dict(security.tokens.claims) if security.tokens else {}
        return f"User:{security.username or claims.get('sub', '') or 'YOUR_PRINCIPAL'}"
    if security.encrypted and security.tls.certificate is not None:
        return "User:CN=YOUR_CERTIFICATES_SUBJECT"
    return "User:ANONYMOUS"


def commands(settings: KafkaSettings, principal: str, admin_file: str = "") -> Iterator[Command]:
    """All of them, in the order in which they are run. `admin_file`: a properties file with which an administrator connects."""
    tools = Tools(settings.bootstrap, admin_file)
    for need in needs(settings).values():
        yield Command("make the topic", tools.create(need, settings.replication_factor))
    for need in needs(settings).values():
        yield Command("set a topic that is there already", tools.alter(need))
    whole = f"{settings.prefix}.{settings.namespace}."
    daemon = ["Read", "Write", "Describe", "DescribeConfigs"] + (["Create"] if settings.create_topics else [])
    yield Command("let the daemons use the topics", tools.allow(principal, daemon, f"--topic {quote(whole)}", True))
    yield Command("let the daemons use their groups", tools.allow(principal, ["Read", "Describe"], f"--group {quote(whole)}", True))
    for topic, operations in JOB_TOPICS:
        name = f"--topic {quote(settings.topic(topic))}"
        yield Command("let a job publish by itself", tools.allow("User:THE_JOBS_PRINCIPAL", operations, name, False))


class Tools:
    """The shell scripts that come with Apache Kafka."""

    def __init__(self, bootstrap: str, admin_file: str) -> None:
        self._where = f"--bootstrap-server {quote(bootstrap)}" + (f" --command-config {quote(admin_file)}" if admin_file else "")

    def create(self, need: TopicNeed, replication_factor: int | None) -> str:
        """Makes a topic; one that is there stays as it is."""
        replicas = f" --replication-factor {replication_factor}" if replication_factor else ""
        configs = "".join(f" --config {quote(f'{key}={value}')}" for key, value in need.configs.items())
        topic = f"--topic {quote(need.name)} --partitions {need.partitions}{replicas}"
        return f"kafka-topics.sh {self._where} --create --if-not-exists {topic}{configs}"

    def alter(self, need: TopicNeed) -> str:
        """Sets a topic that is there."""
        listed = ",".join(f"{key}={value}" for key, value in need.configs.items())
        entity = f"--entity-type topics --entity-name {quote(need.name)}"
        return f"kafka-configs.sh {self._where} --alter {entity} --add-config {quote(listed)}"

    def allow(self, principal: str, operations: Sequence[str], resource: str, prefixed: bool) -> str:
        """Gives permissions; those that are given already stay."""
        listed = " ".join(f"--operation {one}" for one in operations)
        pattern = " --resource-pattern-type prefixed" if prefixed else ""
        return f"kafka-acls.sh {self._where} --add --allow-principal {quote(principal)} {listed} {resource}{pattern}"
