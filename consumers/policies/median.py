"""Stop a run that is worse than most of its peers were at the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.events import Decision
from ...core.measures import Mask
from ...core.peers import Peers
from ...core.ports import Policy
from ...core.window import Columns, Evidence, Figures, Floats, Measure, Subject
from ..moments import may_be_moment, moment, moments_mask, peer_measures, shown
from .options import evaluations, whole


@dataclass(frozen=True)
class Median(Policy):
    """Stop a run whose best is worse than the median of its peers' bests at the same step (Golovin et al. 2017, "Google
    Vizier: a service for black-box optimization", section 3.2.2, the median stopping rule; there the peers' running averages).

    Peers count when they came as far, however they ended since, and `peers` of them are needed.

    >>> from smarttuner.consumers.policies.table import among
    >>> policy = Median(after=3, peers=3)
    >>> policy.judge(among([9, 8, 8, 8, 8], {"a": [9, 7, 5, 4, 3], "b": [9, 8, 7, 6, 5], "c": [9, 9, 9, 9, 9]}, policy))
    Decision(prune, reason='val_loss 8 is worse than the median of 3 peers by the same step, 6')
    >>> policy.judge(among([9, 8, 8, 8, 8], {"a": [9, 7, 5, 4, 3], "b": [9, 8, 7, 6, 5]}, policy)) is None
    True
    """

    name = "median"
    version = 1

    after: int = 8
    peers: int = 3

    def __post_init__(self) -> None:
        whole("after", self.after, 0)
        whole("peers", self.peers, 1)

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return peer_measures(subject)

    def screen(self, columns: Columns) -> Mask:
        return moments_mask(columns, self.after, lambda peers: peers.own() > self._bar(peers)[1])

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        return may_be_moment(figures, subject, self.after)

    def judge(self, seen: Evidence) -> Decision | None:
        peers = moment(seen, self.after)
        if peers is None:
            return None
        count, bar = self._bar(peers)
        own = float(peers.own()[0])
        if not own > bar[0]:
            return None
        n, middle = int(count[0]), shown(seen, float(bar[0]))
        said = f"{seen.subject.series} {shown(seen, own):g}" if own < np.inf else self._never(seen)
        reason = f"{said} is worse than the median of {n} peer{'' if n == 1 else 's'} by the same step, {middle:g}"
        facts = {"best": shown(seen, own), "median": middle, "peers": n}
        return seen.decide((self.name, self.version), "prune", reason, evidence=facts)

    @staticmethod
    def _never(seen: Evidence) -> str:
        span = evaluations(int(seen.figures["evaluations()"]["count"]))
        return f"{seen.subject.series} (not one finite number in {span})"

    def _bar(self, peers: Peers) -> tuple[Floats, Floats]:
        """[k], [k]: how many peers came as far, and the median of their bests; NaN where they are too few."""
        theirs = np.sort(np.where(peers.reached, peers.at(), np.nan), axis=0)
        count = np.isfinite(theirs).sum(axis=0) + np.isinf(theirs).sum(axis=0)
        at = np.stack((np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(theirs) - 1)))
        two = np.take_along_axis(theirs, at, axis=0)
        return count, np.where(count >= self.peers, two[0] / 2 + two[1] / 2, np.nan)
