"""The supervisor as a process: real signals, a real notify socket, a real PID 1 where the machine lets us have one."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).with_name("supervised.py")


class Manager:
    """What systemd would be to the process."""

    def __init__(self, folder):
        self.path = str(folder / "notify.sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.lines = []

    def until(self, start, seconds=60):
        """Reads line by line until one begins with `start`; the line."""
        deadline = time.monotonic() + seconds
        while True:
            while not self.lines:
                self.socket.settimeout(max(0.01, deadline - time.monotonic()))
                self.lines = self.socket.recv(4096).decode().splitlines()
            line = self.lines.pop(0)
            if line.startswith(start):
                return line

    def hears(self, start, seconds):
        """Whether a line that begins with `start` comes within `seconds`, beside those that are there already."""
        self.socket.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            while self.socket.recv(4096):
                pass
        self.lines = []
        with contextlib.suppress(TimeoutError):
            return bool(self.until(start, seconds))
        return False


@pytest.fixture
def manager(tmp_path):
    one = Manager(tmp_path)
    yield one
    one.socket.close()


@pytest.fixture
def start(tmp_path, manager):
    running = []

    def begin(*command, stall_s=60.0, watchdog_s=None):
        environ = os.environ | {"NOTIFY_SOCKET": manager.path}
        if watchdog_s:
            environ |= {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        process = subprocess.Popen([*command, sys.executable, str(SCRIPT), str(tmp_path), str(stall_s)], env=environ)
        running.append(process)
        manager.until("READY=1")
        manager.until("STATUS=2 lanes running")
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def log(folder):
    return (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_lanes_in_order_and_ends_with_0(start, manager, tmp_path, number):
    process = start()
    process.send_signal(number)
    assert process.wait(60) == 0
    ended = [line for line in log(tmp_path) if not line.endswith("runs")]  # a lane's thread may begin after the signal came
    assert ended == ["first drained", "second drained", "reaped nothing"]
    manager.until("STOPPING=1")


def test_a_second_signal_ends_the_process_at_once(start, manager, tmp_path):
    (tmp_path / "slow").touch()
    process = start()
    process.send_signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert "first drained" not in log(tmp_path)


def test_hup_reloads_and_a_broken_file_changes_nothing(start, manager, tmp_path):
    process = start()
    process.send_signal(signal.SIGHUP)
    manager.until("RELOADING=1")
    assert int(manager.until("MONOTONIC_USEC=").partition("=")[2]) <= time.monotonic() * 1e6
    manager.until("READY=1")
    assert manager.until("STATUS=").endswith("taken")
    (tmp_path / "broken").touch()
    process.send_signal(signal.SIGHUP)
    manager.until("RELOADING=1")
    manager.until("READY=1")
    assert "the old one stays in force" in manager.until("STATUS=")
    assert process.poll() is None
    assert "mine.yaml:1: bus: wrong" in (tmp_path / "errors").read_text()
    assert log(tmp_path).count("reloaded") == 1


def test_a_lane_that_raised_is_started_again_and_the_status_says_so(start, manager, tmp_path):
    start()
    (tmp_path / "fall").touch()
    assert manager.until("STATUS=") == "STATUS=2 lanes; second restarting (ValueError: fell)"
    assert manager.until("STATUS=") == "STATUS=2 lanes running"
    until(lambda: log(tmp_path).count("second runs") == 2)


def test_pings_stop_while_a_lane_stands_still_and_come_back(start, manager, tmp_path):
    start(stall_s=0.5, watchdog_s=0.4)
    manager.until("WATCHDOG=1")
    (tmp_path / "stick").touch()
    while manager.until("STATUS=") != "STATUS=2 lanes; second stalled":
        pass  # a machine that stood still for half a second has held up the first lane too
    assert not manager.hears("WATCHDOG=1", 1.0)
    (tmp_path / "stick").unlink()
    manager.until("WATCHDOG=1")


def children(pid):
    """The processes under `pid`, zombies too."""
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def namespaces():
    tool = shutil.which("unshare")
    if not tool or subprocess.run([tool, "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a PID namespace needs unshare and its permission")
    return [tool, "--pid", "--fork", "--kill-child", "--mount-proc"]


def test_as_pid_1_it_hears_signals_and_takes_orphans(start, tmp_path):
    (tmp_path / "orphan").touch()
    process = start(*namespaces())
    (one,) = children(process.pid)
    until(lambda: "orphan ended" in log(tmp_path) and not children(one))
    os.kill(one, signal.SIGTERM)
    assert process.wait(60) == 0
    assert log(tmp_path)[-1] == "reaped 1"
