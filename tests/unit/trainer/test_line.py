"""A job and a daemon on one socket: what is announced, what finish() waits for, a daemon that comes late or refuses."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from smarttuner.bus import places
from smarttuner.bus.daemon_socket import packet, unpack
from smarttuner.bus.shipper import Shipper
from smarttuner.bus.spool_reader import SpoolReader


class Listener:
    """As much of a daemon as one job needs: greets, reads the spool it is handed, commits what it read."""

    def __init__(self, folder, **welcome):
        folder.mkdir(parents=True, exist_ok=True)
        self.welcome = welcome or {"daemon": "0.1.0", "pid": 4711, "mode": "act"}
        self.hello, self.read = None, []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(folder / "bus.sock"))
        self._socket.listen()
        self._over = threading.Event()
        self._lines = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        self._socket.settimeout(0.02)
        while not self._over.is_set():
            try:
                line, _ = self._socket.accept()
            except TimeoutError:
                continue
            self._lines.append(threading.Thread(target=self._serve_one, args=(line,)))
            self._lines[-1].start()

    def _serve_one(self, line):
        with line:
            self._talk(line)

    def _talk(self, line):
        data, fds, _, _ = socket.recv_fds(line, 65536, 4)
        self.hello = said = unpack(data)
        line.send(packet(**self.welcome))
        for fd in fds[1:]:
            os.close(fd)
        shipper = Shipper(SpoolReader(fds[0], 0))
        line.settimeout(0.01)
        while not self._over.is_set() and "refused" not in self.welcome and said["kind"] == "hello":
            self.read += shipper.read(0.0)
            shipper.reader.commit(shipper.reader.position)
            try:
                if not line.recv(16):
                    break
            except TimeoutError:
                pass
            except ConnectionResetError:
                break
        shipper.reader.close()

    def stop(self):
        self._over.set()
        self._thread.join()
        for line in self._lines:
            line.join()
        self._socket.close()


@pytest.fixture
def listen(state):
    made = []

    def listening(folder=state, **welcome):
        made.append(Listener(folder, **welcome))
        return made[-1]

    yield listening
    for one in made:
        one.stop()


def test_a_daemon_is_announced_and_takes_all_before_finish_returns(attach, listen, state, capsys):
    daemon = listen()
    run = attach("r", allow=("lr", "prune"), group="g")
    said = capsys.readouterr().err
    assert "a daemon listens (pid 4711), it may change: lr, prune" in said
    assert str(state) in said
    assert said.count("\n") == 1
    assert (daemon.hello["run"], daemon.hello["attempt"], daemon.hello["mode"], daemon.hello["group"]) == (
        "r",
        run.attempt,
        "act",
        "g",
    )
    for step in range(100):
        run.log({"a": 1.0}, step=step)
    path = run._line.spool.path
    run.finish()
    assert not os.path.exists(path)
    assert "waits in" not in capsys.readouterr().err
    assert b'"ended"' in daemon.read[-1].body


def test_a_daemon_that_comes_late_is_found_by_the_running_job(attach, listen):
    run = attach()
    daemon = listen()
    run._calm.looked = run._line.bell._next_check = 0.0  # a second has passed
    run.log({"a": 1.0})
    while daemon.hello is None:
        time.sleep(0.01)
    assert daemon.hello["attempt"] == run.attempt
    run.finish()
    assert b'"ended"' in daemon.read[-1].body


def test_what_the_daemon_finds_wrong_is_said_at_attach_once_also_by_one_that_comes_late(attach, listen, capsys, state):
    stated = {"patiense": {"patience": 3}}
    run = attach(policies=stated)
    assert "patiense" not in capsys.readouterr().err
    daemon = listen(daemon="0.1.0", pid=4711, mode="act", warnings=["no policy is called 'patiense'"])
    deadline = time.monotonic() + 60
    while not run._line.bell.welcome:
        assert time.monotonic() < deadline
        run._calm.looked = run._line.bell._next_check = 0.0  # a second has passed
        run.log({"a": 1.0})
        time.sleep(0.01)
    run._calm.looked = 0.0
    run.log({"a": 1.0})
    assert daemon.hello["policies"] == stated
    attach("other", policies=stated)
    assert capsys.readouterr().err.count("smart-tuner: no policy is called 'patiense'") == 2


def test_a_daemon_that_refuses_is_quoted_and_the_values_wait(attach, listen, capsys):
    listen(refused="too many runs", hint="raise limits.runs")
    run = attach()
    assert "the daemon refuses this job: too many runs" in capsys.readouterr().err
    run.log({"a": 1.0})
    run.finish()
    assert "waits in" in capsys.readouterr().err


def test_what_dead_jobs_left_is_handed_to_a_system_service(attach, listen, state, monkeypatch, tmp_path, capsys):
    system = tmp_path / "run"
    monkeypatch.setattr(places, "SYSTEM_SOCKET", system / "bus.sock")
    listen(folder=system)
    code = "import os, smarttuner; r = smarttuner.attach('left'); r.log({'a': 1.0}); os.kill(os.getpid(), 9)"
    monkeypatch.setenv("SMART_TUNER_DATA_DIR", "/var/lib/smart-tuner")  # no daemon there: it stays
    subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    monkeypatch.delenv("SMART_TUNER_DATA_DIR")
    attach("next")
    said = capsys.readouterr().err
    assert "1 earlier runs that had waited were handed to the daemon" in said
