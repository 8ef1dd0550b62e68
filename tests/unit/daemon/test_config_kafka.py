"""bus.kafka in the configuration: options by their Kafka names, secrets hidden, mistakes told where they stand."""

import json

import pytest
from smarttuner.bus.kafka_commands import commands
from smarttuner.bus.kafka_settings import KafkaSettings
from smarttuner.core.errors import ConfigError
from smarttuner.daemon.cli.main import run
from smarttuner.daemon.config import load
from smarttuner.daemon.config_kafka import client_of, settings_of
from smarttuner.daemon.config_show import lines, masked

CLIENT = """
bus:
  url: kafka://b:9092
  kafka:
    client:
      security.protocol: SASL_SSL
      sasl.mechanism: SCRAM-SHA-512
      sasl.username: job
      sasl.password: ${KAFKA_PASSWORD}
      request.timeout.ms: 9000
"""


def read(tmp_path, text, **environ):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return load(file, environ)


def refused(tmp_path, text, **environ):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, **environ)
    return str(caught.value)


def test_options_are_taken_by_their_kafka_names_and_secrets_come_from_outside(tmp_path):
    loaded = read(tmp_path, CLIENT, KAFKA_PASSWORD="hunter2")
    client = client_of(loaded.config.bus.kafka)
    assert client["sasl.password"] == "hunter2"
    assert client["request.timeout.ms"] == "9000"
    shown = "\n".join(lines(masked(loaded.config), loaded.places)) + json.dumps(masked(loaded.config)) + repr(loaded)
    assert "hunter2" not in shown
    assert "sasl.username: job" in shown
    assert "sasl.password: " in shown


def test_a_properties_file_is_read_below_the_options_and_beside_the_configuration(tmp_path):
    (tmp_path / "client.properties").write_text(
        "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=file\nsasl.password=p"
    )
    loaded = read(tmp_path, "bus: {kafka: {properties_file: client.properties, client: {sasl_username: own}}}")
    assert client_of(loaded.config.bus.kafka) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl_username": "own",
        "sasl.password": "p",
    }


def test_variables_of_the_environment_name_options(tmp_path):
    prefix = "SMART_TUNER__BUS__KAFKA__CLIENT__"
    environ = {prefix + "SASL_PASSWORD": "other", prefix + "CLIENT_ID": "x", "KAFKA_PASSWORD": "hunter2"}
    client = client_of(read(tmp_path, CLIENT, **environ).config.bus.kafka)
    assert client["sasl.password"] == "other"
    assert client["client_id"] == "x"


def test_a_mistaken_option_is_told_with_its_line_and_without_its_value(tmp_path):
    text = CLIENT.replace("sasl.username", "sasl.usrname") + "      acks: 1\n"
    said = refused(tmp_path, text, KAFKA_PASSWORD="hunter2")
    assert f"{tmp_path}/c.yaml:8: bus.kafka.client.sasl.usrname: is no option" in said
    assert "did you mean sasl.username?" in said
    assert f"{tmp_path}/c.yaml:11: bus.kafka.client.acks: cannot be set" in said
    assert "hunter2" not in said


def test_a_mistake_in_the_properties_file_is_told_with_its_own_line(tmp_path):
    file = tmp_path / "k.properties"
    file.write_text("# ours\nsecurity.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.usrname=x\nsasl.password=hunter2\n")
    said = refused(tmp_path, "bus: {kafka: {properties_file: k.properties}}")
    assert f"{file}:4: sasl.usrname: is no option" in said
    assert f"{file}:3: sasl.mechanism: PLAIN needs sasl.username" in said
    assert "hunter2" not in said
    assert "No such file" in refused(tmp_path, "bus: {kafka: {properties_file: absent.properties}}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bus: {url: 'kafka://me:hunter2@b:9092'}", "names a user or a password"),
        ("bus: {url: 'kafka://b:0'}", "0 is no port"),
        ("bus: {kafka: {client: [a]}}", "a list stands where options belong"),
        ("bus: {kafka: {client: {sasl: {mechanism: PLAIN}}}}", "write an option's whole name"),
        ("bus: {kafka: {prefix: 'a b'}}", "bus.kafka.prefix"),
        ("bus: {kafka: {replication_factor: 0}}", "0 is below 1"),
        ("bus: {url: 'kafka://b', kafka: {client: {bootstrap.servers: 'c:9092'}}}", "names other brokers than the bus (b:9092)"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, text, said):
    found = refused(tmp_path, text)
    assert said in found
    assert "hunter2" not in found


