import pytest
from smarttuner.bus import kafka_options
from smarttuner.bus.kafka_keys import PASSED, REFUSED, SECRET, is_secret
from smarttuner.bus.kafka_options import client_options, read_options
from smarttuner.core.errors import ConfigError

SCRAM = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}
JAAS = 'org.apache.kafka.common.security.{}LoginModule required username="job" password="hunter2";'


def problems(client, bootstrap=""):
    return [f"{one.key}: {one.message} | {one.hint}" for one in read_options(client, bootstrap).problems]


def test_java_and_librdkafka_say_the_same_thing():
    java = SCRAM | {"sasl.jaas.config": JAAS.format("scram.Scram"), "request.timeout.ms": "9000", "compression.type": "gzip"}
    librdkafka = {
        "security.protocol": "sasl_ssl",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "job",
        "sasl.password": "hunter2",
        "socket.timeout.ms": 9000,
        "compression.codec": "gzip",
    }
    one, other = (client_options("b:9092", client, "producer") for client in (java, librdkafka))
    assert one.pop("ssl_context").check_hostname
    other.pop("ssl_context")
    assert one == other
    assert one == {
        "bootstrap_servers": ["b:9092"],
        "request_timeout_ms": 9000,
        "compression_type": "gzip",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "job",
        "sasl_plain_password": "hunter2",
    }


@pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning")  # kafka-python's import, on Python below 3.13
def test_each_client_is_handed_what_it_takes():
    kafka = pytest.importorskip("kafka")
    client = {name: str(max(one.least, 1)) for name, one in PASSED.items() if one.kind == "whole"}
    client |= {"client.id": "a", "client.rack": "r", "compression.type": "gzip", "client.dns.lookup": "use_all_dns_ips"}
    for role, made in (("producer", kafka.KafkaProducer), ("consumer", kafka.KafkaConsumer), ("admin", kafka.KafkaAdminClient)):
        assert set(client_options("b:9092", client, role)) <= set(made.DEFAULT_CONFIG), role
    assert "compression_type" in client_options("b:9092", client, "producer")
    assert not {"compression_type", "client_rack", "batch_size"} & client_options("b:9092", client).keys()


def test_an_unknown_key_is_told_with_the_nearest_one_and_never_with_its_value():
    assert problems({"sasl.pasword": "hunter2"}) == [
        "sasl.pasword: is no option of a Kafka client that is known here | did you mean sasl.password?"
    ]
    with pytest.raises(ConfigError, match=r"bus\.kafka\.client\.conpression\.type") as caught:
        client_options("b:9092", {"conpression.type": "lz4"})
    assert caught.value.hint == "did you mean compression.type?"


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_key_that_would_break_a_promise_is_refused_with_the_reason_unless_it_says_what_is_done_anyway(key):
    (said,) = problems({key: "0"})
    assert REFUSED[key].why in said
    for value in REFUSED[key].harmless:
        assert problems({key: value}) == []
        assert client_options("b:9092", {key: value}).keys() == {"bootstrap_servers", "security_protocol"}


def test_what_is_about_another_clients_code_is_without_effect():
    reading = read_options({"key.serializer": "org.apache.kafka…", "enable.metrics.push": True})
    assert reading.without_effect == ["key.serializer", "enable.metrics.push"]
    assert not reading.problems


def test_pasted_brokers_must_be_the_ones_of_the_bus():
    assert problems({"bootstrap.servers": "b:2, a:1"}, "a:1,b:2") == []
    assert "names other brokers" in problems({"bootstrap.servers": "c:1"}, "a:1")[0]


def test_values_are_looked_at():
    said = " ".join(problems({"retry.backoff.ms": "soon", "batch.size": 0, "compression.type": "zip", "client.id": " "}))
    assert '"soon" is not a whole number' in said
    assert "0 is not from 1024" in said
    assert "did you mean gzip?" in said
    assert "client.id: is empty" in said
    assert "with another value" in problems({"sasl.mechanism": "PLAIN", "sasl_mechanism": "SCRAM-SHA-512"})[0]


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"sasl.username": "u"}, "sasl.username: has no effect without security.protocol"),
        ({"ssl.ca.location": "/ca"}, "write security.protocol: SSL"),
        ({"security.protocol": "SASL-SSL"}, "did you mean SASL_SSL?"),
        ({"security.protocol": "SASL_SSL"}, "needs sasl.mechanism"),
        (SCRAM, "SCRAM-SHA-512 needs sasl.username"),
        (SCRAM | {"sasl.username": "u"}, "SCRAM-SHA-512 needs sasl.password"),
        (SCRAM | {"sasl.jaas.config": JAAS.format("plain.Plain")}, "SCRAM-SHA-512 does not go with PlainLoginModule"),
        (SCRAM | {"sasl.jaas.config": JAAS.format("scram.Skram")}, "did you mean ScramLoginModule?"),
        (SCRAM | {"sasl.jaas.config": JAAS.format("scram.Scram"), "sasl.username": "x"}, "names another user"),
        (SCRAM | {"sasl.jaas.config": "hunter2"}, "does not begin with a login module"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM"}, '"SCRAM" is not known'),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "needs a source of tokens"),
        (
            {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "OAUTHBEARER",
                "sasl.oauthbearer.token.endpoint.url": "https://idp/token",
            },
            "needs the client's id and secret",
        ),
        (
            {"security.protocol": "SSL", "ssl.truststore.type": "JKS", "ssl.truststore.location": "/t.jks"},
            "keytool -list -rfc -keystore /t.jks",
        ),
        ({"security.protocol": "SSL", "ssl.keystore.type": "PKCS12", "ssl.keystore.location": "/k.p12"}, "openssl pkcs12"),
        ({"security.protocol": "SSL", "ssl.keystore.key": "k"}, "ssl.keystore.certificate.chain is missing"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/a", "ssl.ca.pem": "b"}, "keep one of them"),
        ({"security.protocol": "SSL", "ssl.enabled.protocols": "TLSv1"}, "TLSv1 is not offered"),
        ({"security.protocol": "SSL", "ssl.endpoint.identification.algorithm": "http"}, "is not known"),
    ],
)
def test_what_does_not_go_together_is_told_and_no_secret_with_it(client, said):
    found = "\n".join(problems(client))
    assert said in found
    assert "hunter2" not in found


def test_the_mechanism_of_a_pasted_login_need_not_be_named_where_there_is_one():
    assert (
        read_options({"security.protocol": "SASL_SSL", "sasl.jaas.config": JAAS.format("plain.Plain")}).security.mechanism
        == "PLAIN"
    )


def test_variables_of_the_environment_name_keys_with_underscores():
    assert read_options({"sasl_mechanisms": "PLAIN", "client_id": "x"}).values == {"sasl.mechanism": "PLAIN", "client.id": "x"}


def test_what_is_not_known_is_treated_as_a_secret():
    assert all(is_secret(key) for key in (*SECRET, "sasl.pasword", "SASL_PASSWORD"))
    assert not is_secret("sasl.username")
    assert "hunter2" not in repr(read_options(SCRAM | {"sasl.username": "u", "sasl.password": "hunter2"}).security)


def test_compression_that_needs_a_package_says_which(monkeypatch):
    monkeypatch.setattr(kafka_options, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="zstd needs the package zstandard") as caught:
        client_options("b:9092", {"compression.type": "zstd"}, "producer")
    assert "pip install zstandard" in caught.value.hint
    assert client_options("b:9092", {"compression.type": "none"}, "producer")["compression_type"] is None
