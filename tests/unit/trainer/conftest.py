"""A host without a daemon: what a job wrote is read from its spool, what a daemon would write is put on its page."""

import os

import pytest
import smarttuner
from smarttuner.bus.control_page import Order, PageWriter
from smarttuner.bus.shipper import Shipper
from smarttuner.bus.spool_reader import SpoolReader
from smarttuner.core.events import Ack, MetricChunk, decode

FAR = 4e9


class Host:
    """The daemon's side of one spool, by hand."""

    def __init__(self, path):
        self.shipper = Shipper(SpoolReader(os.open(path, os.O_RDWR)))
        self.page = PageWriter(os.open(path, os.O_RDWR))
        self.points, self.acks, self.runs = [], [], []
        self._orders = 0

    def order(self, action, order_id=None, not_after=FAR, **params):
        self._orders += 1
        order = Order(order_id or f"{action}-{self._orders}", action, params, not_after, reason=f"because of {action}")
        assert self.page.place(order, 0.0).slot >= 0
        return order.id

    def read(self):
        """All that was written, in order: points as (series, step, value), run events, acks."""
        while self.shipper.reader.behind:
            for message in self.shipper.read(0.0):
                event = decode(message.body)
                if isinstance(event, MetricChunk):
                    rows = [(p, s.name, s.steps[i], s.values[i]) for s, at in event.positions() for i, p in enumerate(at)]
                    self.points += [row[1:] for row in sorted(rows)]
                else:
                    (self.acks if isinstance(event, Ack) else self.runs).append(event)
        return self

    def answers(self):
        """(status, reason) by order."""
        return {ack.id: (ack.status, ack.reason) for ack in self.read().acks}


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A person's own directory, and no word about Smart Tuner in the environment."""
    for name in list(os.environ):
        if name.startswith("SMART_TUNER") or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "smart-tuner"


@pytest.fixture
def attach(state):
    """attach(), ended after the test; `host` of what it returns is the daemon's side."""
    made = []

    def attached(name="r", **options):
        run = smarttuner.attach(name, **options)
        made.append(run)
        if run._line is not None:
            run.host = Host(run._line.spool.path)
        return run

    yield attached
    for run in made:
        run.end("failed", "the test is over")
        assert run.failures == 0


@pytest.fixture
def host_of():
    """The daemon's side of a spool found by its path."""
    return Host
