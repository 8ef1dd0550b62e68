"""One stored series of an attempt, read some points at a time, and what stood before and behind the points that are asked about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..core.events import Goal
from ..core.window import Floats, Ints

SOON_POINTS = 10
"""How many points behind a decision are looked at for whether things went on without it."""
SIGN = {"min": 1.0, "max": -1.0}
"""What makes less of a series the better one."""


class Part(NamedTuple):
    """Some points of a curve, equal lengths n >= 1: `y` are the values times a goal's sign, infinite where not finite, `bests`
    the least of them by each point; `rising` says that no step comes twice or goes back."""

    steps: Ints
    values: Floats
    times: Floats
    y: Floats
    bests: Floats
    rising: bool


@dataclass
class Moment:
    """The point at which something was concluded: of `step` and `value` (None: not told), or the last one born by `time`.

    `before` is the best by then and `soon` that of the next points, times the goal's sign and infinite where there was no
    finite value; `followed` counts those, up to SOON_POINTS; `born` is when the point was (seconds since 1970).
    """

    goal: Goal
    step: int | None
    value: float | None
    time: float
    met: bool = False
    passed: bool = False
    before: float = math.inf
    born: float = 0.0
    soon: float = math.inf
    followed: int = 0

    def take(self, part: Part, best: float) -> None:
        """The curve's next points; `best` is the best before them."""
        behind = 0
        if not self.passed:
            at = self._place(part)
            if at is not None:
                self.met, self.passed = True, self.step is not None or at < len(part.y) - 1
                self.before, self.born = min(best, float(part.bests[at])), float(part.times[at])
                behind = at + 1
        if self.passed and self.followed < SOON_POINTS:
            soon = part.y[behind : behind + SOON_POINTS - self.followed]
            self.soon, self.followed = min(self.soon, float(soon.min(initial=math.inf))), self.followed + len(soon)

    def _place(self, part: Part) -> int | None:
        """Where among the points it is; None where it is not, or is in front of them."""
        if self.step is None:
            late = np.flatnonzero(part.times > self.time)
            place = int(late[0]) - 1 if len(late) else len(part.times) - 1
            self.passed = place < 0 and self.met
            return place if place >= 0 else None
        first, last = 0, len(part.steps)
        if part.rising:  # thousands of moments may be asked about one long curve
            first = int(np.searchsorted(part.steps, self.step))
            last = first + 1
        same = part.steps[first:last] == self.step
        if self.value is not None:
            values = part.values[first:last]
            same &= np.isnan(values) if math.isnan(self.value) else values == self.value
        found = np.flatnonzero(same)
        return first + int(found[0]) if len(found) else None


@dataclass
class Curve:
    """What is remembered of it: for each goal that is asked for the best so far (times its sign) and the step that reached it
    first; the greatest step; when the last point was born."""

    goals: set[Goal]
    moments: list[Moment] = field(default_factory=list)
    bests: dict[Goal, float] = field(default_factory=dict)
    best_steps: dict[Goal, int] = field(default_factory=dict)
    steps: int = 0
    last: float = 0.0
    begun: bool = False

    def take(self, steps: Ints, values: Floats, times: Floats) -> None:
        """The next n >= 1 points in the order of the log."""
        finite, rising = np.isfinite(values), bool((np.diff(steps) > 0).all())
        for goal in self.goals:
            y = np.where(finite, SIGN[goal] * values, math.inf)
            part = Part(steps, values, times, y, np.minimum.accumulate(y), rising)
            best = self.bests.get(goal, math.inf)
            for moment in self.moments:
                if moment.goal == goal:
                    moment.take(part, best)
            at = int(y.argmin())
            if y[at] < best:
                self.bests[goal], self.best_steps[goal] = float(y[at]), int(steps[at])
        greatest, last = int(steps.max()), float(times.max())
        self.steps, self.last = (max(self.steps, greatest), max(self.last, last)) if self.begun else (greatest, last)
        self.begun = True


def share_lost(left: float, whole: float) -> float:
    """How much worse `left` is than `whole`, both times the sign, as a share of the size of `whole`.

    >>> share_lost(1.1, 1.1), share_lost(3.0, 2.0), share_lost(-0.5, -1.0), share_lost(math.inf, 2.0)
    (0.0, 0.5, 0.5, inf)
    """
    if left <= whole:
        return 0.0
    return (left - whole) / abs(whole) if whole else math.inf
