"""What is hostile or malformed comes by socket and by spool: refused with a reason and a hint, counted, and no other job is
held up."""

import contextlib
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from smarttuner.bus import daemon_socket
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.query import ask
from smarttuner.bus.spool import Spool
from smarttuner.bus.spool_layout import WORD_DROPPED, WORD_REFUSED, pwrite_word
from smarttuner.core import events
from smarttuner.core.errors import SmartTunerError

pytestmark = pytest.mark.timeout(600)
NOBODY = 65534


@contextlib.contextmanager
def dialled(served):
    with daemon_socket.dial(str(served.place.data)) as line:
        line.setblocking(True)
        line.settimeout(30)
        yield line


def answer(served, body, descriptors=()):
    """What the daemon says to one packet of a stranger."""
    with dialled(served) as line:
        socket.send_fds(line, [body], descriptors)
        return daemon_socket.unpack(line.recv(1 << 16))


def test_garbage_on_the_socket_is_answered_with_a_hint_and_counted(served):
    chance = random.Random(1)
    junk = [b"\0", b"{}", b"[1]", b"null", b"{" * 60_000, b'{"v":1}', b'{"v":-1,"query":"status"}', b'{"v":1,"kind":"hullo"}']
    junk += [chance.randbytes(1 << n) for n in range(17)]  # the last are more than a packet may have
    before = served.counts("strangers", "descriptors_cut")
    answers = [answer(served, body) for body in junk]
    assert all(one["refused"] and one["hint"] for one in answers)
    assert served.counts("strangers", "descriptors_cut") - before == len(junk)


QUESTIONS = (
    {"query": "nonsense"},
    {"query": 7},
    {"query": "request", "run": "healthy", "action": "prune", "params": [1]},
    {"query": "request", "run": "healthy", "action": "scale-lr", "params": "fast"},
    {"query": "request", "run": ["healthy"], "action": {}},
    {"query": "request", "run": "healthy", "action": "explode"},
)


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_a_malformed_question_is_refused_with_a_hint(served, question):
    before = served.counts("queries_refused")
    try:
        said = ask(str(served.place.data), question)
    except SmartTunerError as error:
        said = {"refused": error.message, "hint": error.hint}
    assert said["refused"]
    assert said["hint"]
    assert served.counts("queries_refused") == before + 1


def descriptors_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_descriptor_that_is_no_spool_is_refused_with_the_reason_and_not_kept(served, tmp_path, until):
    file = tmp_path / "file"
    file.write_bytes(random.Random(2).randbytes(1 << 20))
    pipe = os.pipe()
    given = {
        "not a regular file": [pipe[0], os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), os.open("/dev/zero", os.O_RDWR)],
        "appending": [os.open(file, os.O_RDWR | os.O_APPEND)],
        "reading and writing": [os.open(file, os.O_RDONLY)],
        "not a spool": [os.open(file, os.O_RDWR)],
    }
    before, open_before = served.counts("greetings_refused"), descriptors_of(served.daemon.pid)
    for reason, descriptors in given.items():
        for fd in descriptors:
            for kind in ("hello", "leftover"):
                greeting = daemon_socket.packet(kind=kind, run="r", attempt="a", bytes=1 << 20)
                said = answer(served, greeting, [fd])
                assert reason in said["refused"]
                assert said["hint"]
    assert "were announced" in answer(served, daemon_socket.packet(kind="hello", run="r", attempt="a", bytes=9), [fd])["refused"]
    assert "without a spool" in answer(served, daemon_socket.packet(kind="hello", run="r", attempt="a", bytes=9))["refused"]
    assert served.counts("greetings_refused") - before == 2 * 6 + 2
    for fd in (*(one for several in given.values() for one in several), pipe[1]):
        os.close(fd)
    until(lambda: descriptors_of(served.daemon.pid) <= open_before)


def test_another_jobs_spool_under_a_wrong_name_is_refused(served, tmp_path):
    spool = Spool.create(str(tmp_path), "mine", "ATTEMPT", str(served.place.data))
    greeting = daemon_socket.packet(kind="hello", run="healthy", attempt="ATTEMPT", bytes=spool.size)
    assert "another attempt's" in answer(served, greeting, [spool.fd])["refused"]
    spool.close(unlink=True)


def test_two_hundred_connections_hold_nobody_up_and_those_that_never_greet_are_dropped(served, until):
    before = served.counts("strangers")
    with contextlib.ExitStack() as lines:
        silent = [lines.enter_context(dialled(served)) for _ in range(200)]
        for line in silent[:100]:
            line.send(b"garbage")
        served.flows()
        assert served.place.status()[0] == 0
        until(lambda: served.counts("strangers") - before >= 200)
        assert all(line.recv(1 << 16) == b"" for line in silent[100:])


def test_a_file_of_random_bytes_among_the_spools_is_counted_and_told_once(served, until):
    path = served.place.spools / "RANDOM.spool"
    path.write_bytes(random.Random(3).randbytes(5 << 20))
    cut = served.place.spools / "CUT.spool"
    cut.write_bytes(b"")
    until(lambda: served.counts("spools_unreadable") == 2)
    until(lambda: all(str(one) in served.place.said() for one in (path, cut)))
    time.sleep(4.0)  # it is looked at again every 3 s
    assert served.counts("spools_unreadable") == 2
    path.unlink()
    cut.unlink()
    lines = [line for line in served.place.said().splitlines() if str(path) in line]
    assert len(lines) == 1
    assert "not a spool" in lines[0]
    assert "hint: delete the file" in served.place.said()


RING, ALL = "its ring", "all of it"


