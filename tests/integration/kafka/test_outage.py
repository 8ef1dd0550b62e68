"""A running daemon whose broker goes away and comes back: it says so once, is degraded meanwhile, and goes on."""

import os
import signal
import subprocess
import sys
import time

from smarttuner.bus.query import ask
from smarttuner.core.errors import SmartTunerError

PATIENCE_S = 90.0
AWAY_S = 8.0
"""Long enough for several tries of each lane."""


def until(see, what, folder):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = see()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}; {status(folder)}")


def status(folder):
    try:
        return ask(str(folder), {"query": "status"}, 20.0)
    except SmartTunerError:
        return None


def test_a_daemon_that_loses_its_broker_says_so_once_and_goes_on(make_broker, kafka_prefix, tmp_path):
    broker = make_broker()
    environ = os.environ | {
        "SMART_TUNER_BUS": f"kafka://{broker.bootstrap}",
        "SMART_TUNER__BUS__KAFKA__PREFIX": kafka_prefix,
        "SMART_TUNER__BUS__KAFKA__PARTITIONS": "1",
        "SMART_TUNER_CONFIG": "",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "OMP_NUM_THREADS": "1",
    }
    folder, log = tmp_path / "data", tmp_path / "log"
    command = [sys.executable, "-m", "smarttuner.daemon.cli.main", "daemon", "--data-dir", str(folder)]
    with log.open("w") as file:
        daemon = subprocess.Popen(command, env=environ, stderr=file)
    try:
        until(lambda: (found := status(folder)) and not found["problems"], "the daemon is healthy", folder)
        before = len(log.read_text().splitlines())
        broker.kill()
        until(lambda: "judge" in " ".join(status(folder)["problems"]), "the outage is a problem of status", folder)
        time.sleep(AWAY_S)
        assert "judge" in " ".join(status(folder)["problems"])
        broker.start()
        until(lambda: (found := status(folder)) and not found["problems"], "the daemon is healthy again", folder)
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            assert daemon.wait(PATIENCE_S) == 0
        finally:
            daemon.kill()
            daemon.wait()
    said = log.read_text().splitlines()[before:]
    assert not [line for line in said if line.startswith("Traceback")], "\n".join(said)
    for who in ("judge", "metrics_store", "notice_log", "control cannot be followed"):
        warned = [line for line in said if line.startswith(f"WARNING {who}")]
        assert len(warned) <= 2, "\n".join(said)
    assert [line for line in said if line.startswith("WARNING judge")], "\n".join(said)
    assert len([line for line in said if "kafka: " in line]) <= 12, "\n".join(said)
