"""kafka-python's clients as this product wants them, and its errors as ours.

The options are those that hold in front of its known faults: no idempotent producer (a delivery that times out wedges it, a
record that is refused poisons it), one request in flight (so that order holds without it), short reconnects, no silence of
half a minute. Each has a fault test in tests/integration/kafka that fails without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import kafka
from kafka.errors import KafkaError

from ..core.errors import SmartTunerError, Unavailable
from .kafka_settings import STATE_BYTES, KafkaSettings

DELIVERIES = 12
CLIENT_ERRORS = (KafkaError, OSError, RuntimeError)
"""What a client raises when the broker is away, refuses or answers nonsense."""


@contextlib.contextmanager
def reaching(settings: KafkaSettings, what: str) -> Iterator[None]:
    """Turns what a client raises inside into Unavailable."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise unavailable(settings, error, what) from error


def unavailable(settings: KafkaSettings, error: BaseException, what: str) -> SmartTunerError:
    """One line: what could not be done, and why."""
    said = str(error) or type(error).__name__
    return Unavailable(f"Kafka at {settings.bootstrap}: {what}: {said}", "smart-tuner kafka check says what is wrong")


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.bootstrap.split(","),
        "bootstrap_timeout_ms": int(settings.bootstrap_timeout_s * 1000),
        "reconnect_backoff_max_ms": 500,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
    }


def producer_options(settings: KafkaSettings) -> dict[str, Any]:
    """Order and no loss without the idempotent producer."""
    return {
        **_connection(settings),
        "acks": "all",
        "enable_idempotence": False,
        "max_in_flight_requests_per_connection": 1,
        "linger_ms": 0,
        "batch_size": 262_144,
        "max_request_size": STATE_BYTES + (1 << 20),
        # the publisher gives up when nothing is acknowledged for publish_timeout_s; this only bounds a long queue that moves
        "delivery_timeout_ms": int(max(DELIVERIES * settings.publish_timeout_s, settings.request_timeout_s + 0.1) * 1000),
        "max_block_ms": int(settings.bootstrap_timeout_s * 1000),
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }


def consumer_options(settings: KafkaSettings) -> dict[str, Any]:
    """A reader that never jumps by itself: a position out of range is an error that we count."""
    return {
        **_connection(settings),
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "fetch_max_wait_ms": int(min(settings.fetch_wait_s, settings.request_timeout_s / 2) * 1000),
        "metrics_enabled": False,
    }


def group_options(settings: KafkaSettings, group: str) -> dict[str, Any]:
    """A member of a group of the classic protocol."""
    return consumer_options(settings) | {
        "group_id": settings.group(group),
        "session_timeout_ms": int(settings.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(settings.heartbeat_s * 1000),
        "max_poll_interval_ms": int(settings.max_poll_interval_s * 1000),
    }


def make_producer(settings: KafkaSettings) -> Any:
    """Unavailable within bootstrap_timeout_s if no broker answers."""
    with reaching(settings, "no producer"):
        return kafka.KafkaProducer(**producer_options(settings))


def make_consumer(settings: KafkaSettings, options: dict[str, Any]) -> Any:
    """Unavailable within bootstrap_timeout_s if no broker answers."""
    with reaching(settings, "no consumer"):
        return kafka.KafkaConsumer(**options)


def make_admin(settings: KafkaSettings) -> Any:
    """Unavailable within bootstrap_timeout_s if no broker answers."""
    with reaching(settings, "no connection"):
        return kafka.KafkaAdminClient(**_connection(settings))


def close(client: Any, timeout_s: float) -> None:
    """Lets a consumer or an admin client go, whatever state it is in."""
    with contextlib.suppress(*CLIENT_ERRORS):
        if isinstance(client, kafka.KafkaConsumer):
            client.close(timeout_ms=int(timeout_s * 1000))
        else:
            client.close()


def discard(producer: Any) -> None:
    """Ends a producer at once. What it has not sent is not sent any more: its successor sends it, in order."""
    try:
        producer.close(timeout=0)
    except CLIENT_ERRORS:  # it has unsent batches, and close() leaves them to its thread, which would send them later
        producer._sender.force_close()
        producer._sender.join(1.0)
        with contextlib.suppress(*CLIENT_ERRORS):
            producer.close(timeout=0)
