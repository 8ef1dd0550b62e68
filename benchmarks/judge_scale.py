"""Points judged per second and core by the shipped policies, as the runs grow; and how fast a replay is.

    python benchmarks/judge_scale.py [--most 10000] [--points 200000] [--plot docs/judge-scale.svg] [--json]

Each case feeds a judge with chunks as they come from the log (decoded and folded, nothing published or saved): `runs` runs in
groups of five, a chunk of `chunk` points each a batch. torch's ReduceLROnPlateau, called in a loop on one series in the same
process, is the measure of the machine: it compares one number and keeps nothing. CPU time of the thread, the median of three.
The replay is of 1,000 runs of 10,000 points in groups of five, the shipped policies, reading not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from smarttuner.consumers import early_stop_controller, param_scheduler
from smarttuner.consumers.figures.drawing import Curve, Figure, Panel, svg_text
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.replay import Points, Replay, Trial
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.daemon.gates import Gates

RULES = [*early_stop_controller.rules({}), *param_scheduler.rules({})]
ACTING = [*early_stop_controller.rules({}, "act"), *param_scheduler.rules({}, "act")]
START = 1e9
GROUP = 5
CHUNKS = (1, 5, 100, 1000)
COUNTS = (10, 100, 1000, 10_000)
ENOUGH = 200_000
"""Points of a case, unless three batches already hold more."""
MOST = 2_000_000
"""A case that would hold more points in one batch is left out."""


def value(run: int, steps: np.ndarray) -> np.ndarray:
    """A loss that falls as a power of the steps, another one for each run, with noise of 0.1 %."""
    rng = np.random.default_rng([run, int(steps[0])])
    return (1 + run % GROUP * 0.01) * (steps + 1.0) ** -0.3 * rng.normal(1, 1e-3, len(steps))


def started(run: int) -> Record:
    said = Started(monitor="val_loss", goal="min", allow=["prune"])
    event = RunEvent(f"r{run}", f"a{run}", "started", START, seq=0, group=f"g{run // GROUP}", started=said)
    return Record(RUNS, 0, run, "k", encode(event), START)


def chunk(run: int, batch: int, size: int, offset: int) -> Record:
    steps = np.arange(batch * size, (batch + 1) * size)
    time = START + batch
    series = Series("val_loss", steps.tolist(), value(run, steps).tolist(), [time] * size)
    body = encode(MetricChunk(f"r{run}", f"a{run}", "sdk", 1 + batch * size, [series], f"g{run // GROUP}"))
    return Record(METRICS, 0, offset, "k", body, time)


def judged(runs: int, size: int, points: int) -> float:
    """Points a second of one core."""
    batches = max(3, points // (runs * size))
    judge = Judge(lambda record: RULES, Gates())
    judge.handle([started(run) for run in range(runs)], START)
    spent = 0.0
    for batch in range(batches):
        records = [chunk(run, batch, size, runs + batch * runs + run) for run in range(runs)]
        begun = time.thread_time()
        judge.handle(records, START + batch)
        spent += time.thread_time() - begun
        judge.saved()
    return runs * size * batches / spent


def looped() -> float:
    """Points a second of torch's class, one series."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e300)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.999)
    values = value(0, np.arange(50_000)).tolist()
    begun = time.thread_time()
    for one in values:
        scheduler.step(one)
    return len(values) / (time.thread_time() - begun)


def replayed(runs: int = 1000, points: int = 10_000) -> float:
    """Points a second of a replay."""
    steps = np.arange(1, points + 1)
    spent = 0.0
    for first in range(0, runs, GROUP):
        orders = (steps - 1) * GROUP
        trials = []
        for run in range(first, first + GROUP):
            at = orders + run % GROUP + 1
            times = START + at
            said = Started(monitor="val_loss", goal="min")
            one = Points("t", np.arange(points), steps, value(run, steps), times, times, at)
            trials.append(Trial(f"r{run}", f"a{run}", "g", said, {"val_loss": one}))
        begun = time.thread_time()
        Replay(lambda record: ACTING, Gates()).run(trials)
        spent += time.thread_time() - begun
    return runs * points / spent


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(3))


def figure(found: dict[str, float]) -> Figure:
    """The cost of a point over the number of runs, a curve a chunk size."""
    curves = []
    for number, size in enumerate(CHUNKS):
        rows = [
            (at, 1e6 / found[key]) for at, runs in enumerate(COUNTS, 1) if (key := f"judged_{runs}_runs_{size}_a_chunk") in found
        ]
        if rows:
            powers, costs = zip(*rows, strict=True)
            curves.append(Curve(f"{size} points a chunk", number, np.array(powers), np.array(costs, float)))
    return Figure(
        "Judging a point: µs of one core (logarithmic) over the runs (powers of ten)", [Panel("µs a point", curves)], log=True
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--most", type=int, default=10_000, metavar="RUNS")
    asked.add_argument("--points", type=int, default=ENOUGH, metavar="N", help="points of a case")
    asked.add_argument("--plot", type=Path, metavar="FILE.svg")
    asked.add_argument("--json", action="store_true")
    options = asked.parse_args()
    found = {"torch_points_per_s": median(looped)}
    for runs in [count for count in COUNTS if count <= options.most]:
        for size in CHUNKS:
            if runs * size <= MOST:
                found[f"judged_{runs}_runs_{size}_a_chunk"] = median(
                    lambda runs=runs, size=size: judged(runs, size, options.points)
                )
    found["replay_points_per_s"] = replayed()
    if options.plot:
        options.plot.write_text(svg_text(figure(found)))
    if options.json:
        print(json.dumps(found))
        return
    print("policies: " + ", ".join(rule.policy.name for rule in RULES))
    for name, speed in found.items():
        print(f"{name:34}{speed:14,.0f} points/s{speed / found['torch_points_per_s']:9.3f} of torch's loop")


if __name__ == "__main__":
    main()
