"""Kafka's option names, as a Java client's properties file or librdkafka writes them, and what becomes of each here.

A key is passed on to kafka-python, makes the TLS or SASL side of a connection (kafka_security), is refused with a reason, or is
without effect because it is about another client's own code. Anything else is a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Role = Literal["producer", "consumer", "admin"]
ALL: frozenset[Role] = frozenset({"producer", "consumer", "admin"})
PRODUCER: frozenset[Role] = frozenset({"producer"})
CONSUMER: frozenset[Role] = frozenset({"consumer"})

ALIASES = {
    "metadata.broker.list": "bootstrap.servers",
    "sasl.mechanisms": "sasl.mechanism",
    "compression.codec": "compression.type",
    "socket.timeout.ms": "request.timeout.ms",
    "socket.receive.buffer.bytes": "receive.buffer.bytes",
    "socket.send.buffer.bytes": "send.buffer.bytes",
    "topic.metadata.refresh.interval.ms": "metadata.max.age.ms",
    "queue.buffering.max.ms": "linger.ms",
    "fetch.wait.max.ms": "fetch.max.wait.ms",
    "fetch.message.max.bytes": "max.partition.fetch.bytes",
    "max.in.flight": "max.in.flight.requests.per.connection",
    "request.required.acks": "acks",
    "message.max.bytes": "max.request.size",
    "message.timeout.ms": "delivery.timeout.ms",
    "partitioner": "partitioner.class",
    "sasl.oauthbearer.client.credentials.client.id": "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.credentials.client.secret": "sasl.oauthbearer.client.secret",
}
"""librdkafka's name, or a newer one, for a key below."""


class Passed(NamedTuple):
    """A key that kafka-python takes: as which argument, of what kind, by which clients. `least` and `most` bound a number."""

    argument: str
    kind: Literal["whole", "text", "choice"] = "whole"
    roles: frozenset[Role] = ALL
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = 2**31 - 1


PASSED: Mapping[str, Passed] = {
    "client.id": Passed("client_id", "text"),
    "client.dns.lookup": Passed(
        "client_dns_lookup", "choice", choices=("use_all_dns_ips", "resolve_canonical_bootstrap_servers_only")
    ),
    "client.rack": Passed("client_rack", "text", CONSUMER),
    "request.timeout.ms": Passed("request_timeout_ms", least=1000),
    "connections.max.idle.ms": Passed("connections_max_idle_ms", least=1000),
    "reconnect.backoff.ms": Passed("reconnect_backoff_ms"),
    "reconnect.backoff.max.ms": Passed("reconnect_backoff_max_ms", most=30_000),
    "retry.backoff.ms": Passed("retry_backoff_ms"),
    "metadata.max.age.ms": Passed("metadata_max_age_ms", least=1000),
    "receive.buffer.bytes": Passed("receive_buffer_bytes", least=1024),
    "send.buffer.bytes": Passed("send_buffer_bytes", least=1024),
    "compression.type": Passed("compression_type", "choice", PRODUCER, ("none", "uncompressed", "gzip", "snappy", "lz4", "zstd")),
    "batch.size": Passed("batch_size", roles=PRODUCER, least=1024, most=16 << 20),
    "fetch.max.wait.ms": Passed("fetch_max_wait_ms", roles=CONSUMER),
    "fetch.max.bytes": Passed("fetch_max_bytes", roles=CONSUMER, least=1 << 20),
    "max.partition.fetch.bytes": Passed("max_partition_fetch_bytes", roles=CONSUMER, least=1 << 20),
    "session.timeout.ms": Passed("session_timeout_ms", roles=CONSUMER, least=1000),
    "heartbeat.interval.ms": Passed("heartbeat_interval_ms", roles=CONSUMER, least=100),
    "max.poll.interval.ms": Passed("max_poll_interval_ms", roles=CONSUMER, least=10_000),
    "sasl.kerberos.service.name": Passed("sasl_kerberos_service_name", "text"),
}

SECURITY = (
    "security.protocol",
    "sasl.mechanism",
    "sasl.jaas.config",
    "sasl.username",
    "sasl.password",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.oauthbearer.token.file",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.scope",
    "ssl.truststore.type",
    "ssl.truststore.location",
    "ssl.truststore.certificates",
    "ssl.truststore.password",
    "ssl.keystore.type",
    "ssl.keystore.location",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.password",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.crl.location",
    "ssl.cipher.suites",
    "ssl.enabled.protocols",
    "enable.ssl.certificate.verification",
)
"""What kafka_security reads."""

SECRET = frozenset(
    {
        "sasl.jaas.config",
        "sasl.password",
        "sasl.oauthbearer.client.secret",
        "ssl.truststore.password",
        "ssl.keystore.password",
        "ssl.keystore.key",
        "ssl.key.password",
        "ssl.key.pem",
    }
)
"""Their values are never shown."""


