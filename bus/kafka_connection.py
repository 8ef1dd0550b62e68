"""The steps of a connection, each with its own causes: name, tcp, tls, versions, sasl.

A TLS greeting to a port without TLS and the reverse both end in a closed connection; what the port is, is found out by asking it
again the other way.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..core.errors import SmartTunerError, Unavailable
from .kafka_address import joined
from .kafka_security import WITH_PASSWORD, Security
from .kafka_wire import CHECKING, Deadline, Wire, connect, encrypt, resolve

Passed = Callable[[str, str], None]
"""Is told (step, what was found) as each step is passed."""
TRY_S = 1.5
"""So long may one answer take that a healthy broker gives in milliseconds."""
UNSUPPORTED_VERSION, UNSUPPORTED_MECHANISM, ILLEGAL_SASL_STATE, AUTHENTICATION_FAILED = 35, 33, 34, 58
HOST_MISMATCH = (62, 64)
UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21, 27)
EXPIRED, NOT_YET, REVOKED = 10, 9, 23
PROTOCOL_HINT = "set bus.kafka.client.security.protocol: {}"


class Failed(Unavailable):
    """A step that failed, why, and what to do."""

    def __init__(self, step: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.step = step


class Target(NamedTuple):
    """A broker, and how to talk to it: what `Security` says, and kafka-python's arguments made of it."""

    host: str
    port: int
    security: Security
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """host:port"""
        return joined(((self.host, self.port),))


def open_wire(target: Target, deadline: Deadline, passed: Passed, client_id: str = CHECKING) -> Wire:
    """A connection that is ready for requests. Failed at the step where it is not."""
    wire = Wire(_encrypted(target, deadline, passed), deadline, client_id)
    try:
        _ask_versions(wire, target, deadline, passed)
        if target.security.authenticates:
            _authenticate(wire, target)
            passed("sasl", f"{target.security.mechanism}, as {target.security.username or 'the token says'}")
        _ask_something(wire, target, deadline)
        return wire
    except BaseException:
        wire.close()
        raise


def connected(target: Target, deadline: Deadline, passed: Passed | None = None) -> socket.socket:
    """A TCP connection. Failed at `name` or `tcp`."""
    try:
        addresses = resolve(target.host, target.port, deadline)
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else str(error)
        raise Failed(
            "name", f"the name {target.host} does not resolve: {why}", "check the bus URL, and /etc/hosts or DNS"
        ) from error
    if passed:
        passed("name", f"{target.host} is {', '.join(sorted({str(one[4][0]) for one in addresses}))}")
    try:
        plain = connect(addresses, deadline)
    except OSError as error:
        raise _unreachable(target, error) from error
    if passed:
        passed("tcp", f"{target.name} takes connections")
    return plain


def _unreachable(target: Target, error: OSError) -> Failed:
    if isinstance(error, ConnectionRefusedError):
        what = f"nothing listens on {target.name}: the broker is down, or has another port"
        return Failed("tcp", what, "start the broker, or correct the port in the bus URL")
    if isinstance(error, TimeoutError):
        what = f"{target.name} does not answer: a firewall drops the packets, or the host is off"
        return Failed("tcp", what, "check the route and the firewall from this host to the broker")
    return Failed("tcp", f"{target.name} cannot be reached: {error.strerror or error}", "check the network of this host")


def _encrypted(target: Target, deadline: Deadline, passed: Passed) -> socket.socket:
    plain = connected(target, deadline, passed)
    if not target.security.encrypted:
        return plain
    context: ssl.SSLContext = target.arguments["ssl_context"]
    try:
        secured = encrypt(plain, context, target.host, deadline)
    except OSError as error:
        raise _tls_failed(target, error, deadline) from error
    passed("tls", f"{secured.version()}, {'certificate trusted' if target.security.tls.verify else 'certificate NOT verified'}")
    return secured


def _tls_failed(target: Target, error: OSError, deadline: Deadline) -> Failed:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrusted(target, error)
    reason = str(getattr(error, "reason", "") or "")
    if "ALERT" in reason:
        return _alerted(target, reason)
    if _speaks_plainly(target, deadline):
        wanted = "SASL_PLAINTEXT" if target.security.authenticates else "PLAINTEXT"
        what = f"{target.name} speaks Kafka without TLS, but security.protocol is {target.security.protocol}"
        return Failed("tls", what, f"use the broker's TLS port, or {PROTOCOL_HINT.format(wanted)}")
    if isinstance(error, TimeoutError):
        return Failed("tls", f"{target.name} does not answer to TLS", "is this the broker's TLS port?")
    detail = reason.lower().replace("_", " ") or error.strerror or str(error)
    return Failed("tls", f"{target.name} speaks neither TLS nor Kafka ({detail})", "check the port in the bus URL")


