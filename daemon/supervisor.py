"""Starts, restarts and drains lanes; obeys signals; tells systemd how it goes.

A lane that raised is started again after a growing, bounded delay. SIGTERM and SIGINT stop the lanes one after the other, in
their order, and each drains what it has; a second one ends the process at once, which loses nothing either. SIGHUP reads the
configuration again. The watchdog is pinged only while every lane makes progress.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..core.errors import SmartTunerError
from ..core.ports import Clock
from .notify import Notifier
from .signals import Orphans

log = logging.getLogger("smarttuner.supervisor")
DELAYS_S = (0.2, 1.0, 5.0, 15.0, 30.0)
"""Before a lane's first, second, … restart in a row; the last one for all further."""
CALM_S = 60.0
"""A lane that ran so long before it fell is no longer in a row of falls."""
TICK_S = 1.0
State = Literal["starting", "running", "stalled", "restarting", "stopped"]


class Runner(Protocol):
    """What is supervised: a lane, the edge. `last_step_at` is the monotonic time at which its last turn began."""

    name: str
    last_step_at: float

    def run(self, stopping: threading.Event) -> None:
        """Turns until `stopping` is set, drains, and returns."""


class Inbox(Protocol):
    """Where signals come from; see daemon/signals.py."""

    def wait(self, timeout_s: float) -> list[int]: ...
    def wake(self) -> None: ...


@dataclass(frozen=True)
class LaneState:
    """What `status` says of a lane; `restarts` since the start, `last_error` of the last fall."""

    name: str
    state: State
    restarts: int
    last_error: str


@dataclass
class _Watched:
    """One lane and its thread. `fell_at` and `error` are written by the thread just before it ends."""

    runner: Runner
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    started_at: float = 0.0
    due_at: float | None = None
    falls: int = 0
    restarts: int = 0
    error: BaseException | None = None
    last_error: str = ""
    stalled: bool = False


@dataclass(frozen=True)
class Waits:
    """How long the supervisor waits: for a turn of a lane (`stall_s`), for all lanes to drain (`drain_s`)."""

    stall_s: float = 60.0
    drain_s: float = 30.0


