"""Where a rank is among its step boundaries, and the one that it must not pass before the ranks have decided."""

from __future__ import annotations

import threading
from typing import NamedTuple

from ..bus.control_page import Order
from ..core.clock import Clock

LEAST_AHEAD = 2
MOST_AHEAD = 1000
SLACK_S = 0.2
"""How far ahead of now a hold is set: time for the other ranks to hear of it, so that usually nobody waits."""
HOLD_WAIT_S = 30.0
_POLL_S = 0.05


class Due(NamedTuple):
    """What is to be done at boundary `at`, agreed under `number`. Nothing is done at a boundary that has no orders."""

    number: int
    at: int
    orders: tuple[Order, ...]


class Gate:
    """Two threads meet here: the training thread passes boundaries, the agreeing one arms and resolves. No lock: each
    field has one writer, and `arm` looks again after it has written."""

    def __init__(self, clock: Clock) -> None:
        self.count = 0
        self.due: Due | None = None
        self._hold: int | None = None
        self._clock = clock
        self._resolved = threading.Event()
        self._sampled = (0, clock.monotonic())
        self._step_s = 0.0

    def pass_boundary(self) -> Due | None:
        """Counts one boundary; at the hold it waits until the ranks have decided. What is due now; `at` is behind `count` only
        where this rank gave up waiting."""
        count = self.count = self.count + 1
        if self._hold is None:
            return None
        return self._stop_at(count)

    def _stop_at(self, count: int) -> Due | None:
        until = self._clock.monotonic() + HOLD_WAIT_S
        while (hold := self._hold) is not None and count >= hold and self.due is None:
            if self._clock.monotonic() > until:  # the agreeing thread is stuck in a store that does not answer
                self._hold = None
                return None
            self._resolved.wait(_POLL_S)
            self._resolved.clear()
        due = self.due
        if due is None or count < due.at:
            return None
        self.due = self._hold = None
        return due

    def sample(self) -> None:
        """Measures the time of a step, some times a second."""
        now, (count, then) = self._clock.monotonic(), self._sampled
        if now - then >= _POLL_S / 2:
            self._step_s = (now - then) / (self.count - count) if self.count > count else 0.0
            self._sampled = (self.count, now)

    def arm(self, slack_s: float = SLACK_S) -> int:
        """From here on this rank waits at the boundary that is returned, unless it hears before what was decided."""
        steps = LEAST_AHEAD + (int(slack_s / self._step_s) if self._step_s else 0)
        while True:
            hold = self._hold = self.count + min(steps, MOST_AHEAD)
            if self.count < hold:  # read after the hold was written: the training thread cannot have missed it
                return hold

    def resolve(self, due: Due | None) -> None:
        """It was decided: what is due and when, or None for nothing at all."""
        self._hold = None if due is None else due.at  # before `due`: the training thread clears both once it has seen that
        self.due = due
        self._resolved.set()
