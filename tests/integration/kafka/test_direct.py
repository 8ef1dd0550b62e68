"""Jobs on a host without a daemon, as real processes against a real broker: they ship by themselves, and are steered."""

import contextlib
import json
import sys
import time

import pandas
import pytest
from kafka_host import PATIENCE_S, Host, until
from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, RunEvent, decode
from smarttuner.core.ports import METRICS, RUNS

FORKS = 60


@pytest.fixture
def make_host(tmp_path):
    made = []

    def make(name, bootstrap, prefix):
        made.append(Host(tmp_path / name, bootstrap, prefix))
        return made[-1]

    yield make
    for one in made:
        one.shut()


def test_a_job_without_a_daemon_is_stored_steered_and_after_a_kill_its_rest_is_shipped(kafka_broker, kafka_prefix, make_host):
    office, rack = (make_host(name, kafka_broker.bootstrap, kafka_prefix) for name in ("office", "rack"))
    office.daemon()
    job = rack.job("steered", 10**9, "torch")
    job.reaches(50)
    until(lambda: "steered" in office.cli("runs", "--json").stdout, lambda: rack.said("steered"))
    done = office.cli("decide", "steered", "scale-lr", "0.5", "--wait", "--timeout", "60")
    assert done.returncode == 0, done.stdout + done.stderr + rack.said("steered") + office.said("daemon")
    assert [json.loads(line)["status"] for line in (job.notes / "decisions").read_text().splitlines()] == ["applied"]
    killed = rack.job("killed")
    killed.reaches(200)
    killed.process.kill()
    killed.process.wait()
    logged = killed.logged
    assert job.ends() == 0
    assert "waits in" not in rack.said("steered")
    late = rack.job("late", 50, "leaves")
    assert late.process.wait(PATIENCE_S) == 0

    def points():
        rows = pandas.read_parquet(office.data / "metrics")
        return rows[rows.series == "x"]

    def stored():
        runs = points().run
        return {"steered", "killed", "late"} <= set(runs) and sum(runs == "killed") >= logged

    wanted = {"steered": ("finished", None), "killed": ("failed", "died"), "late": ("finished", None)}

    def ended():
        rows = pandas.read_parquet(office.data / "runs").to_dict("records")
        return {row["run"]: (row["state"], row["ended_by"] if isinstance(row["ended_by"], str) else None) for row in rows} == wanted

    until(ended, lambda: rack.said("late") + office.said("daemon"))
    until(stored, lambda: rack.said("late"))
    rows = points()
    assert not rows.duplicated(["attempt", "seq"]).any()
    for run, count in (("steered", job.logged), ("killed", logged), ("late", 50)):
        steps = rows[rows.run == run].sort_values("seq").step.tolist()
        assert steps == list(range(len(steps)))
        assert len(steps) in (count, count + (run == "killed"))
    assert list((rack.folder / "state" / "smart-tuner" / "spool").glob("*.spool")) == []


@contextlib.contextmanager
def opened(broker):
    """A handle on the log, while the broker is there: kafka-python leaves sockets whose connect was refused to the collector."""
    log = KafkaLog(KafkaSettings(broker.bootstrap, prefix="t", partitions=2), SystemClock())
    bus = log.connect()
    try:
        yield bus
    finally:
        bus.close()
        log.close()


def test_a_broker_that_is_killed_and_comes_back_costs_no_point_and_no_order(make_broker, make_host):
    broker = make_broker()
    rack = make_host("rack", broker.bootstrap, "t")
    with opened(broker) as bus:
        job = rack.job("r")
        job.reaches(100)
        until(lambda: bus.follow(METRICS, "r", 0, timeout_s=1.0)[0], lambda: rack.said("r"))
    broker.kill()
    job.reaches(job.logged + 300)  # a step does not wait for a broker
    until(lambda: "is away" in rack.said("r"))
    broker.start()
    job.reaches(job.logged + 100)
    assert job.ends() == 0
    found, position = [], 0
    with opened(broker) as bus:
        until(lambda: any(isinstance(decode(one.body), RunEvent) for one in bus.follow(RUNS, "r", 0, timeout_s=1.0)[0]))
        deadline = time.monotonic() + PATIENCE_S
        while len({step for _, step in found}) < job.logged:
            assert time.monotonic() < deadline, rack.said("r")
            records, position = bus.follow(METRICS, "r", position, timeout_s=1.0)
            chunks = [decode(one.body) for one in records]
            assert all(isinstance(one, MetricChunk) for one in chunks)
            for chunk in chunks:
                found += [(at, s.steps[i]) for s, places in chunk.positions() if s.name == "x" for i, at in enumerate(places)]
    assert [step for _, step in dict.fromkeys(found)] == list(range(job.logged))


def test_the_children_of_a_fork_end_at_once_and_without_a_word(kafka_broker, kafka_prefix, make_host):
    rack = make_host("rack", kafka_broker.bootstrap, kafka_prefix)
    KafkaLog(KafkaSettings(kafka_broker.bootstrap, prefix=kafka_prefix, partitions=2), SystemClock()).close()
    script = f"""
import os, sys, smarttuner
run = smarttuner.attach("forks")
for step in range({FORKS}):
    run.log({{"x": 1.0}}, step=step)
    child = os.fork()
    if child == 0:
        run.log({{"child": 1.0}}, step=step)
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
run.finish()
"""
    process = rack.start("forks", sys.executable, "-c", script)
    assert process.wait(PATIENCE_S) == 0, rack.said("forks")
    assert all(line.startswith("smart-tuner: ") for line in rack.said("forks").splitlines())
    assert "waits in" not in rack.said("forks")
