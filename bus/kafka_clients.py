"""kafka-python's clients as this product wants them, and its errors as ours.

The options are those that hold in front of its known faults: short reconnects, no jump of a position, no silence of half a
minute. Each has a fault test in tests/integration/kafka that fails without it. What is published goes by kafka_producer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import kafka
from kafka.errors import KafkaError

from ..core.clock import SystemClock
from ..core.errors import SmartTunerError
from .kafka_address import SCHEME, servers_of
from .kafka_check import cause_of
from .kafka_errors import explain, opened
from .kafka_keys import Role
from .kafka_options import client_options
from .kafka_settings import KafkaSettings

CLIENT_ERRORS = (KafkaError, OSError, RuntimeError)
"""What a client raises when the broker is away, refuses or answers nonsense."""


CAUSE_S = 1.5
"""For finding out why no connection can be had, after bootstrap_timeout_s has passed without one."""


@contextlib.contextmanager
def reaching(settings: KafkaSettings, what: str) -> Iterator[None]:
    """Turns what a client raises inside into one of our errors, one line with what to do."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise explained(settings, error, what) from error


def explained(settings: KafkaSettings, error: BaseException, what: str) -> SmartTunerError:
    """What could not be done, why, and what to do."""
    return explain(error, (), f"Kafka at {settings.bootstrap}: {what}")


def _connection(settings: KafkaSettings, role: Role) -> dict[str, Any]:
    """The user's own options win over these, and lose against what each client must be."""
    own = {
        "bootstrap_timeout_ms": int(settings.bootstrap_timeout_s * 1000),
        "reconnect_backoff_max_ms": 500,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
    }
    return own | client_options(settings.bootstrap, settings.client, role)


def consumer_options(settings: KafkaSettings) -> dict[str, Any]:
    """A reader that never jumps by itself: a position out of range is an error that we count."""
    options = {"fetch_max_wait_ms": int(settings.fetch_wait_s * 1000), **_connection(settings, "consumer")}
    return options | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "fetch_max_wait_ms": min(options["fetch_max_wait_ms"], options["request_timeout_ms"] // 2),
        "metrics_enabled": False,
    }


def group_options(settings: KafkaSettings, group: str) -> dict[str, Any]:
    """A member of a group of the classic protocol."""
    own = {
        "session_timeout_ms": int(settings.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(settings.heartbeat_s * 1000),
        "max_poll_interval_ms": int(settings.max_poll_interval_s * 1000),
    }
    return own | consumer_options(settings) | {"group_id": settings.group(group)}


def make_consumer(settings: KafkaSettings, options: dict[str, Any]) -> Any:
    """Unavailable within seconds if no broker answers, with the cause."""
    return _open(settings, kafka.KafkaConsumer, options)


def make_admin(settings: KafkaSettings) -> Any:
    """Unavailable within seconds if no broker answers, with the cause."""
    return _open(settings, kafka.KafkaAdminClient, _connection(settings, "admin"))


def _open(settings: KafkaSettings, kind: Callable[..., Any], options: dict[str, Any]) -> Any:
    servers = servers_of(SCHEME + settings.bootstrap)
    where = f"Kafka at {settings.bootstrap}"
    return opened(kind, options, where, lambda: cause_of(servers, settings.client, SystemClock(), CAUSE_S))


def close(client: Any, timeout_s: float) -> None:
    """Lets a consumer or an admin client go, whatever state it is in."""
    with contextlib.suppress(*CLIENT_ERRORS):
        if isinstance(client, kafka.KafkaConsumer):
            client.close(timeout_ms=int(timeout_s * 1000))
        else:
            client.close()
