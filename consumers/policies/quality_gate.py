"""Say when a series misses what was asked of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...core.events import Decision, Goal
from ...core.measures import BoundsMeasure, Mask
from ...core.ports import Policy
from ...core.window import Columns, Evidence, Figures, Measure, Subject
from .options import choice, evaluations, number, whole


@dataclass(frozen=True)
class QualityGate(Policy):
    """Hold a series to [`min`, `max`] once its first `after` evaluations are past: ISO/IEC 25040:2024, evaluation against
    decision criteria that were set beforehand. No number fails.

    `then` "alert" (None is the same) speaks at the first point that fails and again at the end of the run, and never ends
    it; "prune" asks for the end at each point that fails. `gate` names it among others; `goal`: it judges only series
    with that goal (a greatest loss means nothing for a reward).

    >>> from smarttuner.consumers.policies.table import evidence
    >>> policy = QualityGate(max=2.0, after=3)
    >>> policy.judge(evidence([5, 4, 3, 2.5], policy))
    Decision(alert, reason='val_loss 2.5 fails its gate of at most 2 after 3 evaluations')
    >>> policy.judge(evidence([5, 4, 3, 2.5, 2.4], policy)) is None
    True
    >>> policy.at_end(evidence([5, 4, 3, 2.5, 2.4], policy))
    Decision(alert, reason='val_loss ends at 2.4 and fails its gate of at most 2')
    """

    version = 1

    min: float | None = None
    max: float | None = None
    then: Literal["alert", "prune"] | None = "alert"
    after: int = 10
    gate: str = ""
    goal: Goal | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("min, max: a gate needs at least one of them")
        for option, value in (("min", self.min), ("max", self.max)):
            if value is not None:
                number(option, value, -math.inf)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min: {self.min!r} is above max, {self.max!r}")
        choice("then", self.then, ("alert", "prune", None))
        whole("after", self.after, 0)
        if not isinstance(self.gate, str) or len(self.gate) > 64:
            raise ValueError(f"gate: {self.gate!r} is not a name of at most 64 characters")
        choice("goal", self.goal, ("min", "max", None))

    @property
    def name(self) -> str:  # type: ignore[override]  # a name of its own keeps two gates' decisions apart
        return f"quality_gate.{self.gate}" if self.gate else "quality_gate"

    def _bounds(self) -> tuple[float, float, int]:
        least = -math.inf if self.min is None else float(self.min)
        return least, math.inf if self.max is None else float(self.max), self.after

    def _applies(self, subject: Subject) -> bool:
        return self.goal is None or self.goal == subject.goal

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return [BoundsMeasure(*self._bounds())] if self._applies(subject) else []

    def screen(self, columns: Columns) -> Mask:
        if not self._applies(columns.subject):
            return np.zeros(len(columns), np.bool_)
        known = columns.figures[BoundsMeasure.key_of(*self._bounds())]
        mask: Mask = known["fails" if self.then == "prune" else "first"]
        return mask

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        return (
            self._applies(subject) and figures[BoundsMeasure.key_of(*self._bounds())]["fails" if self.then == "prune" else "first"]
        )

    def judge(self, seen: Evidence) -> Decision | None:
        if not self._applies(seen.subject):
            return None
        known = seen.figures[BoundsMeasure.key_of(*self._bounds())]
        if not known["fails" if self.then == "prune" else "first"]:
            return None
        span = f" after {evaluations(self.after)}" if self.after else ""
        reason = f"{seen.subject.series} {seen.value:g} fails its gate of {self._asked()}{span}"
        return self._decide(seen, self.then or "alert", reason)

    def at_end(self, seen: Evidence) -> Decision | None:
        """The judgement of a run that has ended, by its last point: an alert, or None where it passes."""
        least, most, _ = self._bounds()
        if not self._applies(seen.subject) or least <= seen.value <= most:
            return None
        return self._decide(seen, "alert", f"{seen.subject.series} ends at {seen.value:g} and fails its gate of {self._asked()}")

    def _decide(self, seen: Evidence, action: str, reason: str) -> Decision:
        shown = {"min": self.min, "max": self.max, "after": self.after}
        return seen.decide((self.name, self.version), action, reason, evidence=shown)

    def _asked(self) -> str:
        parts = [("at least", self.min), ("at most", self.max)]
        return " and ".join(f"{word} {value:g}" for word, value in parts if value is not None)
