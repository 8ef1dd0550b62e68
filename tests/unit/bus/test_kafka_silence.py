"""A broker that takes connections and says nothing: behind a black hole, or hanging."""

import socket

from smarttuner.bus.kafka_check import cause_of
from smarttuner.core.clock import SystemClock


def test_a_silent_broker_is_not_called_something_else_than_kafka():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        cause = cause_of([silent.getsockname()], {}, SystemClock(), 1.0)
    assert "takes connections and does not answer" in cause.message
    assert "speak" not in cause.message
