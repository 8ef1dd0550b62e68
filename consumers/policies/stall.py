"""Say when a run that is alive has fallen silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...core.events import Decision
from ...core.measures import Mask
from ...core.ports import Policy
from ...core.silence import Rhythm, Silence, span
from ...core.window import Columns, Evidence, Figures, Measure, Subject
from .options import choice, number

TWICE = 2.0
"""A gap of at most an hour may come again, and last twice as long, before it has become a habit."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Stall(Policy):
    """Report, or end, a run of which no metric of any series came for longer than its own rhythm allows: at least
    `min_silence_s`, `factor` times the longest gap that is a habit of the run, and twice its longest gap (of an hour or
    less). A failure detector that adapts to the intervals seen so far (Chen, Toueg, Aguilera 2002, "On the quality of service
    of failure detectors", section 6), with a quantile instead of a mean, for gaps of training come in kinds: a step, a
    validation pass, a checkpoint.

    Of a run that has given no metric yet it says so after `first_metric_s` (and after `min_silence_s`): loading data and
    compiling take long, hanging in a start takes for ever.

    `then` "prune" asks the job to end; one that has not begun yet is only told of.

    >>> policy = Stall()
    >>> policy.allows_s(Rhythm("sdk", 9, gaps=[40.0, 2.0, 2.0])), policy.allows_s(Rhythm("sdk", 9, gaps=[900.0, 880.0, 870.0]))
    (600.0, 8700.0)
    >>> rhythm = Rhythm("sdk", 41, heard=1000.0, gaps=[40.0, 2.0, 2.0])
    >>> policy.at_silence(Silence(Subject("run", "attempt", "val_loss"), rhythm, deadline=1600.0, now=1720.0))
    Decision(alert, reason='no metric for 12 min; the longest gap before was 40 s; nobody watches its process')
    """

    name = "stall"
    version = 1

    min_silence_s: float = 600.0
    factor: float = 10.0
    first_metric_s: float = HOUR_S
    then: Literal["alert", "prune"] = "alert"

    def __post_init__(self) -> None:
        number("min_silence_s", self.min_silence_s, 0.0, above=0.0)
        number("factor", self.factor, 1.0)
        number("first_metric_s", self.first_metric_s, 0.0, above=0.0)
        choice("then", self.then, ("alert", "prune"))

    def allows_s(self, rhythm: Rhythm) -> float | None:
        if rhythm.position < 0:
            return max(float(self.first_metric_s), float(self.min_silence_s))
        if not rhythm.gaps:
            return None
        return max(float(self.min_silence_s), self.factor * rhythm.usual, TWICE * min(rhythm.longest, HOUR_S))

    def at_silence(self, silence: Silence) -> Decision:
        """The judgement of a run that has been silent for longer than is allowed."""
        rhythm, watched = silence.rhythm, silence.watched
        process = "nobody watches its process" if watched is None else watched.told()
        begun = rhythm.position >= 0
        before = f"; the longest gap before was {span(rhythm.longest)}" if begun else " since it began"
        reason = f"no metric for {span(silence.lasted_s)}{before}; {process}"
        shown = {"silent_s": silence.lasted_s, "allowed_s": self.allows_s(rhythm), "longest_gap_s": rhythm.longest}
        return silence.decide((self.name, self.version), self.then if begun else "alert", reason, shown)

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return []

    def screen(self, columns: Columns) -> Mask:
        return np.zeros(len(columns), np.bool_)

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        return False

    def judge(self, seen: Evidence) -> Decision | None:
        """No point says anything of silence."""
        return None
