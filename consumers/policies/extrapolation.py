"""Stop a run that will not catch up with its peers any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.events import Decision
from ...core.measures import Mask
from ...core.peers import Peers
from ...core.ports import Policy
from ...core.rungs import OCTAVE
from ...core.window import Columns, Evidence, Figures, Floats, Ints, Measure, Subject
from ..moments import may_be_moment, moment, moments_mask, peer_measures, shown
from .options import number, whole

SPANS: Ints = np.array([[8], [12], [16], [24]])
"""Rungs over which a pace is taken: a quarter to three quarters of an octave."""


@dataclass(frozen=True)
class Extrapolation(Policy):
    """Stop a run that at its best recent pace would need `doublings` or more doublings of its steps to be `margin_percent`
    better than a peer that goes on or has finished (predictive termination: Domhan, Springenberg & Hutter 2015, "Speeding up
    automatic hyperparameter optimization of deep neural networks by extrapolation of learning curves", section 3.2; here
    the curve is a straight line over the logarithm of the steps, and the calibration is over whole families of workloads).

    The pace is the best of the last quarter to three quarters of an octave; of the peer's pace `credit` counts. Behind m
    peers `doublings` / sqrt(m) suffice, each of the m that far. The first `after` evaluations are not judged.

    >>> from smarttuner.consumers.policies.table import among
    >>> policy, tall = Extrapolation(), [9, 8, 7, 6, 5, 4.5, 4, 3.8, 3.6, 3.4, 3.2, 3]
    >>> policy.judge(among([9, 8.5, 8.2] + [8] * 9, {"tall": tall}, policy))
    Decision(prune, reason='val_loss 8 does not close in on tall, which had 3.2 by the same step')
    >>> policy.judge(among([y + 0.1 for y in tall], {"tall": tall}, policy)) is None
    True
    """

    name = "extrapolation"
    version = 1

    doublings: float = 4.5
    margin_percent: float = 1.0
    credit: float = 0.25
    after: int = 8

    def __post_init__(self) -> None:
        number("doublings", self.doublings, 0.0, above=0.0)
        number("margin_percent", self.margin_percent, 0.0)
        number("credit", self.credit, 0.0, below=1.0)
        whole("after", self.after, 0)

    def measures(self, subject: Subject) -> Sequence[Measure]:
        return peer_measures(subject)

    def screen(self, columns: Columns) -> Mask:
        return moments_mask(columns, self.after, self._hopeless)

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        return may_be_moment(figures, subject, self.after)

    def judge(self, seen: Evidence) -> Decision | None:
        peers = moment(seen, self.after)
        if peers is None or not self._hopeless(peers)[0]:
            return None
        away = self._away(peers)[:, 0]
        order = np.argsort(-away, kind="stable")
        m = int(np.argmax(away[order] >= self._bars(len(order))[:, 0]))
        least, peer = float(away[order[m]]), int(order[m])
        own, theirs = shown(seen, float(peers.own()[0])), shown(seen, float(peers.at()[peer, 0]))
        who = f"{peers.runs[peer]}{f' and {m} more' if m else ''}, which had {theirs:g} by the same step"
        if least == np.inf:
            reason = f"{seen.subject.series} {own:g} does not close in on {who}"
        else:
            better = f"{self.margin_percent:g} % better than" if self.margin_percent else "past"
            reason = f"{seen.subject.series} {own:g} is {least:.1f} doublings of its steps away from being {better} {who}"
        facts = {"best": own, "peer": peers.runs[peer], "peer_best": theirs, "doublings": least, "peers_as_far": m + 1}
        return seen.decide((self.name, self.version), "prune", reason, evidence=facts)

    def _bars(self, peers: int) -> Floats:
        """[peers, 1]: how far away the farthest peer, the second, ... must be."""
        bars: Floats = self.doublings / np.sqrt(np.arange(1, peers + 1))[:, None]
        return bars

    def _hopeless(self, peers: Peers) -> Mask:
        """[k]"""
        away = self._away(peers)
        mask: Mask = np.logical_or.reduce(-np.sort(-away, axis=0) >= self._bars(len(away)), axis=0)
        return mask

    def _away(self, peers: Peers) -> Floats:
        """[P, k]: doublings until the run is better by the margin; inf where it does not close in, -inf where it need not."""
        own, theirs = peers.own(), peers.at()
        nowhere = np.full(theirs.shape, -np.inf)
        ahead = (theirs < own) & np.isfinite(own) & (peers.running | peers.finished)
        if not ahead.any():
            return nowhere
        before = peers.rung - SPANS
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            pace, gain = peers.own(before) - own, peers.at(before[:, None]) - theirs
            # What is not known of the run speaks for it, what is not known of the peer does not speak for the peer.
            pace[np.isnan(pace)] = np.inf
            gain[~(np.isfinite(gain) & (peers.running | peers.reached))] = 0.0
            closing = ((pace[:, None] - self.credit * gain) * (OCTAVE / SPANS[:, :, None])).max(axis=0)
            need = own - theirs + self.margin_percent / 100 * np.abs(theirs)
            away = np.where(closing > 0, need / closing, np.inf)
        found: Floats = np.where(ahead & ~np.isnan(away), away, -np.inf)
        return found
