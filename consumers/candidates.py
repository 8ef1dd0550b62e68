"""The points at which a rule may speak, merged over rules and series into the one order of the log."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from ..core.events import Decision
from ..core.rungs import NONE, RungMeasure, first_step
from ..core.standing import FOREVER
from ..core.window import Columns, Evidence
from .attempt import Attempt
from .rules import Rule

Conclude = Callable[[Attempt, Rule, Decision, float | None], object]
"""The last: see Surroundings.progress."""
Heap = list[tuple[int, int, int, int, "Candidates"]]
"""(number of the record, position in the source, number of the rule, tie, candidates)"""


def judge_in_order(heap: Heap, before: Callable[[float], None], conclude: Conclude) -> None:
    """Judges at every point of the heap, by (record, position, rule); `before` is told each append time first."""
    while heap:
        _, _, _, tie, candidates = heapq.heappop(heap)
        before(candidates.when)
        candidates.judge(conclude)
        candidates.push(heap, tie)


class Candidates:
    """The points of one columns at which one rule may speak, in order."""

    def __init__(self, attempt: Attempt, rule: Rule, columns: Columns, number: int, points: list[int] | None = None) -> None:
        """`points`: what the rule's screen has found, if it was asked already."""
        self.attempt, self.rule, self.columns, self.number = attempt, rule, columns, number
        self.latch = attempt.latch(rule)
        self.points = self._screened() if points is None else points
        self.at = 0
        self.when = 0.0
        """Append time of the point it was pushed for."""

    def _screened(self) -> list[int]:
        mask = self.rule.policy.screen(self.columns)
        return list(range(len(self.columns))) if mask is None else np.flatnonzero(np.asarray(mask)).tolist()

    def screen_after(self, order: int) -> None:
        """Screens anew what stands behind the record `order`: what the columns show of peers has changed there."""
        self.points = self._screened()
        behind = np.searchsorted(self.columns.orders[self.points], order, side="right") if self.points else 0
        self.at = int(behind)

    def push(self, heap: Heap, tie: int) -> None:
        """Puts itself into the heap at its next point that no latch silences, if there is one."""
        until = self.attempt.standing.latches.get(self.latch, 0.0)
        while self.at < len(self.points):
            point = self.points[self.at]
            when = float(self.columns.appended[point])
            if when >= until:
                self.when = when
                order, position = int(self.columns.orders[point]), int(self.columns.positions[point])
                heapq.heappush(heap, (order, position, self.number, tie, self))
                return
            self.at = len(self.points) if until == FOREVER else self.at + 1

    def judge(self, conclude: Conclude) -> None:
        """Judges at the point it was pushed for."""
        point = self.points[self.at]
        self.at += 1
        if float(self.columns.appended[point]) < self.attempt.standing.latches.get(self.latch, 0.0):
            return  # latched meanwhile by another series of the same policy
        seen = self.columns.evidence(point)
        decision = self.rule.policy.judge(seen)
        if decision is not None:
            conclude(self.attempt, self.rule, decision, self._progress(seen))

    def _progress(self, seen: Evidence) -> float | None:
        """How far the run has come, as a share of its furthest peer, where a policy has judged it by its peers."""
        curve = RungMeasure.key_of(seen.subject.goal)
        if seen.peers is None or all(one.key != curve for one in self.rule.policy.measures(seen.subject)):
            return None
        furthest = int(seen.peers.last.max(initial=NONE))
        return None if furthest == NONE else max(seen.step, 1) / max(seen.step, first_step(furthest + 1), 1)
