import logging

import pytest
from smarttuner.bus import kafka_errors
from smarttuner.bus.kafka_errors import Quiet, explain, listening, opened, quieten
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import ConfigError, Unavailable

pytestmark = pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning")
log = logging.getLogger("kafka.net.transport")


def errors():
    return pytest.importorskip("kafka.errors")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Connection failed: KafkaConnectionError: 111 ECONNREFUSED", "nothing listens there"),
        (
            "DNS lookup failed for nowhere.example:9092, gaierror(-2, 'unknown')",
            "does not resolve (nowhere.example)",
        ),
        ("Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in chain", "not signed by an authority"),
        ("CERTIFICATE_VERIFY_FAILED: IP address mismatch, certificate is not valid for '1.2.3.4'.", "is for another host"),
        ("SSLError(1, '[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert')", "wants a client certificate"),
        ("Handshake failed: EOF occurred in violation of protocol [UNEXPECTED_EOF_WHILE_READING]", "does not speak TLS"),
        ("SaslAuthenticationFailedError: Authentication failed during authentication", "the user or the password"),
        ("Connection timed out", "cannot be reached"),
    ],
)
def test_the_cause_stands_in_what_the_client_logged(line, said):
    bare = errors().KafkaTimeoutError("Unable to bootstrap from b:9092")
    found = explain(bare, ["socket disconnected", line], "b:9092")
    assert isinstance(found, Unavailable)
    assert found.message.startswith("b:9092: ")
    assert said in found.message
    assert found.hint


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TopicAuthorizationFailedError", "may not use the topic (p.n.metrics)"),
        ("GroupAuthorizationFailedError", "may not use the consumer group"),
        ("SaslAuthenticationFailedError", "the user or the password"),
        ("UnknownTopicOrPartitionError", "a topic is missing"),
        ("NotEnoughReplicasError", "too few replicas"),
        ("InvalidReplicationFactorError", "too few brokers"),
    ],
)
def test_an_error_of_its_own_class_needs_no_log(name, said):
    found = explain(getattr(errors(), name)("p.n.metrics"))
    assert said in found.message
    assert found.exit_code == 4


def test_what_is_wrong_with_an_option_is_for_a_person():
    assert isinstance(explain(errors().KafkaConfigurationError("Unrecognized configs: {'x'}")), ConfigError)


def test_what_nobody_knows_points_to_the_check():
    found = explain(errors().KafkaTimeoutError("Unable to bootstrap"), ["socket disconnected"])
    assert "kafka check" in found.hint


def test_a_connection_that_was_closed_is_told_as_that():
    found = explain(errors().KafkaConnectionError("[Errno 104] Connection reset by peer"), (), "b:9092: no record")
    assert found.message == "b:9092: no record: the broker closed the connection: it went down, or does not let us in"


def test_a_client_that_cannot_be_made_is_asked_why_only_where_its_log_does_not_say():
    asked = []

    def ask():
        asked.append(1)
        return Unavailable("the password", "check it")

    def client(line, kafka_client):
        if line:
            log.error(line)
            raise errors().KafkaTimeoutError("Unable to bootstrap")
        return 5

    with pytest.raises(Unavailable, match="nothing listens"):
        opened(client, {"line": "111 ECONNREFUSED"}, "b:9092", ask)
    assert not asked
    with pytest.raises(Unavailable, match="the password"):
        opened(client, {"line": "socket disconnected"}, "b:9092", ask)
    assert opened(client, {"line": ""}, "b:9092") == 5
    assert not [one for one in logging.getLogger("kafka").handlers if isinstance(one, kafka_errors.Heard)]


def test_what_is_heard_is_bounded():
    with listening() as heard:
        for number in range(1000):
            log.warning("line %d", number)
        log.info("passwords stand here")
    assert len(heard) == kafka_errors.MAX_HEARD
    assert heard[-1] == "line 999"


@pytest.fixture
def quiet(caplog):
    """The logger as it was, afterwards. The test itself calls quieten: pytest listens to loggers that keep to themselves."""
    logger = logging.getLogger("kafka")
    before = (logger.propagate, logger.level, list(logger.handlers))
    logger.propagate, logger.handlers = True, []  # another test's log may have quietened it before
    logger.setLevel(logging.NOTSET)
    yield ManualClock()
    logger.propagate, logger.handlers = before[0], before[2]
    logger.setLevel(before[1])


def test_an_outage_is_some_lines_a_minute_not_ten_a_second(quiet, caplog):
    quieten(quiet)
    for _ in range(100):
        log.error("socket disconnected")
        log.debug("password=hunter2")
    assert [one.message for one in caplog.records] == ["kafka: socket disconnected"]
    caplog.clear()
    handler = Quiet(logging.getLogger("smarttuner.kafka"), quiet)
    for _ in range(3):
        for number in range(20):
            handler.handle(logging.LogRecord("kafka.x", logging.ERROR, "f", number, "line", (), None))
        quiet.turn(61)
    assert len(caplog.records) == 3 * kafka_errors.MAX_A_MINUTE
    assert caplog.records[-1].message == "kafka: line"
    quiet.turn(61)
    handler.handle(logging.LogRecord("kafka.x", logging.ERROR, "f", 19, "line", (), None))
    assert caplog.records[-1].message == "kafka: line (and 3 like it)"


def test_a_process_that_set_the_logger_up_itself_keeps_it(quiet):
    logger, own = logging.getLogger("kafka"), logging.StreamHandler()
    logger.addHandler(own)
    try:
        quieten(ManualClock())
        assert own in logger.handlers
        assert not [one for one in logger.handlers if isinstance(one, Quiet)]
        assert logger.propagate
    finally:
        logger.removeHandler(own)
