"""`bus.kafka`: the Kafka bus as a person configures it, and what the connection is made with."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr, WithJsonSchema, field_serializer

from ..bus.kafka_address import bootstrap_of
from ..bus.kafka_keys import is_secret
from ..bus.kafka_options import layered, read_options
from ..bus.kafka_properties import Properties, read_properties
from ..bus.kafka_settings import KafkaSettings
from ..core.errors import ConfigError
from .config_errors import Path, shown
from .config_types import Flag, Section, Text, Whole, key, wrong

CLIENT: Path = ("bus", "kafka", "client")
FILE: Path = ("bus", "kafka", "properties_file")
MASK = "**********"
LEGAL = r"^[A-Za-z0-9._-]+$"


def _options(value: Any) -> Any:
    """Each option as text that is not shown; numbers and flags may stand without quotes."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(
            f"{shown(value)} stands where options belong", "write `security.protocol: SASL_SSL` and the like below it, one a line"
        )
    made = {}
    for name, one in value.items():
        if isinstance(one, Mapping | list):
            raise wrong(f"{name} is no option", "write an option's whole name before the colon, as `sasl.mechanism: PLAIN`")
        text = one.get_secret_value() if isinstance(one, SecretStr) else "" if one is None else str(one)
        made[str(name)] = SecretStr(text)
    return made


_any_scalar = WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}})
Options = Annotated[dict[str, SecretStr], BeforeValidator(_options), _any_scalar]


class KafkaBus(Section):
    """Options of a `kafka://` bus."""

    create_topics: Flag = key("create topics that are missing", True)
    prefix: Text = key("first part of the topics' names", "smart-tuner", pattern=LEGAL)
    namespace: Text = key("second part of the topics' names", "default", pattern=LEGAL)
    partitions: Whole = key("partitions of a topic that is created", 12, "partitions", ge=1, le=1000)
    replication_factor: Whole | None = key(
        "replicas of a topic that is created; none: what the cluster has as its own", None, ge=1, le=100
    )
    client: Options = key("options of the Kafka client, by their names in a properties file (security.protocol, ...)", {})
    properties_file: Text | None = key("a Java client's properties file; `client` wins over it", None)

    @field_serializer("client", when_used="json")
    def _masked(self, value: dict[str, SecretStr]) -> dict[str, str]:
        return {name: MASK if is_secret(name) else one.get_secret_value() for name, one in value.items()}


def client_of(kafka: KafkaBus) -> dict[str, str]:
    """The client's options, those of the file below those of the configuration. ConfigError where the file cannot be read."""
    own = {name: one.get_secret_value() for name, one in kafka.client.items()}
    file = read_properties(kafka.properties_file).values if kafka.properties_file else {}
    return {name: str(one) for name, one in layered(file, own).items()}


def anchor(tree: Any, folder: pathlib.Path) -> None:
    """A relative properties_file lies beside the configuration."""
    for name in FILE[:-1]:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    if isinstance(tree, dict) and isinstance(tree.get(FILE[-1]), str):
        tree[FILE[-1]] = str(folder / tree[FILE[-1]])


def refused_options(kafka: KafkaBus, url: str) -> Iterator[tuple[str, Path, str, str]]:
    """What is wrong with the options, each as (place or "", path, message, hint); certificates are not read yet."""
    file = Properties({}, {})
    if kafka.properties_file:
        try:
            file = read_properties(kafka.properties_file)
        except ConfigError as error:
            yield "", FILE, error.message, error.hint
    own = {name: one.get_secret_value() for name, one in kafka.client.items()}
    bootstrap = bootstrap_of(url) if url.startswith("kafka:") else ""
    for problem in read_options(layered(file.values, own), bootstrap).problems:
        if problem.key in own:
            yield "", (*CLIENT, problem.key), problem.message, problem.hint
        else:
            yield file.places.get(problem.key, ""), (problem.key,), problem.message, problem.hint


def settings_of(kafka: KafkaBus, url: str, retention_s: float) -> KafkaSettings:
    """What the bus is made with. ConfigError where the URL or an option is wrong."""
    return KafkaSettings(
        bootstrap=bootstrap_of(url),
        prefix=kafka.prefix,
        namespace=kafka.namespace,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        create_topics=kafka.create_topics,
        retention_s=retention_s,
        client=client_of(kafka),
    )
