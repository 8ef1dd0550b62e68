"""The local log against bare sqlite3 inserts in one run: publishes, polls and wake-ups at 5- and 1,000-point chunks.

.venv/bin/python benchmarks/local_log.py [seconds for each line, default 2]
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from smarttuner.bus.local import LocalLog
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, Series, encode
from smarttuner.core.ports import METRICS, Message


def body(points: int) -> bytes:
    """A chunk of five series, as a spool's reader makes it."""
    rows = points // 5
    steps, times = list(range(rows)), [1.8e9 + 0.01 * n for n in range(rows)]
    series = [Series(f"series_{n}", steps, [0.1 * k + n for k in range(rows)], times) for n in range(5)]
    return encode(MetricChunk("benchmark", "01ARYZ6S410000000000000000", "sdk", 0, series))


def rate(act: Callable[[], int], seconds: float) -> float:
    """Calls `act` for `seconds`; what it counted, a second."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += act()
    return done / (time.perf_counter() - started)


def bare(folder: str, data: bytes, batch: int, seconds: float) -> float:
    """Messages a second into one table of a bare SQLite file, WAL and synchronous NORMAL, committed in batches."""
    db = sqlite3.connect(os.path.join(folder, f"bare-{batch}-{len(data)}.db"), isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t (n INTEGER PRIMARY KEY, body BLOB)")

    def act() -> int:
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (body) VALUES (?)", [(data,)] * batch)
        db.execute("COMMIT")
        return batch

    found = rate(act, seconds)
    db.close()
    return found


def log_rates(folder: str, data: bytes, batch: int, seconds: float) -> tuple[float, float, float]:
    """Messages a second published; read back from the file; read from memory while they come."""
    log = LocalLog(os.path.join(folder, f"log-{batch}-{len(data)}"), SystemClock())
    bus = log.connect()
    messages = [Message(METRICS, "benchmark", data, mark=("spool", 1))] * batch

    def publish() -> int:
        bus.publish(messages)
        return batch

    published = rate(publish, seconds)
    log.close()  # and opened anew, so that memory holds nothing of it
    log = LocalLog(log.folder, SystemClock())
    bus = log.connect()
    started, read = time.perf_counter(), 0
    while records := bus.poll([METRICS], "history").records:
        read += len(records)
    history = read / (time.perf_counter() - started)
    live = log.connect()
    live.poll([METRICS], "live", start=lambda p: log.head.next(p))

    def both() -> int:
        bus.publish(messages)
        return len(live.poll([METRICS], "live").records)

    streamed = rate(both, seconds)
    log.close()
    return published, history, streamed


def wake_up(folder: str, data: bytes, every_s: float, count: int) -> tuple[float, float]:
    """From before publish to after the other thread's poll, in ms: p50 and p99."""
    log = LocalLog(os.path.join(folder, "wake"), SystemClock())
    sender, reader = log.connect(), log.connect()
    sent: list[float] = []
    seen: list[float] = []

    def listen() -> None:
        while len(seen) < count:
            seen.extend(time.perf_counter() for _ in reader.poll([METRICS], "g", timeout_s=1.0).records)

    thread = threading.Thread(target=listen)
    thread.start()
    for _ in range(count):
        time.sleep(every_s)
        sent.append(time.perf_counter())
        sender.publish([Message(METRICS, "benchmark", data)])
    thread.join()
    log.close()
    took = sorted((b - a) * 1e3 for a, b in zip(sent, seen, strict=False))
    return took[count // 2], took[count * 99 // 100]


def main() -> None:
    """Prints a line a case."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as folder:
        print("points  batch  bytes   bare/s  publish/s  ratio  points/s  history/s  publish+poll/s  points/s")
        for points in (5, 1000):
            data = body(points)
            for batch in (1, 100):
                floor = bare(folder, data, batch, seconds)
                published, history, streamed = log_rates(folder, data, batch, seconds)
                print(
                    f"{points:6} {batch:6} {len(data):6} {floor:8.0f} {published:10.0f} {published / floor:6.2f}"
                    f" {published * points:9.0f} {history:10.0f} {streamed:15.0f} {streamed * points:9.0f}"
                )
        p50, p99 = wake_up(folder, body(5), 0.001, 2000)
        print(f"publish to poll in another thread, one 5-point chunk a millisecond: p50 {p50:.3f} ms, p99 {p99:.3f} ms")


if __name__ == "__main__":
    main()