class Supervisor:
    """Runs `lanes` until a signal. `reload` reads the configuration again and says in a sentence what is new; what it
    raises is told, and what was stays in force. `end` ends the process at once."""

    def __init__(
        self,
        lanes: Sequence[Runner],
        reload: Callable[[], str],
        clock: Clock,
        notify: Notifier,
        waits: Waits = Waits(),
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self.clock = clock
        self.notify = notify
        self._lanes = [_Watched(one) for one in lanes]
        self._reload = reload
        self._waits = waits
        self._end = end
        self._orphans = Orphans() if os.getpid() == 1 else None
        self._stop_asked = threading.Event()
        self._inbox: Inbox | None = None
        self._status = ""

    def run(self, inbox: Inbox) -> int:
        """Until it is told to stop; the exit code: 0 drained, 1 some lane did not end in time. Main thread."""
        self._inbox = inbox
        for one in self._lanes:
            self._start(one)
        self._status = self._summary()
        self.notify.ready(self._status)
        while not self._stop_asked.is_set():
            for number in inbox.wait(self._tick_s()):
                if number == signal.SIGHUP:
                    self._take_configuration()
                else:
                    self._asked_to_end(number)
            self.turn()
        return self._drain(inbox)

    def stop(self) -> None:
        """As SIGTERM, from any thread."""
        self._stop_asked.set()
        if self._inbox is not None:
            self._inbox.wake()

    def lanes(self) -> list[LaneState]:
        """How each lane is, for `status`; from any thread."""
        return [LaneState(one.runner.name, self._state(one), one.restarts, one.last_error) for one in self._lanes]

    def turn(self) -> None:
        """One look at everything: falls, restarts that are due, stalls, the watchdog, orphans."""
        now = self.clock.monotonic()
        for one in self._lanes:
            if one.thread is not None and not one.thread.is_alive() and one.due_at is None:
                self._fell(one, now)
            if one.due_at is not None and now >= one.due_at:
                one.restarts += 1
                self._start(one)
            self._look(one, now)
        summary = self._summary()
        if summary != self._status:
            self._status = summary
            self.notify.status(summary)
        if not any(one.stalled for one in self._lanes):
            self.notify.alive()
        if self._orphans is not None:
            self._orphans.reap(now)

    def _tick_s(self) -> float:
        now = self.clock.monotonic()
        waits = [one.due_at - now for one in self._lanes if one.due_at is not None]
        if self.notify.watchdog_s:
            waits.append(self.notify.watchdog_s / 4)
        return max(0.01, min([TICK_S, *waits]))

    def _start(self, one: _Watched) -> None:
        one.started_at, one.due_at, one.error = self.clock.monotonic(), None, None
        one.thread = threading.Thread(target=self._body, args=(one,), name=one.runner.name, daemon=True)
        try:
            one.thread.start()
        except RuntimeError as error:
            one.error = error  # no thread could be had: the next turn finds it fallen

    def _body(self, one: _Watched) -> None:
        """A lane's thread. Whatever comes out of it is kept for `turn`, which is woken."""
        try:
            one.runner.run(one.stopping)
        except BaseException as error:
            one.error = error
        finally:
            if self._inbox is not None:
                self._inbox.wake()

    def _fell(self, one: _Watched, now: float) -> None:
        one.falls = one.falls + 1 if now - one.started_at < CALM_S else 1
        delay = DELAYS_S[min(one.falls, len(DELAYS_S)) - 1]
        one.due_at, one.stalled = now + delay, False
        error = one.error
        said = f"{type(error).__name__}: {error}" if error is not None else "ended by itself"
        if said != one.last_error or one.falls == 1:
            trace = None if error is None or isinstance(error, SmartTunerError) else error
            log.error("lane %s: %s; it starts again in %g s", one.runner.name, said, delay, exc_info=trace)
        one.last_error = said

    def _look(self, one: _Watched, now: float) -> None:
        """Tells once when a running lane makes no turn any more, and once when it does again."""
        idle_s = now - max(one.runner.last_step_at, one.started_at)
        stalled = one.due_at is None and idle_s > self._waits.stall_s
        if stalled and not one.stalled:
            log.error("lane %s has made no turn for %.0f s: the watchdog gets no sign of life", one.runner.name, idle_s)
        elif one.stalled and not stalled and one.due_at is None:
            log.warning("lane %s goes on", one.runner.name)
        one.stalled = stalled

    def _state(self, one: _Watched) -> State:
        if one.due_at is not None:
            return "restarting"
        if one.thread is None:
            return "starting"
        if not one.thread.is_alive():
            return "stopped" if one.stopping.is_set() else "restarting"
        return "stalled" if one.stalled else "running"

    def _summary(self) -> str:
        odd = [
            f"{one.name} {one.state}" + (f" ({one.last_error})" if one.last_error else "")
            for one in self.lanes()
            if one.state != "running"
        ]
        return f"{len(self._lanes)} lanes" + (f"; {'; '.join(odd)}" if odd else " running")

    def _take_configuration(self) -> None:
        """SIGHUP. A file that cannot be used changes nothing but the status line."""
        self.notify.reloading(self.clock)
        try:
            said = self._reload()
            log.info("SIGHUP: %s", said)
        except SmartTunerError as error:
            said = "the configuration is broken: the old one stays in force"
            log.error("SIGHUP: %s\n%s", said, error)
        except Exception as error:
            said = f"the configuration was not taken ({type(error).__name__}): the old one stays in force"
            log.exception("SIGHUP: %s", said)
        self.notify.ready(f"{self._status}; {said}")

    def _asked_to_end(self, number: int) -> None:
        """The first time drains; the second ends at once, which a kill -9 would do as well."""
        name = signal.Signals(number).name
        if self._stop_asked.is_set():
            log.warning("%s again: ending at once", name)
            self._end(128 + number)
        log.info("%s: draining; once more ends at once", name)
        self._stop_asked.set()

    def _drain(self, inbox: Inbox) -> int:
        """Stops the lanes in their order, each with what is left of `drain_s`."""
        self.notify.stopping("draining")
        deadline = self.clock.monotonic() + self._waits.drain_s
        late = [one.runner.name for one in self._lanes if not self._ended(one, inbox, deadline)]
        if late:
            log.error(
                "did not drain within %g s: %s; what they hold is taken up at the next start",
                self._waits.drain_s,
                ", ".join(late),
            )
        return 1 if late else 0

    def _ended(self, one: _Watched, inbox: Inbox, deadline: float) -> bool:
        one.stopping.set()
        while one.thread is not None and one.thread.is_alive():
            left = deadline - self.clock.monotonic()
            if left <= 0:
                return False
            for number in inbox.wait(min(left, self._tick_s())):
                if number != signal.SIGHUP:
                    self._asked_to_end(number)
            self.notify.alive()
        if one.error is not None and one.due_at is None:
            log.error("lane %s: %s while draining", one.runner.name, one.error)
        return True
