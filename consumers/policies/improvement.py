"""Stop a run that improves too slowly to be worth its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.events import Decision, Goal
from ...core.measures import ImprovementMeasure, Mask
from ...core.ports import Policy
from ...core.window import Columns, Evidence, Figures, Measure, Subject
from .options import choice, evaluations, number, whole


@dataclass(frozen=True)
class Improvement(Policy):
    """Stop a run whose best got less than `min_improvement_percent` better within the last `evaluation_window`
    evaluations (Prechelt 1998, "Early stopping - but when?", section 2.2, equation for P_k(t): progress over a strip of
    length k; here of the best of the validation series, and relative to its size).

    The percentage is of |best `evaluation_window` evaluations ago|; a best that did not move never suffices.

    >>> from smarttuner.consumers.policies.table import evidence
    >>> policy = Improvement(min_improvement_percent=0.5, evaluation_window=3)
    >>> policy.judge(evidence([3, 2, 1.999, 1.998, 1.997], policy))
    Decision(prune, reason='val_loss improved 0.15 % in 3 evaluations (best 2, now 1.997), less than 0.5 %')
    >>> policy.judge(evidence([3, 2, 1.9, 1.8, 1.7], policy)) is None
    True
    """

    name = "improvement"
    version = 1

    min_improvement_percent: float = 0.5
    evaluation_window: int = 10
    mode: Goal | None = None

    def __post_init__(self) -> None:
        number("min_improvement_percent", self.min_improvement_percent, 0.0)
        whole("evaluation_window", self.evaluation_window, 1, 4096)
        choice("mode", self.mode, ("min", "max", None))

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return [ImprovementMeasure(self.mode or subject.goal, self.evaluation_window)]

    def _key(self, subject: Subject) -> str:
        return ImprovementMeasure.key_of(self.mode or subject.goal, self.evaluation_window)

    def _gain(self, known: Mapping[str, Any]) -> tuple[Any, Any]:
        """How much better the best got, and how much it had to at the least: numbers, or columns of them."""
        return abs(known["ago"] - known["best"]), abs(known["ago"]) * (self.min_improvement_percent / 100)

    def screen(self, columns: Columns) -> Mask:
        known = columns.figures[self._key(columns.subject)]
        with np.errstate(over="ignore"):
            gain, due = self._gain(known)
        mask: Mask = (gain < due) | (gain == 0)
        return mask

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        gain, due = self._gain(figures[self._key(subject)])
        return bool(gain < due or gain == 0)

    def judge(self, seen: Evidence) -> Decision | None:
        known = seen.figures[self._key(seen.subject)]
        gain, due = self._gain(known)
        if not (gain < due or gain == 0):
            return None
        best, ago = known["best"], known["ago"]
        percent = 100 * gain / abs(ago) if ago else 0.0
        return seen.decide(
            (self.name, self.version),
            "prune",
            f"{seen.subject.series} improved {percent:.3g} % in {evaluations(self.evaluation_window)} "
            f"(best {ago:g}, now {best:g}), less than {self.min_improvement_percent:g} %",
            evidence={"best": best, "best_ago": ago, "improved_percent": percent, "window": self.evaluation_window},
        )
