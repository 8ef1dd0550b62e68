"""A job that uses the SDK beside a real edge: its points on the log, decisions from the control topic back into it."""

import time

import pytest
import smarttuner
import torch
from smarttuner.bus.memory import MemoryLog
from smarttuner.core import events
from smarttuner.core.clock import SystemClock
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Message
from smarttuner.daemon.edge import Edge, EdgeSettings
from workplace import until

PATIENCE_S = 20.0


class House:
    """A data directory, a log, and an edge that can be stopped and started."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.folder = folder
        self.log = MemoryLog(SystemClock())
        self.reading = self.log.connect()
        self.edge = None

    def open(self):
        self.edge = Edge(self.log, EdgeSettings(str(self.folder), spool_folders=(str(self.folder / "spool"),)), SystemClock(), None)
        self.edge.start()

    def shut(self):
        if self.edge is not None:
            self.edge.stop()
            self.edge = None

    def decide(self, run, action, **params):
        now = time.time()
        decision = events.Decision(
            f"{action}-1",
            run.run,
            run.attempt,
            action,
            "person",
            "request:1",
            f"why {action}",
            now,
            now + 60,
            params=params,
            mode="act",
        )
        self.reading.publish([Message(CONTROL, run.run, events.encode(decision))])

    def records(self, run, topic):
        found, position = [], 0
        while True:
            records, position = self.reading.follow(topic, run.run, position, 1000, 0.0)
            if not records:
                return found
            found += [events.decode(record.body) for record in records]

    def answers(self, run):
        return {one.id: one for one in self.records(run, RUNS) if isinstance(one, events.Ack)}


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("SMART_TUNER_MODE", "SMART_TUNER_RUN", "SMART_TUNER_DATA_DIR", "SMART_TUNER_BUS"):
        monkeypatch.delenv(name, raising=False)
    made = House(tmp_path / "smart-tuner")
    made.open()
    yield made
    made.shut()
    made.log.close()


def steps(run, house, decide_at, *decision, **params):
    """Logs until told to stop; the decision is published when step `decide_at` has been logged."""
    deadline = time.monotonic() + PATIENCE_S
    step = 0
    while not run.should_stop:
        assert time.monotonic() < deadline, "it was never told to stop"
        run.log({"loss": 1.0 / (step + 1)}, step=step)
        if step == decide_at:
            house.decide(run, *decision, **params)
        step += 1
        time.sleep(0.001)
    return step


def test_a_decision_ends_a_loop_that_logs_and_everything_is_on_the_log_when_finish_returns(house, capsys):
    run = smarttuner.attach("job")
    path = run._line.spool.path
    logged = steps(run, house, 20, "prune")
    run.finish()
    points = [(p, s.steps[i]) for c in house.records(run, METRICS) for s, at in c.positions() for i, p in enumerate(at)]
    assert [step for _, step in sorted(points)] == list(range(logged))
    ack = house.answers(run)["prune-1"]
    assert (ack.status, ack.attempt, ack.by) == ("applied", run.attempt, "job")
    told = [one for one in house.records(run, RUNS) if isinstance(one, events.RunEvent)]
    assert [(one.event, one.state, one.ended_by) for one in told] == [("started", None, None), ("ended", "pruned", "why prune")]
    assert not house.folder.joinpath("spool", path).exists()
    said = capsys.readouterr().err
    assert "a daemon listens" in said
    assert "waits in" not in said


def test_best_weights_caught_while_the_daemon_is_away_come_back_bit_for_bit(house):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = smarttuner.attach("job", model=model, optimizer=optimizer, monitor="val", goal="min")
    values = [3.0, 2.0, 1.0, 1.5, 2.0, 2.5]
    for step, value in enumerate(values):
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        if step == 1:
            house.shut()
        if value == min(values):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        run.log({"val": value}, step=step)
    house.open()
    house.decide(run, "restore", which="best")
    deadline = time.monotonic() + PATIENCE_S
    while not torch.equal(model.weight, best["weight"]) and time.monotonic() < deadline:
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        time.sleep(0.01)
    assert all(torch.equal(best[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(before[0], model.weight)
    run.finish()  # waits 2 s for a daemon; what a busy one has not taken by then it takes later
    ack = until(lambda: house.answers(run).get("restore-1"))
    assert (ack.status, ack.after) == ("applied", 2)
    restored = [one for one in house.records(run, RUNS) if getattr(one, "event", "") == "restored"]
    assert [one.step for one in restored] == [2]

    def stored():
        return sorted(x for c in house.records(run, METRICS) for s in c.series if s.name == "val" for x in s.values)

    until(lambda: len(stored()) >= len(values))
    assert stored() == sorted(values)
