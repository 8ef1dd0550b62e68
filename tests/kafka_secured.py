"""A secured Apache Kafka for tests: every way to connect has a listener, and who is who has certificates and passwords."""

import os

import pytest
from kafka.admin import ACL, ACLPermissionType, ResourcePattern
from kafka.protocol.admin.acl import ACLResourcePatternType
from kafka_broker import KILLED_OFTEN, Broker, NoBroker
from smarttuner.core.clock import SystemClock
from smarttuner.core.errors import Unavailable

PLAIN_USERS = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_job="job-secret" user_guest="guest-secret";'
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
OAUTH = 'org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{}";'
LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "ELSEWHERE": "SSL",
    "SASLTLS": "SASL_SSL",
    "SASLPLAIN": "SASL_PLAINTEXT",
}


def settings(folder):
    pem = {"ssl.keystore.type": "PEM", "ssl.truststore.type": "PEM", "ssl.truststore.location": str(folder / "authority.pem")}
    return {
        **KILLED_OFTEN,
        **pem,
        "ssl.keystore.location": str(folder / "broker.pem"),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.elsewhere.ssl.keystore.type": "PEM",
        "listener.name.elsewhere.ssl.keystore.location": str(folder / "elsewhere.pem"),
        "listener.name.sasltls.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.sasltls.plain.sasl.jaas.config": PLAIN_USERS,
        "listener.name.sasltls.scram-sha-512.sasl.jaas.config": SCRAM,
        "listener.name.sasltls.oauthbearer.sasl.jaas.config": OAUTH.format("broker"),
        "listener.name.saslplain.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.saslplain.plain.sasl.jaas.config": PLAIN_USERS,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def secured_broker(folder, certificates):
    """Plaintext clients are super users; everybody else may do what the tests allow."""
    scram = ["--add-scram", "SCRAM-SHA-512=[name=scram,password=scram-secret]"]
    try:
        return Broker(folder, listeners=LISTENERS, formatting=scram, **settings(certificates)).start()
    except NoBroker as why:
        (pytest.fail if os.environ.get("CI") in ("true", "1") else pytest.skip)(f"Apache Kafka cannot run here: {why}")


def allow(admin, user, kind, name, *operations, pattern=ACLResourcePatternType.PREFIXED):
    place = ResourcePattern(kind, name, pattern)
    admin.create_acls([ACL(f"User:{user}", "*", one, ACLPermissionType.ALLOW, place) for one in operations])


def tls(certificates, **more):
    return {"security.protocol": "SSL", "ssl.ca.location": str(certificates / "authority.pem")} | more


def sasl(certificates, mechanism, user="", password=""):
    named = {"sasl.username": user, "sasl.password": password} if user else {}
    return tls(certificates) | {"security.protocol": "SASL_SSL", "sasl.mechanism": mechanism} | named


def ways(certificates):
    """listener -> a client's options that it takes."""
    return {
        "PLAINTEXT": {},
        "TLS": tls(certificates),
        "MUTUAL": tls(certificates) | {"ssl.keystore.location": str(certificates / "client.pem")},
        "SASLTLS": sasl(certificates, "SCRAM-SHA-512", "scram", "scram-secret"),
        "SASLTLS/PLAIN": sasl(certificates, "PLAIN", "job", "job-secret"),
        "SASLTLS/OAUTHBEARER": sasl(certificates, "OAUTHBEARER") | {"sasl.jaas.config": OAUTH.format("job")},
        "SASLPLAIN": {"security.protocol": "SASL_PLAINTEXT", "sasl.jaas.config": PLAIN_LOGIN},
    }


PLAIN_LOGIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="job" password="job-secret";'


def patiently(see):
    """A permission is there a moment after it was given."""
    clock = SystemClock()
    until = clock.monotonic() + 60
    while True:
        try:
            if found := see():
                return found
        except Unavailable:
            if clock.monotonic() > until:
                raise
        clock.sleep(0.1)
