"""Stop, or report, a run whose series left all reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...core.band import WINDOW, BandMeasure
from ...core.events import Decision, Goal
from ...core.measures import Mask, NotFiniteMeasure
from ...core.ports import Policy
from ...core.window import Columns, Evidence, Figures, Measure, Subject
from .options import choice, evaluations, number, whole


@dataclass(frozen=True)
class Divergence(Policy):
    """Stop a run at a value that is no number or infinite (`not_finite` of them in a row), or at `points` values in a row
    outside a robust band: worse than the median by `width` robust standard deviations and by `rise_percent` of it
    (Hampel 1974, median and MAD; IEEE 754-2019, 6: NaN and infinities propagate, a network that has them does not return).

    `then` "alert" reports and lets the run go on. `mode` None follows the goal of the series.

    >>> from smarttuner.consumers.policies.table import evidence
    >>> policy = Divergence(points=3)
    >>> policy.judge(evidence([2, 1, float("nan")], policy))
    Decision(prune, reason='val_loss is nan: the run diverged (last finite value 1)')
    >>> policy.judge(evidence([1.2, 1.1, 1.0, 1.1, 0.9, 1.0, 0.9, 1.0, 7, 8, 9], policy))
    Decision(prune, reason='val_loss 9 above its band for 3 evaluations (usual 1, edge 1.89): the run diverges')
    >>> policy.judge(evidence([1.2, 1.1, 1.0, 1.1, 0.9, 1.0, 0.9, 1.0, 7, 8, 1], policy)) is None
    True
    """

    name = "divergence"
    version = 1

    points: int = 3
    width: float = 6.0
    rise_percent: float = 50.0
    not_finite: int = 1
    then: Literal["prune", "alert"] = "prune"
    mode: Goal | None = None

    def __post_init__(self) -> None:
        whole("points", self.points, 1, WINDOW // 4)
        number("width", self.width, 0.0, above=0.0)
        number("rise_percent", self.rise_percent, 0.0)
        whole("not_finite", self.not_finite, 1)
        choice("then", self.then, ("prune", "alert"))
        choice("mode", self.mode, ("min", "max", None))

    def _band(self, subject: Subject) -> tuple[Goal, float, float]:
        return self.mode or subject.goal, float(self.width), self.rise_percent / 100

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return [NotFiniteMeasure(), BandMeasure(*self._band(subject))]

    def screen(self, columns: Columns) -> Mask:
        odd = columns.figures[NotFiniteMeasure.key]["row"]
        outside = columns.figures[BandMeasure.key_of(*self._band(columns.subject))]["row"]
        mask: Mask = (odd >= self.not_finite) | (outside >= self.points)
        return mask

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        outside: int = figures[BandMeasure.key_of(*self._band(subject))]["row"]
        return outside >= self.points or figures[NotFiniteMeasure.key]["row"] >= self.not_finite

    def judge(self, seen: Evidence) -> Decision | None:
        band = seen.figures[BandMeasure.key_of(*self._band(seen.subject))]
        odd, outside = int(seen.figures[NotFiniteMeasure.key]["row"]), int(band["row"])
        if odd >= self.not_finite:
            reason = f"{seen.subject.series} is {seen.value}{self._span(odd)}: the run diverged{self._before(seen)}"
        elif outside >= self.points:
            side = "above" if (self.mode or seen.subject.goal) == "min" else "below"
            usual = f"usual {band['median']:.4g}, edge {band['edge']:.4g}"
            reason = f"{seen.subject.series} {seen.value:g} {side} its band for {evaluations(outside)} ({usual}): the run diverges"
        else:
            return None
        shown = {"not_finite": odd, "outside": outside, "median": band["median"], "edge": band["edge"]}
        return seen.decide((self.name, self.version), self.then, reason, evidence=shown)

    @staticmethod
    def _span(odd: int) -> str:
        return f" for {evaluations(odd)}" if odd > 1 else ""

    @staticmethod
    def _before(seen: Evidence) -> str:
        finite = [float(x) for x in seen.recent if abs(x) < float("inf")]
        return f" (last finite value {finite[-1]:g})" if finite else ""
