"""A secured Apache Kafka: each way to connect, and each way in which it goes wrong, told by one line with what to do."""

import gc
import json
import threading
import warnings

import kafka
import pytest
from kafka.admin import ACLOperation, ResourceType
from kafka_broker import KILLED_OFTEN, Broker, free_ports
from kafka_certificates import make_certificates
from kafka_proxy import Proxy
from kafka_secured import PLAIN_LOGIN, allow, patiently, sasl, secured_broker, tls, ways
from smarttuner.bus import kafka_check
from smarttuner.bus.kafka import KafkaLog
from smarttuner.bus.kafka_check import Plan, cause_of, check
from smarttuner.bus.kafka_errors import opened
from smarttuner.bus.kafka_options import client_options
from smarttuner.bus.kafka_settings import KafkaSettings, faults, needs
from smarttuner.bus.kafka_wire import Deadline
from smarttuner.core.clock import ManualClock, SystemClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.ports import METRICS, RUNS, Message
from smarttuner.daemon.cli.main import run


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory, certificates):
    made = secured_broker(tmp_path_factory.mktemp("secured"), certificates)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def admin(broker):
    made = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    yield made
    made.close()


def look(address, client, clock=None, **more):
    host, _, port = address.rpartition(":")
    return list(check(Plan(((host, int(port)),), client, **more), clock or SystemClock()))


def failure(address, client):
    failed = [one for one in look(address, client) if one.state == "failed"]
    assert len(failed) == 1, failed
    return failed[0]


WAYS = ["PLAINTEXT", "TLS", "MUTUAL", "SASLTLS", "SASLTLS/PLAIN", "SASLTLS/OAUTHBEARER", "SASLPLAIN"]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_connect_passes_each_step_and_carries_clients(broker, certificates, way):
    client, address = ways(certificates)[way], broker.address(way.partition("/")[0])
    steps = look(address, client)
    assert {one.state for one in steps} == {"ok"}, steps
    names = [one.name for one in steps]
    expected = ["name", "tcp", *(["tls"] if "TLS" in way or way == "MUTUAL" else []), "versions"]
    expected += ["sasl"] if "SASL" in way else []
    assert names == [*expected, "brokers"]
    opened(kafka.KafkaProducer, client_options(address, client, "producer"), address).close()


def wrong(broker, certificates):
    """What goes wrong -> (listener, options, the step, what the line says, what the hint says)."""
    authority = tls(certificates)
    return {
        "wrong SCRAM password": (
            "SASLTLS",
            sasl(certificates, "SCRAM-SHA-512", "scram", "hunter2"),
            "sasl",
            "does not accept the password of scram",
            "check sasl.username",
        ),
        "wrong PLAIN password": (
            "SASLTLS",
            sasl(certificates, "PLAIN", "job", "hunter2"),
            "sasl",
            "does not accept the password of job",
            "sasl.password",
        ),
        "unknown user": (
            "SASLTLS",
            sasl(certificates, "SCRAM-SHA-512", "nobody", "hunter2"),
            "sasl",
            "does not accept the password of nobody",
            "must exist",
        ),
        "unknown authority": (
            "TLS",
            {"security.protocol": "SSL", "ssl.ca.location": str(certificates / "stranger.pem")},
            "tls",
            "not signed by what ssl.ca.location trusts",
            "ssl.truststore.location",
        ),
        "no authority": (
            "TLS",
            {"security.protocol": "SSL"},
            "tls",
            "an authority that this system trusts",
            "ssl.truststore.location",
        ),
        "another host": ("ELSEWHERE", authority, "tls", "is for another host", "ssl.endpoint.identification.algorithm"),
        "plaintext to TLS": ("TLS", {}, "tls", "speaks TLS, but security.protocol is PLAINTEXT", "security.protocol: SSL"),
        "SASL in plaintext to TLS": (
            "SASLTLS",
            {"security.protocol": "SASL_PLAINTEXT", "sasl.jaas.config": PLAIN_LOGIN},
            "tls",
            "speaks TLS",
            "SASL_SSL",
        ),
        "TLS to plaintext": (
            "PLAINTEXT",
            authority,
            "tls",
            "speaks Kafka without TLS, but security.protocol is SSL",
            "security.protocol: PLAINTEXT",
        ),
        "SASL_SSL to SASL_PLAINTEXT": (
            "SASLPLAIN",
            sasl(certificates, "PLAIN", "job", "job-secret"),
            "tls",
            "speaks Kafka without TLS",
            "SASL_PLAINTEXT",
        ),
        "plaintext to SASL": ("SASLPLAIN", {}, "sasl", "asks who connects (it offers PLAIN)", "SASL_PLAINTEXT"),
        "TLS to SASL": ("SASLTLS", authority, "sasl", "asks who connects", "SASL_SSL"),
        "SASL to plaintext": (
            "PLAINTEXT",
            {"security.protocol": "SASL_PLAINTEXT", "sasl.jaas.config": PLAIN_LOGIN},
            "sasl",
            "does not ask who connects",
            "security.protocol: PLAINTEXT",
        ),
        "mechanism not offered": (
            "SASLTLS",
            sasl(certificates, "SCRAM-SHA-256", "scram", "scram-secret"),
            "sasl",
            "it offers OAUTHBEARER, PLAIN, SCRAM-SHA-512",
            "sasl.mechanism",
        ),
        "no client certificate": ("MUTUAL", authority, "tls", "wants a client certificate", "ssl.keystore.location"),
        "foreign client certificate": (
            "MUTUAL",
            authority
            | {
                "ssl.certificate.location": str(certificates / "stranger.pem"),
                "ssl.key.location": str(certificates / "stranger.key"),
            },
            "tls",
            "does not accept the client certificate",
            "truststore",
        ),
        "bad token": (
            "SASLTLS",
            sasl(certificates, "OAUTHBEARER") | {"sasl.oauthbearer.token.file": str(certificates / "broker.crt")},
            "sasl",
            "does not accept our OAUTHBEARER login",
            "token",
        ),
        "no token": (
            "SASLTLS",
            sasl(certificates, "OAUTHBEARER") | {"sasl.oauthbearer.token.file": "/nonexistent"},
            "sasl",
            "No such file",
            "token",
        ),
    }


