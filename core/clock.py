"""The only place where the clock is read, so that tests and simulation can turn it by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A port of ports.py; it stands here so that a training process, which needs no other port, loads none."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.time)
    """Seconds since 1970, UTC. No function around it: a training pays for one of these calls a step."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Blocks the calling thread."""
        time.sleep(seconds)


class ManualClock:
    """A clock that stands still until it is turned; `sleep` turns it."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.turn(seconds)

    def turn(self, seconds: float) -> None:
        """Moves the time on by `seconds` >= 0."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._now += seconds


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with microseconds.

    >>> rfc3339(1700000000.25)
    '2023-11-14T22:13:20.250000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
