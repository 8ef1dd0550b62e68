"""What a call of `run.log` with five Python floats costs a training loop, and of the spool's own `log`, which serves what is not
compiled, beside a bare struct.pack_into into the same ring, and beside TensorBoard and Trackio, in one run.

.venv/bin/python benchmarks/log_call.py [calls a round, default 20000] [rounds, default 15]

All variants take turns, so that a machine that drifts drifts for all. The ratios are of CPU time (threads included), which
other load on the machine moves least: the median of the rounds' ratios. A reader in a process of its own drains the spool, as
the daemon does. kafka-python is left out: without a broker its producer cannot be made, and one that only fills its buffer
would be compared unfairly.
"""

from __future__ import annotations

import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import smarttuner
from smarttuner.bus.spool import Spool
from smarttuner.bus.spool_layout import RING_OFFSET
from smarttuner.trainer.calm import hooks

READER = """
import sys, time
from smarttuner.bus.spool_reader import SpoolReader
reader = SpoolReader(int(sys.argv[1]))
while True:
    if not reader.read(time.monotonic()):
        time.sleep(0.002)
    reader.commit(reader.position)
"""
VALUES = {"train_loss": 0.5123, "val_loss": 0.4871, "accuracy": 0.9312, "lr": 3e-4, "grad_norm": 1.7}
Round = Callable[[int], None]


class Floor:
    """The same numbers into the same ring without CRC, lock, checks and positions."""

    def __init__(self, spool: Spool, ring_bytes: int) -> None:
        self.pack = struct.Struct("@qd5d").pack_into
        self.buffer, self.at, self.end = spool._buffer, RING_OFFSET, RING_OFFSET + ring_bytes
        self.words = spool.words
        self.forms = {tuple(VALUES): (struct.Struct("@32sqd5d").pack_into, 88, b"ids".ljust(32))}

    def bare(self, calls: int) -> None:
        """pack_into in a loop, and nothing beside it."""
        pack, buffer, at, end, values = self.pack, self.buffer, self.at, self.end - 56, VALUES
        for step in range(calls):
            pack(buffer, at, step, 1.7e9, *values.values())
            at = at + 56 if at < end - 56 else RING_OFFSET

    def call(self, calls: int) -> None:
        """The least that can be called a log: it finds the form of its names and room, packs into the ring, moves the head."""
        log = self.log
        for step in range(calls):
            log(step, VALUES, 1.7e9)

    def log(self, step: int, values: dict[str, float], time_s: float) -> bool:
        pack, size, ids = self.forms[tuple(values)]
        at = self.at
        if at + size > self.end:
            at = RING_OFFSET
        pack(self.buffer, at, ids, step, time_s, *values.values())
        self.at = self.words[2] = at + size
        return True


def spool_round(spool: Spool) -> Round:
    def run(calls: int) -> None:
        log = spool.log
        for step in range(calls):
            log(step, VALUES, 1.7e9)

    return run


def attached_round(run: Any) -> Round:
    steps = count()

    def all_of(calls: int) -> None:
        log = run.log
        for _, step in zip(range(calls), steps, strict=False):
            log(VALUES, step)

    return all_of


def tensorboard_round(folder: str) -> Round:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)

    def run(calls: int) -> None:
        for step in range(calls):
            for name, value in VALUES.items():
                writer.add_scalar(name, value, step)

    return run


def trackio_round(folder: str) -> Round:
    os.environ |= {"TRACKIO_DIR": folder, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    import trackio

    trackio.init(project="benchmark", name="log-call", embed=False)

    def run(calls: int) -> None:
        for step in range(calls):
            trackio.log(VALUES, step=step)

    return run


def mean_ns(run: Round, calls: int) -> tuple[float, float]:
    """Wall and CPU nanoseconds a call; the CPU is all of this process's, threads included."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    run(calls)
    return (time.perf_counter_ns() - wall) / calls, (time.process_time_ns() - cpu) / calls


def quantiles_us(run: Any, calls: int) -> list[float]:
    """p50, p99, p99.9 and the worst of single calls, in microseconds; the clock's own cost is in them."""
    clock, log, found, first = time.perf_counter_ns, run.log, [], run._where() + 1
    for step in range(first, first + calls):
        before = clock()
        log(VALUES, step)
        found.append(clock() - before)
    found.sort()
    return [found[min(len(found) - 1, int(len(found) * q))] / 1000 for q in (0.5, 0.99, 0.999, 1.0)]


def variants(folder: str, run: Any, spool: Spool, scratch: Spool) -> dict[str, tuple[Round, int]]:
    """Name: (round, by how much fewer calls it makes, being slower)."""
    floor = Floor(scratch, 4 << 20)
    found: dict[str, tuple[Round, int]] = {
        "run.log, 5 floats": (attached_round(run), 1),
        "Spool.log, 5 floats": (spool_round(spool), 1),
        "floor: bare struct.pack_into": (floor.bare, 1),
        "log without lock, CRC, checks": (floor.call, 1),
    }
    for name, make in (("TensorBoard add_scalar x5", tensorboard_round), ("trackio.log, 5 floats", trackio_round)):
        try:
            found[name] = (make(os.path.join(folder, make.__name__)), 20)
        except Exception as error:
            print(f"{name}: left out, {type(error).__name__}: {error}", file=sys.stderr)
    return found


def main(calls: int = 20_000, rounds: int = 15) -> None:
    folder = tempfile.mkdtemp(prefix="log-call-")
    spool, scratch = (Spool.create(folder, "benchmark", name, folder) for name in ("measured", "scratch"))
    os.environ["XDG_STATE_HOME"] = folder
    attached = smarttuner.attach("benchmark", data_dir=folder, mode="observe")
    fds = [spool.fd, attached._line.spool.fd]  # type: ignore[union-attr]  # it is attached
    readers = [subprocess.Popen([sys.executable, "-c", READER, str(fd)], pass_fds=[fd]) for fd in fds]
    print(f"run.log is {'compiled' if hooks else 'Python'}")
    try:
        runs = variants(folder, attached, spool, scratch)
        wall: dict[str, list[float]] = {name: [] for name in runs}
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, (run, fewer) in runs.items():
                taken, used = mean_ns(run, calls // fewer)
                wall[name].append(taken)
                cpu[name].append(used)
                time.sleep(0.05)  # the reader catches up
        floor, log = cpu["floor: bare struct.pack_into"], cpu["run.log, 5 floats"]
        print(f"{'':32}{'ns a call':>10}{'best':>8}{'CPU ns':>9}{'x floor':>9}{'x log':>9}")
        for name, taken in wall.items():
            times = statistics.median(a / b for a, b in zip(cpu[name], floor, strict=True))
            of_log = statistics.median(a / b for a, b in zip(cpu[name], log, strict=True))
            middle, used = statistics.median(taken), statistics.median(cpu[name])
            print(f"{name:32}{middle:10.0f}{min(taken):8.0f}{used:9.0f}{times:9.2f}{of_log:9.2f}")
        p50, p99, p999, worst = quantiles_us(attached, calls * 5)
        print(f"single calls of run.log: p50 {p50:.1f} µs, p99 {p99:.1f} µs, p99.9 {p999:.1f} µs, worst {worst:.0f} µs")
        ours = attached._line.spool  # type: ignore[union-attr]  # as above
        print(f"dropped: {spool.dropped} of {spool.next_position}, and {ours.dropped} of {ours.next_position} points")
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
        attached.finish()
        scratch.close(unlink=True)
        spool.close(unlink=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