CASES = [
    "wrong SCRAM password", "wrong PLAIN password", "unknown user", "unknown authority", "no authority", "another host",
    "plaintext to TLS", "SASL in plaintext to TLS", "TLS to plaintext", "SASL_SSL to SASL_PLAINTEXT", "plaintext to SASL",
    "TLS to SASL", "SASL to plaintext", "mechanism not offered", "no client certificate", "foreign client certificate", "bad token",
    "no token",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_goes_wrong_is_one_line_with_what_to_do(broker, certificates, case):
    listener, client, step, said, hint = wrong(broker, certificates)[case]
    found = failure(broker.address(listener), client)
    assert (found.name, found.state) == (step, "failed")
    assert said in found.what
    assert hint in found.hint
    assert "hunter2" not in str(found)


def test_every_case_is_listed(broker, certificates):
    assert list(wrong(broker, certificates)) == CASES
    assert list(ways(certificates)) == WAYS


def secured(broker, certificates, user, password):
    client = sasl(certificates, "PLAIN", user, password)
    settings = KafkaSettings(broker.address("SASLTLS"), prefix="acl", namespace=user, partitions=2, client=client)
    return settings, {"topics": list(needs(settings).values()), "faults": faults, "group": settings.group("judge")}


def states(steps):
    return [(one.name, one.state) for one in steps if one.name in ("topics", "permissions")]


def test_permissions_are_told_apart_as_they_are_given_one_by_one(broker, certificates, admin):
    settings, plan = secured(broker, certificates, "guest", "guest-secret")
    address = settings.bootstrap
    topics, group = f"acl.{settings.namespace}.", settings.group("")
    steps = look(address, settings.client, **plan)
    assert states(steps) == [("permissions", "failed"), ("permissions", "failed")]
    assert "may not see acl.guest.control" in steps[-2].what
    assert "consumer group acl.guest.judge" in steps[-1].what
    assert "--print" in steps[-1].hint

    allow(admin, "guest", ResourceType.TOPIC, topics, ACLOperation.DESCRIBE)
    allow(admin, "guest", ResourceType.GROUP, group, ACLOperation.READ)
    steps = eventually(lambda: look(address, settings.client, **plan), [("topics", "failed"), ("permissions", "ok")])
    assert "this user may not create them" in steps[-2].what

    allow(admin, "guest", ResourceType.TOPIC, topics, ACLOperation.CREATE)
    eventually(lambda: look(address, settings.client, **plan), [("topics", "ok"), ("permissions", "ok")])
    forbidden = look(address, settings.client, **plan, create_topics=False)
    assert "bus.kafka.create_topics is false" in next(one.what for one in forbidden if one.name == "topics")

    make(admin, settings)
    steps = eventually(
        lambda: look(address, settings.client, **plan), [("topics", "warning"), ("permissions", "failed"), ("permissions", "ok")]
    )
    assert "may not see the settings" in steps[-3].what
    assert "may not Read and Write acl.guest.control" in steps[-2].what

    operations = (ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE_CONFIGS)
    allow(admin, "guest", ResourceType.TOPIC, topics, *operations)
    eventually(lambda: look(address, settings.client, **plan), [("topics", "ok"), ("permissions", "ok"), ("permissions", "ok")])


def eventually(see, wanted):
    """A permission or a topic is there a moment after it was made."""
    clock = SystemClock()
    until = clock.monotonic() + 60
    while states(steps := see()) != wanted and clock.monotonic() < until:
        clock.sleep(0.1)
    assert states(steps) == wanted, steps
    return steps


def make(admin, settings, **changed):
    admin.create_topics(
        {
            one.name: {
                "num_partitions": changed.get("partitions", one.partitions),
                "replication_factor": 1,
                "configs": {**one.configs, **changed.get(name, {})},
            }
            for name, one in needs(settings).items()
        }
    )


def test_a_topic_with_the_wrong_settings_is_told(broker, certificates, admin, capsys):
    settings = KafkaSettings(broker.bootstrap, prefix="wrong", namespace="n", partitions=2)
    make(admin, settings, metrics={"cleanup.policy": "compact"}, runs={"message.timestamp.type": "CreateTime"})
    plan = {"topics": list(needs(settings).values()), "faults": faults, "group": settings.group("judge")}
    steps = eventually(
        lambda: look(broker.bootstrap, {}, **plan),
        [("topics", "failed"), ("topics", "failed"), ("topics", "ok"), ("permissions", "ok"), ("permissions", "ok")],
    )
    said = " ".join(one.what for one in steps)
    assert "cleanup.policy=compact" in said
    assert "message.timestamp.type=CreateTime" in said


def command(capsys, monkeypatch, tmp_path, address, client, *more):
    """`kafka check` as it is typed: its exit code, stdout and stderr."""
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"bus": {"url": f"kafka://{address}", "kafka": {"prefix": "typed", "client": client}}}))
    monkeypatch.delenv("SMART_TUNER_BUS", raising=False)
    code = run(["--config", str(file), "kafka", "check", *more])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_ends_with_0_where_all_is_well_and_with_4_and_one_line_where_not(
    broker, certificates, capsys, monkeypatch, tmp_path
):
    typed = (capsys, monkeypatch, tmp_path)
    code, out, err = command(*typed, broker.bootstrap, {}, "--json")
    steps = [json.loads(line) for line in out.splitlines()]
    assert (code, err, {one["state"] for one in steps}) == (0, "", {"ok"})

    client = sasl(certificates, "PLAIN", "job", "hunter2")
    code, out, err = command(*typed, broker.address("SASLTLS"), client)
    assert (code, err) == (4, "")
    (line,) = [line for line in out.splitlines() if line.startswith("failed")]
    assert "does not accept the password of job" in line
    assert "hint: check sasl.username" in out
    assert "hunter2" not in out

    code, out, err = command(*typed, broker.bootstrap, {"sasl.pasword": "hunter2"})
    assert (code, out) == (3, "")
    assert "did you mean sasl.password?" in err
    assert "hunter2" not in err


