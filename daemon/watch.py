"""Which entry of `watch` a run falls under, and what that makes it judged by.

The file's own sections are the last entry, which fits every run. What an entry leaves out stands there.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..consumers.rules import Rule
from ..core.events import Goal
from ..core.run import RunRecord
from .config import Config
from .config_errors import Path, dotted
from .config_judging import EarlyStopping, JobLimits, Policies
from .config_rules import rules_of
from .config_watch import Match, WatchEntry

SOURCE = "sdk"
"""Of a run that told of itself through the SDK."""


@dataclass(frozen=True)
class Entry:
    """One entry, with what it leaves out filled in. `paths` tells for what it says itself where that stands."""

    index: int | None
    match: Match
    rules: tuple[Rule, ...]
    monitor: str
    goal: Goal | None
    mode: Literal["act", "observe", "off"] | None
    job_policies: bool | list[str]
    job_monitor: bool
    limit: Literal["act", "observe"] | None
    alerts: str | None
    paths: dict[str, Path]

    @property
    def name(self) -> str:
        """What people call it."""
        return "the file's own sections" if self.index is None else dotted(("watch", self.index))

    def lets_job_name(self, policy: str) -> bool:
        """Whether a job's own `policies=` hold for this one."""
        return self.job_policies if isinstance(self.job_policies, bool) else policy in self.job_policies


def entries(config: Config) -> list[Entry]:
    """All of them, in the order in which they are tried; the last one fits every run."""
    return [*(_entry(config, i, one) for i, one in enumerate(config.watch)), _entry(config, None, WatchEntry())]


def _entry(config: Config, index: int | None, said: WatchEntry) -> Entry:
    above: Path = () if index is None else ("watch", index)
    own = said.policies is not None or said.early_stopping is not None
    policies = (said.policies or Policies()) if own else config.policies
    early = (said.early_stopping or EarlyStopping.model_validate({})) if own else config.early_stopping
    default = policies.default if "default" in policies.model_fields_set else config.policies.default
    paths: dict[str, Path] = {
        "policies": (*(above if own else ()), "policies"),
        "early_stopping": (*(above if own else ()), "early_stopping"),
        "monitor": ("monitoring", "metrics", "primary") if said.monitor is None else (*above, "monitor"),
        "goal": (*above, "goal"),
        "mode": (*above, "mode"),
        "alerts": (*above, "alerts"),
    }
    limits: dict[str, Any] = {}
    for name in JobLimits.model_fields:
        stated = said.limits is not None and name in said.limits.model_fields_set
        limits[name] = getattr(said.limits if stated else config.limits, name)
        paths[f"limits.{name}"] = (*(above if stated else ()), "limits", name)
    return Entry(
        index, said.match, tuple(rules_of(early, policies, default)), said.monitor or config.monitoring.metrics.primary, said.goal,
        said.mode, limits["job_policies"], limits["job_monitor"], limits["mode"], said.alerts, paths,
    )  # fmt: skip


def unfit(match: Match, record: RunRecord) -> str | None:
    """Why a run does not fit, as a sentence; None where it does. A match sees what the attempt said when it started."""
    said = record.said
    told = {"name": record.run, "user": said.user, "group": record.group, "source": source_of(record)}
    for what, value in told.items():
        if (globs := getattr(match, what)) is not None and not _fits(value, globs):
            return f"its {what} is {value or 'not known'}, not {_or(globs)}"
    for tag, globs in match.tags.items():
        if tag not in said.tags:
            return f"it has no tag {tag}"
        if not _fits(_plain(said.tags[tag]), globs):
            return f"its tag {tag} is {_plain(said.tags[tag])}, not {_or(globs)}"
    return None


def source_of(record: RunRecord) -> str:
    """What tells of the run: the SDK, a collector by its name, or nothing that is known."""
    return record.said.source or (SOURCE if record.said.sdk else "")


def _fits(value: str | None, globs: Sequence[str]) -> bool:
    return bool(value) and any(fnmatch.fnmatchcase(str(value), glob) for glob in globs)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _or(globs: Sequence[str]) -> str:
    return " or ".join(globs)


def strictest(*modes: Literal["act", "observe", "off"] | None) -> Literal["act", "observe"]:
    """The mode that all of them allow; None allows everything.

    >>> strictest("act", None, "observe"), strictest(None, "act")
    ('observe', 'act')
    """
    return "act" if all(mode in (None, "act") for mode in modes) else "observe"


def tried(all_entries: Sequence[Entry], record: RunRecord) -> Iterator[tuple[Entry, str | None]]:
    """The entries up to the one that fits, each with why it does not."""
    for entry in all_entries:
        why_not = unfit(entry.match, record)
        yield entry, why_not
        if why_not is None:
            return