def test_the_default_port_need_not_be_written(tmp_path):
    assert read(tmp_path, "bus: {url: kafka://broker}").config.bus.url == "kafka://broker"


def settings(tmp_path, text):
    rules = read(tmp_path, text).config.bus
    return settings_of(rules.kafka, "kafka://b", rules.retention_s)


def printed(tmp_path, text):
    """What `kafka check --print` prints: the topics that a daemon would make itself, and what it would need."""
    return "\n".join(one.line for one in commands(settings(tmp_path, text), "User:job"))


def test_the_names_of_topics_and_groups_are_the_written_ones(tmp_path):
    made = settings(tmp_path, "bus: {kafka: {prefix: p, namespace: n}}")
    assert (made.bootstrap, made.topic("metrics"), made.group("judge")) == ("b:9092", "p.n.metrics", "p.n.judge")
    assert "--topic p.n. --resource-pattern-type prefixed" in printed(tmp_path, "bus: {kafka: {prefix: p, namespace: n}}")


def test_the_topics_have_as_many_partitions_and_replicas_as_written(tmp_path):
    text = printed(tmp_path, "bus: {retention_s: 1h, kafka: {partitions: 5, replication_factor: 3}}")
    assert "--topic smart-tuner.default.metrics --partitions 5 --replication-factor 3 --config cleanup.policy=delete" in text
    assert "retention.ms=3600000" in text
    assert "--replication-factor" not in printed(tmp_path, "{}")


def test_a_missing_topic_is_made_only_where_that_is_allowed(tmp_path):
    assert settings(tmp_path, "{}").create_topics
    assert "--operation Create " in printed(tmp_path, "{}")
    assert not settings(tmp_path, "bus: {kafka: {create_topics: false}}").create_topics
    assert "--operation Create " not in printed(tmp_path, "bus: {kafka: {create_topics: false}}")


def test_the_commands_are_printed_without_a_broker(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SMART_TUNER_BUS", raising=False)
    file = tmp_path / "c.yaml"
    file.write_text(CLIENT)
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    assert run(["--config", str(file), "kafka", "check", "--print"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# make the topic\nkafka-topics.sh --bootstrap-server b:9092 --command-config admin.properties --create ")
    assert "--allow-principal User:job --operation Read" in out
    assert "hunter2" not in out
    assert run(["--config", str(file), "kafka", "check", "--print", "--json", "--principal", "User:x"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["purpose"] for row in rows} >= {"make the topic", "let the daemons use the topics", "let a job publish by itself"}
    assert any("User:x" in row["line"] for row in rows)


def test_a_bus_that_is_not_kafka_has_nothing_to_check(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SMART_TUNER_BUS", raising=False)
    file = tmp_path / "c.yaml"
    file.write_text("{}")
    assert run(["--config", str(file), "kafka", "check"]) == 2
    assert "the bus is local:, not Kafka" in capsys.readouterr().err


def test_where_no_configuration_is_stated_the_command_goes_by_the_shipped_defaults_without_reading_one(
    tmp_path, monkeypatch, capsys
):
    for name in ("SMART_TUNER_CONFIG", "SMART_TUNER_BUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    loaded = load(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert loaded.path is None
    assert settings_of(loaded.config.bus.kafka, "kafka://b:9092", loaded.config.bus.retention_s) == KafkaSettings("b:9092")

    def printed():
        assert run(["--bus", "kafka://b:9092", "kafka", "check", "--print"]) == 0
        return capsys.readouterr().out

    with monkeypatch.context() as without:
        without.setattr("smarttuner.daemon.config.load", lambda *_: pytest.fail("read"))
        shown = printed()
    monkeypatch.setenv("SMART_TUNER__BUS__KAFKA__NAMESPACE", "other")
    assert printed() == shown.replace("smart-tuner.default", "smart-tuner.other")
    monkeypatch.delenv("SMART_TUNER__BUS__KAFKA__NAMESPACE")
    (tmp_path / "smart-tuner").mkdir()
    (tmp_path / "smart-tuner" / "config.yaml").write_text("bus: {kafka: {namespace: third}}")
    assert printed() == shown.replace("smart-tuner.default", "smart-tuner.third")
