"""A small daemon of two lanes, run as a process of its own by the tests beside it: supervised.py FOLDER [stall_s].

It writes what happens into FOLDER/log; FOLDER/stick makes its second lane stand still, FOLDER/fall makes it raise, and
FOLDER/broken makes its configuration unusable.
"""

import logging
import os
import pathlib
import subprocess
import sys
import threading
import time

from smarttuner.core.clock import SystemClock
from smarttuner.core.errors import ConfigError
from smarttuner.daemon.notify import Notifier
from smarttuner.daemon.signals import Signals
from smarttuner.daemon.supervisor import Supervisor, Waits

folder = pathlib.Path(sys.argv[1])


def note(text):
    with (folder / "log").open("a") as file:
        file.write(text + "\n")


class Lane:
    def __init__(self, name):
        self.name, self.last_step_at = name, time.monotonic()

    def run(self, stopping):
        note(f"{self.name} runs")
        while not stopping.wait(0.02):
            if self.name == "second" and (folder / "stick").exists():
                time.sleep(0.02)
                continue
            if self.name == "second" and (folder / "fall").exists():
                (folder / "fall").unlink()
                raise ValueError("fell")
            self.last_step_at = time.monotonic()
        if (folder / "slow").exists():
            note(f"{self.name} drains slowly")
            threading.Event().wait(60)
        note(f"{self.name} drained")


def reload():
    if (folder / "broken").exists():
        raise ConfigError("mine.yaml:1: bus: wrong", "write it right")
    note("reloaded")
    return "taken"


logging.basicConfig(level=logging.INFO, filename=folder / "errors")
if (folder / "orphan").exists():
    subprocess.run(["/bin/sh", "-c", f"(sleep 0.1; echo orphan ended >> {folder}/log) &"], check=True)
notifier = Notifier.of(os.environ, os.getpid())
stall_s = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
with Signals() as signals:
    supervisor = Supervisor([Lane("first"), Lane("second")], reload, SystemClock(), notifier, Waits(stall_s, 20.0))
    if supervisor._orphans is not None:
        supervisor._orphans.grace_s = 0.5
    code = supervisor.run(signals)
note(f"reaped {supervisor._orphans.reaped if supervisor._orphans else 'nothing'}")
sys.exit(code)
