"""What kafka-python's errors mean, and what to do: one clear line each; and its logger, kept from talking without end.

A client that cannot connect says `Unable to bootstrap` whatever the cause; the cause stands in its log, or has to be asked for.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ..core.clock import Clock, SystemClock
from ..core.errors import ConfigError, SmartTunerError, Unavailable

T = TypeVar("T")
KAFKA_LOGGER = "kafka"
MAX_HEARD = 200
QUIET_S = 60.0
MAX_A_MINUTE = 3
ACLS = "smart-tuner kafka check --print shows the command that allows it"
CHECK = "smart-tuner kafka check finds out why"
CLOSED = re.compile(r"Connection reset by peer|socket disconnected|Broken pipe", re.I)
TOPICS = "smart-tuner kafka check looks at the topics, and --print shows how to make them"

BY_NAME: Mapping[str, tuple[str, str]] = {
    "TopicAuthorizationFailedError": ("this user may not use the topic{of}", ACLS),
    "GroupAuthorizationFailedError": ("this user may not use the consumer group{of}", ACLS),
    "ClusterAuthorizationFailedError": ("this user may not do that in the cluster{of}", ACLS),
    "TransactionalIdAuthorizationFailedError": ("this user may not use the transactional id{of}", ACLS),
    "SaslAuthenticationFailedError": (
        "the broker does not accept the user or the password{of}",
        "check sasl.username and sasl.password",
    ),
    "UnsupportedSaslMechanismError": (
        "the broker does not offer this sasl.mechanism{of}",
        "smart-tuner kafka check lists what it offers",
    ),
    "IllegalSaslStateError": ("the broker's port does not ask who connects", "check security.protocol and the port"),
    "IncompatibleBrokerVersion": ("the broker is too old{of}", "use Apache Kafka 2.1 or newer"),
    "UnsupportedVersionError": ("the broker is too old{of}", "use Apache Kafka 2.1 or newer"),
    "UnknownTopicOrPartitionError": ("a topic is missing{of}", TOPICS),
    "InvalidReplicationFactorError": (
        "the cluster has too few brokers for the replication factor{of}",
        "lower bus.kafka.replication_factor, or add brokers",
    ),
    "PolicyViolationError": ("the cluster's policy refuses the topic{of}", TOPICS),
    "InvalidConfigurationError": ("the broker refuses a topic's setting{of}", TOPICS),
    "NotEnoughReplicasError": ("too few replicas are in sync to take a record", "look at the brokers: one or more is down"),
    "NotEnoughReplicasAfterAppendError": ("too few replicas are in sync", "look at the brokers: one or more is down"),
    "MessageSizeTooLargeError": (
        "a record is larger than the topic takes{of}",
        "raise max.message.bytes of the topic, see docs/kafka.md",
    ),
    "KafkaStorageError": ("the broker cannot write to its disk", "look at the broker's log"),
    "UnsupportedCodecError": (
        "a record is compressed in a way that needs a package{of}",
        "pip install lz4 zstandard python-snappy, whichever it names",
    ),
}
"""kafka-python's error classes; `{of}` becomes what the error says besides."""

HEARD: Sequence[tuple[re.Pattern[str], str, str]] = (
    (re.compile(r"SaslAuthenticationFailed|Authentication failed", re.I), *BY_NAME["SaslAuthenticationFailedError"]),
    (re.compile(r"UnsupportedSaslMechanism"), *BY_NAME["UnsupportedSaslMechanismError"]),
    (re.compile(r"IllegalSaslState"), *BY_NAME["IllegalSaslStateError"]),
    (
        re.compile(r"(?:Hostname|IP address) mismatch[^)]*"),
        "the broker's certificate is for another host{of}",
        "use a name that the certificate holds, or set ssl.endpoint.identification.algorithm to nothing",
    ),
    (re.compile(r"certificate has expired"), "the broker's certificate has expired", "renew it, and check this host's clock"),
    (
        re.compile(r"CERTIFICATE_VERIFY_FAILED"),
        "the broker's certificate is not signed by an authority that is trusted here",
        "set ssl.truststore.location or ssl.ca.location to the authority's certificate (PEM)",
    ),
    (
        re.compile(r"ALERT_(?:BAD_CERTIFICATE|CERTIFICATE_REQUIRED|UNKNOWN_CA|CERTIFICATE_UNKNOWN|HANDSHAKE_FAILURE)"),
        "the broker wants a client certificate that it trusts{of}",
        "set ssl.keystore.location (PEM) to one that is signed by an authority in its truststore",
    ),
    (
        re.compile(r"WRONG_VERSION_NUMBER|UNEXPECTED_EOF|EOF occurred"),
        "the broker's port does not speak TLS",
        "check security.protocol and the port",
    ),
    (
        re.compile(r"DNS lookup failed for (\S+?):\d|DNS Resolution failure"),
        "the broker's name does not resolve{of}",
        "check the bus URL, and /etc/hosts or DNS",
    ),
    (
        re.compile(r"ECONNREFUSED"),
        "nothing listens there: the broker is down, or has another port",
        "start it, or correct the bus URL",
    ),
    (
        re.compile(r"EHOSTUNREACH|ENETUNREACH|ETIMEDOUT|Connection timed out"),
        "the broker cannot be reached",
        "check the route and the firewall from this host to the broker",
    ),
)
"""What the client's log says, the most specific first. `socket disconnected` is not among them: it has many causes."""


