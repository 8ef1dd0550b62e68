"""Lanes in real threads, time turned by hand: `turn` is driven directly, signals come from a list."""

import logging
import signal
import threading

import pytest
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import ConfigError
from smarttuner.daemon.notify import Notifier
from smarttuner.daemon.supervisor import DELAYS_S, Supervisor, Waits


class Told(Notifier):
    """A notifier that keeps what it would send."""

    def __init__(self, watchdog_s=None):
        super().__init__("", watchdog_s)
        self.sent = []

    def send(self, *assignments, fds=()):
        self.sent.append(assignments)
        return True

    def said(self, start):
        return [line for one in self.sent for line in one if line.startswith(start)]


class Inbox:
    """Signals in the order given, one batch a wait; `woken` when a lane's thread ended."""

    def __init__(self, *batches):
        self.batches = list(batches)
        self.woken = threading.Semaphore(0)

    def wait(self, timeout_s):
        return self.batches.pop(0) if self.batches else []

    def wake(self):
        self.woken.release()


class Lane:
    """A lane that runs `bodies` one after the other, the last one again and again."""

    def __init__(self, name, clock, *bodies):
        self.name, self.clock, self.bodies = name, clock, list(bodies)
        self.last_step_at = clock.monotonic()
        self.started = threading.Semaphore(0)
        self.drained = False

    def run(self, stopping):
        self.last_step_at = self.clock.monotonic()
        self.started.release()
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        body(stopping)
        self.drained = True


def wait(stopping):
    assert stopping.wait(60)


def fail(stopping):
    raise ValueError("broken record")


@pytest.fixture
def clock():
    return ManualClock(1000.0)


def supervised(clock, *lanes, reload=lambda: "nothing new", inbox=None, **options):
    one = Supervisor(lanes, reload, clock, Told(), Waits(stall_s=60, drain_s=5), end=options.get("end", lambda code: None))
    one._inbox = inbox or Inbox()
    return one


def begin(one):
    for watched in one._lanes:
        one._start(watched)


def finish(one):
    """Ends the threads that a test left running."""
    for watched in one._lanes:
        watched.stopping.set()
        if watched.thread is not None:
            watched.thread.join(60)


