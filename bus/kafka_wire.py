"""One blocking connection to one broker, under a deadline: what `kafka check` and the search for a cause look through.

kafka-python's clients say `Unable to bootstrap` whatever the cause; here each step of a connection fails by itself. The messages
are kafka-python's (`kafka.protocol`), the sockets our own.
"""

from __future__ import annotations

import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from ..core.clock import Clock
from ..core.errors import Unavailable
from .kafka_frames import framed

if TYPE_CHECKING:
    import ssl

RECEIVE = 262_144
CHECKING = "smart-tuner-check"


class Deadline:
    """A point in time up to which something may take."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self._at = clock.monotonic() + seconds

    def left_s(self, at_most: float = float("inf")) -> float:
        """Seconds left, above 0; TimeoutError when there are none."""
        left = self._at - self.clock.monotonic()
        if left <= 0:
            raise TimeoutError(f"not done within {self.seconds:g} s")
        return min(left, at_most)


Address = tuple[int, int, int, str, Any]


def resolve(host: str, port: int, deadline: Deadline, at_most: float = 2.0) -> list[Address]:
    """The addresses of a name. The system's resolver cannot be interrupted: a thread waits for it. OSError."""
    found: list[list[Any]] = []
    failed: list[OSError] = []

    def look() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=look, name="resolve", daemon=True)
    thread.start()
    thread.join(deadline.left_s(at_most))
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer to the name {host}")
    return found[0]


def connect(addresses: list[Address], deadline: Deadline, at_most: float = 2.0) -> socket.socket:
    """A connected socket to the first address that answers; OSError of the last."""
    last: OSError = TimeoutError("no address")
    for family, kind, protocol, _, address in addresses:
        one = socket.socket(family, kind, protocol)
        try:
            one.settimeout(deadline.left_s(at_most))
            one.connect(address)
            return one
        except OSError as error:
            one.close()
            last = error
    raise last


def encrypt(plain: socket.socket, context: ssl.SSLContext, host: str, deadline: Deadline) -> ssl.SSLSocket:
    """TLS over a connected socket, which it owns from here on. OSError, of which ssl.SSLError is one."""
    try:
        plain.settimeout(deadline.left_s())
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


class Wire:
    """Requests and answers over a connected socket, one at a time. OSError when the other end goes."""

    def __init__(self, stream: socket.socket, deadline: Deadline, client_id: str = CHECKING) -> None:
        from kafka.protocol.parser import KafkaProtocol

        self.stream, self._deadline = stream, deadline
        self._protocol = KafkaProtocol(client_id=client_id, ident="check")
        self._client_id, self._number, self._got = client_id.encode(), 0, bytearray()
        self.versions: dict[int, tuple[int, int]] = {}

    def patience(self, deadline: Deadline) -> None:
        """What is asked from now on is under this deadline."""
        self._deadline = deadline

    def ask(self, request: Any) -> Any:
        """The answer. ConnectionError where the other end hung up, TimeoutError at the deadline."""
        self._protocol.send_request(request)
        self._send(self._protocol.send_bytes())
        while True:
            answers = self._protocol.receive_bytes(self._receive())
            if answers:
                return answers[0][1]

    def post(self, api: int, version: int, body: bytes) -> None:
        """Sends a request of kafka_frames; `receipt` must follow before the next."""
        self._number += 1
        self._send(framed(api, version, self._number, self._client_id, body))

    def receipt(self) -> bytes:
        """The answer to what was posted. After an error nothing may be asked here any more: it may still come."""
        got = self._got
        while len(got) < 4 or len(got) < 4 + int.from_bytes(got[:4]):
            got += self._receive()
        if int.from_bytes(got[4:8]) != self._number or len(got) != 4 + int.from_bytes(got[:4]):
            raise ConnectionError("the other end answers to something else")
        answer = bytes(got[8:])
        got.clear()
        return answer

    def readable(self, timeout_s: float) -> bool:
        """Whether something has come, waiting so long for it."""
        if getattr(self.stream, "pending", int)():  # bytes that TLS has read already
            return True
        waiting = select.poll()  # select() takes no descriptor above 1,023, and a daemon has one for each spool
        waiting.register(self.stream, select.POLLIN)
        return bool(waiting.poll(max(0.0, timeout_s) * 1000))

    def _send(self, data: bytes) -> None:
        self.stream.settimeout(self._deadline.left_s())
        self.stream.sendall(data)

    def _receive(self) -> bytes:
        self.stream.settimeout(self._deadline.left_s())
        data = self.stream.recv(RECEIVE)
        if not data:
            raise ConnectionResetError("the other end hung up")
        return data

    def version(self, request: type[Any], most: int = 1 << 15) -> int:
        """The newest version of a request that both sides know, `most` at most. Unavailable where there is none."""
        least_there, most_there = self.versions.get(request.API_KEY, (0, -1))
        chosen = min(most_there, request.max_version, most)
        if chosen < least_there:
            raise Unavailable(
                f"the broker does not take {request.__name__.removesuffix('Request')}",
                "Smart Tuner needs Apache Kafka 2.1 or newer",
            )
        return int(chosen)

    def close(self) -> None:
        """Idempotent."""
        self.stream.close()