@pytest.mark.parametrize("where", ["nobody listens", "no such name"])
def test_where_there_is_no_broker_the_command_says_so(capsys, monkeypatch, tmp_path, where):
    address, said = {
        "nobody listens": (f"127.0.0.1:{free_ports(1)[0]}", "nothing listens on"),
        "no such name": ("nobody.invalid:9092", "the name nobody.invalid does not resolve"),
    }[where]
    code, out, _ = command(capsys, monkeypatch, tmp_path, address, {})
    assert code == 4
    assert said in out


def test_a_broker_that_does_not_answer_is_given_up_at_our_own_deadline(broker, capsys, monkeypatch, tmp_path):
    proxy = Proxy()
    proxy.target = broker.bootstrap
    try:
        proxy.black_hole()
        host, _, port = proxy.bootstrap.rpartition(":")
        (last,) = [one for one in check(Plan(((host, int(port)),), {}), SystemClock(), 0.5) if one.state == "failed"]
        assert last.name in ("tcp", "versions")
        assert kafka_check.TOTAL_S < 5
        code, out, _ = command(capsys, monkeypatch, tmp_path, proxy.bootstrap, {}, "--timeout", "0.5")
        assert (code, out.count("failed")) == (4, 1)
    finally:
        proxy.close()


def test_the_second_broker_is_asked_where_the_first_is_away(broker):
    host, _, port = broker.bootstrap.rpartition(":")
    steps = list(check(Plan(((host, free_ports(1)[0]), (host, int(port))), {}), SystemClock()))
    assert [one.state for one in steps if one.name == "tcp"] == ["warning", "ok"]
    assert "failed" not in {one.state for one in steps}
    neither = list(check(Plan(((host, free_ports(1)[0]), (host, free_ports(1)[0])), {}), SystemClock()))
    assert [one.state for one in neither if one.name == "tcp"] == ["warning", "failed"]


