"""Which policy judges which series of a run, and whether it may act: what the judge is given for each run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..core.events import Decision, Goal, Mode
from ..core.ports import Policy
from ..core.window import Evidence


@dataclass(frozen=True)
class Rule:
    """One policy at work. `series` None is the run's monitored series; `mode` is the most that its decisions may do.

    `goal` is what a person wrote down as the direction of the monitored series, for runs that state none (see
    `monitored_goal`). `each`: every answer of the policy is a conclusion of its own (a plateau's reductions); otherwise
    the answers of an unbroken row of points are one conclusion, that of the row's first point.
    """

    policy: Policy
    series: str | None = None
    mode: Mode = "observe"
    goal: Goal | None = None
    each: bool = False


@runtime_checkable
class JudgesTheEnd(Protocol):
    """A policy that also judges a run that has ended, by its last point; `figures` may be empty there."""

    def at_end(self, seen: Evidence) -> Decision | None: ...


def monitored_goal(rules: Iterable[Rule], stated: Goal | None) -> Goal:
    """The direction of a run's monitored series: what the job stated, else what a rule was given, else min."""
    if stated is not None:
        return stated
    return next((rule.goal for rule in rules if rule.goal is not None), "min")


def combined(configured: Sequence[Rule], stated: Sequence[Rule]) -> list[Rule]:
    """The rules of a run: those that the job stated, and of the configured those whose policy the job did not name."""
    named = {rule.policy.name for rule in stated}
    return [*(rule for rule in configured if rule.policy.name not in named), *stated]