@pytest.mark.parametrize("what", [RING, ALL])
def test_a_spool_overwritten_with_random_bytes_under_the_daemon_is_told_and_ends_neither_process(served, until, what):
    victim = served.place.job(f"victim-of-{what.split()[-1]}")
    spool = served.spool_of(victim)
    before = served.counts("spools_damaged")
    served.daemon.send(signal.SIGSTOP)
    victim.reaches(victim.logged + 200)  # so that something is there that nobody has read
    size = spool.stat().st_size
    start = 0 if what is ALL else size - (4 << 20)
    with spool.open("rb+") as file:
        file.seek(start)
        file.write(random.Random(4).randbytes(size - start))
    served.daemon.send(signal.SIGCONT)
    until(lambda: served.counts("spools_damaged") > before)
    until(lambda: f"{victim.name}: " in served.place.said())
    victim.reaches(victim.logged + 50)
    victim.tell_to_end()
    assert victim.ended() == 0, victim.said()


def test_a_spool_truncated_under_the_daemon_is_told_and_its_run_ends_as_died(served, until):
    victim = served.place.job("cut")
    spool = served.spool_of(victim)
    victim.process.send_signal(signal.SIGSTOP)  # else the job itself meets the end of its mapping
    os.truncate(spool, 0)
    until(lambda: "cut: a spool was truncated" in served.place.said())
    assert served.counts("spools_damaged") >= 1
    victim.kill()
    until(lambda: served.place.states().get("cut") == ("failed", "died"), told=served.place.states)


@pytest.fixture
def foreign(served):
    """Makes spools of this process, handed to the daemon as a job would."""
    made = []

    def make(attempt):
        spool = Spool.create(str(served.place.spools), "foreign", attempt, str(served.place.data), ring_bytes=64 << 10)
        made.append((spool, Doorbell.connect(str(served.place.data), spool, {})))
        return made[-1]

    yield make
    for spool, bell in made:
        bell.close()
        spool.close(unlink=True)


def test_a_job_speaks_for_its_own_attempt_only(served, foreign, until):
    spool, bell = foreign("SPEAKS-FOR-OTHERS")
    attempt = served.spool_of(served.healthy).stem
    spool.event(b"no event at all")
    spool.event(events.encode(events.RunEvent("healthy", attempt, "ended", time.time(), state="failed")))
    spool.event(events.encode(events.Ack("x", "healthy", attempt, "applied", time.time())))
    bell.ring_if_armed()
    until(lambda: served.counts("events_strange") == 3)
    until(lambda: "foreign: its spool holds events that are none, or another attempt's" in served.place.said())
    (state,) = [one["state"] for one in served.daemon.ask("runs")["runs"] if one["run"] == "healthy"]
    assert state == "running"


def test_numbers_that_nobody_counts_to_do_not_end_the_answers(served, foreign, until):
    for attempt in ("COUNTS-A", "COUNTS-B"):
        spool, bell = foreign(attempt)
        for word in (WORD_DROPPED, WORD_REFUSED):
            pwrite_word(spool.fd, word, (1 << 64) - 1)
        spool.log(1, {"x": math.nan, "y": 1e308, "z": -math.inf}, math.inf)
        spool.log((1 << 63) - 1, {"x": 1.0}, -1.0)
        bell.ring_if_armed()
    until(lambda: len([one for one in served.daemon.ask("runs")["runs"] if one["run"] == "foreign" and one["series"]]) >= 2)
    assert served.place.status()[0] == 0
    assert served.counts("points_dropped") == 0


def as_nobody(script, *arguments, fds=()):
    """Runs a script whose modules are loaded before it gives up root."""
    code = f"import json, os, socket, sys\nfrom smarttuner.bus import daemon_socket, query\nos.setuid({NOBODY})\n{script}"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, pass_fds=fds
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_another_user_does_not_get_to_the_socket_of_a_persons_own_daemon(served):
    done = as_nobody("query.ask(sys.argv[1], {'query': 'status'})", served.place.data)
    assert done.returncode == 1
    assert "cannot be used: Permission denied" in done.stderr
    assert "hint: look at the folder's owner and permissions" in done.stderr


@needs_root
def test_where_others_may_connect_they_hand_over_their_own_spools_only_and_decide_about_their_own_runs_only(served, tmp_path):
    folder = os.open(served.place.data, os.O_PATH | os.O_DIRECTORY)  # past the folders above, which nobody else may enter
    socket_path = served.place.data / "bus.sock"
    spool = Spool.create(str(tmp_path), "mine", "ROOTS", str(served.place.data))
    script = """
line = daemon_socket.dial(sys.argv[1])
line.setblocking(True)
greeting = daemon_socket.packet(kind="hello", run="mine", attempt="ROOTS", bytes=int(sys.argv[3]))
socket.send_fds(line, [greeting], [int(sys.argv[2])])
print(line.recv(65536).decode())
print(json.dumps(query.ask(sys.argv[1], {"query": "request", "run": "healthy", "action": "prune"})))
"""
    os.chmod(socket_path, 0o666)
    mode = served.place.data.stat().st_mode
    os.chmod(served.place.data, 0o711)
    try:
        done = as_nobody(script, f"/proc/self/fd/{folder}", spool.fd, spool.size, fds=[folder, spool.fd])
    finally:
        os.chmod(socket_path, 0o600)
        os.chmod(served.place.data, mode)
        os.close(folder)
        spool.close(unlink=True)
    assert done.returncode == 0, done.stderr
    spool_refused, request_refused = done.stdout.splitlines()
    assert f"it belongs to uid 0, the job runs as uid {NOBODY}" in spool_refused
    assert "may not decide about a run of" in request_refused
    assert served.place.decisions(action="prune") == []