def explain(error: BaseException, heard: Sequence[str] = (), where: str = "") -> SmartTunerError:
    """One line with what to do. `heard`: the client's log since it began; `where`: host:port, or what was tried."""
    if isinstance(error, SmartTunerError):
        return error
    names = [one.__name__ for one in type(error).__mro__]
    begin = f"{where}: " if where else ""
    if "KafkaConfigurationError" in names or isinstance(error, AssertionError | TypeError):
        return ConfigError(f"{begin}kafka-python does not take an option: {error}", "check bus.kafka.client, see docs/kafka.md")
    known = next((BY_NAME[name] for name in names if name in BY_NAME), None)
    if known is not None:
        return Unavailable(begin + known[0].format(of=_of(str(error))), known[1])
    found = specific(heard) or specific([str(error)])
    if found is not None:
        return Unavailable(begin + found[0], found[1])
    if CLOSED.search(str(error)):
        return Unavailable(f"{begin}the broker closed the connection: it went down, or does not let us in", CHECK)
    text = " ".join(str(error).split()) or names[0]
    return Unavailable(f"{begin}{text[:300]}", CHECK)


def specific(heard: Sequence[str]) -> tuple[str, str] | None:
    """The most specific cause that the lines name, and what to do."""
    for pattern, what, hint in HEARD:
        for line in heard:
            match = pattern.search(line)
            if match:
                return what.format(of=_of(match[1] if match.lastindex else match[0])), hint
    return None


def _of(text: str) -> str:
    """What else is known, short, in brackets; class names and error numbers that kafka-python begins with say nothing."""
    plain = re.sub(r"^\[Error \d+\] \w+:?\s*", "", " ".join(text.split())).strip("[]'\" ")
    return f" ({plain[:160]})" if plain and not re.fullmatch(r"[A-Z_]+|\w*Error", plain) else ""


class Heard(logging.Handler):
    """Keeps the last warnings of kafka-python."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[str] = deque(maxlen=MAX_HEARD)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one, with the exception that came with it."""
        exception = record.exc_info[1] if record.exc_info else None
        self.lines.append(record.getMessage() + (f": {exception}" if exception else ""))


@contextmanager
def listening() -> Iterator[deque[str]]:
    """What kafka-python logs meanwhile, in this process."""
    handler, logger = Heard(), logging.getLogger(KAFKA_LOGGER)
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


def opened(
    kind: Callable[..., T], options: Mapping[str, Any], where: str, ask: Callable[[], SmartTunerError | None] | None = None
) -> T:
    """A client: `kind` is KafkaProducer, KafkaConsumer or KafkaAdminClient, which connects at once.

    Its failure is explained; where neither it nor its log tells the cause, `ask` finds out (kafka_check.cause_of). A constructor
    that fails leaves a thread and two sockets behind, at each try of an outage: they are ended here.
    """
    from kafka.net.compat import KafkaNetClient

    begun: list[Any] = []

    def remembered(**configs: Any) -> Any:
        begun.append(KafkaNetClient(**configs))
        return begun[-1]

    with listening() as heard:
        try:
            return kind(**{**options, "kafka_client": remembered})
        except Exception as error:
            for one in begun:
                one.close()
            found = explain(error, list(heard), where)
            vague = isinstance(found, Unavailable) and specific([*heard, str(error)]) is None and _is_vague(error)
            cause = ask() if vague and ask is not None else None
            raise (cause or found) from error


def _is_vague(error: BaseException) -> bool:
    return type(error).__name__ in ("KafkaTimeoutError", "KafkaConnectionError", "NoBrokersAvailable", "NodeNotReadyError")


class Quiet(logging.Handler):
    """Hands kafka-python's warnings on, each kind once a minute and few in all: an outage writes ten lines a second.

    Nothing below a warning passes: at that level it logs its options, passwords included."""

    def __init__(self, onto: logging.Logger, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._onto, self._clock = onto, clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}
        self._guard = threading.Lock()
        self._minute, self._count = float("-inf"), 0

    def emit(self, record: logging.LogRecord) -> None:
        """Passes one on, or counts it."""
        kind = f"{record.name}:{record.lineno}"
        with self._guard:
            now = self._clock.monotonic()
            if now - self._minute >= QUIET_S:
                self._minute, self._count = now, 0
            if now - self._last.get(kind, float("-inf")) < QUIET_S or self._count >= MAX_A_MINUTE:
                self._held[kind] = self._held.get(kind, 0) + 1
                return
            self._last[kind], self._count = now, self._count + 1
            held = self._held.pop(kind, 0)
        more = f" (and {held} like it)" if held else ""
        exception = record.exc_info[1] if record.exc_info else None
        why = f": {exception}" if exception else ""
        self._onto.log(record.levelno, "kafka: %s%s%s", record.getMessage()[:500], why, more)


def quieten(clock: Clock | None = None) -> None:
    """From here on kafka-python's logger is bounded, in this process. A process that has set the logger up itself keeps it."""
    logger = logging.getLogger(KAFKA_LOGGER)
    if any(not isinstance(one, Heard | logging.NullHandler) for one in logger.handlers):
        return
    logger.addHandler(Quiet(logging.getLogger("smarttuner.kafka"), clock or SystemClock()))
    logger.setLevel(logging.WARNING)
    logger.propagate = False
