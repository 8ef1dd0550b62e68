"""Points judged per second and core by the shipped policies, as the runs grow; and how fast a replay is.

    python benchmarks/judge_scale.py [--most 10000] [--rounds 5] [--plot docs/judging.svg] [--json FILE]

Each case feeds a judge with chunks as a lane does, at most 2,000 at a time, nothing published or saved: `runs` runs in groups of
five, a chunk of `chunk` points each in turn. Each run has as many chunks as in the other cases of its chunk size, so that
the same points are judged: 20 of one and of five points, 5 of 100, 2 of 1,000, after 100 points each in four chunks that
are not counted (`early` counts those, one a chunk, where nearly each closes a rung and is compared with its peers). CPU time of
the thread, and what of it the decoding takes; the median of `rounds` judges, the cases in turn (of few runs many judges one
after the other, so that the clock sees enough). `attach`, `end`, `forget`: what a run costs whose start, end and oblivion a day
later the judge folds. torch's ReduceLROnPlateau, called in a loop on one series before and after in a process of its own, is the
measure of the machine: it compares one number and keeps nothing.
The replay is of 100 runs of 10,000 points in groups of five, the shipped policies, reading not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from smarttuner.consumers import early_stop_controller, param_scheduler
from smarttuner.consumers.figures.drawing import Curve, Figure, Panel, svg_text
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.replay import Points, Replay, Trial
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, decode, encode
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.daemon.garbage import look_seldom
from smarttuner.daemon.gates import Gates

RULES = [*early_stop_controller.rules({}), *param_scheduler.rules({})]
ACTING = [*early_stop_controller.rules({}, "act"), *param_scheduler.rules({}, "act")]
START = 1e9
GROUP = 5
CHUNKS = {1: 20, 5: 20, 100: 5, 1000: 2}
"""Points a chunk: chunks of a run."""
COUNTS = (1, 10, 100, 1000, 10_000)
WARM = (25, 25, 25, 25)
"""Chunks of each run that are folded before the clock runs: by then its rhythm is known."""
BATCH = 2000
"""Chunks that a lane hands over at once, at the most."""
MOST = 2_000_000
"""A case of which one round would hold more points is left out."""
FEW = 1000
"""Of fewer runs so many are judged, by one judge after the other."""
DAY_S = 86_400.0


class Cost(NamedTuple):
    """CPU seconds a point: decoding alone, and all."""

    decoding: float
    all: float


def value(rng: np.random.Generator, run: int, steps: np.ndarray) -> np.ndarray:
    """A loss that falls as a power of the steps, another one for each run, with noise of 0.1 %."""
    return (1 + run % GROUP * 0.01) * (steps + 1.0) ** -0.3 * rng.normal(1, 1e-3, len(steps))


def started(run: int) -> Record:
    said = Started(monitor="val_loss", goal="min", allow=["prune"])
    event = RunEvent(f"r{run}", f"a{run}", "started", START, seq=0, group=f"g{run // GROUP}", started=said)
    return Record(RUNS, 0, run, "k", encode(event), START)


def rounds(runs: int, sizes: Iterator[int]) -> Iterator[list[Record]]:
    """A chunk of each run in turn, of the next of the sizes, in batches."""
    rng, first, offset = np.random.default_rng(0), 0, runs
    for size in sizes:
        steps = np.arange(first, first + size)
        for begin in range(0, runs, BATCH):
            batch = []
            for run in range(begin, min(runs, begin + BATCH)):
                series = Series("val_loss", steps.tolist(), value(rng, run, steps).tolist(), [START + first] * size)
                body = encode(MetricChunk(f"r{run}", f"a{run}", "sdk", 1 + first, [series], f"g{run // GROUP}"))
                batch.append(Record(METRICS, 0, offset, "k", body, START + first))
                offset += 1
            yield batch
        first += size


def judged(runs: int, size: int, chunks: int, warm: tuple[int, ...] = WARM) -> Cost:
    """What a point costs, with the collector as a daemon has it."""
    look_seldom()
    judge = Judge(lambda record: RULES, Gates())
    judge.handle([started(run) for run in range(runs)], START)
    before, decoding, spent = -(-runs // BATCH) * len(warm), 0.0, 0.0
    for number, records in enumerate(rounds(runs, iter([*warm, *[size] * chunks]))):
        if number >= before:
            decoding -= time.thread_time()
            for record in records:
                decode(record.body)
            decoding += time.thread_time()
            spent -= time.thread_time()
        judge.handle(records, records[-1].time)
        if number >= before:
            spent += time.thread_time()
        judge.saved()
    points = runs * size * chunks
    return Cost(decoding / points, spent / points)


def lived(runs: int) -> dict[str, float]:
    """What a run costs (CPU seconds) that is attached, has ended and is forgotten, one after the other, beside all others."""
    look_seldom()
    judge = Judge(lambda record: RULES, Gates())
    over = START + 10
    ends = [
        RunEvent(f"r{run}", f"a{run}", "ended", over, seq=99, state="finished", group=f"g{run // GROUP}") for run in range(runs)
    ]
    told = {
        "attach": ([started(run) for run in range(runs)], START),
        "end": ([Record(RUNS, 0, 10 * runs + run, "k", encode(one), over) for run, one in enumerate(ends)], over),
        "forget": ([], over + 2 * DAY_S),
    }
    found = {}
    for what, (records, now) in told.items():
        begun = time.thread_time()
        judge.handle(records, now)
        found[what] = (time.thread_time() - begun) / runs
        if what == "attach":
            for batch in rounds(runs, iter(WARM)):
                judge.handle(batch, START + 1)
    assert not judge.attempts
    return found


def looped() -> float:
    """Points a second of torch's class, one series."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e300)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.999)
    values = value(np.random.default_rng(0), 0, np.arange(200_000)).tolist()
    begun = time.thread_time()
    for one in values:
        scheduler.step(one)
    return len(values) / (time.thread_time() - begun)


