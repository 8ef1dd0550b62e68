"""The metrics store against TensorBoard's reader, and what it takes to write: python benchmarks/parquet.py [--quick]

    a million points into pandas      bare pandas.read_parquet against EventAccumulator on the same points
    one series out of ten million     bare pandas with filters: one sealed file of them; the live store (sealed files and one
                                      that grows)
    stored per second and core        decode, buffer, publish, seal: CPU time of the whole process, 5 and 1,000 points a chunk

Times are the best of several, after one to warm the caches.
"""

import argparse
import os
import pathlib
import shutil
import struct
import sys
import tempfile
import time

import numpy as np
import pandas as pd
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, Series, encode
from smarttuner.core.ports import METRICS, Record

ATTEMPT = "01JD9XYZ00000000000000000"
RUNS, SERIES = 10, 10


def best(action, times=7):
    """Seconds of the fastest of several calls, after one that does not count."""
    action()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def chunks(points, per_chunk, runs=RUNS, series=SERIES):
    """Records as jobs make them: `per_chunk` points, all series of a job in turn, jobs in turn."""
    random = np.random.default_rng(1)
    names = [f"series_{i}" for i in range(min(series, per_chunk))]
    each = per_chunk // len(names)
    done = [0] * runs
    for number in range(points // per_chunk):
        job = number % runs
        first = done[job]
        done[job] += each
        steps = list(range(first, first + each))
        columns = [
            Series(
                name,
                steps,
                random.standard_normal(each).tolist(),
                [1.7e9 + 0.05 * s for s in steps],
                list(range(k, per_chunk, len(names))),
            )
            for k, name in enumerate(names)
        ]
        chunk = MetricChunk(f"run-{job}", f"{ATTEMPT}{job}", "sdk", first * len(names), columns)
        yield Record(METRICS, 0, number, f"run-{job}", encode(chunk), 1.7e9 + number * 1e-3)


def store_of(folder, points, per_chunk=1000, **options):
    """A store that holds `points`."""
    store = MetricsStore(folder, SystemClock(), **options)
    batch = []
    for record in chunks(points, per_chunk):
        batch.append(record)
        if len(batch) == 500:
            store.handle(batch, 0.0)
            store.flush(0.0)
            batch = []
    store.handle(batch, 0.0)
    store.flush(0.0)
    return store


def event_file(folder, points, series=SERIES):
    """The same number of points as SummaryWriter would write them."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with (pathlib.Path(folder) / "events.out.tfevents.1.host").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        value = np.random.default_rng(1).standard_normal(points)
        for i in range(points):
            event = Event(wall_time=1.7e9 + i * 1e-3, step=i // series)
            event.summary.value.add(tag=f"series_{i % series}", simple_value=float(value[i]))
            writer.write(event.SerializeToString())
        writer.flush()


def read_tensorboard(folder, series=SERIES):
    """The points as a frame, as people do it."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    frames = []
    for i in range(series):
        rows = events.Scalars(f"series_{i}")
        frames.append(pd.DataFrame(rows).assign(series=f"series_{i}"))
    return pd.concat(frames, ignore_index=True)


def against_tensorboard(folder, points):
    shutil.rmtree(folder, ignore_errors=True)
    sealed, growing, events = folder / "sealed", folder / "growing", folder / "events"
    events.mkdir(parents=True)
    store_of(str(sealed), points, seal_rows=points)
    store_of(str(growing), points, seal_rows=10 * points)
    event_file(events, points)
    begun = time.perf_counter()
    assert len(read_tensorboard(events)) == points
    theirs = time.perf_counter() - begun
    print(f"{points:,} points into pandas")
    print(f"  EventAccumulator                                {theirs * 1e3:10,.0f} ms")
    columns = ["run", "series", "step", "value", "time"]
    for name, path, wanted in (
        ("pandas.read_parquet, sealed file, all columns", sealed, None),
        ("pandas.read_parquet, sealed file, 5 columns", sealed, columns),
        ("pandas.read_parquet, growing file, all columns", growing, None),
    ):
        took = best(lambda path=path, wanted=wanted: pd.read_parquet(path / "metrics", columns=wanted))
        assert len(pd.read_parquet(path / "metrics")) == points
        print(f"  {name:47} {took * 1e3:10,.1f} ms   {theirs / took:6,.0f} x")


def one_series(folder, points):
    shutil.rmtree(folder, ignore_errors=True)
    one, live = folder / "one", folder / "live"
    store_of(str(one), points, seal_rows=points)
    store_of(str(live), points * 97 // 100 // 1000 * 1000)
    print(f"one series of one run out of {points:,} points ({RUNS} runs x {SERIES} series), bare pandas with filters")
    for name, path in (("one sealed file", one), ("the live store", live)):
        filters = [("run", "==", "run-3"), ("series", "==", "series_4")]
        files = sum(1 for _ in (path / "metrics").iterdir())
        size = sum(one.stat().st_size for one in (path / "metrics").iterdir()) / points
        for what, columns in (("all columns", None), ("step and value", ["step", "value"])):
            took = best(
                lambda path=path, filters=filters, columns=columns: pd.read_parquet(
                    path / "metrics", filters=filters, columns=columns
                )
            )
            rows = len(pd.read_parquet(path / "metrics", filters=filters))
            label = f"{name} ({files} files, {size:.1f} B a point), {what}"
            print(f"  {label:60} {took * 1e3:8.1f} ms   ({rows:,} rows)")


def throughput(folder, points):
    print("stored per second and core (decode, buffer, publish once a second, seal), CPU time of the process")
    for per_chunk, count in ((5, points // 10), (1000, points)):
        shutil.rmtree(folder, ignore_errors=True)
        records = list(chunks(count, per_chunk))
        clock = SystemClock()
        store = MetricsStore(str(folder), clock)
        used, begun = time.process_time(), time.perf_counter()
        for i in range(0, len(records), 500):
            store.handle(records[i : i + 500], clock.now())
            store.tick(clock.now())
        store.flush(clock.now())
        used, took = time.process_time() - used, time.perf_counter() - begun
        assert store.counters["points"] == count
        print(f"  {per_chunk:5} points a chunk   {count / used / 1e6:6.2f} M a CPU second   {count / took / 1e6:6.2f} M a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the points")
    share = 10 if parser.parse_args().quick else 1
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {struct.calcsize('P') * 8} bit")
    with tempfile.TemporaryDirectory(prefix="parquet-", dir=os.environ.get("BENCH_DIR")) as name:
        folder = pathlib.Path(name)
        against_tensorboard(folder / "a", 1_000_000 // share)
        one_series(folder / "b", 10_000_000 // share)
        throughput(folder / "c", 4_000_000 // share)


if __name__ == "__main__":
    main()
