"""What policies that compare runs share: they are asked only at points that close a rung of their run (core/peers.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..core.evaluations import EvaluationsMeasure
from ..core.measures import Mask
from ..core.peers import Peers
from ..core.rungs import NONE, RungMeasure
from ..core.window import Columns, Evidence, Figures, Measure, Subject

EARLY = 0.05
"""Of the steps that a job said it would take (`total_steps`): nothing is compared before."""


def peer_measures(subject: Subject) -> Sequence[Measure]:
    """What is remembered of a run for them."""
    return [EvaluationsMeasure(), RungMeasure(subject.goal)]


def may_be_moment(figures: Figures, subject: Subject, after: int) -> bool:
    """Whether a point with these figures closes a rung and more than `after` evaluations are past."""
    closes: bool = figures[RungMeasure.key_of(subject.goal)]["closed"] != NONE
    return closes and bool(figures[EvaluationsMeasure.key]["count"] > after)


def moments_mask(columns: Columns, after: int, verdict: Callable[[Peers], Mask]) -> Mask:
    """Over the points of the columns: whether more than `after` evaluations are past, it is not early any more and
    `verdict` [k] holds."""
    mask: Mask = np.zeros(len(columns), np.bool_)
    peers = columns.peers
    if peers is not None:
        late = ~(columns.steps[peers.points] < EARLY * peers.total_steps)
        due = late & (columns.figures[EvaluationsMeasure.key]["count"][peers.points] > after)
        if due.any():
            mask[peers.points] = due & verdict(peers)
    return mask


def moment(seen: Evidence, after: int) -> Peers | None:
    """The peers, at a point that is to be judged; else None."""
    peers = seen.peers
    if peers is None or seen.step < EARLY * peers.total_steps:
        return None
    return peers if seen.figures[EvaluationsMeasure.key]["count"] > after else None


def shown(seen: Evidence, y: float) -> float:
    """A turned value as the series has it."""
    return y if seen.subject.goal == "min" else 0.0 - y