def torch_speed() -> float:
    """`looped` in a process of its own: torch's own objects would burden the collector of this one."""
    told = subprocess.run([sys.executable, __file__, "--torch"], check=True, capture_output=True, text=True).stdout
    return float(told)


def replayed(runs: int = 100, points: int = 10_000) -> float:
    """Points a second of a replay."""
    steps, rng = np.arange(1, points + 1), np.random.default_rng(0)
    spent = 0.0
    for first in range(0, runs, GROUP):
        orders = (steps - 1) * GROUP
        trials = []
        for run in range(first, first + GROUP):
            at = orders + run % GROUP + 1
            times = START + at
            said = Started(monitor="val_loss", goal="min")
            one = Points("t", np.arange(points), steps, value(rng, run, steps), times, times, at)
            trials.append(Trial(f"r{run}", f"a{run}", "g", said, {"val_loss": one}))
        begun = time.thread_time()
        Replay(lambda record: ACTING, Gates()).run(trials)
        spent += time.thread_time() - begun
    return runs * points / spent


def figure(found: dict[str, float], torch: float) -> Figure:
    """The cost of a point over the number of runs, a curve a chunk size."""
    curves = []
    for number, size in enumerate(CHUNKS):
        rows = [(at, found[key]) for at, runs in enumerate(COUNTS) if (key := f"{runs}_runs_{size}_a_chunk_us") in found]
        if rows:
            powers, costs = zip(*rows, strict=True)
            curves.append(Curve(f"{size} points a chunk", number, np.array(powers), np.array(costs, float)))
    powers = np.arange(len(COUNTS))
    curves.append(Curve("ReduceLROnPlateau in a loop", len(CHUNKS), powers, np.full(len(powers), 1e6 / torch)))
    title = "A point decoded and judged: µs of one core (logarithmic) over the runs, in powers of ten"
    return Figure(title, [Panel("µs a point", curves)], log=True)


def cases(most: int, times: int) -> dict[str, float]:
    """µs a point of each case, and what of it the decoding takes, and µs a run; tells each as it comes."""
    found: dict[str, list[float]] = {}
    for nth in range(times):
        for runs in [count for count in COUNTS if count <= most]:
            for size, chunks in CHUNKS.items():
                if runs * size <= MOST:
                    costs = [judged(runs, size, chunks) for _ in range(max(1, FEW // runs // size))]
                    keep(found, f"{runs}_runs_{size}_a_chunk", costs)
            if runs >= FEW // 10:
                for what, spent in lived(runs).items():
                    found.setdefault(f"{what}_beside_{runs}_us", []).append(1e6 * spent)
        keep(found, "early_1000_runs_1_a_chunk", [judged(1000, 1, 40, ())])
        print(f"round {nth + 1} of {times}", file=sys.stderr, flush=True)
    return {key: statistics.median(each) for key, each in found.items()}


def keep(found: dict[str, list[float]], case: str, costs: list[Cost]) -> None:
    found.setdefault(f"{case}_us", []).append(1e6 * statistics.mean(cost.all for cost in costs))
    found.setdefault(f"{case}_decoding_us", []).append(1e6 * statistics.mean(cost.decoding for cost in costs))


def tell(found: dict[str, float]) -> None:
    for key, cost in found.items():
        case = key.removesuffix("_us").replace("_", " ")
        if f"{key.removesuffix('_us')}_decoding_us" in found:
            judging = cost - found[f"{key.removesuffix('_us')}_decoding_us"]
            print(f"{case:30}{cost:8.2f} us a point{1e6 / cost:14,.0f} points/s, without decoding{1e6 / judging:14,.0f}")
        elif not case.endswith("decoding"):
            print(f"{case:30}{cost:8.1f} us a run")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--most", type=int, default=10_000, metavar="RUNS")
    asked.add_argument("--rounds", type=int, default=5, metavar="N", help="judges of a case")
    asked.add_argument("--plot", type=Path, metavar="FILE.svg")
    asked.add_argument("--json", type=Path, metavar="FILE")
    asked.add_argument("--torch", action="store_true", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.torch:
        print(looped())
        return
    print("policies: " + ", ".join(rule.policy.name for rule in RULES))
    before = torch_speed()
    found = cases(options.most, options.rounds)
    tell(found)
    replay, torch = replayed(), (before + torch_speed()) / 2
    if options.plot:
        options.plot.write_text(svg_text(figure(found, torch)))
    if options.json:
        options.json.write_text(json.dumps(found | {"replay_points_per_s": replay, "torch_points_per_s": torch}))
    print(f"{'ReduceLROnPlateau in a loop':30}{torch:14,.0f} points/s")
    print(f"{'replay':30}{replay:14,.0f} points/s")


if __name__ == "__main__":
    main()
