"""What reaches a service manager's socket, real datagrams and real descriptors."""

import os
import socket

import pytest
from smarttuner.core.clock import ManualClock
from smarttuner.daemon.notify import Notifier, kept


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "n.sock") if request.param == "path" else f"@smart-tuner-test-{os.getpid()}-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if name.startswith("@") else name)
        listening.settimeout(10)
        yield name, listening


def test_each_message_is_one_datagram_of_assignments(manager):
    name, listening = manager
    notifier = Notifier(name)
    assert notifier.ready("3 lanes\nrunning")
    assert notifier.status("x" * 2000)
    assert notifier.alive()
    assert notifier.reloading(ManualClock(12.5))
    assert notifier.stopping()
    assert listening.recv(4096) == b"READY=1\nSTATUS=3 lanes running"
    assert len(listening.recv(4096)) == len("STATUS=") + 500
    assert [listening.recv(4096) for _ in range(3)] == [b"WATCHDOG=1", b"RELOADING=1\nMONOTONIC_USEC=12500000", b"STOPPING=1"]
    notifier.close()
    assert not notifier.alive()


def test_descriptors_go_into_the_store_under_a_name(manager, tmp_path):
    name, listening = manager
    (tmp_path / "spool").write_text("points")
    notifier = Notifier(name)
    with (tmp_path / "spool").open() as spool:
        assert notifier.keep("spool.01ARZ3", [spool.fileno()])
    message, fds, _, _ = socket.recv_fds(listening, 4096, 8)
    assert message == b"FDSTORE=1\nFDNAME=spool.01ARZ3\nFDPOLL=0"
    assert os.read(fds[0], 100) == b"points"
    os.close(fds[0])
    assert notifier.forget("spool.01ARZ3")
    notifier.close()
    assert listening.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=spool.01ARZ3"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ä", "x" * 256, "a\nREADY=1"])
def test_a_name_that_would_break_the_protocol_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a descriptor"):
        Notifier("").keep(name, [0])


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path):
    assert not Notifier("").ready()
    assert not Notifier("vsock:2:1").ready()
    notifier = Notifier(str(tmp_path / "gone.sock"))
    assert not notifier.ready()
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_only_where_the_manager_means_us(environ, watchdog_s):
    assert Notifier.of(environ, 7).watchdog_s == watchdog_s


def test_what_the_manager_kept_is_found_by_name(monkeypatch):
    closed_on_exec = []
    monkeypatch.setattr(os, "set_inheritable", lambda fd, inheritable: closed_on_exec.append((fd, inheritable)))
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "spool.a:spool.b:spool.a"}
    assert kept(environ, 7) == {"spool.a": [3, 5], "spool.b": [4]}
    assert closed_on_exec == [(3, False), (4, False), (5, False)]
    assert kept(environ, 8) == {}
    assert kept({"LISTEN_PID": "7"}, 7) == {}
    assert kept({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7) == {"unknown": [3]}
