"""One store of a shared folder, as a process.

python shared_store_writer.py FOLDER FIRST LAST WHERE: takes partition 0, folds records [0, FIRST) and publishes, folds up to
LAST and stops itself (SIGSTOP) where WHERE says, `write` (before the file is written) or `rename` (before it is put in its
place). Continued, it prints what became of the publish, asks for its partition again, folds all that is left and publishes.

python shared_store_writer.py FOLDER BOARD ME: keeps the partitions that the board says are its own, until that says stop.
"""

import mmap
import os
import random
import signal
import sys
import time

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


PARTITIONS = 4
STOP, READS, OWNER, VISIBLE = 0, 1, 2, 2 + PARTITIONS
RECORDS_A_READ = 1
"""The writers are not ahead of the reader: what it reads stays a fair amount."""


def board_of(path):
    """Numbers that processes share: whether to stop, reads done, each partition's owner and how many points are visible."""
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 8 * (VISIBLE + PARTITIONS))).cast("q")


def points_before(n):
    return 10 * sum(1 for i in range(n) if i % 5)


def exchange(folder, path, me):
    """Takes what it is given, and lets go: now as the bus asks it to, now too late."""
    board, dice, store = board_of(path), random.Random(me), opened(folder)
    at, fenced = {}, 0
    while not board[STOP]:
        for n in range(PARTITIONS):
            mine = board[OWNER + n] == me
            if mine and n not in at:
                at[n] = min(assign(store, n).values())  # what a table has already is skipped there
            elif not mine and n in at and dice.random() < 0.2:
                store.revoke([(topic, n) for topic in TOPICS])
                del at[n]
        try:
            for n in list(at):
                end = min(at[n] + dice.randint(1, 10), 50 + RECORDS_A_READ * board[READS])
                store.handle([record(i, n) for i in range(at[n], end)], NOW)
                at[n] = max(at[n], end)
            store.flush(NOW)
            for n, end in at.items():
                board[VISIBLE + n] = max(board[VISIBLE + n], points_before(end))
        except tenure.Unavailable:
            fenced += 1
            store.reload()
            at = {}
        time.sleep(0.002)
    print(fenced, flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        exchange(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
