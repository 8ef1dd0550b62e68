"""The edge with real jobs, real sockets and real kills."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from smarttuner.bus import daemon_socket, query
from smarttuner.bus.directory import InUse
from smarttuner.bus.doorbell import Doorbell, hand_over_leftover
from smarttuner.bus.local import LocalLog
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.spool import Spool
from smarttuner.bus.spool_file import create_file, sweep
from smarttuner.bus.spool_layout import Identity
from smarttuner.core import events
from smarttuner.core.clock import SystemClock
from smarttuner.core.errors import Forbidden, Unavailable, UsageError
from smarttuner.core.ports import CONTROL, METRICS, NOTICES, RUNS, Message
from smarttuner.daemon import edge_streams
from smarttuner.daemon.edge import Edge, EdgeSettings
from smarttuner.daemon.edge_limits import StreamLimits

PATIENCE_S = 20.0

JOB = """
import json, os, sys, time
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.spool import Spool
from smarttuner.core import events
folder, attempt, address, how = sys.argv[1:5]
room = 4 << 20 if how == "forever" else 256 << 10  # an edge that stops and one that comes may leave it alone for seconds
spool = Spool.create(folder, "job", attempt, address, ring_bytes=room)
bell = Doorbell.connect(address, spool, {"sdk": "test"}) if how != "alone" else None
print(json.dumps(bell.welcome if bell else None), flush=True)
taken = 0
def step(i):
    global taken
    if spool.log(i, {"loss": 1.0 / (i + 1), "x": float(i)}, time.time()):
        taken += 1
    if bell:
        bell.ring_if_armed()
        bell.check()
if how == "forever":
    for i in range(10**9):
        step(i)
        os.write(1, b"%d\\n" % taken)
        time.sleep(0.0005)
for i in range(200):
    step(i)
last = events.RunEvent("job", attempt, "ended", time.time(), seq=spool.take_position(), state="finished")
spool.event(events.encode(last), closing=True)
print(taken, flush=True)
if how == "linger":
    sys.stdin.read()
    for i in range(200, 400):
        step(i)
