"""Points decoded, judged and stored per second and core: the judge's and the metrics store's lanes over one log, with the
shipped policies, at 5 and at 1,000 points a chunk. One process, CPU time of all its threads.

.venv/bin/python benchmarks/throughput.py [points of the large case, default 2000000] [--kafka]

With --kafka the log is Apache Kafka (a broker of the benchmark's own, whose CPU is not counted): what is published goes there, the
lanes read it from there, the judge's state goes to its compacted topic.
"""

from __future__ import annotations

import os
import pathlib
import resource
import sys
import tempfile
import time
from typing import Any

import numpy as np
from fleet import machine
from smarttuner.bus.local import LocalLog
from smarttuner.bus.retention import Limits, Retention
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import METRICS, RUNS, Message
from smarttuner.core.ulid import ulid
from smarttuner.daemon.config import Config
from smarttuner.daemon.config_rules import gates
from smarttuner.daemon.lane import Lane
from smarttuner.daemon.rule_book import RuleBook
from smarttuner.daemon.state import State
from smarttuner.daemon.stores import FilesStore, JudgeStore

RUNS_NUMBER, SERIES = 20, ("val_loss", "train_loss", "accuracy", "lr", "grad_norm")
BATCH = 500
WAIT_S = 0.2
CALM, NOISY = 1e-4, 2e-2
"""Deviation of a value. With the second the shipped plateau policy concludes at 8 of 100 judged points (it observes only)."""


class House:
    """The log and the two lanes, in `folder`, driven from one thread."""

    def __init__(self, folder: str) -> None:
        clock = self.clock = SystemClock()
        config = Config()
        self.log = LocalLog(folder, clock, limits=Retention(metrics=Limits(8 << 30, 1e9, 16 << 30)))
        self.bus = self.log.connect()
        self.judge = Judge(RuleBook(config), gates(config), config.monitoring.metrics.primary)
        self.state = State(os.path.join(folder, "state.db"), clock)
        self.store = MetricsStore(folder, clock)
        self.judging = Lane(self.judge, self.log.connect, JudgeStore(self.judge, self.state, clock), clock)
        self.storing = Lane(self.store, self.log.connect, FilesStore(self.store), clock)

    def close(self) -> None:
        for lane in (self.judging, self.storing):
            lane.drain()
        self.state.close()
        self.log.close()


class FleetHouse(House):
    """The same lanes over Apache Kafka, as one daemon of a fleet."""

    def __init__(self, folder: str, bootstrap: str) -> None:
        from smarttuner.bus.kafka import KafkaLog, KafkaSettings
        from smarttuner.consumers.tenure import Directory
        from smarttuner.daemon.fleet import FleetStore

        clock = self.clock = SystemClock()
        config = Config()
        self.log: Any = KafkaLog(KafkaSettings(bootstrap, prefix=f"bench-{ulid(clock.now())}", partitions=4), clock)
        self.bus = self.log.connect()
        self.judge = Judge(RuleBook(config), gates(config), config.monitoring.metrics.primary)
        self.state: Any = self.log.state_log()
        self.store = MetricsStore(folder, clock, place=Directory(folder, clock))
        fleet = FleetStore(self.judge, self.state, self.log.connect, clock, ulid(clock.now()), self.log.partitions)
        self.judging = Lane(self.judge, self.log.connect, fleet, clock)
        self.storing = Lane(self.store, self.log.connect, FilesStore(self.store), clock)


def messages(attempts: list[str], points: int, rows: int, noise: float) -> list[Message]:
    """`points` points of all runs, each in chunks of `rows` steps of five series that fall to a hundredth, with noise."""
    per_run = points // RUNS_NUMBER // len(SERIES) // rows * rows
    random, now = np.random.default_rng(1), time.time()
    made = []
    fall = 0.01 ** (np.arange(per_run) / per_run)
    columns = {name: (fall * (1 + random.normal(0, noise, per_run))).tolist() for name in SERIES}
    for first in range(0, per_run, rows):
        steps = list(range(first, min(per_run, first + rows)))
        times = [now + 0.01 * step for step in steps]
        at = len(SERIES) if rows > 1 else None  # in the order in which log() was called: a row a step
        series = [
            Series(name, steps, columns[name][first : first + rows], times, [k * at + n for k in range(len(steps))] if at else None)
            for n, name in enumerate(SERIES)
        ]
        for n, attempt in enumerate(attempts):
            body = encode(MetricChunk(f"run-{n}", attempt, "sdk", 1 + first * len(SERIES), series))
            made.append(Message(METRICS, f"run-{n}", body))
    return made


