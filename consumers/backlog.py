"""Points older than a decision may be: they warm the windows and decide nothing, and one line tells how many there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..core.events import MetricChunk
from ..core.ports import Record

REST_S = 10.0
"""Append time without old points after which the backlog is over: a daemon reads its jobs' spools one after the other."""
LONGEST_S = 3600.0
"""One that does not end (a job whose clock is wrong) is told of this often."""


class Backlog:
    """Counts the points of each attempt until the backlog ends. `state` is what `dump` gave."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.points: Counter[str] = Counter(state.get("points", {}))
        self._began, self._last = float(state.get("began", 0.0)), float(state.get("last", 0.0))

    @staticmethod
    def holds(chunk: MetricChunk, record: Record, oldest: float) -> bool:
        """Whether the chunk was appended, or its last point born, before `oldest` (seconds since 1970)."""
        if record.time < oldest:
            return True
        held = False
        for one in chunk.series:
            if one.times:
                if one.times[-1] >= oldest:
                    return False
                held = True
        return held

    def take(self, chunk: MetricChunk, time: float) -> None:
        """Counts the points of a chunk that was appended at `time`."""
        if not self.points:
            self._began = time
        self._last = time
        self.points[chunk.attempt] += chunk.points()

    @property
    def ends(self) -> float:
        """Append time at which it is over: the log alone says it, whenever it is noticed."""
        return min(self._last + REST_S, self._began + LONGEST_S)

    def is_over(self, time: float) -> bool:
        """Whether there was a backlog, and at append time `time` there is none any more."""
        return bool(self.points) and time >= self.ends

    def end(self, not_after_s: float) -> str:
        """The line that tells of it; afterwards there is none."""
        points, attempts = sum(self.points.values()), len(self.points)
        self.points.clear()
        old = f"{points} points of {attempts} attempts were older than {not_after_s:g} s"
        return f"{old}: they warmed the windows, nothing was decided on them"

    def dump(self) -> dict[str, Any]:
        """The state as plain values (msgpack)."""
        return {"points": dict(self.points), "began": self._began, "last": self._last} if self.points else {}
