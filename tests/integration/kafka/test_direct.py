"""Jobs on a host without a daemon, as real processes against a real broker: they ship by themselves, and are steered."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

import pandas
import pytest
from smarttuner.bus import query
from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.core.clock import SystemClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import MetricChunk, RunEvent, decode
from smarttuner.core.ports import METRICS, RUNS

PATIENCE_S = 90.0
FORKS = 60
COMMAND = (sys.executable, "-m", "smarttuner.daemon.cli.main")
JOB = pathlib.Path(__file__).parent / "direct_job.py"


def until(claim, told=lambda: ""):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := claim()):
        assert time.monotonic() < deadline, f"it did not come to pass: {told()}"
        time.sleep(0.05)
    return found


class Host:
    """One machine: a home and a data directory of its own, on the broker that others share."""

    def __init__(self, folder, bootstrap, prefix):
        self.folder, self.data, self.processes = folder, folder / "data", []
        folder.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SMART_TUNER", "XDG_"))}
        self.environment = clean | {
            "SMART_TUNER_DATA_DIR": str(self.data),
            "XDG_STATE_HOME": str(folder / "state"),
            "HOME": str(folder),
            "SMART_TUNER_BUS": f"kafka://{bootstrap}",
            "SMART_TUNER__BUS__KAFKA__PREFIX": prefix,
            "SMART_TUNER__BUS__KAFKA__PARTITIONS": "2",
            "SMART_TUNER__STORE__PUBLISH_S": "0.2",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, name, *command):
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        self.processes.append(process)
        return process

    def said(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def daemon(self):
        process = self.start("daemon", *COMMAND, "daemon")
        until(lambda: self.ask() or process.poll() is not None, lambda: self.said("daemon"))
        assert process.poll() is None, self.said("daemon")
        return process

    def ask(self):
        try:
            return query.ask(str(self.data), {"query": "status"}, 10.0)
        except Unavailable:
            return None

    def job(self, run, steps=10**9, *more):
        notes = self.folder / run
        notes.mkdir()
        return Job(self.start(run, sys.executable, str(JOB), run, str(notes), str(steps), *more), notes)

    def cli(self, *arguments):
        command = [*COMMAND, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def shut(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


class Job:
    def __init__(self, process, notes):
        self.process, self.notes = process, notes

    @property
    def logged(self):
        path = self.notes / "count"
        data = path.read_bytes()[:8] if path.exists() else b""
        return int.from_bytes(data, sys.byteorder)

    def reaches(self, count):
        until(lambda: self.logged >= count or self.process.poll() is not None)
        assert self.logged >= count

    def ends(self):
        (self.notes / "end").touch()
        return self.process.wait(PATIENCE_S)


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