def judged(house: House) -> int:
    """Points that the judge has folded."""
    return sum(last.count for one in house.judge.attempts.values() for last in one.series.values())


def cpu_s() -> float:
    """CPU seconds of this process, the kernel's for it included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(points: int, rows: int, noise: float, bootstrap: str = "") -> dict[str, float]:
    """CPU seconds of each part for `points` points; what reads the log reads it from memory or file as it comes."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as folder:
        house = FleetHouse(folder, bootstrap) if bootstrap else House(folder)
        attempts = [ulid(time.time()) for _ in range(RUNS_NUMBER)]
        said = Started(monitor="val_loss", goal="min", allow=["lr", "prune"])
        started = [RunEvent(f"run-{n}", attempt, "started", time.time(), 0, started=said) for n, attempt in enumerate(attempts)]
        house.bus.publish([Message(RUNS, event.run, encode(event)) for event in started])
        made = messages(attempts, points, rows, noise)
        taken = dict.fromkeys(("publish", "judge", "store"), 0.0)
        wall = time.perf_counter()
        for first in range(0, len(made), BATCH):
            mark = cpu_s()
            house.bus.publish(made[first : first + BATCH])
            taken["publish"] += (now := cpu_s()) - mark
            published = min(first + BATCH, len(made)) * rows * len(SERIES)
            while house.judging.step(time.time(), WAIT_S) or judged(house) < published:
                pass
            taken["judge"] += (mark := cpu_s()) - now
            while house.storing.step(time.time(), WAIT_S) or house.store.counters["points"] < published:
                pass
            taken["store"] += cpu_s() - mark
        mark = cpu_s()
        house.store.flush(time.time())
        taken["store"] += cpu_s() - mark
        taken["wall"] = time.perf_counter() - wall
        count = judged(house)
        stored = house.store.counters["points"]
        assert count == stored == len(made) * rows * len(SERIES), (count, stored)
        taken["points"] = float(count)
        taken["decisions"] = sum(n for name, n in house.judge.counters.items() if name.startswith("decisions_"))
        taken["bytes"] = sum(len(one.body) for one in made) / count
        house.close()
        return taken


def over_kafka(points: int) -> None:
    """Starts a broker of its own."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
    from kafka_broker import Broker

    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(pathlib.Path(folder)).start()
        try:
            main(points, broker.bootstrap)
        finally:
            broker.kill()


def main(points: int = 2_000_000, bootstrap: str = "") -> None:
    print(machine(), "over Apache Kafka" if bootstrap else "")
    names = f"{'points a chunk':>15}{'points':>10}{'decisions':>10}{'bytes/point':>12}"
    print(f"{names}{'judge M/s':>11}{'store M/s':>11}{'both M/s':>10}{'+ publish M/s':>14}{'wall M/s':>10}")
    measured(40_000, 200, CALM, bootstrap)
    for rows, share, noise in ((1, 10, CALM), (200, 1, CALM), (200, 1, NOISY)):
        one = measured(points // share, rows, noise, bootstrap)
        rate = {name: one["points"] / one[name] / 1e6 for name in ("publish", "judge", "store", "wall")}
        both = one["points"] / (one["judge"] + one["store"]) / 1e6
        all_of_it = one["points"] / (one["judge"] + one["store"] + one["publish"]) / 1e6
        print(
            f"{rows * len(SERIES):>15}{one['points']:>10.0f}{one['decisions']:>10.0f}{one['bytes']:>12.1f}"
            f"{rate['judge']:>11.3f}{rate['store']:>11.3f}"
            f"{both:>10.3f}{all_of_it:>14.3f}{rate['wall']:>10.3f}"
        )
    print(machine())


if __name__ == "__main__":
    numbers = [int(one) for one in sys.argv[1:] if one != "--kafka"]
    if "--kafka" in sys.argv:
        over_kafka(*(numbers or [2_000_000]))
    else:
        main(*numbers)
