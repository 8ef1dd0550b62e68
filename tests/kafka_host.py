"""Hosts without and with a daemon as real processes: their environment, their jobs, and what the command line says there."""

import os
import pathlib
import subprocess
import sys
import time

from smarttuner.bus import query
from smarttuner.core.errors import Unavailable

PATIENCE_S = 90.0
COMMAND = (sys.executable, "-m", "smarttuner.daemon.cli.main")
JOB = pathlib.Path(__file__).parent / "integration" / "kafka" / "direct_job.py"


def until(claim, told=lambda: ""):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := claim()):
        assert time.monotonic() < deadline, f"it did not come to pass: {told()}"
        time.sleep(0.05)
    return found


class Host:
    """One machine: a home and a data directory of its own, on the broker that others share."""

    def __init__(self, folder, bootstrap, prefix, **more):
        self.folder, self.data, self.processes = folder, folder / "data", []
        folder.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SMART_TUNER", "XDG_"))}
        self.environment = clean | {
            "SMART_TUNER_DATA_DIR": str(self.data),
            "XDG_STATE_HOME": str(folder / "state"),
            "HOME": str(folder),
            "SMART_TUNER_BUS": f"kafka://{bootstrap}",
            "SMART_TUNER__BUS__KAFKA__PREFIX": prefix,
            "SMART_TUNER__BUS__KAFKA__PARTITIONS": "2",
            "SMART_TUNER__STORE__PUBLISH_S": "0.2",
            "OMP_NUM_THREADS": "1",
            **more,
        }

    def start(self, name, *command):
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        self.processes.append(process)
        return process

    def said(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def daemon(self):
        process = self.start("daemon", *COMMAND, "daemon")
        until(lambda: self.ask() or process.poll() is not None, lambda: self.said("daemon"))
        assert process.poll() is None, self.said("daemon")
        return process

    def ask(self):
        try:
            return query.ask(str(self.data), {"query": "status"}, 10.0)
        except Unavailable:
            return None

    def job(self, run, steps=10**9, *more):
        notes = self.folder / run
        notes.mkdir()
        return Job(self.start(run, sys.executable, str(JOB), run, str(notes), str(steps), *more), notes)

    def cli(self, *arguments):
        command = [*COMMAND, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def shut(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


class Job:
    def __init__(self, process, notes):
        self.process, self.notes = process, notes

    @property
    def logged(self):
        path = self.notes / "count"
        data = path.read_bytes()[:8] if path.exists() else b""
        return int.from_bytes(data, sys.byteorder)

    def reaches(self, count):
        until(lambda: self.logged >= count or self.process.poll() is not None)
        assert self.logged >= count

    def ends(self):
        (self.notes / "end").touch()
        return self.process.wait(PATIENCE_S)