def _distrusted(target: Target, error: ssl.SSLCertVerificationError) -> Failed:
    said = error.verify_message.rstrip(".")
    if error.verify_code in HOST_MISMATCH:
        hint = "use a name that the certificate holds; only if you must, set ssl.endpoint.identification.algorithm to nothing"
        return Failed("tls", f"the certificate of {target.name} is for another host: {said}", hint)
    if error.verify_code in UNKNOWN_AUTHORITY:
        trusted = target.security.tls.trusted
        whom = f"not signed by what {trusted.key} trusts" if trusted else "not signed by an authority that this system trusts"
        hint = "set ssl.truststore.type: PEM and ssl.truststore.location (or ssl.ca.location) to the authority's certificate"
        return Failed("tls", f"the certificate of {target.name} is {whom}: {said}", hint)
    when = {EXPIRED: "has expired", NOT_YET: "is not valid yet", REVOKED: "is revoked"}.get(
        error.verify_code, f"is refused: {said}"
    )
    return Failed("tls", f"the certificate of {target.name} {when}", "renew the broker's certificate, and check this host's clock")


def _alerted(target: Target, reason: str) -> Failed:
    said = reason.lower().replace("_", " ")
    if "certificate" in said or "unknown ca" in said:
        shown = target.security.tls.certificate
        if shown is None:
            hint = "set ssl.keystore.type: PEM and ssl.keystore.location (or ssl.certificate.location and ssl.key.location)"
            return Failed("tls", f"{target.name} wants a client certificate ({said})", hint)
        hint = "use a certificate that is signed by an authority in the broker's truststore"
        return Failed("tls", f"{target.name} does not accept the client certificate of {shown.key} ({said})", hint)
    return Failed(
        "tls", f"{target.name} refuses our TLS ({said})", "compare ssl.enabled.protocols and ssl.cipher.suites with the broker's"
    )


def _speaks_plainly(target: Target, deadline: Deadline) -> bool:
    """Whether the port answers to Kafka without TLS."""
    from kafka.errors import KafkaError
    from kafka.protocol.metadata import ApiVersionsRequest

    try:
        with contextlib.closing(Wire(connected(target, deadline), _soon(deadline))) as wire:
            wire.ask(ApiVersionsRequest(version=0))
        return True
    except (OSError, KafkaError, SmartTunerError):
        return False


def _speaks_tls(target: Target, deadline: Deadline) -> bool:
    """Whether the port answers to TLS, with whatever certificate."""
    curious = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    curious.check_hostname, curious.verify_mode = False, ssl.CERT_NONE
    try:
        encrypt(connected(target, deadline), curious, target.host, _soon(deadline)).close()
        return True
    except ssl.SSLError as error:
        return "ALERT" in str(error.reason or "")
    except (OSError, SmartTunerError):
        return False


def _soon(deadline: Deadline) -> Deadline:
    return Deadline(deadline.clock, deadline.left_s(TRY_S))


def _ask_versions(wire: Wire, target: Target, deadline: Deadline, passed: Passed) -> None:
    from kafka.errors import KafkaError
    from kafka.protocol.broker_version_data import BrokerVersionData
    from kafka.protocol.metadata import ApiVersionsRequest

    try:
        wire.stream.settimeout(deadline.left_s(TRY_S))
        answer = wire.ask(ApiVersionsRequest(version=3, client_software_name="smart-tuner", client_software_version="1"))
        if answer.error_code == UNSUPPORTED_VERSION:
            answer = wire.ask(ApiVersionsRequest(version=0))
    except ssl.SSLError as error:
        raise _tls_failed(target, error, deadline) from error
    except (OSError, KafkaError) as error:
        if not target.security.encrypted and _speaks_tls(target, deadline):
            wanted = "SASL_SSL" if target.security.authenticates else "SSL"
            what = f"{target.name} speaks TLS, but security.protocol is {target.security.protocol}"
            raise Failed("tls", what, PROTOCOL_HINT.format(wanted)) from error
        if isinstance(error, TimeoutError):
            what = f"{target.name} takes connections and does not answer: the broker hangs, or what it says is lost on the way"
            raise Failed("versions", what, "look at the broker and the network; if it never answered, check the port") from error
        raise Failed("versions", f"{target.name} does not speak Kafka ({error})", "check the port in the bus URL") from error
    wire.versions = {one.api_key: (one.min_version, one.max_version) for one in answer.api_keys}
    version = BrokerVersionData(api_versions=wire.versions).broker_version
    if version < (2, 1):
        shown = ".".join(map(str, version))
        raise Failed("versions", f"{target.name} is Kafka {shown}, which is too old", "use Apache Kafka 2.1 or newer")
    passed("versions", f"the broker is Kafka {'.'.join(map(str, version))} or speaks as it does")


