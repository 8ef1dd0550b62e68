"""The gauge of lags in front of a broker that does not answer."""

import threading

import pytest
from smarttuner.bus import kafka_lag
from smarttuner.core.errors import Unavailable


class Clerk:
    """Answers while `answers` is set; else a question hangs, as one to a black-holed broker does."""

    def __init__(self):
        self.answers = threading.Event()
        self.answers.set()
        self.reached = threading.Semaphore(0)
        self.asked, self.end, self.error = 0, 10, None

    def committed(self, group):
        self.asked += 1
        self.reached.release()
        self.answers.wait()
        if self.error:
            raise self.error
        return {("metrics", 0): 4}

    def ends(self, partitions):
        return dict.fromkeys(partitions, self.end)


@pytest.fixture
def clerk(monkeypatch):
    monkeypatch.setattr(kafka_lag, "PATIENCE_S", 60.0)
    made = Clerk()
    yield made
    made.answers.set()


def test_a_lag_is_as_it_is_now(clerk):
    gauge = kafka_lag.Gauge(clerk)
    assert gauge.lag("judge") == {("metrics", 0): 6}
    clerk.end = 11
    assert gauge.lag("judge") == {("metrics", 0): 7}
    assert gauge.known() == {"judge": {("metrics", 0): 7}}


def test_while_a_question_hangs_everybody_gets_what_was_known_and_nobody_asks_again(clerk, monkeypatch):
    gauge = kafka_lag.Gauge(clerk)
    gauge.lag("judge")
    monkeypatch.setattr(kafka_lag, "PATIENCE_S", 0.01)
    clerk.answers.clear()
    assert gauge.lag("judge") == {("metrics", 0): 6}
    assert [gauge.lag(name) for name in ("judge", "store", "judge")] == [{("metrics", 0): 6}, {}, {("metrics", 0): 6}]
    for _ in range(2):  # a machine that is busy may let the second begin only now
        assert clerk.reached.acquire(timeout=60)
    assert clerk.asked == 2


def test_a_broker_that_is_away_leaves_what_was_known(clerk):
    gauge = kafka_lag.Gauge(clerk)
    gauge.lag("judge")
    clerk.error = Unavailable("away", "start it")
    assert gauge.lag("judge") == {("metrics", 0): 6}
