"""One store of a shared folder, as a process: takes partition 0, publishes, then stops itself in the middle of a publish.

python shared_store_writer.py FOLDER FIRST LAST WHERE: folds records [0, FIRST) and publishes, folds up to LAST and stops itself
(SIGSTOP) where WHERE says, `write` (before the file is written) or `rename` (before it is put in its place). Continued, it
prints what became of the publish, asks for its partition again, folds all that is left to fold and publishes.
"""

import os
import signal
import sys

from smarttuner.consumers import tenure
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record

NOW = 1_700_000_000.0
TOPICS = (METRICS, RUNS, CONTROL)


def record(n, partition=0):
    """Every fifth record is a decision, its answer or a run's start; the others are ten points each."""
    run = f"r{partition}"
    if n % 15 == 0:
        return Record(
            RUNS, partition, n, run, encode(RunEvent(run, f"a{n}", "started", NOW, 0, started=Started(host="h"))), NOW + n
        )
    if n % 15 == 5:
        return Record(
            CONTROL, partition, n, run, encode(Decision(f"d{n}", run, "a0", "prune", "p", "sdk:1", "why", NOW, NOW)), NOW + n
        )
    if n % 15 == 10:
        return Record(RUNS, partition, n, run, encode(Ack(f"d{n - 5}", run, "a0", "applied", NOW)), NOW + n)
    steps = list(range(n * 10, n * 10 + 10))
    return Record(
        METRICS,
        partition,
        n,
        run,
        encode(MetricChunk(run, "a0", "sdk", n * 10, [Series("x", steps, [1.0] * 10, [NOW] * 10)])),
        NOW + n,
    )


def opened(folder, seal_rows=400):
    clock = SystemClock()
    return MetricsStore(folder, clock, seal_rows=seal_rows, place=tenure.Directory(folder, clock, shared=True))


def assign(store, number=0):
    return {topic: store.position((topic, number)) for topic in TOPICS}


def fold(store, last, partition=0):
    """Everything before offset `last` that the partition's files do not have."""
    at = assign(store, partition)
    store.handle([one for one in (record(n, partition) for n in range(last)) if one.offset >= at[one.topic]], NOW)


def stop_before(where):
    kept = tenure.FolderTenure.replacing if where == "write" else os.replace

    def stopping(*arguments):
        os.kill(os.getpid(), signal.SIGSTOP)
        setattr(*place, kept)
        return kept(*arguments)

    place = (tenure.FolderTenure, "replacing") if where == "write" else (tenure.os, "replace")
    setattr(*place, stopping)


def main(folder, first, last, where):
    store = opened(folder)
    fold(store, first)
    store.flush(NOW)
    fold(store, last)
    stop_before(where)
    try:
        store.flush(NOW)
        print("published", flush=True)
    except tenure.Fenced as error:
        print("fenced", error.number, flush=True)
    input()
    store.reload()
    fold(store, last + 100)
    store.flush(NOW)
    print("on", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
