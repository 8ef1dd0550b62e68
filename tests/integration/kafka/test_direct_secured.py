"""Jobs on a host without a daemon, on a secured Kafka: the options come from the environment, and decisions come back."""

import json

import pandas
import pytest
from kafka.admin import ACLOperation, KafkaAdminClient, ResourceType
from kafka_certificates import make_certificates
from kafka_host import Host, until
from kafka_secured import allow, secured_broker, ways

OPERATIONS = (ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory, certificates):
    made = secured_broker(tmp_path_factory.mktemp("secured"), certificates)
    yield made
    made.kill()


@pytest.mark.parametrize(("way", "user"), [("SASLTLS", "scram"), ("MUTUAL", "CN=client")])
def test_a_job_ships_by_itself_and_is_steered(broker, certificates, tmp_path, way, user):
    """It may read and write the topics, and nothing else: no group, no settings, no topic of its own."""
    prefix = f"direct-{way.lower()}"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    allow(admin, user, ResourceType.TOPIC, f"{prefix}.", *OPERATIONS)
    admin.close()
    office = Host(tmp_path / "office", broker.bootstrap, prefix)
    client = {"SMART_TUNER__BUS__KAFKA__CLIENT": json.dumps(ways(certificates)[way])}
    rack = Host(tmp_path / "rack", broker.address(way), prefix, **client)
    try:
        office.daemon()
        job = rack.job("secured", 10**9, "torch")
        job.reaches(50)
        until(lambda: "secured" in office.cli("runs", "--json").stdout, lambda: rack.said("secured"))
        done = office.cli("decide", "secured", "scale-lr", "0.5", "--wait", "--timeout", "60")
        assert done.returncode == 0, done.stdout + done.stderr + rack.said("secured")
        assert [json.loads(line)["status"] for line in (job.notes / "decisions").read_text().splitlines()] == ["applied"]
        assert job.ends() == 0
        assert "waits in" not in rack.said("secured")

        def stored():
            rows = pandas.read_parquet(office.data / "metrics")
            return sorted(rows[rows.series == "x"].step) == list(range(job.logged))

        until(stored)
    finally:
        for host in (rack, office):
            host.shut()
