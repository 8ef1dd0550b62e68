"""The stores of a fleet on Apache Kafka keep one folder, while daemons join, leave, and are paused past their session."""

import pathlib
import signal
import subprocess
import sys
import time

import pandas as pd
from smarttuner.bus.kafka import KafkaLog
from smarttuner.consumers.reading import metric_table
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import METRICS, RUNS, Message

LANE = pathlib.Path(__file__).with_name("store_lane.py")
RUNS_COUNT, POINTS = 12, 20
LIMIT_S = 90.0


def wait_until(condition, daemons, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert all(one.poll() is None for one in daemons), "a daemon ended"
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def messages(turn):
    """Points of every run, and the runs themselves in the first turn."""
    for n in range(RUNS_COUNT):
        run, first = f"run{n}", turn * POINTS
        if not turn:
            yield Message(RUNS, run, encode(RunEvent(run, f"a{n}", "started", 1e9, 0, started=Started(host="h"))))
        steps = list(range(first, first + POINTS))
        yield Message(
            METRICS, run, encode(MetricChunk(run, f"a{n}", "sdk", first, [Series("x", steps, [1.0] * POINTS, [1e9] * POINTS)]))
        )


def test_no_row_is_lost_or_doubled_while_daemons_join_leave_and_sleep_past_their_session(kafka_broker, kafka_prefix, tmp_path):
    sys.path.insert(0, str(LANE.parent))
    from store_lane import settings

    log = KafkaLog(settings(kafka_broker.bootstrap, kafka_prefix), SystemClock())
    bus, daemons, turns, folder = log.connect(), [], 0, tmp_path / "store"

    def begin():
        command = [sys.executable, str(LANE), kafka_broker.bootstrap, kafka_prefix, str(folder)]
        daemons.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert daemons[-1].stdout.readline() == "ready\n"
        return daemons[-1]

    def publish():
        nonlocal turns
        bus.publish(list(messages(turns)))
        turns += 1

    def stored():
        return len(metric_table(folder, attempts="all")) if (folder / "metrics").is_dir() else 0

    def all_stored():
        return stored() == turns * RUNS_COUNT * POINTS

    try:
        publish()
        first, _second = begin(), begin()
        wait_until(all_stored, daemons, "two daemons")
        publish()
        wait_until(lambda: stored() > RUNS_COUNT * POINTS, daemons, "a publish that goes on")
        first.send_signal(signal.SIGSTOP)
        for _ in range(5):
            publish()
        wait_until(all_stored, daemons, "one of them is paused, the other takes its partitions over")
        first.send_signal(signal.SIGCONT)
        for _ in range(10):
            publish()
            time.sleep(0.1)
        third = begin()
        assert third.stdout.readline() == "has its share\n"
        for _ in range(5):
            publish()
            time.sleep(0.1)
        wait_until(all_stored, daemons, "the paused one is back, a third has joined")
        third.send_signal(signal.SIGTERM)
        publish()
        taken = third.communicate(timeout=LIMIT_S)[0].split()[1]
        daemons.remove(third)
        publish()
        wait_until(all_stored, daemons, "the third has left")
        rows = pd.read_parquet(folder / "metrics")
        assert not rows.duplicated(["attempt", "seq"]).any()
        assert len(rows) == turns * RUNS_COUNT * POINTS
        assert sorted(pd.read_parquet(folder / "runs").attempt) == sorted(f"a{n}" for n in range(RUNS_COUNT))
        assert int(taken) > 0, "the third took no partition"
    finally:
        for one in daemons:
            one.kill()
            one.communicate()
        bus.close()
        log.close()