def test_an_advertised_address_that_cannot_be_reached_is_told(broker, tmp_path):
    (port,) = free_ports(1)
    other = Broker(tmp_path / "advertised", listeners={"WRONG": "PLAINTEXT"}, advertised={"WRONG": port}, **KILLED_OFTEN).start()
    try:
        (failed,) = [one for one in look(other.address("WRONG"), {}) if one.state == "failed"]
        assert failed.name == "brokers"
        assert f"advertises 127.0.0.1:{port}" in failed.what
        assert "advertised.listeners" in failed.hint
    finally:
        other.kill()


CAUSES = [
    "wrong SCRAM password",
    "unknown authority",
    "another host",
    "plaintext to TLS",
    "TLS to plaintext",
    "mechanism not offered",
]


@pytest.fixture
def _collected():
    """kafka-python leaves the socket of a failed handshake to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize("case", CAUSES)
def test_a_client_that_cannot_be_made_tells_the_cause(broker, certificates, case):
    listener, client, *_ = wrong(broker, certificates)[case]
    address = broker.address(listener)
    host, _, port = address.rpartition(":")
    options = client_options(address, client) | {"bootstrap_timeout_ms": 700}

    def ask():
        return cause_of(((host, int(port)),), client, SystemClock())

    threads = set(threading.enumerate())
    for kind in (kafka.KafkaProducer, kafka.KafkaConsumer):
        with pytest.raises(Unavailable) as caught:
            opened(kind, options, address, ask)
    assert set(threading.enumerate()) <= threads
    words = {
        "wrong SCRAM password": "password",
        "unknown authority": "not signed by",
        "another host": "another host",
        "plaintext to TLS": "speaks TLS",
        "TLS to plaintext": "without TLS",
        "mechanism not offered": "not offer",
    }
    assert words[case] in caught.value.message.replace("does not speak TLS", "without TLS")
    assert "hunter2" not in str(caught.value)
    assert cause_of(((host, int(port)),), ways(certificates)["TLS"], SystemClock()) is None or listener != "TLS"


def test_the_time_that_is_left_is_the_products_own():
    clock = ManualClock()
    deadline = Deadline(clock, 5.0)
    clock.turn(3)
    assert deadline.left_s() == 2.0
    assert deadline.left_s(1.5) == 1.5
    clock.turn(2)
    with pytest.raises(TimeoutError, match="not done within 5 s"):
        deadline.left_s()


@pytest.mark.parametrize("way", ["MUTUAL", "SASLTLS", "SASLTLS/PLAIN", "SASLTLS/OAUTHBEARER"])
def test_the_bus_runs_with_the_users_options(broker, certificates, admin, way):
    user = {"MUTUAL": "CN=client", "SASLTLS": "scram"}.get(way, "job")
    prefix = f"bus-{way.lower().replace('/', '-')}"
    operations = (ACLOperation.READ, ACLOperation.WRITE, ACLOperation.CREATE, ACLOperation.DESCRIBE_CONFIGS)
    allow(admin, user, ResourceType.TOPIC, f"{prefix}.", *operations)
    allow(admin, user, ResourceType.GROUP, f"{prefix}.", ACLOperation.READ)
    settings = KafkaSettings(broker.address(way.partition("/")[0]), prefix, "n", 1, client=ways(certificates)[way])
    log = patiently(lambda: KafkaLog(settings, SystemClock()))
    bus = log.connect()
    try:
        bus.publish([Message(METRICS, "k", b"1")])
        records = patiently(lambda: bus.poll((METRICS, RUNS), "judge", timeout_s=1.0).records)
        assert [one.body for one in records] == [b"1"]
        assert bus._groups["judge"]._ends._leaders._wires  # the leader was asked where they end, in the user's way too
    finally:
        bus.close()
        log.close()


@pytest.mark.usefixtures("_collected")
def test_the_bus_tells_a_wrong_password_and_a_missing_permission_in_one_line(broker, certificates):
    address = broker.address("SASLTLS")
    refused = sasl(certificates, "PLAIN", "guest", "hunter2")
    with pytest.raises(Unavailable, match=r"does not accept the (user|password)") as caught:
        KafkaLog(KafkaSettings(address, "nobodys", client=refused, bootstrap_timeout_s=0.7), SystemClock())
    assert "hunter2" not in str(caught.value)
    allowed = sasl(certificates, "PLAIN", "guest", "guest-secret")
    with pytest.raises(Unavailable, match="may not use the topic") as caught:
        KafkaLog(KafkaSettings(address, "nobodys", client=allowed), SystemClock())
    assert "kafka check --print" in caught.value.hint
