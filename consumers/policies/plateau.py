"""Lower the learning rate where a series stands still."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.events import Decision, Goal
from ...core.measures import Mask, PlateauMeasure, Threshold
from ...core.ports import Policy
from ...core.window import Columns, Evidence, Figures, Measure, Subject
from .options import choice, evaluations, number, whole


@dataclass(frozen=True)
class Plateau(Policy):
    """Scale the learning rate by `factor` after more than `patience` evaluations without a better value, then wait
    `cooldown` evaluations: torch.optim.lr_scheduler.ReduceLROnPlateau (PyTorch documentation), point for point.

    Each answer is a reduction of its own. `mode` None follows the goal of the series.

    >>> from smarttuner.consumers.policies.table import evidence
    >>> policy = Plateau(factor=0.5, patience=2, threshold=0.01)
    >>> policy.judge(evidence([3, 2, 2, 1.99, 2], policy))
    Decision(scale-lr, reason='val_loss not below 2 by 1 % for 3 evaluations: learning rate times 0.5')
    >>> policy.judge(evidence([3, 2, 2, 1.99], policy)) is None
    True
    """

    name = "plateau"
    version = 1

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    threshold_mode: Threshold = "rel"
    mode: Goal | None = None

    def __post_init__(self) -> None:
        number("factor", self.factor, 0.0, below=1.0, above=0.0)
        whole("patience", self.patience, 0)
        choice("threshold_mode", self.threshold_mode, ("rel", "abs"))
        number("threshold", self.threshold, 0.0, below=1.0 if self.threshold_mode == "rel" else math.inf)
        whole("cooldown", self.cooldown, 0)
        choice("mode", self.mode, ("min", "max", None))

    def measures(self, subject: Subject) -> Sequence[Measure]:
        goal = self.mode or subject.goal
        return [PlateauMeasure(goal, float(self.threshold), self.threshold_mode, self.patience, self.cooldown)]

    def _key(self, subject: Subject) -> str:
        goal = self.mode or subject.goal
        return PlateauMeasure.key_of(goal, float(self.threshold), self.threshold_mode, self.patience, self.cooldown)

    def screen(self, columns: Columns) -> Mask:
        mask: Mask = columns.figures[self._key(columns.subject)]["fires"]
        return mask

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        fires: bool = figures[self._key(subject)]["fires"]
        return fires

    def holds(self, seen: Evidence) -> str | None:
        """The condition alone, for rules that do something else about it."""
        known = seen.figures[self._key(seen.subject)]
        return self._said(seen.subject, known["best"]) if known["fires"] else None

    def judge(self, seen: Evidence) -> Decision | None:
        known = seen.figures[self._key(seen.subject)]
        if not known["fires"]:
            return None
        return seen.decide(
            (self.name, self.version),
            "scale-lr",
            f"{self._said(seen.subject, known['best'])}: learning rate times {self.factor:g}",
            {"factor": self.factor},
            {"best": known["best"], "bad": self.patience + 1, "threshold": self.threshold, "cooldown": self.cooldown},
        )

    def _said(self, subject: Subject, best: float) -> str:
        span = evaluations(self.patience + 1)
        if math.isinf(best):
            return f"{subject.series} {best:g} at best for {span}"
        side = "below" if (self.mode or subject.goal) == "min" else "above"
        margin = f"{self.threshold * 100:g} %" if self.threshold_mode == "rel" else f"{self.threshold:g}"
        return f"{subject.series} not {side} {best:g}{f' by {margin}' if self.threshold else ''} for {span}"
