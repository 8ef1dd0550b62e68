"""How often a training rings its daemon, and what its calls of log() take: `python benchmarks/bells.py [steps]`.

A small GPT of steps of 2 ms (hooks.py), without a daemon and beside one. Wall time; a call of over 8 us has rung, or touched a new
page of the ring.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fleet import Daemon, machine
from hooks import Training, attached
from smarttuner.bus.doorbell import Doorbell

LONG_NS = 8000


def watched(steps: int, beside: bool, override: bool) -> None:
    """One row."""
    rung: list[int] = []
    ring = Doorbell.ring
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder)) if beside else nullcontext() as daemon:
        os.environ["XDG_STATE_HOME"] = daemon.environment["XDG_STATE_HOME"] if daemon is not None else folder
        job, taken = Training(), []
        with attached(job.optimizer, override, daemon.data if daemon is not None else Path(folder)) as run:

            def log(*given: Any, **more: Any) -> None:
                began = time.perf_counter_ns()
                run.log(*given, **more)
                taken.append(time.perf_counter_ns() - began)

            job.block(run.log, 300)
            Doorbell.ring = lambda bell: (rung.append(1), ring(bell))[1]  # type: ignore[assignment,method-assign,misc]
            began = time.perf_counter()
            job.block(log, steps)
            took = time.perf_counter() - began
            Doorbell.ring = ring  # type: ignore[method-assign]
    long = [one for one in taken if one > LONG_NS]
    print(
        f"{'beside a daemon' if beside else 'no daemon':16} {'override' if override else 'no decision':12} "
        f"step {1e3 * took / steps:.2f} ms  "
        f"bells {len(rung)}, {len(rung) / took:.1f} a second  log mean {statistics.mean(taken) / 1e3:.2f} us, median "
        f"{statistics.median(taken) / 1e3:.2f}; {len(long)} long, mean {statistics.mean(long or [0]) / 1e3:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    print(machine())
    for beside, override in ((False, False), (True, False), (True, True)):
        watched(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, beside, override)
    print(machine())
