"""From the configuration to the scope of a run: what the file says of it, what is shipped, what the job states itself."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ..bus.vigil import FIRST_S
from ..consumers.aliases import Aliases, merged
from ..consumers.policies.stall import Stall
from ..consumers.rules import Rule, combined, monitored_goal, rules_from_job
from ..consumers.scope import Scope
from ..core.errors import UsageError
from ..core.events import Goal
from ..core.run import RunRecord
from .config import Config
from .watch import Entry, entries, strictest, tried

log = logging.getLogger("smarttuner.rules")
MOST_TOLD = 10_000


def wrong_policies(stated: object) -> str | None:
    """What is wrong with the policies that a job states in its greeting, for the job to say on its own terminal."""
    try:
        rules_from_job(stated if isinstance(stated, Mapping) else {})
    except UsageError as error:
        return f"the daemon does not use the policies of policies=: {error.message}" + (f" ({error.hint})" if error.hint else "")
    return None


class Stated(NamedTuple):
    """What of a job's own words holds here, and what does not and why."""

    rules: list[Rule]
    monitor: str | None
    goal: Goal | None
    refused: list[str]


def stated_within(entry: Entry, record: RunRecord) -> Stated:
    """What the job states, within the limits of its entry."""
    said = record.said
    refused = []
    try:
        rules = rules_from_job(said.policies)
    except UsageError as error:
        rules = []
        refused.append(str(error))
    outside = [rule.policy.name for rule in rules if not entry.lets_job_name(rule.policy.name.partition(".")[0])]
    if outside:
        refused.append(f"{', '.join(outside)}: {entry.name} does not let jobs state them (limits.job_policies)")
    rules = [rule for rule in rules if rule.policy.name not in outside]
    if entry.job_monitor:
        return Stated(rules, said.monitor, said.goal, refused)
    if said.monitor or said.goal:
        refused.append(f"monitor and goal: {entry.name} does not let jobs state them (limits.job_monitor)")
    return Stated(rules, None, None, refused)


class RuleBook:
    """The scope of each run: its entry's rules, and those that the job states instead. `counters` gets
    `policies_refused`: attempts that state what does not hold."""

    def __init__(self, config: Config, counters: Counter[str] | None = None) -> None:
        self.entries = entries(config)
        self.aliases = Aliases(merged(config.monitoring.aliases))
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._told: set[str] = set()

    def __call__(self, record: RunRecord) -> Scope:
        """The scope of one attempt; what a job states wrongly, or may not, is said once, and the file's word holds."""
        entry = self.entry_of(record)
        stated = stated_within(entry, record)
        if stated.refused:
            self._tell(record, stated.refused)
        return self.scope(entry, stated)

    def scope(self, entry: Entry, stated: Stated) -> Scope:
        """What an entry and a job's own words come to."""
        monitor = stated.monitor or entry.monitor
        if entry.mode == "off":
            return Scope((), monitor, aliases=self.aliases, why_none=f"{entry.name} says mode: off")
        rules = [replace(rule, mode=strictest(rule.mode, entry.mode, entry.limit)) for rule in combined(entry.rules, stated.rules)]
        goal = stated.goal or entry.goal or monitored_goal(rules, None)
        return Scope(rules, monitor, goal, self.aliases, "" if rules else f"{entry.name} turns every policy off")

    @property
    def silence_s(self) -> float:
        """From when on a silent job has to be told of, so that its rule hears of it in time."""
        policies = [rule.policy for entry in self.entries for rule in entry.rules]
        shortest = (min(policy.min_silence_s, policy.first_metric_s) for policy in policies if isinstance(policy, Stall))
        return min([FIRST_S, *(allowed_s / 2 for allowed_s in shortest)])

    def entry_of(self, record: RunRecord) -> Entry:
        """The first entry that fits."""
        *_, (entry, _) = tried(self.entries, record)
        return entry

    def _tell(self, record: RunRecord, refused: list[str]) -> None:
        if record.attempt in self._told:
            return
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told.add(record.attempt)
        self._counters["policies_refused"] += 1
        log.warning("run %s: what it states is not used: %s", record.run, "; ".join(refused))
