"""Points older than a decision may be: they warm the windows and decide nothing, and one line tells how many there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..core.events import MetricChunk
from ..core.ports import Record


class Backlog:
    """Counts the points of each attempt until the backlog ends."""

    def __init__(self, points: Mapping[str, int] | None = None) -> None:
        self.points = Counter(points or {})

    @staticmethod
    def holds(chunk: MetricChunk, record: Record, oldest: float) -> bool:
        """Whether the chunk was appended, or its last point born, before `oldest` (seconds since 1970)."""
        born = max((one.times[-1] for one in chunk.series if one.times), default=record.time)
        return min(record.time, born) < oldest

    def end(self, not_after_s: float) -> str:
        """The line that tells of it; "" where there was none."""
        if not self.points:
            return ""
        points, attempts = sum(self.points.values()), len(self.points)
        self.points.clear()
        old = f"{points} points of {attempts} attempts were older than {not_after_s:g} s"
        return f"{old}: they warmed the windows, nothing was decided on them"