class Refused(NamedTuple):
    """A key that would break a promise; the values in `harmless` say what is done anyway."""

    why: str
    hint: str
    harmless: frozenset[str] = frozenset()


OWN = "remove it: Smart Tuner sets it itself"
REFUSED: Mapping[str, Refused] = {
    "acks": Refused("with less than all a lost broker loses metrics and decisions", OWN, frozenset({"all", "-1"})),
    "enable.idempotence": Refused(
        "kafka-python's idempotent producer hangs after a delivery timeout; order and repetitions are settled by positions and ids",
        OWN,
        frozenset({"false"}),
    ),
    "max.in.flight.requests.per.connection": Refused("with more than 1 a retry changes the order of a run", OWN, frozenset({"1"})),
    "retries": Refused("what is not acknowledged is sent again until it is", OWN, frozenset({"2147483647"})),
    "delivery.timeout.ms": Refused("a record that is given up inside the client would be lost from the middle of a run", OWN),
    "max.block.ms": Refused("nothing may block a lane or a job longer than its own deadline", OWN),
    "max.request.size": Refused("the size of a message is bounded by Smart Tuner, and the topics must take it", OWN),
    "transactional.id": Refused("a transaction begun while the broker is away never returns in kafka-python", OWN),
    "partitioner.class": Refused(
        "all must put a key into the same partition (murmur2)", OWN, frozenset({"murmur2", "murmur2_random"})
    ),
    "allow.auto.create.topics": Refused(
        "a topic that the broker makes by itself has the wrong settings",
        "see bus.kafka.create_topics, or smart-tuner kafka check --print",
        frozenset({"false"}),
    ),
    "group.id": Refused("the groups are named after the lanes, and a foreign group would lose its place", "set bus.kafka.prefix"),
    "group.instance.id": Refused("a static member keeps its partitions after it has ended", OWN),
    "group.protocol": Refused("partitions of metrics, runs and control move together", OWN, frozenset({"classic"})),
    "partition.assignment.strategy": Refused("partitions of metrics, runs and control move together", OWN),
    "auto.offset.reset": Refused(
        "positions come from the state; a jump would be a loss that nobody counts", OWN, frozenset({"none", "error"})
    ),
    "enable.auto.commit": Refused("a commit before the state is durable loses records", OWN, frozenset({"false"})),
    "isolation.level": Refused("nothing here is transactional, and waiting for others' transactions delays decisions", OWN),
    "max.poll.records": Refused("the lanes bound their batches", OWN),
    "fetch.min.bytes": Refused("waiting for more bytes delays decisions by hundreds of milliseconds", OWN, frozenset({"1"})),
    "api.version": Refused("it is asked of the broker", OWN),
}

WITHOUT_EFFECT = frozenset(
    {
        "linger.ms",
        "key.serializer",
        "value.serializer",
        "key.deserializer",
        "value.deserializer",
        "interceptor.classes",
        "metric.reporters",
        "metrics.num.samples",
        "metrics.recording.level",
        "metrics.sample.window.ms",
        "buffer.memory",
        "auto.commit.interval.ms",
        "check.crcs",
        "exclude.internal.topics",
        "default.api.timeout.ms",
        "auto.include.jmx.reporter",
        "enable.metrics.push",
        "security.providers",
        "sasl.login.class",
        "sasl.login.callback.handler.class",
        "sasl.client.callback.handler.class",
        "sasl.kerberos.kinit.cmd",
        "sasl.kerberos.min.time.before.relogin",
        "sasl.oauthbearer.method",
        "ssl.provider",
        "ssl.protocol",
        "ssl.keymanager.algorithm",
        "ssl.trustmanager.algorithm",
        "ssl.secure.random.implementation",
        "ssl.engine.factory.class",
        "socket.keepalive.enable",
        "socket.nagle.disable",
        "socket.connection.setup.timeout.ms",
        "socket.connection.setup.timeout.max.ms",
        "schema.registry.url",
        "basic.auth.credentials.source",
        "basic.auth.user.info",
        "log.connection.close",
        "api.version.request",
        "broker.address.family",
        "broker.version.fallback",
        "statistics.interval.ms",
        "client.software.name",
    }
)
"""About another client's own code, queue or metrics: pasted along, and harmless."""

KNOWN = sorted({"bootstrap.servers", *PASSED, *SECURITY, *REFUSED, *WITHOUT_EFFECT, *ALIASES})


def canonical(key: str) -> str:
    """The one name of a key. Environment variables cannot hold dots, so `sasl_password` is `sasl.password`.

    >>> canonical("SASL_MECHANISMS")
    'sasl.mechanism'
    """
    dotted = key.strip().lower().replace("_", ".")
    return ALIASES.get(dotted, dotted)


def is_secret(key: str) -> bool:
    """Whether the value must never be shown; a key that is not known may be a mistyped one that must not."""
    name = canonical(key)
    return name in SECRET or name not in KNOWN or name == "basic.auth.user.info"