def test_lanes_run_until_a_signal_and_are_drained_in_their_order(clock):
    order = []

    def body(name):
        def run(stopping):
            wait(stopping)
            order.append(name)

        return run

    lanes = [Lane(name, clock, body(name)) for name in ("edge", "judge", "store")]
    one = supervised(clock, *lanes)
    assert one.run(Inbox([], [signal.SIGTERM])) == 0
    assert order == ["edge", "judge", "store"]
    assert [state.state for state in one.lanes()] == ["stopped"] * 3
    assert one.notify.sent[0] == ("READY=1", "STATUS=3 lanes running")
    assert one.notify.said("STOPPING") == ["STOPPING=1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(clock, number):
    ended = []
    drained = threading.Event()

    def slow(stopping):
        wait(stopping)
        drained.wait(60)

    def end(code):
        ended.append(code)
        drained.set()

    one = supervised(clock, Lane("store", clock, slow), end=end)
    assert one.run(Inbox([number], [], [number])) == 0
    assert ended == [128 + number]


def test_a_lane_that_fell_is_started_again_after_growing_delays(clock, caplog):
    lane = Lane("judge", clock, fail)
    inbox = Inbox()
    one = supervised(clock, lane, inbox=inbox)
    begin(one)
    for falls, delay in enumerate([*DELAYS_S, DELAYS_S[-1]], 1):
        assert inbox.woken.acquire(timeout=60)
        one._lanes[0].thread.join(60)
        one.turn()
        assert one.lanes()[0].state == "restarting"
        assert one.lanes()[0].last_error == "ValueError: broken record"
        clock.turn(delay - 0.1)
        one.turn()
        assert one.lanes()[0].restarts == falls - 1
        clock.turn(0.11)
        one.turn()
        assert one.lanes()[0].restarts == falls
    assert "judge restarting (ValueError: broken record)" in "".join(one.notify.said("STATUS"))
    assert sum("broken record" in one.getMessage() for one in caplog.records) == 1
    finish(one)


def test_a_lane_that_ran_long_enough_begins_its_delays_anew(clock):
    gate = threading.Event()

    def later(stopping):
        gate.wait(60)
        raise ValueError("late")

    lane, inbox = Lane("judge", clock, fail, fail, later, wait), Inbox()
    one = supervised(clock, lane, inbox=inbox)
    begin(one)
    for _ in range(2):
        one._lanes[0].thread.join(60)
        one.turn()
        clock.turn(40)
        one.turn()
    clock.turn(100)
    gate.set()
    one._lanes[0].thread.join(60)
    one.turn()
    clock.turn(DELAYS_S[0])
    one.turn()
    assert one.lanes()[0].state == "running"
    finish(one)


def test_a_lane_that_ends_by_itself_is_started_again(clock):
    lane = Lane("edge", clock, lambda stopping: None, wait)
    one = supervised(clock, lane)
    begin(one)
    one._lanes[0].thread.join(60)
    one.turn()
    assert one.lanes()[0].last_error == "ended by itself"
    clock.turn(1)
    one.turn()
    assert (one.lanes()[0].state, one.lanes()[0].restarts) == ("running", 1)
    finish(one)


def test_the_fall_of_one_lane_leaves_the_others_alone(clock):
    good, bad = Lane("store", clock, wait), Lane("judge", clock, fail, wait)
    one = supervised(clock, good, bad)
    begin(one)
    one._lanes[1].thread.join(60)
    one.turn()
    assert [state.state for state in one.lanes()] == ["running", "restarting"]
    assert one.lanes()[0].restarts == 0
    finish(one)


def test_the_watchdog_is_pinged_only_while_every_lane_makes_progress(clock, caplog):
    caplog.set_level(logging.INFO)
    quick, stuck = Lane("store", clock, wait), Lane("judge", clock, wait)
    one = supervised(clock, quick, stuck)
    begin(one)
    for lane in (quick, stuck):
        assert lane.started.acquire(timeout=60)
    one.turn()
    assert len(one.notify.said("WATCHDOG")) == 1
    clock.turn(61)
    quick.last_step_at = clock.monotonic()
    one.turn()
    one.turn()
    assert len(one.notify.said("WATCHDOG")) == 1
    assert [state.state for state in one.lanes()] == ["running", "stalled"]
    assert one.notify.said("STATUS")[-1] == "STATUS=2 lanes; judge stalled"
    stuck.last_step_at = clock.monotonic()
    one.turn()
    assert len(one.notify.said("WATCHDOG")) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "lane judge has made no turn for 61 s: the watchdog gets no sign of life",
        "lane judge goes on",
    ]
    finish(one)


def test_pings_come_four_times_a_watchdog_interval():
    one = Supervisor([], lambda: "", ManualClock(), Told(watchdog_s=2.0))
    assert one._tick_s() == 0.5


def test_hup_takes_the_new_configuration(clock):
    taken = []

    def reload():
        taken.append(1)
        return "configs/mine.yaml is in force"

    one = supervised(clock, Lane("judge", clock, wait), reload=reload)
    assert one.run(Inbox([signal.SIGHUP], [signal.SIGTERM])) == 0
    assert taken == [1]
    assert one.notify.sent[1] == ("RELOADING=1", "MONOTONIC_USEC=1000000000")
    assert one.notify.sent[2] == ("READY=1", "STATUS=1 lanes running; configs/mine.yaml is in force")


@pytest.mark.parametrize("error", [ConfigError("mine.yaml:3: bus: wrong", "write it"), RuntimeError("odd")])
def test_a_broken_file_keeps_the_old_configuration_and_says_so(clock, caplog, error):
    def reload():
        raise error

    one = supervised(clock, Lane("judge", clock, wait), reload=reload)
    assert one.run(Inbox([signal.SIGHUP], [signal.SIGTERM])) == 0
    assert "old one stays in force" in one.notify.sent[2][1]
    assert "old one stays in force" in caplog.text
    assert str(error).splitlines()[0] in caplog.text


def test_a_lane_that_does_not_drain_in_time_is_named_and_the_exit_code_says_so(clock, caplog):
    let_go = threading.Event()

    def stuck(stopping):
        wait(stopping)
        clock.turn(100)
        let_go.wait(60)

    one = supervised(clock, Lane("judge", clock, stuck), Lane("store", clock, wait))
    assert one.run(Inbox([signal.SIGTERM])) == 1
    assert "did not drain within 5 s: judge" in caplog.text
    let_go.set()
    finish(one)


def test_stop_does_what_a_signal_does(clock):
    one = supervised(clock, Lane("judge", clock, wait))
    threading.Timer(0.05, one.stop).start()
    assert one.run(Inbox()) == 0
