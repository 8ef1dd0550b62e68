"""Resident memory of the daemon with 1,000 runs of 10 series streaming, and what `import smarttuner` costs a training process.

.venv/bin/python benchmarks/memory.py [seconds of streaming, default 40]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fleet import Daemon, fleet, machine

RUNS, SERIES = 1000, 10
REPEATS = 15
IMPORTS = {"bare python": "pass", "import msgspec": "import msgspec", "import smarttuner": "import smarttuner"}


def imports() -> None:
    """Each statement in a fresh interpreter, taking turns; wall time of the whole process, and of the statement alone."""
    whole: dict[str, list[float]] = {name: [] for name in IMPORTS}
    alone: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(REPEATS):
        for name, statement in IMPORTS.items():
            code = f"import time; t = time.perf_counter()\n{statement}\nprint(time.perf_counter() - t)"
            began = time.perf_counter()
            said = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout
            whole[name].append((time.perf_counter() - began) * 1e3)
            alone[name].append(float(said) * 1e3)
    print(f"{'':20}{'process ms, min':>17}{'median':>9}{'statement ms, min':>19}{'median':>9}")
    for name in IMPORTS:
        print(
            f"{name:20}{min(whole[name]):17.1f}{statistics.median(whole[name]):9.1f}"
            f"{min(alone[name]):19.1f}{statistics.median(alone[name]):9.1f}"
        )


def daemon_memory(seconds: float) -> None:
    """RSS and CPU of a daemon process every few seconds."""
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder)) as daemon:
        print(f"{'':34}{'RSS MB':>8}{'CPU of a core':>15}")
        print(f"{'before any run':34}{daemon.rss_mb():8.0f}")
        with fleet(daemon, RUNS, SERIES, seconds + 60):
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                cpu, at = daemon.cpu_s(), time.monotonic()
                time.sleep(seconds / 4)
                share = (daemon.cpu_s() - cpu) / (time.monotonic() - at)
                said = f"{RUNS} runs x {SERIES} series, {time.monotonic() - began:.0f} s"
                print(f"{said:34}{daemon.rss_mb():8.0f}{share * 100:14.0f} %", flush=True)
            points, dropped = daemon.counter("points"), daemon.counter("points_dropped")
        print(f"points stored {points}, dropped {dropped}")


def main(seconds: float = 40.0) -> None:
    print(machine())
    imports()
    daemon_memory(seconds)
    print(machine())


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
