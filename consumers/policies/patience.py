"""Stop a run that no longer improves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.events import Decision, Goal
from ...core.measures import BestMeasure, Mask
from ...core.ports import Policy
from ...core.window import Columns, Evidence, Figures, Measure, Subject
from .options import choice, evaluations, number, truth, whole


@dataclass(frozen=True)
class Patience(Policy):
    """Stop a run that has not improved by more than `min_delta` for `patience` evaluations (Prechelt 1998, "Early
    stopping - but when?", section 2.3: the UP criterion, counted against the best instead of the strip before).

    `mode` None follows the goal of the series. With `restore_best_weights` the prune asks for the best weights back.

    >>> from smarttuner.consumers.policies.table import evidence
    >>> policy = Patience(patience=3, min_delta=0.0, mode="min")
    >>> policy.judge(evidence([3, 2, 2, 2, 2], policy))
    Decision(prune, reason='val_loss no better than 2 for 3 evaluations (best at step 1)')
    >>> policy.judge(evidence([3, 2, 2, 2, 1], policy)) is None
    True
    """

    name = "patience"
    version = 1

    patience: int = 10
    min_delta: float = 0.0
    mode: Goal | None = None
    restore_best_weights: bool = False

    def __post_init__(self) -> None:
        whole("patience", self.patience, 1)
        number("min_delta", self.min_delta, 0.0)
        choice("mode", self.mode, ("min", "max", None))
        truth("restore_best_weights", self.restore_best_weights)

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return [BestMeasure(self.mode or subject.goal, float(self.min_delta))]

    def _key(self, subject: Subject) -> str:
        return BestMeasure.key_of(self.mode or subject.goal, float(self.min_delta))

    def screen(self, columns: Columns) -> Mask:
        mask: Mask = columns.figures[self._key(columns.subject)]["since_best"] >= self.patience
        return mask

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        since: int = figures[self._key(subject)]["since_best"]
        return since >= self.patience

    def standing_order(self, monitor: str, goal: Goal) -> dict[str, Any] | None:
        """What a job must keep from its first point on, for the best weights to be there when they are asked for."""
        if not self.restore_best_weights:
            return None
        return {"series": monitor, "goal": self.mode or goal, "min_delta": self.min_delta}

    def judge(self, seen: Evidence) -> Decision | None:
        known = seen.figures[self._key(seen.subject)]
        since, best = int(known["since_best"]), known["best"]
        if since < self.patience:
            return None
        if math.isnan(best):
            return seen.decide(
                (self.name, self.version),
                "prune",
                f"{seen.subject.series} was not one finite number in {evaluations(since)}",
                evidence={"since_best": since},
            )
        margin = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return seen.decide(
            (self.name, self.version),
            "prune",
            f"{seen.subject.series} no better than {best:g}{margin} for {evaluations(since)} (best at step {known['best_step']})",
            {"restore": "best"} if self.restore_best_weights else None,
            {"best": best, "best_step": known["best_step"], "since_best": since, "patience": self.patience},
        )
