"""A job's own way onto Kafka: it takes the topics as a daemon made them, and needs no right but to read and write them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from ..core.clock import Clock
from ..core.errors import ConfigError, Unavailable
from ..core.ports import CONTROL, METRICS, NOTICES, RUNS
from .kafka import KafkaLog
from .kafka_address import bootstrap_of
from .kafka_options import Value, layered
from .kafka_properties import read_properties
from .kafka_settings import KafkaSettings

TOPICS = (METRICS, RUNS, CONTROL, NOTICES)
PUBLISH_S = 5.0
ONE = "client__"


def guest_log(url: str, options: Mapping[str, str], clock: Clock) -> KafkaLog:
    """The log behind a kafka:// URL. Unavailable where no broker answers or no daemon has made the topics yet; ConfigError
    where that would not help."""
    settings = guest_settings(url, options)
    try:
        from .kafka_errors import quieten
        from .kafka_topics import Clerk
    except ModuleNotFoundError as error:
        if error.name != "kafka":
            raise
        raise ConfigError("kafka-python is not installed", "pip install 'smart-tuner[kafka]'") from error
    quieten(clock)
    logging.getLogger("smarttuner.kafka").addHandler(logging.NullHandler())  # a training's stderr is told once, by attach
    clerk = Clerk(settings)
    try:
        counts = clerk.look(TOPICS)
    finally:
        clerk.close()
    for topic in TOPICS:
        if topic not in counts:
            hint = "start a daemon on that bus, which makes it, or see smart-tuner kafka check --print"
            raise Unavailable(f"the topic {settings.topic(topic)} is missing", hint)
    return KafkaLog(replace(settings, partitions=counts[METRICS]), clock, counts)


def guest_settings(url: str, options: Mapping[str, str]) -> KafkaSettings:
    """`options` are those of bus.kafka, as text, from the environment: prefix, namespace, properties_file, client (a JSON
    object), client__sasl_password and the like (one option of the client each). What else a daemon is told means nothing to
    a job."""
    client: dict[str, Value] = {}
    if options.get("client"):
        try:
            stated = msgspec.json.decode(options["client"], type=dict[str, str | int | bool])
        except msgspec.DecodeError as error:
            hint = 'as in SMART_TUNER__BUS__KAFKA__CLIENT=\'{"security.protocol": "SSL"}\''
            raise ConfigError(f"SMART_TUNER__BUS__KAFKA__CLIENT is no JSON object of options: {error}", hint) from error
        client = layered(client, stated)
    client = layered(client, {name.removeprefix(ONE): value for name, value in options.items() if name.startswith(ONE)})
    if options.get("properties_file"):
        client = layered(read_properties(options["properties_file"]).values, client)
    text = {name: _text(value) for name, value in client.items()}
    made = KafkaSettings(bootstrap_of(url), client=text, create_topics=False, publish_timeout_s=PUBLISH_S)
    return replace(made, prefix=options.get("prefix") or made.prefix, namespace=options.get("namespace") or made.namespace)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
