"""Metric to applied decision, for a job that computes all the time: from just before log() to on_decision's stamp.

.venv/bin/python benchmarks/latency.py [seconds a case, default 10] [--priority] [--kafka]

The job is a real attachment with a real torch optimizer; a policy that it states itself (plateau, patience 0, on a flat series)
scales its learning rate at every point. It logs at least 20 ms apart, at random moments of its steps. Each case once with
steps of 1 ms and once with steps of 0.1 ms: what is between the two is the job's own step, not Smart Tuner.
`--priority` (root) runs job and daemon before whatever else the machine does (SCHED_FIFO): on a machine that others load too, it
tells what Smart Tuner costs from how long a process waits for its turn. `--kafka`: over Apache Kafka, on a broker of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from fleet import Daemon, fleet, machine

CONFIG = "limits:\n  decisions_per_hour: 1000000\n"
LEAST_S, SPREAD_S = 0.021, 0.015
STEPS_S = (0.0001, 0.001)
RUNS, SERIES = 1000, 5


def job(step_s: float, seconds: float) -> None:
    """Prints one JSON line: milliseconds from log to decision, and how many points had none."""
    import torch
    from smarttuner import attach
    from smarttuner.core.events import decision_id

    torch.set_num_threads(1)
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.ones(1)
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    logged: list[tuple[int, float]] = []
    seen: dict[str, float] = {}
    statuses: set[str] = set()

    def on_decision(answered: Any) -> None:
        if answered.action == "scale-lr":
            statuses.add(answered.status)
            seen[answered.id] = time.perf_counter()

    policy = {"patience": 0, "threshold": 0.0, "cooldown": 0, "factor": 0.9999}
    run = attach("measured", optimizer=optimizer, monitor="flat", goal="min", policies={"plateau": policy}, on_decision=on_decision)
    if os.environ.get("BENCHMARK_PRIORITY"):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    steps: list[float] = []
    started = time.perf_counter()
    due, points, number = started + 1.0, 0, 0.5
    while (now := time.perf_counter()) < started + seconds:
        at, logs = now + step_s, due < now + step_s  # this step ends at `at`; it may log once on its way, at `due`
        while (now := time.perf_counter()) < at:
            number = number * 1.0000001 % 1.0  # the work
            if logs and now >= due:
                begun = time.perf_counter()
                run.log({"flat": 1.0}, step=points)
                logged.append((run.last_word - 1, begun))  # its position: the decision's trigger, hence its id
                points, logs, due = points + 1, False, now + LEAST_S + SPREAD_S * random.random()
        optimizer.step()
        steps.append((time.perf_counter() - at + step_s) * 1e3)
    run.finish()
    triggers = [(f"sdk:{position}", begun) for position, begun in logged]
    ids = [(decision_id(run.run, run.attempt, "plateau", 1, "scale-lr", trigger), begun) for trigger, begun in triggers]
    taken = [(seen.pop(name) - begun) * 1e3 for name, begun in ids if name in seen]
    assert not seen, "a decision whose point is not known"
    print(json.dumps({"ms": taken, "points": points, "statuses": sorted(statuses), "step_ms": sorted(steps)[len(steps) // 2]}))


def measured(daemon: Daemon, step_s: float, seconds: float) -> dict[str, Any]:
    """What a job process reports, and the CPU share of the daemon meanwhile."""
    cpu, began = daemon.cpu_s(), time.monotonic()
    command = [sys.executable, __file__, "job", str(step_s), str(seconds)]
    done = subprocess.run(command, env=daemon.environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(done.stdout)
    found["cpu"] = (daemon.cpu_s() - cpu) / (time.monotonic() - began)
    found["rss"] = daemon.rss_mb()
    return found


def row(name: str, found: dict[str, Any]) -> str:
    ms = sorted(found["ms"]) or [float("nan")]
    p50, p90, p99, worst = (ms[min(len(ms) - 1, int(len(ms) * q))] for q in (0.5, 0.9, 0.99, 1.0))
    return (
        f"{name:34}{found['step_ms']:8.2f}{p50:8.2f}{p90:8.2f}{p99:8.2f}{worst:8.1f}{len(ms):7}/{found['points']:<5}"
        f"{found['cpu'] * 100:6.0f} %{found['rss']:7.0f}  {', '.join(found['statuses'])}"
    )


@contextmanager
def broker() -> Iterator[None]:
    """Apache Kafka on this machine; daemon and jobs find it in the environment."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from kafka_broker import Broker

    with tempfile.TemporaryDirectory() as folder:
        kafka = Broker(Path(folder)).start()
        os.environ["SMART_TUNER_BUS"] = f"kafka://{kafka.bootstrap}"
        try:
            yield
        finally:
            kafka.kill()


def main(seconds: float = 10.0) -> None:
    print(machine())
    columns = f"{'step ms':>8}{'p50 ms':>8}{'p90':>8}{'p99':>8}{'worst':>8}{'decisions/points':>17}"
    print(f"{'':34}{columns}{'daemon CPU':>11}{'RSS MB':>7}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as folder, Daemon(Path(folder), CONFIG) as daemon:
        for step_s in STEPS_S:
            print(row("the job alone", measured(daemon, step_s, seconds)), flush=True)
        with fleet(daemon, RUNS, SERIES, seconds * 4 + 60):
            time.sleep(2)
            for step_s in STEPS_S:
                print(row(f"beside {RUNS} runs x {SERIES} scalars/s", measured(daemon, step_s, seconds)), flush=True)
            decisions = {name: daemon.counter(f"decisions_{name}") for name in ("pending", "would", "refused")}
            print(f"decisions {decisions}, points dropped {daemon.counter('points_dropped')}")
    print(machine())


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        job(*map(float, sys.argv[2:]))
    else:
        if "--priority" in sys.argv:
            os.environ["BENCHMARK_PRIORITY"] = "1"
        with broker() if "--kafka" in sys.argv else nullcontext():
            main(*(float(one) for one in sys.argv[1:] if not one.startswith("--")))
