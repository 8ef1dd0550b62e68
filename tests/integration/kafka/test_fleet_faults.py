"""A fleet of daemons on Apache Kafka under faults, while 50 runs stream: nothing lost, nothing twice, every verdict as on an
undisturbed run."""

import os
import signal
import time

import pytest
from kafka_fleet import PARTITIONS, Fleet, check_decisions, check_metrics, check_said
from workplace import until

pytestmark = pytest.mark.timeout(600)  # of processes on a machine that others use too
HOLE_S = float(os.environ.get("SMART_TUNER_TEST_HOLE_S", "12"))
"""Longer than a session and than a publish; 30 for the long variant."""
SLOW_S, CUT_S = 4.0, 3.0


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


class Faults:
    """What happens to the fleet, one after the other. Each returns when the fleet is as it was."""

    def __init__(self, fleet, broker, proxy):
        self.fleet, self.broker, self.proxy = fleet, broker, proxy
        self.east, self.west = fleet.hosts.values()
        self.promised = []

    def ask_for_a_checkpoint(self):
        """By hand, of a run that goes on to the end; promised is what was taken."""
        number = len(self.promised)
        for host in (self.east, self.west):
            name = next(name for name, one in self.fleet.hosts.items() if one is host)
            answer = host.daemon.ask("request", run=f"{name}-{number % 2}.0", action="checkpoint")
            if answer and "id" in answer:
                self.promised.append(answer["id"])

    def degraded(self):
        """Waits until both daemons say that something is wrong."""
        until(lambda: all((said := h.daemon.ask()) and said["problems"] for h in (self.east, self.west)), 60.0, 0.2)

    def daemon_killed(self):
        self.east.daemon.kill()
        self.fleet.wait_judged(self.west)
        self.east.start()
        self.fleet.wait_judged(self.east, self.west)

    def slowed(self):
        self.proxy.delay(0.2)
        time.sleep(SLOW_S)
        self.proxy.heal()

    def cut(self):
        self.proxy.cut()
        time.sleep(CUT_S)
        self.proxy.heal()

    def broker_killed(self):
        self.broker.kill()
        self.degraded()
        self.broker.start()
        self.fleet.wait_judged(self.east, self.west)

    def daemon_paused(self):
        self.west.daemon.send(signal.SIGSTOP)
        until(lambda: len(self.epochs(self.east)) == PARTITIONS, 120.0, 0.1, self.fleet.told)
        self.west.daemon.send(signal.SIGCONT)
        self.fleet.wait_judged(self.east, self.west)

    def epochs(self, host):
        return (host.daemon.ask() or {"bus": {"judged_here": {}}})["bus"]["judged_here"]

    def black_hole(self):
        self.proxy.black_hole()
        time.sleep(HOLE_S)
        self.degraded()
        self.proxy.heal()
        self.fleet.wait_judged(self.east, self.west)

    def two_join_and_leave(self):
        others = [self.fleet.host(name).begin() for name in ("north", "south")]
        self.fleet.wait_judged(self.east, self.west, *others)
        for host in others:
            host.daemon.send(signal.SIGTERM)
        for host in others:
            assert host.daemon.process.wait(60) == 0, host.said()
        self.fleet.wait_judged(self.east, self.west)


def test_fifty_runs_are_judged_as_if_nothing_had_happened(proxied_broker, make_fleet):
    broker, proxy = proxied_broker
    fleet = make_fleet(proxy.bootstrap, broker.bootstrap)
    two_hosts(fleet)
    faults = Faults(fleet, broker, proxy)
    fleet.more_prunes(3)
    for fault in (
        faults.daemon_killed,
        faults.slowed,
        faults.cut,
        faults.daemon_paused,
        faults.broker_killed,
        faults.two_join_and_leave,
        faults.black_hole,
    ):
        begun = time.monotonic()
        fault()
        faults.ask_for_a_checkpoint()
        print(f"{fault.__name__}: {time.monotonic() - begun:.1f} s, {fleet.prunes()} prunes")
    fleet.more_prunes(10)
    until(lambda: set(faults.promised) <= {one["id"] for one in fleet.lines("decisions")}, 120.0, 0.2, fleet.told)
    attempts = fleet.end()
    assert not any(one["failures"] for one in attempts)
    assert len(faults.promised) >= 7
    check_metrics(fleet, attempts)
    check_decisions(fleet, attempts, faults.promised)
    check_said(fleet, outages=8)
