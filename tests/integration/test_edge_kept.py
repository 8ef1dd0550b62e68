"""What the service manager keeps for the next daemon: a spool that no path leads to is not lost while no daemon runs."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from smarttuner.bus.memory import MemoryLog
from smarttuner.core import events
from smarttuner.core.clock import SystemClock
from smarttuner.core.ports import METRICS, RUNS
from smarttuner.daemon.edge import Edge, EdgeSettings
from smarttuner.daemon.notify import Notifier

ATTEMPT = "01ARYZ6S410000000000000000"
JOB = """
import sys, time
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.spool import Spool
spool = Spool.create(sys.argv[1], "job", sys.argv[2], sys.argv[3])
bell = Doorbell.connect(sys.argv[3], spool, {})
print("connected", flush=True)
sys.stdin.readline()
for i in range(500):
    spool.log(i, {"loss": float(i)}, time.time())
print("logged", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def manager(tmp_path):
    """The manager's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(20.0)
        yield one


def stored(manager):
    """The next datagram that stores descriptors: its assignments and the descriptors."""
    while True:
        data, fds, _, _ = socket.recv_fds(manager, 4096, 8)
        said = dict(line.split("=", 1) for line in data.decode().splitlines())
        if "FDSTORE" in said:
            return said, fds


def answer(asked, peer):
    return {}


def test_a_job_that_dies_while_no_daemon_runs_is_read_by_the_next_one(tmp_path, manager):
    data, hidden = str(tmp_path / "data"), str(tmp_path / "another-user")
    os.makedirs(data)
    log = MemoryLog(SystemClock())
    keeper = Notifier(str(tmp_path / "notify"))
    first = Edge(log, EdgeSettings(data, keeper=keeper), SystemClock(), answer)
    first.start()
    command = [sys.executable, "-c", JOB, hidden, ATTEMPT, data]
    job = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "connected\n"
    said, fds = stored(manager)
    assert said["FDNAME"] == f"spool.{ATTEMPT}"
    first.stop()
    job.stdin.write("\n")
    job.stdin.flush()
    assert job.stdout.readline() == "logged\n"
    job.send_signal(signal.SIGKILL)
    job.communicate()
    second = Edge(log, EdgeSettings(data, keeper=keeper, kept={said["FDNAME"]: fds}), SystemClock(), answer)
    second.start()
    reader, found, until = log.connect(), [], time.monotonic() + 20
    while not any(isinstance(one, events.RunEvent) and one.event == "ended" for one in found):
        assert time.monotonic() < until
        found += [events.decode(one.body) for one in reader.poll([METRICS, RUNS], "test", timeout_s=0.2).records]
    values = [value for one in found if isinstance(one, events.MetricChunk) for value in one.series[0].values]
    assert values == [float(i) for i in range(500)]
    manager.setblocking(False)
    told = b""
    while b"FDSTOREREMOVE" not in told:
        assert time.monotonic() < until
        try:
            told, _, _, _ = socket.recv_fds(manager, 4096, 8)
        except BlockingIOError:
            time.sleep(0.02)
    assert f"FDNAME=spool.{ATTEMPT}".encode() in told
    second.stop()
    log.close()
    keeper.close()


def test_what_is_kept_and_is_no_spool_is_counted_and_harms_nothing(tmp_path):
    data = str(tmp_path / "data")
    os.makedirs(data)
    log = MemoryLog(SystemClock())
    ends = os.pipe()
    kept = {"spool.nonsense": [ends[0]], "other": [ends[1]]}
    edge = Edge(log, EdgeSettings(data, kept=kept), SystemClock(), answer)
    edge.start()
    until = time.monotonic() + 10
    while not edge.counters["spools_unreadable"]:
        assert time.monotonic() < until
        time.sleep(0.01)
    edge.stop()
    os.close(ends[1])
    log.close()