"""


def answer(asked, peer):
    if asked["query"] == "long":
        return {"text": "é" * 200_000}
    if asked["query"] == "bad":
        raise UsageError("no such thing", "ask for another")
    if asked["query"] == "broken":
        raise ZeroDivisionError
    return {"query": asked["query"], "uid": peer.uid}


def until(claim, timeout_s=PATIENCE_S):
    deadline = time.monotonic() + timeout_s
    while not (found := claim()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
    return found


class House:
    """A data directory with a log and an edge, and a user's spool folder beside it."""

    def __init__(self, tmp_path, log=None, **settings):
        self.data = str(tmp_path / "data")
        self.spools = str(tmp_path / "state" / "spool")
        os.makedirs(self.data, exist_ok=True)
        os.makedirs(self.spools, exist_ok=True)
        self.log = log or MemoryLog(SystemClock())
        self.settings = EdgeSettings(self.data, **{"spool_folders": (self.spools,), **settings})
        self.reading = self.log.connect()
        self.edge = None
        self.jobs = []

    def open(self, **options):
        self.edge = Edge(self.log, self.settings, SystemClock(), answer, **options)
        self.edge.start()
        return self

    def shut(self):
        for job in self.jobs:
            job.kill()
            job.communicate()
        if self.edge is not None:
            self.edge.stop()
        self.log.close()

    def job(self, attempt, how="once", folder=None):
        made = subprocess.Popen(
            [sys.executable, "-c", JOB, folder or self.spools, attempt, self.data, how],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        self.jobs.append(made)
        return made

    def records(self, topic):
        found, position = [], 0
        while True:
            records, position = self.reading.follow(topic, "job", position, 1000, 0.0)
            if not records:
                return found
            found += [events.decode(record.body) for record in records]

    def points(self, attempt):
        rows = []
        for chunk in self.records(METRICS):
            if chunk.attempt == attempt:
                rows += [(p, one.name, one.steps[i]) for one, at in chunk.positions() for i, p in enumerate(at)]
        return rows

    def ended(self, attempt):
        return [
            one
            for one in self.records(RUNS)
            if isinstance(one, events.RunEvent) and one.event == "ended" and one.attempt == attempt
        ]


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.shut()


def whole(rows, steps):
    assert [row[0] for row in sorted(rows)] == list(range(2 * steps)), "a point is missing or there twice"
    assert {row[2] for row in rows} == set(range(steps))


def test_a_job_is_welcomed_streamed_and_its_spool_removed(house):
    house.open(welcome=lambda peer, said: {"mode": "act", "you": peer.uid, "sdk_heard": said["sdk"]})
    out, _ = house.job("A1").communicate(timeout=30)
    welcome, taken = out.splitlines()
    assert json.loads(welcome)["mode"] == "act"
    assert json.loads(welcome)["you"] == os.geteuid()
    assert taken == "200"
    until(lambda: house.ended("A1"))
    whole(house.points("A1"), 200)
    until(lambda: not os.listdir(house.spools))
    assert [one.state for one in house.ended("A1")] == ["finished"]
    assert house.edge.counters["faults"] == 0


def test_a_killed_job_loses_nothing_that_log_answered_true_for(house):
    house.open()
    jobs = [house.job(f"K{i}", "forever") for i in range(3)]
    said = []
    for job in jobs:
        lines = [job.stdout.readline() for _ in range(300)]
        job.send_signal(signal.SIGKILL)
        lines += job.stdout.readlines()
        said.append(int([line for line in lines if line.endswith("\n")][-1]))
    for i, taken in enumerate(said):
        (ended,) = until(lambda i=i: house.ended(f"K{i}"))
        assert (ended.state, ended.ended_by) == ("failed", "died")
        rows = house.points(f"K{i}")
        steps = len(rows) // 2
        assert steps in (taken, taken + 1)  # killed between log and the line that says so
        whole(rows, steps)
    assert until(lambda: not house.edge.spools())


def test_what_was_logged_without_a_daemon_is_shipped_whole_and_in_order_by_the_next(house):
    assert house.job("L1", "alone").communicate(timeout=30)[0].split() == ["null", "200"]
    house.open()
    until(lambda: house.ended("L1"))
    rows = house.points("L1")
    whole(rows, 200)
    losses = [row[2] for row in rows if row[1] == "loss"]
    assert losses == sorted(losses)
    until(lambda: not os.listdir(house.spools))


def test_a_spool_for_another_daemon_is_left_alone(house, tmp_path):
    elsewhere = Spool.create(house.spools, "job", "E1", str(tmp_path / "elsewhere"))
    elsewhere.log(1, {"loss": 1.0}, 0.0)
    house.open()
    house.job("A1").communicate(timeout=30)
    until(lambda: house.ended("A1"))
    assert house.points("E1") == []
    assert elsewhere.unread
    elsewhere.close()


def test_a_restarted_daemon_goes_on_where_the_last_one_was(tmp_path):
    house = House(tmp_path, LocalLog(str(tmp_path / "data"), SystemClock()))
    try:
        house.open()
        job = house.job("R1", "forever")
        for _ in range(3):
            for _ in range(150):
                job.stdout.readline()
            house.edge.stop()
            house.log.close()
            house.log = LocalLog(house.data, SystemClock())
            house.reading = house.log.connect()
            house.open()
        until(lambda: any(one["state"] == "connected" for one in house.edge.spools()))
        for _ in range(150):
            job.stdout.readline()
        job.kill()
        until(lambda: house.ended("R1"))
        rows = house.points("R1")
        assert len(rows) >= 1200
        whole(rows, len(rows) // 2)
    finally:
        house.shut()


def test_a_job_that_hangs_up_and_does_not_come_back_is_over_and_may_return_later(house):
    house.open()
    spool = Spool.create(house.spools, "job", "H1", house.data)
    bell = Doorbell.connect(house.data, spool, {})
    spool.log(1, {"loss": 1.0, "x": 1.0}, 0.0)
    bell.ring_if_armed()
    until(lambda: len(house.points("H1")) == 2)
    bell.close()
    (ended,) = until(lambda: house.ended("H1"))
    assert ended.ended_by == "died"
    assert os.path.exists(spool.path)  # its process lives
    spool.log(2, {"loss": 1.0, "x": 1.0}, 0.0)
    bell = Doorbell.connect(house.data, spool, {})
    until(lambda: len(house.points("H1")) == 4)
    bell.close()
    spool.close()


def test_the_child_of_a_fork_does_not_hide_its_parents_death(house):
    house.open()
    fork = "child = os.fork()\nif child == 0:\n    time.sleep(90); os._exit(0)\nfor i in range(200):"
    code = JOB.replace("for i in range(200):", fork).replace("spool.event(events.encode(last), closing=True)", "pass")
    code = code.replace("print(taken, flush=True)", "print(child, flush=True); os.kill(os.getpid(), 9)")
    job = subprocess.Popen([sys.executable, "-c", code, house.spools, "F1", house.data, "once"], stdout=subprocess.PIPE, text=True)
    job.stdout.readline()
    child = int(job.stdout.readline())
    job.wait()
    try:
        (ended,) = until(lambda: house.ended("F1"))  # long before the child ends
        assert ended.ended_by == "died"
        whole(house.points("F1"), 200)
    finally:
        os.kill(child, signal.SIGKILL)
        job.stdout.close()


def decision(name, attempt="D1", action="prune", not_after=None, **changes):
    return events.Decision(
        id=name,
        run="job",
        attempt=attempt,
        action=action,
        policy="p",
        trigger="sdk:1",
        reason="because",
        time=time.time(),
        not_after=time.time() + 60 if not_after is None else not_after,
        mode="act",
        **changes,
    )


def decide(house, *decisions):
    house.reading.publish([Message(CONTROL, "job", events.encode(one)) for one in decisions])


@pytest.mark.parametrize("partitions", [1, 3])
def test_decisions_reach_the_page_of_their_attempt_once(tmp_path, partitions):
    house = House(tmp_path, MemoryLog(SystemClock(), partitions), partitions=partitions).open()
    try:
        spool = Spool.create(house.spools, "job", "D1", house.data)
        decide(house, decision("early"), decision("would", status="would"), decision("late", not_after=1.0))
        bell = Doorbell.connect(house.data, spool, {})
        until(lambda: spool.orders())
        decide(
            house,
            decision("lr", action="scale-lr", params={"intent": {"multiplier": 0.5, "hold": None, "revision": 1}}),
            decision("early"),
        )
        until(lambda: len(spool.orders()) == 2)
        assert [(one.id, one.reason) for one in spool.orders()] == [("early", "because"), ("lr", "because")]
        spool.answered("early")
        spool.answered("lr")
        house.edge.stop()
        house.open()
        bell.close()
        bell = Doorbell.connect(house.data, spool, {})
        decide(house, decision("early"), decision("new"))
        until(lambda: [one.id for one in spool.orders()] == ["new"])
        bell.close()
        spool.close()
    finally:
        house.shut()


def test_a_job_with_unanswered_decisions_and_one_that_is_over_have_theirs_refused(house):
    house.open()
    spool = Spool.create(house.spools, "job", "D1", house.data)
    bell = Doorbell.connect(house.data, spool, {})
    decide(house, *(decision(f"d{i}", action="checkpoint") for i in range(9)))
    (ack,) = until(lambda: [one for one in house.records(RUNS) if isinstance(one, events.Ack)])
    assert (ack.id, ack.status, ack.reason, ack.by) == ("d8", "refused", "job has unanswered decisions", "edge")
    spool.event(events.encode(events.RunEvent("job", "D1", "ended", 1.0, state="finished")), closing=True)
    bell.close()
    until(lambda: not house.edge.spools())
    decide(house, decision("after"))
    until(lambda: [one.reason for one in house.records(RUNS) if isinstance(one, events.Ack)][1:] == ["attempt is over"])
    spool.close()


def test_a_strangers_bytes_are_counted_and_harm_nobody(house):
    house.open()
    job = house.job("S1", "forever")
    job.stdout.readline()
    junk = [b"\x00" * 100, b"{}", b"[1]", b'{"v":1}', b'{"v":1,"kind":"hello"}', b'{"v":"x","kind":"hello"}', b"{" * 60000]
    answers = []
    for body in junk:
        with daemon_socket.dial(house.data) as line:
            line.setblocking(True)
            line.settimeout(10)
            line.send(body)
            answers.append(daemon_socket.unpack(line.recv(1 << 16)))
    assert all(one["refused"] and one["hint"] for one in answers)
    fds = [os.open("/dev/null", os.O_RDWR) for _ in range(6)]
    for descriptors, kind in ((fds[:1], "hello"), (fds[:2], "hello"), (fds[:1], "leftover"), (fds, "hello")):
        with daemon_socket.dial(house.data) as line:
            line.setblocking(True)
            line.settimeout(10)
            socket.send_fds(line, [daemon_socket.packet(kind=kind, run="r", attempt="a", bytes=0)], descriptors)
            answers.append(daemon_socket.unpack(line.recv(1 << 16)))
    assert "not a regular file" in answers[-2]["refused"]
    assert "did not arrive" in answers[-1]["refused"]  # six, where four are room for: MSG_CTRUNC
    assert "LimitNOFILE" in answers[-1]["hint"]
    for fd in fds:
        os.close(fd)
    counters = house.edge.counters
    assert counters["descriptors_cut"] == 1
    assert counters["strangers"] >= 4
    assert counters["greetings_refused"] == 4
    assert counters["faults"] == 0
    before = len(house.points("S1"))
    until(lambda: len(house.points("S1")) > before)


def test_another_attempts_spool_and_a_foreign_pidfd_are_refused(house):
    house.open()
    spool = Spool.create(house.spools, "job", "P1", house.data)
    for said, extra, reason in (({"attempt": "P2"}, [], "another attempt"), ({"attempt": "P1"}, [0], "no pidfd")):
        with daemon_socket.dial(house.data) as line:
            line.setblocking(True)
            line.settimeout(10)
            greeting = daemon_socket.packet(kind="hello", run="job", bytes=spool.size, **said)
            socket.send_fds(line, [greeting], [spool.fd, *extra])
            assert reason in daemon_socket.unpack(line.recv(1 << 16))["refused"]
    spool.close()


def test_a_refusal_raises_at_the_job_with_the_daemons_reason(house):
    def turn_away(peer, said):
        raise Forbidden("no room for strangers", "ask the operator")

    house.open(welcome=turn_away)
    spool = Spool.create(house.spools, "job", "T1", house.data)
    with pytest.raises(Unavailable, match="no room for strangers"):
        Doorbell.connect(house.data, spool, {})
    spool.close()


def test_one_damaged_spool_is_told_and_the_others_flow_on(house):
    house.open()
    broken = Spool.create(house.spools, "job", "B1", house.data)
    sound = Spool.create(house.spools, "job", "G1", house.data)
    bells = [Doorbell.connect(house.data, one, {}) for one in (broken, sound)]
    broken.log(1, {"loss": 1.0}, 0.0)
    os.truncate(broken.path, 1000)
    (notice,) = until(lambda: house.records(NOTICES))
    assert (notice.what, notice.attempt) == ("spool_damaged", "B1")
    for i in range(50):
        sound.log(i, {"loss": 1.0, "x": 1.0}, 0.0)
        bells[1].ring_if_armed()
    until(lambda: len(house.points("G1")) == 100)
    assert house.edge.counters["spools_damaged"] >= 1
    assert {one["attempt"]: one["state"] for one in house.edge.spools()} == {"B1": "damaged", "G1": "connected"}
    for bell in bells:
        bell.close()
    assert until(lambda: house.ended("B1"))
    os.truncate(broken.path, broken.size)
    broken.close()
    sound.close()


def test_points_that_follow_an_answer_do_not_wait_for_the_bells_rest(house, monkeypatch):
    monkeypatch.setattr(edge_streams, "REARM_S", 600.0)
    house.open()
    spool = Spool.create(house.spools, "job", "R1", house.data, ring_bytes=16 << 10)
    bell = Doorbell.connect(house.data, spool, {})
    until(lambda: spool.armed)
    answered = events.Ack("some-decision", "job", "R1", "applied", time.time(), seq=spool.take_position())
    spool.event(events.encode(answered))
    bell.ring()
    until(lambda: house.records(RUNS))
    until(lambda: spool.armed)
    spool.log(1, {"loss": 1.0, "x": 1.0}, time.time())
    bell.ring()
    until(lambda: house.points("R1"))
    bell.close()
    spool.close()


class Rests:
    """Those of a bell, one after the other."""

    def __init__(self, *seconds):
        self.left = list(seconds)

    def __radd__(self, now):
        return now + self.left.pop(0)


@pytest.mark.parametrize("calls", [2, 3])
def test_a_job_that_logs_often_is_looked_at_again_without_a_bell_until_it_is_quiet(house, monkeypatch, calls):
    rests = Rests(3.0, 0.2, 600.0)
    monkeypatch.setattr(edge_streams, "REARM_S", rests)
    house.open()
    spool = Spool.create(house.spools, "job", "L1", house.data, ring_bytes=16 << 10)
    bell = Doorbell.connect(house.data, spool, {})
    until(lambda: spool.armed)
    for step in range(calls - 1):
        spool.log(step, {"loss": 1.0, "x": 1.0}, time.time())
    bell.ring()
    until(lambda: house.points("L1"))
    spool.log(calls, {"loss": 1.0, "x": 1.0}, time.time())
    until(lambda: spool.armed)
    assert len(house.points("L1")) == 2 * calls
    assert rests.left == ([0.2, 600.0] if calls == 2 else [600.0])
    bell.close()
    spool.close()


def test_what_a_spool_dropped_before_a_daemon_came_is_told_by_the_first_and_not_by_the_next(tmp_path):
    house = House(tmp_path)
    spool = Spool.create(house.spools, "job", "Q0", house.data, ring_bytes=16 << 10)
    for i in range(1500):
        spool.log(i, {"loss": 1.0}, 0.0)
    assert spool.dropped > 0
    bell = None
    try:
        house.open()
        bell = Doorbell.connect(house.data, spool, {})
        until(lambda: house.edge.counters["points_dropped"] == spool.dropped)
        until(lambda: house.points("Q0"))
        house.edge.stop()
        house.open()
        bell.close()
        bell = Doorbell.connect(house.data, spool, {})
        spool.log(1500, {"loss": 1.0}, 0.0)
        bell.ring_if_armed()
        until(lambda: len(house.points("Q0")) == 1501 - spool.dropped)
        house.edge.stop()  # which looks at every spool once more
        assert house.edge.counters["points_dropped"] == 0
        (told,) = [one for one in house.records(NOTICES) if one.what == "points_dropped"]
        assert f"{spool.dropped} points" in told.text
    finally:
        if bell is not None:
            bell.close()
        spool.close()
        house.shut()


def test_a_full_spool_is_told_with_its_number(tmp_path):
    house = House(tmp_path, limits=StreamLimits(points_per_s_run=50)).open()
    try:
        spool = Spool.create(house.spools, "job", "Q1", house.data, ring_bytes=16 << 10)
        bell = Doorbell.connect(house.data, spool, {})
        for i in range(1500):
            spool.log(i, {"loss": 1.0, "x": 1.0}, 0.0)
            if i % 100 == 0:
                bell.ring_if_armed()
                time.sleep(0.01)
        until(lambda: house.edge.counters["points_dropped"] == spool.dropped > 0)
        assert [one.what for one in house.records(NOTICES)] == ["points_dropped"]
        assert house.edge.counters["turns_over_limit"] > 0
        bell.close()
        spool.close()
    finally:
        house.shut()


def test_a_data_directory_deeper_than_107_bytes_is_served(tmp_path):
    house = House(tmp_path / ("deep" * 20) / ("deeper" * 20))
    assert len(house.data) > 200
    house.open()
    try:
        house.job("A1").communicate(timeout=30)
        until(lambda: house.ended("A1"))
        whole(house.points("A1"), 200)
    finally:
        house.shut()


def test_two_daemons_on_one_data_directory_and_a_stale_socket(house):
    house.open()
    other = Edge(house.log, house.settings, SystemClock(), answer)
    with pytest.raises(InUse, match=str(os.getpid())):
        other.start()
    house.edge.stop()
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(os.path.join(house.data, "bus.sock"))
    stale.close()
    house.open()
    assert query.ask(house.data, {"query": "status"})["query"] == "status"
    house.edge.stop()
    with open(os.path.join(house.data, "bus.sock"), "w", encoding="ascii") as file:
        file.write("mine")
    with pytest.raises(Unavailable, match="no socket"):
        Edge(house.log, house.settings, SystemClock(), answer).start()
    os.unlink(os.path.join(house.data, "bus.sock"))


def test_questions_are_answered_in_as_many_packets_as_they_need(house, tmp_path):
    with pytest.raises(Unavailable, match="no daemon listens"):
        query.ask(house.data, {"query": "status"})
    with pytest.raises(Unavailable, match="no daemon listens"):
        query.ask(str(tmp_path / "nowhere"), {"query": "status"})
    house.open()
    assert query.ask(house.data, {"query": "status"}) == {"query": "status", "uid": os.geteuid()}
    assert query.ask(house.data, {"query": "long"}) == {"text": "é" * 200_000}
    with pytest.raises(UsageError, match="no such thing") as caught:
        query.ask(house.data, {"query": "bad"})
    assert caught.value.hint == "ask for another"
    with pytest.raises(Exception, match="failed to answer"):
        query.ask(house.data, {"query": "broken"})


def test_many_ask_at_once(house):
    house.open()
    found = []
    threads = [threading.Thread(target=lambda: found.append(query.ask(house.data, {"query": "x"}, 20.0))) for _ in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 20


def test_a_leftover_is_handed_over_shipped_and_swept_by_its_user(tmp_path):
    house = House(tmp_path, spool_folders=())
    try:
        house.job("O1", "alone").communicate(timeout=30)
        assert not hand_over_leftover(house.data, os.path.join(house.spools, "O1.spool"))
        house.open()
        assert sweep(house.spools) == 0
        assert hand_over_leftover(house.data, os.path.join(house.spools, "O1.spool"))
        until(lambda: house.ended("O1"))
        whole(house.points("O1"), 200)
        until(lambda: not house.edge.spools())
        assert sweep(house.spools) == 1
    finally:
        house.shut()


def test_after_a_reboot_the_attempt_is_lost_not_failed(house, monkeypatch):
    monkeypatch.setattr("smarttuner.bus.spool_file.boot_id", lambda: "an earlier boot")
    fd, *_ = create_file(house.spools, Identity("job", "W1", house.data), 16 << 10)
    os.close(fd)
    monkeypatch.undo()
    house.open()
    (ended,) = until(lambda: house.ended("W1"))
    assert (ended.state, ended.ended_by) == ("lost", "reboot")


def test_a_stopped_edge_has_read_what_was_written_before(house):
    house.open()
    spool = Spool.create(house.spools, "job", "Z1", house.data)
    bell = Doorbell.connect(house.data, spool, {})
    for i in range(500):
        spool.log(i, {"loss": 1.0, "x": 1.0}, 0.0)
    house.edge.stop()
    whole(house.points("Z1"), 500)
    assert spool.unread == 0
    bell.close()
    spool.close()


class Failing:
    """A log whose publish fails now and then, having taken a prefix, as a full disk between two files makes it."""

    def __init__(self, log):
        self.log, self.mark, self.calls = log, log.mark, 0

    def connect(self):
        handle, outer = self.log.connect(), self

        class Handle:
            follow_partitions, poll, close = handle.follow_partitions, handle.poll, handle.close

            def publish(self, messages):
                outer.calls += 1
                if outer.calls % 3 == 0:
                    handle.publish(messages[: len(messages) // 2])
                    raise Unavailable("the disk is full", "free some space")
                handle.publish(messages)

        return Handle()


def test_a_log_that_fails_halfway_gets_every_point_once_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("smarttuner.daemon.edge_streams.RETRY_S", 0.02)
    house = House(tmp_path)
    house.edge = Edge(Failing(house.log), house.settings, SystemClock(), answer)
    house.edge.start()
    try:
        spool = Spool.create(house.spools, "job", "X1", house.data)
        bell = Doorbell.connect(house.data, spool, {})
        for i in range(600):
            if i % 20 == 0:
                spool.event(events.encode(events.RunEvent("job", "X1", "note", 1.0, seq=spool.take_position(), text=str(i))))
            spool.log(i, {"loss": 1.0, "x": 1.0}, 0.0)
            bell.ring_if_armed()
            if i % 50 == 0:
                time.sleep(0.01)
        until(lambda: spool.unread == 0)
        assert house.edge.counters["publish_failed"] > 0
        rows = house.points("X1")
        assert len({row[0] for row in rows}) == len(rows) == 1200
        notes = [int(one.text) for one in house.records(RUNS) if one.event == "note"]
        assert notes == list(range(0, 600, 20))
        bell.close()
        spool.close()
    finally:
        house.shut()
