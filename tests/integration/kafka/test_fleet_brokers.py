"""A broker of three is lost for good while a fleet streams: its partitions are led by the others, and nothing is missing."""

import base64
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

import kafka_broker as brokers
import pytest
from kafka_fleet import Fleet, check_decisions, check_metrics, check_said

pytestmark = pytest.mark.timeout(600)  # of processes on a machine that others use too
COUNT = 3
REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "share.coordinator.state.topic.replication.factor": "3",
}


def formatted(folder, number):
    """The storage of node `number`: the prepared one, under identities of its own."""
    shutil.copytree(brokers.prepared() / "data", folder)
    told = (folder / "meta.properties").read_text()
    told = re.sub(r"node\.id=.*", f"node.id={number}", told)
    mine = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    (folder / "meta.properties").write_text(re.sub(r"directory\.id=.*", f"directory.id={mine}", told))


@pytest.fixture
def three_brokers(tmp_path):
    """A cluster in which each broker is a controller too."""
    try:
        brokers.prepared()
    except brokers.NoBroker as why:
        pytest.skip(f"Apache Kafka cannot run here: {why}")
    made = [brokers.Broker(tmp_path / f"kafka-{n}", **{"node.id": str(n)}) for n in range(1, COUNT + 1)]
    voters = ",".join(f"{n}@127.0.0.1:{one.controller_port}" for n, one in enumerate(made, 1))
    for number, one in enumerate(made, 1):
        formatted(one.folder / "data", number)
        one.overrides |= {**brokers.KILLED_OFTEN, **REPLICATED, "controller.quorum.voters": voters}
    try:
        with ThreadPoolExecutor(COUNT) as pool:  # none listens before two of them have met; each ends with its starter's thread
            list(pool.map(lambda one: one.start(), made))
            yield made
    finally:
        for one in made:
            one.kill()


def test_a_broker_of_three_is_lost_and_nothing_else(three_brokers, tmp_path, kafka_prefix, kafka_broker):
    fleet = Fleet(tmp_path, kafka_prefix, ",".join(one.bootstrap for one in three_brokers))
    try:
        hosts = [fleet.host("east"), fleet.host("west")]
        for host in hosts:
            host.of_daemon["SMART_TUNER__BUS__KAFKA__REPLICATION_FACTOR"] = "3"
            host.start()
        fleet.wait_judged(*hosts)
        fleet.jobs = [host.stream(host.folder.name, runs=10, pause_s=0.2, steady=1) for host in hosts]
        fleet.more_prunes(5)
        three_brokers[0].kill()
        fleet.more_prunes(20)  # of runs in every partition
        fleet.wait_judged(*hosts)
        attempts = fleet.end()
        assert not any(one["failures"] for one in attempts)
        check_metrics(fleet, attempts)
        check_decisions(fleet, attempts)
        check_said(fleet, outages=2)
    finally:
        fleet.shut()
