"""What an attempt is judged by: its rules, the series and the direction that they judge, and what that series may be called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core.events import Goal
from ..core.run import RunRecord
from .aliases import ALIASES, Aliases
from .rules import Rule, monitored_goal


@dataclass(frozen=True)
class Scope:
    """`monitor` is the series of rules that name none, as a person calls it; the job may log it under an alias. `why_none`
    says why there are no rules."""

    rules: Sequence[Rule]
    monitor: str
    goal: Goal = "min"
    aliases: Aliases = ALIASES
    why_none: str = ""


Rules = Callable[[RunRecord], "Sequence[Rule] | Scope"]
"""What judges an attempt, by what is known of it: a whole scope, or rules alone, where the job says what is monitored."""


def scope_of(rules: Rules, record: RunRecord, primary: str) -> Scope:
    """The scope of an attempt; of rules alone, `primary` is monitored where the job states nothing."""
    found = rules(record)
    if isinstance(found, Scope):
        return found
    return Scope(list(found), record.said.monitor or primary, monitored_goal(found, record.said.goal))
