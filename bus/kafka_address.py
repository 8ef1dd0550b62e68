"""`kafka://host:port[,host:port]`: the brokers that are asked first."""

from __future__ import annotations

import re

from ..core.errors import ConfigError

SCHEME = "kafka://"
DEFAULT_PORT = 9092
SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
EXAMPLE = "write kafka://host:9092, or kafka://one:9092,two:9092 for several brokers"


def servers_of(url: str) -> tuple[tuple[str, int], ...]:
    """The (host, port) pairs of a bus URL, each once; an IPv6 address without its brackets. ConfigError for what is none.

    >>> servers_of("kafka://one,two:9093,[::1]:9094")
    (('one', 9092), ('two', 9093), ('::1', 9094))
    """
    if not url.startswith(SCHEME):
        raise ConfigError(f'"{_safe(url)}" is no Kafka bus', EXAMPLE)
    listed = url[len(SCHEME) :].rstrip("/")
    if "@" in listed:
        raise ConfigError(
            "the bus URL names a user or a password, and URLs are logged, listed by ps and shown",
            "write kafka://host:port, and sasl.username and sasl.password under bus.kafka.client or in bus.kafka.properties_file",
        )
    if "?" in listed or "/" in listed:
        raise ConfigError(
            f'"{_safe(url)}" is no Kafka bus: nothing may follow the brokers', "options belong under bus.kafka, see docs/kafka.md"
        )
    return tuple(dict.fromkeys(_server(one.strip()) for one in listed.split(",")))


def _server(text: str) -> tuple[str, int]:
    found = SERVER.fullmatch(text)
    if found is None:
        hint = f"an IPv6 address stands in brackets: kafka://[{text}]:9092" if text.count(":") > 1 else EXAMPLE
        raise ConfigError(f'"{text}" is no broker\'s host:port' if text else "a broker's name is missing in the bus URL", hint)
    port = int(found["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ConfigError(f'"{text}": {port} is no port', "a port is a number from 1 to 65535; Kafka's is usually 9092")
    return found["six"] or found["host"], port


def joined(servers: tuple[tuple[str, int], ...]) -> str:
    """As clients want it: `host:port,host:port`, IPv6 in brackets."""
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in servers)


def bootstrap_of(url: str) -> str:
    """The brokers of a bus URL as clients want them.

    >>> bootstrap_of("kafka://broker")
    'broker:9092'
    """
    return joined(servers_of(url))


def _safe(url: str) -> str:
    """Without what stands before an @: it may be a password."""
    return re.sub(r"(?<=://)[^/]*@", "…@", url)
