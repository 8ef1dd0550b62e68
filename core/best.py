"""The one comparison that the job's keep-best and the judge's windows share."""

from __future__ import annotations

import math

from .events import Goal


def improves(value: float, best: float | None, goal: Goal, min_delta: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `min_delta` (>= 0, in the series' own unit).

    NaN and the wrong infinity never improve; the first number always does.

    >>> improves(0.9, 1.0, "min", 0.05), improves(0.96, 1.0, "min", 0.05), improves(float("nan"), None, "min")
    (True, False, False)
    """
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if goal == "min" else value > best + min_delta


class Best:
    """The best value of a series so far and its step. A step that does not advance is not looked at."""

    __slots__ = ("best", "goal", "last_step", "min_delta", "step")

    def __init__(self, goal: Goal, min_delta: float = 0.0, best: float | None = None, step: int | None = None) -> None:
        self.goal: Goal = goal
        self.min_delta = min_delta
        self.best = best
        self.step = step
        self.last_step: int | None = step

    def offer(self, step: int, value: float) -> bool:
        """Takes the point in; True when it is the new best."""
        if self.last_step is not None and step <= self.last_step:
            return False
        self.last_step = step
        if not improves(value, self.best, self.goal, self.min_delta):
            return False
        self.best, self.step = value, step
        return True

    def new_segment(self) -> None:
        """After a restore the job's steps may start again from an earlier one; the best stays."""
        self.last_step = None
