"""What several benchmarks need: a daemon process of their own, a fleet of runs that stream to it, a line about the machine.

Run as a script it is one process of the fleet: fleet.py FOLDER NUMBER RUNS SERIES SECONDS
"""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.query import ask
from smarttuner.bus.spool import Spool
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import RunEvent, Started, encode
from smarttuner.core.ulid import ulid

RING_BYTES = 64 << 10
EVERY_S = 1.0
READY_S = 60.0


def machine() -> str:
    """One line: what this ran on, and how busy it was."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    memory = psutil.virtual_memory().total / 2**30
    cores = os.cpu_count()
    return (
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; {cores} cores ({platform.machine()}), {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}; load average {load}"
    )


class Daemon:
    """A real `smart-tuner daemon` of its own, in `folder`, with the configuration in `config` (YAML)."""

    def __init__(self, folder: Path, config: str = "") -> None:
        self.folder, self.data = folder, folder / "data"
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
        self.environment["SMART_TUNER_DATA_DIR"] = str(self.data)
        self._config = folder / "config.yaml"
        self._config.write_text(config)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "smarttuner.daemon.cli.main", "daemon", "--config", str(self._config)]
        if os.environ.get("BENCHMARK_PRIORITY"):
            command = ["chrt", "-f", "2", *command]
        self._log = (self.folder / "daemon.log").open("w")
        self._popen = subprocess.Popen(command, env=self.environment, stdout=self._log, stderr=self._log)
        self.process = psutil.Process(self._popen.pid)
        until = time.monotonic() + READY_S
        while True:
            try:
                self.status()
                return self
            except Unavailable:
                if time.monotonic() > until or self._popen.poll() is not None:
                    raise RuntimeError((self.folder / "daemon.log").read_text()) from None
                time.sleep(0.05)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._popen.terminate()
        self._popen.wait(60)
        self._log.close()

    def status(self) -> dict[str, object]:
        """What the daemon says of itself."""
        return ask(str(self.data), {"query": "status"})

    def counter(self, name: str) -> int:
        """One of its counters."""
        counters = self.status()["counters"]
        assert isinstance(counters, dict)
        return int(counters.get(name, 0))

    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far."""
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def rss_mb(self) -> float:
        """Its resident memory now, in MB."""
        return float(self.process.memory_info().rss) / 1e6


@contextmanager
def fleet(daemon: Daemon, runs: int, series: int, seconds: float, processes: int = 8) -> Iterator[None]:
    """`runs` runs log `series` values a second each, from `processes` processes; entered when all of them are attached."""
    command = [sys.executable, __file__, str(daemon.data)]
    rest = [str(runs // processes), str(series), str(seconds)]
    before = daemon.counter("spools_taken")
    jobs = [subprocess.Popen([*command, str(n), *rest], env=daemon.environment) for n in range(processes)]
    try:
        until = time.monotonic() + READY_S
        while daemon.counter("spools_taken") - before < runs // processes * processes:
            if time.monotonic() > until:
                raise RuntimeError("the fleet did not come up")
            time.sleep(0.5)
        yield
    finally:
        for job in jobs:
            job.terminate()
        for job in jobs:
            job.wait()


class StreamingRun:
    """A run that logs a falling, noisy loss and further series. It opens its spool as attach does, with a smaller ring."""

    def __init__(self, folder: str, name: str, series: int) -> None:
        spools = os.path.join(os.environ["XDG_STATE_HOME"], "smart-tuner", "spool")
        self.spool = Spool.create(spools, name, ulid(time.time()), folder, RING_BYTES)
        said = Started(pid=os.getpid(), monitor="val_loss", goal="min", allow=["lr"])
        event = RunEvent(name, self.spool.attempt, "started", time.time(), self.spool.take_position(), started=said)
        self.spool.event(encode(event))
        bell = Doorbell.connect(folder, self.spool, {})
        assert bell is not None
        self.bell, self.step = bell, 0
        self.names = ["val_loss", *(f"series_{n}" for n in range(1, series))]

    def log(self) -> None:
        """One call of log, as the SDK makes it."""
        self.step += 1
        loss = (1.0 + random.random() * 0.05) / self.step**0.5
        self.spool.log(self.step, {name: loss + n for n, name in enumerate(self.names)}, time.time())
        self.bell.ring_if_armed()


def stream(folder: str, number: str, runs: str, series: str, seconds: str) -> None:
    """Each run logs once in EVERY_S, one after the other, evenly spread over the time."""
    own = [StreamingRun(folder, f"stream-{number}-{n}", int(series)) for n in range(int(runs))]
    started = time.monotonic()
    turn = 0
    while time.monotonic() - started < float(seconds):
        own[turn % len(own)].log()
        turn += 1
        time.sleep(max(0.0, started + turn * EVERY_S / len(own) - time.monotonic()))


if __name__ == "__main__":
    stream(*sys.argv[1:])
