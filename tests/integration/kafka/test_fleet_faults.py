"""A fleet of daemons on Apache Kafka under faults, while 50 runs stream: nothing lost, nothing twice, every verdict as on an
undisturbed run."""

import pytest
from kafka_fleet import Fleet, check_decisions, check_metrics

pytestmark = pytest.mark.timeout(600)  # of processes on a machine that others use too


@pytest.fixture
def make_fleet(tmp_path, kafka_prefix):
    made = []

    def make(bootstrap, direct=None):
        made.append(Fleet(tmp_path, kafka_prefix, bootstrap, direct))
        return made[-1]

    yield make
    for one in made:
        one.shut()


def two_hosts(fleet, runs=50):
    """Two hosts whose daemons share the partitions, with half of the runs each."""
    east, west = fleet.host("east").start(), fleet.host("west").start()
    fleet.wait_judged(east, west)
    fleet.jobs = [host.stream(name, runs=runs // 2, pause_s=0.4, steady=2) for name, host in fleet.hosts.items()]
    return east, west


def test_a_killed_daemon_is_stood_in_for_and_comes_back(kafka_broker, make_fleet):
    fleet = make_fleet(kafka_broker.bootstrap)
    east, west = two_hosts(fleet)
    fleet.more_prunes(5)
    east.daemon.kill()
    fleet.wait_judged(west)
    fleet.more_prunes(10)
    east.start()
    fleet.wait_judged(east, west)
    fleet.more_prunes(20)
    attempts = fleet.end()
    assert sum(one["pruned"] for one in attempts) >= 35
    assert not any(one["failures"] for one in attempts)
    check_metrics(fleet, attempts)
    check_decisions(fleet, attempts)
