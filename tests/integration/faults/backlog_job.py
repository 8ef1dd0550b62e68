"""Spools with a night's old points: backlog_job.py SPOOLS ADDRESS ended N | alive FOLDER.

`ended`: N spools of jobs that have ended, every other one without a word; `alive`: one of a job that is still there, which
logs on as soon as FOLDER/go exists, and ends at FOLDER/end.
"""

import os
import sys
import time

from smarttuner.bus.process import boot_id, pid_started
from smarttuner.bus.spool import Spool
from smarttuner.core.events import RunEvent, Started, encode

NIGHT_S = 40_000.0
POINTS = 20
spools, address, what, rest = sys.argv[1:]
began = time.time() - NIGHT_S


def begin(run, attempt):
    """A spool of a run that started long ago, logged until long ago, and needs no better val_loss than its first."""
    spool = Spool.create(spools, run, attempt, address, ring_bytes=16 << 10)
    said = Started(
        monitor="val_loss", goal="min", pid=os.getpid(), pid_started=pid_started(os.getpid()), boot_id=boot_id(),
        allow=["lr", "checkpoint", "restore", "prune"],
    )  # fmt: skip
    spool.event(encode(RunEvent(run, attempt, "started", began, seq=spool.take_position(), started=said)))
    for step in range(POINTS):
        spool.log(step, {"val_loss": 1.0 + step}, began + step)
    return spool


if what == "ended":
    for n in range(int(rest)):
        one = begin(f"old-{n}", f"01OLD{n:05d}")
        if n % 2:
            end = RunEvent(one.run, one.attempt, "ended", began + 99, seq=one.take_position(), state="finished")
            one.event(encode(end), closing=True)
        one.close()
    sys.exit()

one = begin("alive", "01ALIVE")
step = POINTS
while not os.path.exists(os.path.join(rest, "end")):
    if os.path.exists(os.path.join(rest, "go")):
        one.log(step, {"val_loss": 1.0 + step}, time.time())
        step += 1
    time.sleep(0.05)
