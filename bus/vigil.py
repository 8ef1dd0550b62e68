"""Watching one attempt that is silent: what its process is at, told in notes that grow rarer the longer it lasts.

Only who ships an attempt's metrics can say that there were none: nothing waits, and it was there all the time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

from ..core.events import RunEvent, encode
from ..core.ports import RUNS, Message
from ..core.watched import Watched
from .delivery import Delivery
from .process import Sample, pid_namespace, pid_of, pid_started, sample

FIRST_S = 60.0
"""A silence is told of from here on, where the attempt has not been silent for half as long before."""
GROWTH, MOST_S = 0.25, 300.0
"""The next note comes when the silence is by this share longer, and by so much at most."""
SAMPLE_S = 15.0
"""The process is looked at this often."""
HABIT_S = 3600.0
BREAK_S = 60.0
"""Who has not looked for so long was not watching."""
SAVING_BYTES_PER_S = 1 << 20
"""A process that writes so much is busy with saving, for SAVING_S of one silence at most."""
SAVING_S = 3600.0
STATES = {"R": "running", "S": "sleeping", "D": "waiting for a disk or a device"}


class Vigil:
    """Belongs to the thread that ships the attempt. `first_s`: when the first silence is told of."""

    def __init__(self, first_s: float = FIRST_S) -> None:
        self._first_s, self._sample_s = first_s, min(SAMPLE_S, first_s / 4)
        self._mark: int | None = None
        self._longest_s = 0.0
        self._saved_s = 0.0
        self._said_stopped = False
        self._looked = self._since = self._sampled = 0.0
        self._next_s = first_s
        self._last: Sample | None = None
        self._states: Counter[str] = Counter()

    def look(self, mark: int | None, now: float, pid: Callable[[], int]) -> Watched | None:
        """What is to be told, about once a second. `mark` changes with everything that the attempt says, None while something
        of it waits to be shipped; `pid` gives the process where it can be seen, else 0; `now` is monotonic seconds."""
        away_s, self._looked = now - self._looked, now
        if mark is None or mark != self._mark:
            self._longest_s = max(self._longest_s, now - self._since if self._mark is not None else 0.0)
            self._mark, self._said_stopped, self._saved_s = mark, False, 0.0
            self._begin(now)
        elif away_s > BREAK_S:
            self._begin(now)
        elif now - self._sampled >= self._sample_s:
            return self._sample(now, pid())
        return None

    def _begin(self, now: float) -> None:
        self._since = self._sampled = now
        self._last = None
        self._states.clear()
        self._next_s = max(self._first_s, 2.0 * min(self._longest_s, HABIT_S))

    def _sample(self, now: float, pid: int) -> Watched | None:
        before, between_s, self._sampled = self._last, now - self._sampled, now
        found = self._last = sample(pid) if pid else None
        if found is not None and found.stopped:
            self._begin(now)
            told, self._said_stopped = self._said_stopped, True
            return None if told else Watched(0.0, found.stopped, pid, os.uname().nodename)
        if self._is_saving(before, found, between_s):
            self._saved_s += between_s
            self._begin(now)
            self._last = found
            return None
        if found:
            self._states[found.state] += 1
        quiet_s = now - self._since
        if quiet_s < self._next_s or (pid and found is None):  # gone: who waits for its end says so
            return None
        self._next_s = quiet_s + min(GROWTH * quiet_s, MOST_S)
        cpu = round(max(0.0, found.cpu_s - before.cpu_s) / between_s, 3) if found and before and between_s else None
        state = STATES.get(self._states.most_common(1)[0][0], "") if found else ""  # one look may have met it awake
        return Watched(round(quiet_s, 3), "", pid, os.uname().nodename, state, cpu)

    def _is_saving(self, before: Sample | None, found: Sample | None, between_s: float) -> bool:
        if not before or not found or before.written is None or found.written is None or self._saved_s >= SAVING_S:
            return False
        return found.written - before.written >= SAVING_BYTES_PER_S * between_s


def process_of(delivery: Delivery, pidfd: int) -> int:
    """The pid of the attempt's process, as it counts here; 0 where it cannot be seen."""
    identity = delivery.identity
    if pidfd >= 0:
        return pid_of(pidfd)
    same = identity.pid_namespace == pid_namespace() and pid_started(identity.pid) == identity.pid_started
    return identity.pid if same else 0


def note(delivery: Delivery, watched: Watched, time: float) -> Message:
    """The note that carries it."""
    text = f"kept from running by {watched.stopped}" if watched.stopped else f"no metric; {watched.told()}"
    group = delivery.shipper.group
    event = RunEvent(delivery.run, delivery.attempt, "note", time, group=group, text=text, details=watched.details())
    return Message(RUNS, delivery.shipper.key, encode(event))
