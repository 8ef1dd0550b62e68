"""From the configuration to the rules of a run: what the file names, what is shipped, what the job states itself."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from ..consumers.rules import Rule, combined, rules_from_job
from ..core.errors import UsageError
from ..core.run import RunRecord
from .config import Config
from .config_rules import rules

log = logging.getLogger("smarttuner.rules")


def wrong_policies(stated: object) -> str | None:
    """What is wrong with the policies that a job states in its greeting, for the job to say on its own terminal."""
    try:
        rules_from_job(stated if isinstance(stated, Mapping) else {})
    except UsageError as error:
        return f"the daemon does not use the policies of policies=: {error.message}" + (f" ({error.hint})" if error.hint else "")
    return None


class RuleBook:
    """The rules of each run: the configuration's, and those that the job states instead. `counters` gets
    `policies_refused`: attempts that state them wrongly."""

    def __init__(self, config: Config, counters: Counter[str] | None = None) -> None:
        self.rules = rules(config)
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._told: set[str] = set()

    def __call__(self, record: RunRecord) -> list[Rule]:
        """The rules of one attempt; what a job states wrongly is said once, and the file's rules hold."""
        try:
            return combined(self.rules, rules_from_job(record.said.policies))
        except UsageError as error:
            if record.attempt not in self._told:
                self._told.add(record.attempt)
                self._counters["policies_refused"] += 1
                log.warning("run %s: the policies it states are not used: %s", record.run, error)
            return list(self.rules)
