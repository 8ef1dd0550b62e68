"""A job that never said `started`, from its own bytes on the log to Parquet and a verdict: watched, stored, judged, not steered."""

import json

import pandas
import pytest
from smarttuner.bus.places import Place
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import Decision, RunEvent, decode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Message
from smarttuner.daemon.config import load
from smarttuner.daemon.wiring import Host

CONFIG = """
policies: {default: act}
early_stopping: {strategies: {patience_based: {patience: 5}}}
"""


@pytest.fixture
def host(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG)
    made = Host(Place(tmp_path / "data", "local:", "argument"), load(file, {}), {"HOME": str(tmp_path)}, ManualClock(1.7e9))
    yield made
    made.close()


def chunk(first, values, **more):
    """As any language writes it: no field that the schema does not ask for."""
    steps = list(range(first, first + len(values)))
    series = {"name": "val_loss", "steps": steps, "values": values, "times": [1.7e9 + step for step in steps]}
    return json.dumps(
        {"v": 1, "kind": "metrics", "run": "r", "attempt": "X", "source": "c", "seq": first, "series": [series]} | more
    )


def turn(host):
    while sum(lane.step(host.clock.now()) for lane in host.lanes):
        pass
    host.store.flush(host.clock.now())


def published(host, topic, *bodies):
    host.bus.connect().publish([Message(topic, "r", body.encode()) for body in bodies])
    turn(host)


def test_a_run_that_never_said_started_is_stored_and_judged_but_not_steered(host):
    bodies = [chunk(0, [1.0, 0.5, "NaN"]), chunk(3, [0.5] * 10)]
    published(host, METRICS, bodies[0], bodies[1], bodies[1])
    rows = pandas.read_parquet(host.folder / "metrics")
    assert (list(rows.step), list(rows.source.unique())) == (list(range(13)), ["c"])
    (run,) = host.live_runs()
    assert (run["run"], run["judged_by"]) == ("r", "val_loss min")
    decided = [decode(one.body) for one in host.bus.connect().follow(CONTROL, "r", 0)[0]]
    assert {one.status for one in decided if isinstance(one, Decision)} == {"would"}
    assert "patience" in {one.policy for one in decided if isinstance(one, Decision)}
    assert set(pandas.read_parquet(host.folder / "decisions").status) == {"would"}


def test_its_own_last_word_ends_it(host):
    published(host, METRICS, chunk(0, [1.0]))
    ended = {"v": 1, "kind": "run", "run": "r", "attempt": "X", "event": "ended", "state": "finished", "seq": 1, "time": 1.7e9}
    published(host, RUNS, json.dumps(ended))
    assert isinstance(decode(json.dumps(ended).encode()), RunEvent)
    assert [(row["state"], row["control"]) for row in host.live_runs()] == [("finished", "none")]
    assert list(pandas.read_parquet(host.folder / "runs").state) == ["finished"]


def test_what_it_writes_wrongly_is_kept_aside_and_the_rest_counts(host):
    wrong = [chunk(0, [1.0], v=2), chunk(0, [1.0], series=[{"name": "val_loss", "steps": [1]}]), "[]", chunk(0, [1.0], run="")]
    published(host, METRICS, *wrong, chunk(0, [1.0, 0.9]))
    assert host.status()["counters"]["dead_letters"] == len(wrong)
    assert len(pandas.read_parquet(host.folder / "metrics")) == 2
