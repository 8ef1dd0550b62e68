"""How many points a second one may send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StreamLimits:
    """Points a second of one run, and of all runs of one user; 0: no limit."""

    points_per_s_run: float = 0.0
    points_per_s_uid: float = 0.0


class Allowance:
    """A bucket of `per_s` points that fills within a second; 0 means no limit. It may be overdrawn by one turn."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s, self._left, self._at = per_s, per_s, now

    def take(self, points: int, now: float) -> None:
        """Counts what was read; `now` in monotonic seconds."""
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s) - points
        self._at = now

    def wait_s(self, now: float) -> float:
        """How long nothing more may be read.

        >>> one = Allowance(10, now=0.0); one.take(30, now=0.0); one.wait_s(now=1.0)
        1.0
        """
        if not self._per_s:
            return 0.0
        return max(0.0, -self._left / self._per_s - (now - self._at))
