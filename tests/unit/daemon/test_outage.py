import logging
import threading
from collections import Counter

import pytest
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import Unavailable
from smarttuner.daemon.edge_control import Follower
from smarttuner.daemon.outage import MOST_KINDS, SETTLE_S, Outage


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [f"{one.levelname} {one.message}" for one in caplog.records]


def test_it_is_said_once_and_once_that_it_is_over(said):
    clock = ManualClock()
    outage = Outage(logging.getLogger("smarttuner.test"), "the log", clock)
    outage.passed(sure=True)
    for port in range(100):
        outage.met(f"broker:{port} is down")
        clock.turn(1)
    assert outage.now == "broker:99 is down"
    outage.passed(sure=True)
    outage.passed(sure=True)
    assert said() == ["WARNING the log: broker:0 is down", "INFO the log: goes on; it had failed 100 times in 100 s"]
    assert outage.now == ""
    outage.met("broker:0 is down")
    assert len(said()) == 3


def test_a_try_that_shows_nothing_is_not_the_end_of_it(said):
    clock = ManualClock()
    outage = Outage(logging.getLogger("smarttuner.test"), "the log", clock)
    for _ in range(20):
        outage.met("away")
        clock.turn(1)
        outage.passed(sure=False)
    assert len(said()) == 1
    clock.turn(SETTLE_S)
    outage.passed(sure=False)
    assert len(said()) == 2


def test_another_failure_is_another_line_up_to_some(said):
    outage = Outage(logging.getLogger("smarttuner.test"), "the log", ManualClock())
    for letter in "abcdefghij" * 3:
        outage.met(letter)
    assert len(said()) == MOST_KINDS


def test_what_is_to_be_done_about_it_says_whether_it_is_the_same_outage(said):
    outage = Outage(logging.getLogger("smarttuner.test"), "the log", ManualClock())
    for what in ("reading failed", "writing failed"):
        outage.met(what, kind="start the broker")
    assert said() == ["WARNING the log: reading failed"]


class Away:
    """A bus that cannot be reached the first times."""

    def __init__(self, times):
        self.left, self.reached = times, threading.Event()

    def follow_partitions(self, topic, positions, limit, timeout_s=0.0):
        if self.left:
            self.left -= 1
            raise Unavailable(f"no answer from port {self.left}", "start the broker")
        self.reached.set()
        return [], positions

    def close(self):
        pass


class OneTrail:
    marked = False

    def wanted(self):
        return [0]

    def begin(self, partition):
        return 0


def test_an_edge_without_its_log_says_so_once(said, monkeypatch):
    monkeypatch.setattr("smarttuner.daemon.edge_control.RETRY_S", 0.001)
    bus, counters = Away(50), Counter()
    follower = Follower(lambda: bus, OneTrail(), None, ManualClock(), counters)
    follower.start()
    assert bus.reached.wait(60)
    assert "no answer" in follower.trouble
    follower.stop(60)
    assert counters["control_unavailable"] == 50
    assert len([line for line in said() if line.startswith("WARNING")]) == 1
