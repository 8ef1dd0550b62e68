"""By what an attempt is judged, or why it is not, in a line for people."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ..consumers.attempt import Attempt
from ..consumers.scope import Scope
from ..core.silence import JudgesSilence

MOST_NAMED = 5
STANDING_STILL = 3
"""Points in a row whose step does not advance, and none before them that did, are no slip any more."""


class Judged(NamedTuple):
    """One of the two is None."""

    by: str | None
    not_because: str | None


def judged(attempt: Attempt) -> Judged:
    """What holds of an attempt that the judge knows."""
    chosen = {name: one.series for name, one in list(attempt.found.items())}  # copies: the judge goes on meanwhile
    found = by_names(attempt.scope, tuple(attempt.series), chosen)
    series = (found.by or "").rsplit(" ", 1)[0]
    window = attempt.windows.get(series)
    if window is not None and window.points <= 1 and window.not_advancing >= STANDING_STILL:
        still = f"the step of {series} has not advanced past {window.last_step} in {window.not_advancing + 1} points"
        return Judged(None, f"{still}: log it with step=")
    return found


def by_names(scope: Scope, logged: Collection[str], chosen: dict[str, str] | None = None) -> Judged:
    """What holds where these series were logged; `chosen` says under which name one that was wanted was found."""
    if not scope.rules:
        return Judged(None, scope.why_none or "no policy is there for it")
    pointed = [rule for rule in scope.rules if not isinstance(rule.policy, JudgesSilence)]
    if not pointed:
        return Judged(None, f"only {scope.rules[0].policy.name} watches it")
    wanted = list(dict.fromkeys(rule.series or scope.monitor for rule in pointed))
    for name in sorted(wanted, key=lambda one: one != scope.monitor):
        series = (chosen or {}).get(name) or scope.aliases.find(name, logged)
        if series in logged:
            return Judged(f"{series} {scope.goal if name == scope.monitor else 'min'}", None)
    first = scope.monitor if scope.monitor in wanted else wanted[0]
    return Judged(None, _nothing_of(scope, first, logged))


def _nothing_of(scope: Scope, wanted: str, logged: Collection[str]) -> str:
    if not logged:
        return f"no point of {wanted} yet; it logs no series yet"
    names = sorted(logged)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    near = scope.aliases.nearest(wanted, names)
    hint = f"; is it {near}? Then put that under monitoring.aliases.{scope.aliases.canonical(wanted)}" if near else ""
    return f"no point of {wanted} yet; it logs {', '.join(names[:MOST_NAMED])}{more}{hint}"
