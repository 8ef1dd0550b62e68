"""What reading costs: python benchmarks/reading.py [--quick]

    frames    a run of a million points out of ten million: read_metrics against bare pandas, long and wide; read_runs over all
    plots     `smart-tuner plot` of a run with 10 series, and of groups of 1,000 and 10,000 runs, as a process of its own

CPU seconds of all threads, the best of several: they hold on a busy machine, too.
"""

import argparse
import os
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import time

import pandas as pd
import smarttuner
from parquet import ATTEMPT, chunks, store_of
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import RunEvent, Started, encode
from smarttuner.core.ports import RUNS, Record


def best(action, times=5):
    """CPU seconds of the cheapest of several calls, after one that does not count."""
    action()
    taken = []
    for _ in range(times):
        begun = time.process_time()
        action()
        taken.append(time.process_time() - begun)
    return min(taken)


def frames(folder, points):
    store_of(str(folder), points)
    filters = [("run", "==", "run-3")]

    def bare():
        return pd.read_parquet(folder / "metrics", filters=filters)

    def pivoted():
        return bare().pivot_table(index="step", columns="series", values="value", aggfunc="last")

    shape = bare().shape
    print(f"{shape[0]:,} points of one run out of {points:,}")
    for name, action in (
        ("pandas.read_parquet, filtered", bare),
        ("read_metrics, sorted", lambda: smarttuner.read_metrics("run-3", data_dir=folder)),
        ("pandas.read_parquet, filtered, pivot_table", pivoted),
        ("read_metrics, wide", lambda: smarttuner.read_metrics("run-3", wide=True, data_dir=folder)),
    ):
        print(f"  {name:50} {best(action) * 1e3:10,.0f} ms")
    print(f"  {'read_runs of all ' + f'{points:,}':50} {best(lambda: smarttuner.read_runs(data_dir=folder)) * 1e3:10,.0f} ms")


def plots(folder, runs, points):
    """A group of `runs` runs with `points` points together."""
    store = MetricsStore(str(folder), SystemClock())
    said = Started(monitor="series_0", goal="min")
    events = [RunEvent(f"run-{i}", f"{ATTEMPT}{i}", "started", 1.7e9 + i, 0, group="sweep", started=said) for i in range(runs)]
    store.handle([Record(RUNS, 0, i, "sweep", encode(one), 1.7e9) for i, one in enumerate(events)], 0.0)
    batch = []
    for record in chunks(points, min(1000, points // runs), runs, 1):
        batch.append(record)
        if len(batch) == 500:
            store.handle(batch, 0.0)
            store.flush(0.0)
            batch = []
    store.handle(batch, 0.0)
    store.flush(0.0)


def drawn(folder, name, what):
    target = folder / "figure.svg"
    command = [sys.executable, "-m", "smarttuner.daemon.cli.main", "--data-dir", str(folder), "plot", name, "-o", str(target)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size, memory = target.stat().st_size / 1e6, after.ru_maxrss // 1024
    print(f"  {what:50} {used:8.1f} CPU s   {size:5.1f} MB of SVG   at most {memory:,} MB of memory so far")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the points")
    share = 10 if parser.parse_args().quick else 1
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {struct.calcsize('P') * 8} bit")
    with tempfile.TemporaryDirectory(prefix="reading-", dir=os.environ.get("BENCH_DIR")) as name:
        folder = pathlib.Path(name)
        frames(folder / "a", 10_000_000 // share)
        print("smart-tuner plot")
        drawn(folder / "a", "run-3", f"a run, 10 series, {1_000_000 // share:,} points")
        for runs, points in ((10_000, 2_000_000 // share), (1_000, 10_000_000 // share)):
            plots(folder / f"{runs}", runs, points)
            drawn(folder / f"{runs}", "sweep", f"a group of {runs:,} runs, {points:,} points")


if __name__ == "__main__":
    main()
