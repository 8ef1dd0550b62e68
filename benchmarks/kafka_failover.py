"""A daemon of a fleet is killed: how long until another one gives the first verdict on its partitions, and is anything lost?

    python benchmarks/kafka_failover.py [ROUNDS]

Two daemons on one Apache Kafka of this machine; 50 runs stream to the one that lives. The other is SIGKILLed, its partitions'
first decision under a higher epoch is awaited on `control`, then it is started again: ROUNDS times (5). The session is the
shipped one. In the end every point and every verdict is compared with what an undisturbed judge makes of the same log.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fleet import machine
from kafka_broker import Broker
from kafka_fleet import PARTITIONS, Fleet, check_decisions, check_metrics
from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import Decision, decode
from smarttuner.core.ports import CONTROL

RUNS, PAUSE_S = 50, 0.2
"""A run is judged every 7 s, so a verdict is due in every partition when another daemon takes over."""
PATIENCE_S = 120.0


def first_verdict(bus: Any, positions: dict[int, int], epochs: dict[int, int]) -> float:
    """When the first decision under a higher epoch was appended to one of these partitions (seconds since 1970)."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        records, moved = bus.follow_partitions(CONTROL, positions, timeout_s=1.0)
        positions = dict(moved)
        for record in records:
            event = decode(record.body)
            if isinstance(event, Decision) and event.epoch > epochs[record.partition]:
                return float(record.time)
    raise SystemExit("no verdict came")


def rounds(count: int, folder: Path, broker: Broker) -> list[float]:
    """The seconds from each kill to the first verdict."""
    fleet = Fleet(folder, "failover", broker.bootstrap)
    fleet.session_ms = 10_000
    log = KafkaLog(KafkaSettings(broker.bootstrap, prefix="failover", partitions=PARTITIONS), SystemClock())
    bus, took = log.connect(), []
    try:
        dying, living = fleet.host("dying").start(), fleet.host("living").start()
        fleet.wait_judged(dying, living)
        fleet.jobs = [living.stream(f"runs-{n}", runs=RUNS // 2, pause_s=PAUSE_S) for n in range(2)]
        for number in range(count):
            fleet.more_prunes(20)
            epochs = {int(name): epoch for name, epoch in dying.daemon.ask()["bus"]["judged_here"].items()}
            positions = {name: log.clerk.ends([(CONTROL, name)])[CONTROL, name] for name in epochs}
            killed = time.time()
            dying.daemon.kill()
            took.append(first_verdict(bus, positions, epochs) - killed)
            print(f"round {number + 1}: {took[-1]:.1f} s to the first verdict", flush=True)
            dying.start()
            fleet.wait_judged(dying, living)
        attempts = fleet.end()
        check_metrics(fleet, attempts)
        check_decisions(fleet, attempts)
        points = len(fleet.table("metrics"))
        print(f"{len(attempts)} attempts, {points:,} points, {fleet.prunes()} prunes: none lost, none twice, none other")
        return took
    finally:
        bus.close()
        log.close()
        fleet.shut()


def main(count: int) -> None:
    """Prints the figures."""
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        broker = Broker(Path(name) / "kafka").start()
        try:
            took = rounds(count, Path(name), broker)
        finally:
            broker.kill()
    print(f"first verdict after a kill: median {statistics.median(took):.1f} s, most {max(took):.1f} s (of {count}; aim 15 s)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
