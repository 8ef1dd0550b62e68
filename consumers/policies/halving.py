"""Stop the worse runs of a group each time the survivors have gone a good deal further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.events import Decision
from ...core.measures import Mask
from ...core.peers import Peers
from ...core.ports import Policy
from ...core.rungs import OCTAVE, first_step
from ...core.window import Columns, Evidence, Figures, Ints, Measure, Subject
from ..moments import may_be_moment, moment, moments_mask, peer_measures, shown
from .options import number, whole


@dataclass(frozen=True)
class Halving(Policy):
    """Stop a run that is not among the best 1/`factor` of those that came to the last milestone; milestones are steps 1,
    `factor`, `factor`^2, ... (asynchronous successive halving: Li et al. 2020, "A system for massively parallel
    hyperparameter tuning", section 3, in the variant that ends runs instead of pausing them; eta is `factor`).

    A milestone counts for as long as it is the last one passed, so later arrivals may push a run out.

    >>> from smarttuner.consumers.policies.table import among
    >>> policy = Halving(after=3)
    >>> policy.judge(among([9, 8, 8, 8, 8, 7], {"a": [9, 7, 5, 4, 3, 2], "b": [9, 8, 7, 6, 5, 4]}, policy))
    Decision(prune, reason='val_loss 8 before step 4 is not among the best 2 of 3 runs that came so far')
    >>> policy.judge(among([9, 6, 6, 6, 6, 7], {"a": [9, 7, 5, 4, 3, 2], "b": [9, 8, 7, 6, 5, 4]}, policy)) is None
    True
    """

    name = "halving"
    version = 1

    factor: float = 2.0
    after: int = 8

    def __post_init__(self) -> None:
        number("factor", self.factor, 0.0, above=1.0)
        whole("after", self.after, 0)

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return peer_measures(subject)

    def screen(self, columns: Columns) -> Mask:
        return moments_mask(columns, self.after, lambda peers: self._out(peers)[0])

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        return may_be_moment(figures, subject, self.after)

    def judge(self, seen: Evidence) -> Decision | None:
        peers = moment(seen, self.after)
        if peers is None:
            return None
        out, milestone, came = self._out(peers)
        if not out[0]:
            return None
        own, runs, step = shown(seen, float(peers.own(milestone)[0])), int(came[0]), first_step(int(milestone[0]) + 1)
        kept = math.ceil(runs / self.factor)
        reason = f"{seen.subject.series} {own:g} before step {step} is not among the best {kept} of {runs} runs that came so far"
        facts = {"best": own, "milestone": step, "runs": runs, "kept": kept}
        return seen.decide((self.name, self.version), "prune", reason, evidence=facts)

    def _out(self, peers: Peers) -> tuple[Mask, Ints, Ints]:
        """[k] each: whether the run is out, the rung that the last milestone closed, runs that came so far."""
        apart = OCTAVE * math.log2(self.factor)
        milestone = np.floor(np.floor((peers.rung + 1) / apart) * apart).astype(np.int64) - 1
        came = peers.last >= milestone
        own, theirs = peers.own(milestone), peers.at(milestone)
        count = (came & ~np.isnan(theirs)).sum(axis=0) + 1
        better = (came & (theirs < own)).sum(axis=0)
        return (better >= np.ceil(count / self.factor)) & ~np.isnan(own), milestone, count