def _authenticate(wire: Wire, target: Target) -> None:
    from kafka.net.sasl import get_sasl_mechanism
    from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

    wanted = target.security.mechanism
    try:
        offered = wire.ask(SaslHandshakeRequest(mechanism=wanted, version=wire.version(SaslHandshakeRequest)))
        if offered.error_code == ILLEGAL_SASL_STATE:
            without = target.security.protocol.removeprefix("SASL_")
            what = f"{target.name} does not ask who connects, but security.protocol is {target.security.protocol}"
            raise Failed("sasl", what, f"use the broker's SASL port, or {PROTOCOL_HINT.format(without)}")
        if offered.error_code == UNSUPPORTED_MECHANISM:
            listed = ", ".join(sorted(offered.mechanisms)) or "none"
            what = f"{target.name} does not offer sasl.mechanism {wanted}; it offers {listed}"
            raise Failed("sasl", what, "set bus.kafka.client.sasl.mechanism to one of them")
        exchange = get_sasl_mechanism(wanted)(host=target.host, **target.arguments)
        while not exchange.is_done():
            request = SaslAuthenticateRequest(exchange.auth_bytes(), version=wire.version(SaslAuthenticateRequest))
            answer = wire.ask(request)
            if answer.error_code:
                raise _not_let_in(target, answer.error_message or "")
            exchange.receive(answer.auth_bytes)
    except SmartTunerError as error:
        raise error if isinstance(error, Failed) else Failed("sasl", error.message, error.hint) from error
    except (OSError, ValueError, KeyError) as error:
        raise _not_let_in(target, str(error)) from error
    if not exchange.is_authenticated():
        raise _not_let_in(target, "")


def _not_let_in(target: Target, said: str) -> Failed:
    security = target.security
    detail = f" ({said})" if said and security.password not in (said, "") and security.password not in said else ""
    if security.mechanism in WITH_PASSWORD:
        what = f"{target.name} does not accept the password of {security.username} with {security.mechanism}{detail}"
        return Failed("sasl", what, "check sasl.username and sasl.password; a user of SCRAM must exist for that very mechanism")
    said = f" ({said})" if said else ""
    return Failed(
        "sasl", f"{target.name} does not accept our {security.mechanism} login{said}", "check the token, its audience and scope"
    )


def _ask_something(wire: Wire, target: Target, deadline: Deadline) -> None:
    """The first request that only who is let in may send: a SASL port hangs up on others."""
    from kafka.errors import KafkaError
    from kafka.protocol.metadata import MetadataRequest

    try:
        wire.ask(MetadataRequest(topics=[], allow_auto_topic_creation=False, version=wire.version(MetadataRequest, 9)))
    except (OSError, KafkaError) as error:
        offered = None if target.security.authenticates else _mechanisms(target, deadline)
        if offered is not None:
            stated, wanted = target.security.protocol, "SASL_SSL" if target.security.encrypted else "SASL_PLAINTEXT"
            what = f"{target.name} asks who connects (it offers {offered}), but security.protocol is {stated}"
            raise Failed("sasl", what, f"{PROTOCOL_HINT.format(wanted)}, and sasl.mechanism with its credentials") from error
        raise Failed("versions", f"{target.name} hung up at the first request ({error})", "its log says why") from error


def _mechanisms(target: Target, deadline: Deadline) -> str | None:
    """What a port that asks who connects offers; None for one that does not."""
    from kafka.errors import KafkaError
    from kafka.protocol.sasl import SaslHandshakeRequest

    try:
        stream = _encrypted(target, deadline, lambda step, what: None)
        with contextlib.closing(Wire(stream, _soon(deadline))) as wire:
            offered = wire.ask(SaslHandshakeRequest(mechanism="PLAIN", version=1))
    except (OSError, KafkaError, SmartTunerError):
        return None
    return None if offered.error_code == ILLEGAL_SASL_STATE else ", ".join(sorted(offered.mechanisms)) or "nothing"
