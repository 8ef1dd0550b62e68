"""A process that writes a store while others read it or kill it; tests start it. Usage: store_writer.py killed|read FOLDER …"""

import mmap
import os
import random
import signal
import sys
import time

from smarttuner.bus.local import LocalLog
from smarttuner.consumers import metric_partition, row_files
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.retention import Retention
from smarttuner.core.clock import ManualClock, SystemClock
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Message, Record

metric_partition.GROUP_ROWS = 2_000
row_files.MAX_ROWS = 8
POINTS = 100


def metrics(number: int) -> MetricChunk:
    first, attempt = number * POINTS, f"a{number // 40}"
    steps = list(range(first, first + POINTS, 2))
    series = [
        Series(name, steps, [x * 0.5 for x in steps], [1e9] * len(steps), list(range(k, POINTS, 2))) for k, name in enumerate("xy")
    ]
    return MetricChunk(f"r{number % 3}", attempt, "sdk", first, series)


def messages(number: int) -> list[Message]:
    """What is published together: points, now and then the start of a run, a decision, its answer."""
    chunk = metrics(number)
    run, attempt = chunk.run, f"{chunk.attempt}-{chunk.run}"
    made = [Message(METRICS, run, encode(chunk))]
    if number % 40 < 3:
        made.append(Message(RUNS, run, encode(RunEvent(run, attempt, "started", 1e9, 0, started=Started(host="h")))))
    if number % 5 == 0:
        decision = Decision(f"d{number}", run, attempt, "checkpoint", "p", "sdk:1", "why", 1e9, 2e9)
        made.append(Message(CONTROL, run, encode(decision)))
    if number % 5 == 3:
        made.append(Message(RUNS, run, encode(Ack(f"d{number - 3}", run, attempt, "applied", 1e9 + 1))))
    return [*made[:-1], made[-1]._replace(mark=("made", number + 1))]


def write(folder: str, ready: int) -> None:
    """Publishes and stores until it is killed; says on descriptor `ready` when it begins."""
    clock = SystemClock()
    log = LocalLog(folder, clock)
    bus = log.connect()
    store = MetricsStore(folder, clock, seal_rows=7_000)
    chance = random.Random(os.getpid())
    os.write(ready, b"x")
    while True:
        number = log.mark("made") or 0
        bus.publish(messages(number))
        if chance.random() < 0.1 and number:
            bus.publish([Message(METRICS, metrics(number).run, encode(metrics(number)))])  # shipped again
        batch = bus.poll(store.topics, store.name, store.position, limit=chance.randint(1, 40))
        store.handle(batch.records, clock.now())
        if chance.random() < 0.5:
            store.flush(clock.now())
            bus.commit(store.name, store.committed())


def killed(folder: str, kills: int) -> None:
    """Starts `write` and kills it -9, again and again, at moments that chance picks."""
    chance = random.Random(1)
    for _ in range(kills):
        listening, ready = os.pipe()
        child = os.fork()
        if not child:
            try:
                write(folder, ready)
            finally:
                os._exit(1)
        os.close(ready)
        if chance.random() < 0.8:  # the others die while they open what is there
            os.read(listening, 1)
        os.close(listening)
        time.sleep(chance.uniform(0.0, 0.3))
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            sys.exit("the writer ended by itself")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def read(folder: str, board: str) -> None:
    """Writes, publishes, seals and expires until told to stop. The board is four numbers: rows visible, rows expired, stop,
    and reads done by the reader, each of which is 100 s of the store's clock."""
    with open(board, "r+b") as file:
        told = memoryview(mmap.mmap(file.fileno(), 32)).cast("q")
    clock = ManualClock(1e9)
    keep = 3600.0 * 3
    store = MetricsStore(folder, clock, seal_rows=20_000, retention=Retention(age_s=keep))
    appended: list[float] = []
    while not told[2]:
        number = len(appended)
        appended.append(clock.now())
        record = Record(METRICS, 0, number, "r", encode(metrics(number)), clock.now())
        store.handle([record], clock.now())
        if number % 7 == 0:
            gone = sum(1 for at in appended if at < clock.now() - keep)
            told[1] = gone * POINTS  # before it happens
            store.flush(clock.now())
            store.tick(clock.now())
            told[0] = (number + 1) * POINTS  # after it happened
        while number > 300 + 3 * told[3] and not told[2]:  # not ahead of the reader: what it reads stays a fair amount
            time.sleep(0.001)
        clock.turn(1e9 + 100.0 * told[3] - clock.now())


if __name__ == "__main__":
    mode, folder, argument = sys.argv[1:]
    if mode == "killed":
        killed(folder, int(argument))
    else:
        read(folder, argument)
