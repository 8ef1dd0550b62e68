"""Many runs on one host: from `log()` in the job to the daemon's log, with the daemon's CPU, and whether anything was lost.

.venv/bin/python benchmarks/edge_load.py [runs, default 1000] [seconds, default 10] [processes, default 8]

Each run logs five scalars a second through its own spool and socket; the daemon's side is the real edge over the real local log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from smarttuner.bus.local import LocalLog
from smarttuner.core import events
from smarttuner.core.clock import SystemClock
from smarttuner.core.ports import METRICS
from smarttuner.daemon.edge import Edge, EdgeSettings

JOBS = """
import sys, time
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.spool import Spool
folder, data, first, runs, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
values = {"train_loss": 0.5123, "val_loss": 0.4871, "accuracy": 0.9312, "lr": 3e-4, "grad_norm": 1.7}
lines = []
for i in range(first, first + runs):
    spool = Spool.create(folder, f"run-{i}", f"RUN{i}", data, ring_bytes=64 << 10)
    lines.append((spool, Doorbell.connect(data, spool, {})))
sys.stdin.readline()
begun, taken = time.monotonic(), 0
for step in range(seconds):
    for n, (spool, bell) in enumerate(lines):
        time.sleep(max(0.0, begun + step + n / runs - time.monotonic()))
        taken += spool.log(step, values, time.time())
        bell.ring_if_armed()
        bell.check()
for spool, bell in lines:
    bell.close()
print(taken)
"""


def latencies_ms(log: LocalLog) -> tuple[list[float], int]:
    """From the call of log() to the append, sorted; and how many points there are."""
    bus, found, points, position = log.connect(), [], 0, 0
    while True:
        records, position = bus.follow(METRICS, "any", position, 5000)
        if not records:
            return sorted(found), points
        for record in records:
            chunk = events.decode_as(record.body, events.MetricChunk)
            found += [(record.time - time_s) * 1000 for time_s in chunk.series[0].times]
            points += chunk.points()


def main(runs: int = 1000, seconds: int = 10, processes: int = 8) -> None:
    folder = tempfile.mkdtemp(prefix="edge-load-")
    data, spools = os.path.join(folder, "data"), os.path.join(folder, "spool")
    log = LocalLog(data, SystemClock())
    edge = Edge(log, EdgeSettings(data), SystemClock(), lambda *_: {})
    edge.start()
    each = runs // processes
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOBS, spools, data, str(i * each), str(each), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    while len(edge.spools()) < each * processes:
        time.sleep(0.1)
    cpu, wall = time.process_time(), time.monotonic()
    for job in jobs:
        assert job.stdin is not None
        job.stdin.write("go\n")
        job.stdin.flush()
    taken = sum(int(job.communicate()[0]) for job in jobs)
    used = (time.process_time() - cpu) / (time.monotonic() - wall)
    edge.stop()
    found, points = latencies_ms(log)
    at = [found[min(len(found) - 1, int(len(found) * q))] for q in (0.5, 0.99, 0.999)]
    print(
        f"{each * processes} runs x 5 scalars a second from {processes} processes, {seconds} s: daemon {100 * used:.0f} % of a core"
    )
    print(f"log() to the daemon's log: p50 {at[0]:.2f} ms, p99 {at[1]:.2f} ms, p99.9 {at[2]:.2f} ms, worst {found[-1]:.1f} ms")
    print(f"points logged {5 * taken}, on the log {points}, lost {5 * taken - points}")
    print(f"counters: {dict(edge.counters)}")
    log.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
