"""Rules that end a run, for benchmarks/decision_quality.py: those of consumers/policies/ written down once more, one moment
at a time, and rules known to us that they are compared with. Rules that "know" are shown how long the longest trial will be.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Protocol

WINDOWS = (8, 12, 16, 24)


class Moment(Protocol):
    """What a rule may look at when the trial of index `trial` has closed `rung`: of each trial its closed rungs (the best
    until then; less is better) and its state."""

    trial: int
    rung: int
    step: int
    longest: int
    rungs: list[list[float]]
    state: list[str]
    evaluations: list[int]
    memory: dict[int, float]
    """By trial: what halving remembers of it."""

    def own(self, rung: int) -> float: ...
    def at(self, trial: int, rung: int) -> float: ...
    def peers(self) -> list[int]: ...


Policy = Callable[[Moment], bool]


def _same(seen: Moment) -> list[float]:
    """Peers that closed the very rung."""
    return [seen.rungs[peer][seen.rung] for peer in seen.peers() if len(seen.rungs[peer]) > seen.rung]


def median(after: int = 8, grace: float = 0.0, least: int = 3) -> Policy:
    """Worse than the median of the peers at the same rung (`grace`: a share of the longest trial, which it "knows")."""

    def judge(seen: Moment) -> bool:
        if seen.evaluations[seen.trial] < after or seen.step < grace * seen.longest:
            return False
        peers = _same(seen)
        return len(peers) >= least and seen.own(seen.rung) > statistics.median(peers)

    return judge


def halving(factor: float = 2.0, after: int = 8) -> Policy:
    """Not among the best 1/factor of those that came to the last milestone: step 1, factor, factor^2, ..."""
    apart = 32 * math.log2(factor)

    def judge(seen: Moment) -> bool:
        if seen.evaluations[seen.trial] < after:
            return False
        milestone = math.floor(math.floor((seen.rung + 1) / apart) * apart) - 1
        own = seen.own(milestone)
        came = [seen.rungs[peer][milestone] for peer in seen.peers() if len(seen.rungs[peer]) > milestone]
        return sum(peer < own for peer in came) >= math.ceil((len(came) + 1) / factor)

    return judge


def halving_known(grace: float = 0.25, factor: float = 2.0) -> Policy:
    """At `grace`, 2 x `grace`, ... of the longest trial, the better 1/factor of those that came so far go on."""

    def judge(seen: Moment) -> bool:
        bar = seen.memory.get(seen.trial, grace)
        if seen.step < bar * seen.longest:
            return False
        seen.memory[seen.trial] = bar * factor
        peers = [seen.at(peer, seen.rung) for peer in seen.peers()]
        return sum(peer < seen.own(seen.rung) for peer in peers) >= max(1, math.ceil((len(peers) + 1) / factor))

    return judge


def deviations(width: float, grace: float, share: float = 0.0) -> Policy:
    """More than `width` robust deviations behind the peers' median, and more than `share` of the gain that a power law
    promises behind the best of them. Knows how long the longest trial is."""

    def judge(seen: Moment) -> bool:
        if seen.step < grace * seen.longest:
            return False
        peers = [value for value in (seen.at(peer, seen.rung) for peer in seen.peers()) if math.isfinite(value)]
        own = seen.own(seen.rung)
        if len(peers) < 2 or not own > min(peers):
            return False
        middle = statistics.median(peers)
        far = own > middle + width * 1.4826 * statistics.median(abs(value - middle) for value in peers)
        octave = seen.own(seen.rung - 32) - own
        return far and own - min(peers) > share * octave * max(0.0, math.log2(seen.longest / seen.step))

    return judge


def extrapolation(
    doublings: float = 4.5,
    credit: float = 0.25,
    margin: float = 0.01,
    after: int = 8,
    shrink: float = 0.5,
    windows: tuple[int, ...] = WINDOWS,
) -> Policy:
    """Too many doublings of its steps away from being `margin` better than m peers: `doublings` / m ** `shrink` and more, at the
    best pace of its last quarter to three quarters of an octave against `credit` of theirs."""

    def judge(seen: Moment) -> bool:
        own = seen.own(seen.rung)
        if seen.evaluations[seen.trial] < after or own == math.inf:
            return False
        paces = [(seen.own(seen.rung - d) - own) / d * 32 for d in windows]
        away = []
        for peer in seen.peers():
            theirs = seen.at(peer, seen.rung)
            if not theirs < own or seen.state[peer] == "pruned":
                continue
            still = seen.state[peer] == "running" or len(seen.rungs[peer]) > seen.rung
            catching = max(
                pace - credit * still * _finite((seen.at(peer, seen.rung - d) - theirs) / d * 32)
                for pace, d in zip(paces, windows, strict=True)
            )
            away.append((own - theirs + margin * abs(theirs)) / catching if catching > 0 else math.inf)
        away.sort(reverse=True)
        return any(far >= doublings / m**shrink for m, far in enumerate(away, 1))

    return judge


def _finite(pace: float) -> float:
    """What is not known of a peer's pace counts for nothing."""
    return pace if math.isfinite(pace) else 0.0


def never(seen: Moment) -> bool:
    return False
