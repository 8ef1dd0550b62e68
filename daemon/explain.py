"""`config explain`: which entry a run falls under, which line of the file each key comes from, and what is strictest."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..consumers.conditions import Composite
from ..consumers.rules import Rule
from ..core.run import RunRecord
from .config import Loaded
from .config_errors import Path, dotted
from .config_rules import GATE, SECTIONS
from .judged import by_names
from .rule_book import RuleBook, Stated, stated_within
from .watch import Entry, source_of, strictest, tried

DEFAULT, JOB = "default", "the job"


class Explanation:
    """One run under one configuration. `series` are those it has logged, None where nobody knows."""

    def __init__(self, loaded: Loaded, record: RunRecord, series: Collection[str] | None = None) -> None:
        self._loaded, self._record, self._series = loaded, record, series
        self._book = RuleBook(loaded.config)
        self._tried = list(tried(self._book.entries, record))
        self._entry: Entry = self._tried[-1][0]
        self._stated: Stated = stated_within(self._entry, record)
        self._scope = self._book.scope(self._entry, self._stated)

    def plain(self) -> dict[str, Any]:
        """As JSON shows it; `from` is FILE:LINE, a variable's name, `the job` or `default`."""
        record, scope = self._record, self._scope
        judged = by_names(scope, self._series) if self._series is not None else None
        found = scope.aliases.find(scope.monitor, self._series or ())
        return {
            "run": record.run,
            "attempt": record.attempt or None,
            "config": str(self._loaded.path) if self._loaded.path else None,
            "seen": {
                "user": record.said.user or None,
                "group": record.group,
                "tags": record.said.tags,
                "source": source_of(record),
            },
            "entry": self._named(self._entry),
            "passed_over": [self._named(entry) | {"why": why} for entry, why in self._tried if why is not None],
            "monitor": self._monitor() | {"logged_as": found},
            "goal": self._goal(),
            "mode": self._mode(),
            "policies": [self._policy(rule) for rule in scope.rules],
            "limits": {name: self._key(f"limits.{name}", value) for name, value in self._limits().items()},
            "alerts": self._key("alerts", self._entry.alerts),
            "job": self._job(),
            "judged_by": judged.by if judged else None,
            "not_judged": judged.not_because if judged else scope.why_none or None,
        }

    def _place(self, *paths: Path) -> str | None:
        return next((self._loaded.places[path] for path in paths if path in self._loaded.places), None)

    def _key(self, name: str, value: Any) -> dict[str, Any]:
        return {"value": value, "from": self._place(self._entry.paths[name]) or DEFAULT}

    def _named(self, entry: Entry) -> dict[str, Any]:
        at = None if entry.index is None else self._place(("watch", entry.index))
        return {"name": entry.name, "index": entry.index, "from": at}

    def _limits(self) -> dict[str, Any]:
        entry = self._entry
        return {"job_policies": entry.job_policies, "job_monitor": entry.job_monitor, "mode": entry.limit}

    def _monitor(self) -> dict[str, Any]:
        if self._stated.monitor:
            return {"value": self._stated.monitor, "from": JOB, "instead_of": self._entry.monitor}
        return self._key("monitor", self._entry.monitor)

    def _goal(self) -> dict[str, Any]:
        if self._stated.goal:
            return {"value": self._stated.goal, "from": JOB}
        if self._entry.goal:
            return self._key("goal", self._entry.goal)
        rule = next((rule for rule in self._scope.rules if rule.goal is not None), None)
        place = None if rule is None else self._place((*self._section(rule), "mode"), *self._options_at(rule, "mode"))
        return {"value": self._scope.goal, "from": place or DEFAULT}

    def _mode(self) -> dict[str, Any]:
        """What the entry, its limits and the job allow any policy at most."""
        entry = self._entry
        if entry.mode == "off":
            return self._key("mode", "off")
        return self._strictest(())

    def _strictest(self, first: Iterable[tuple[Any, str]]) -> dict[str, Any]:
        """The strictest of `first` (mode, where it stands) and of what holds for every policy here."""
        entry, said = self._entry, self._record.said
        known: list[tuple[Any, str]] = [
            *first,
            (entry.mode, self._place(entry.paths["mode"]) or DEFAULT),
            (entry.limit, self._place(entry.paths["limits.mode"]) or DEFAULT),
            (said.mode if said.mode == "observe" else None, JOB),
        ]
        mode = strictest(*(one for one, _ in known))
        return {"value": mode, "from": next((where for one, where in known if one == mode), DEFAULT)}

    def _policy(self, rule: Rule) -> dict[str, Any]:
        """One policy: who named it, which options it has, and which word about its mode is the strictest."""
        name = rule.policy.name.partition(".")[0]
        mode: tuple[Any, str]
        if any(own.policy == rule.policy and own.series == rule.series for own in self._stated.rules):
            by, where, mode = JOB, JOB, ("act", JOB)
        else:
            at = self._place((*self._entry.paths["policies"], name), self._section(rule))
            by, where = ("shipped" if at is None else "file"), at or "shipped"
            mode = self._own_mode(rule, name, at)
        strict = self._strictest([mode])
        return {
            "policy": rule.policy.name,
            "by": by,
            "from": where,
            "series": rule.series or self._scope.monitor,
            "mode": strict["value"],
            "mode_from": strict["from"],
            "options": {option: self._option(rule, option, value, by) for option, value in _options(rule).items()},
        }

    def _own_mode(self, rule: Rule, name: str, at: str | None) -> tuple[Any, str]:
        above = self._entry.paths["policies"]
        if at is None:
            place = self._place((*above, "default"), ("policies", "default"))
            return self._written_mode(rule), place or DEFAULT
        return self._written_mode(rule), self._place((*above, name, "mode")) or at

    def _written_mode(self, rule: Rule) -> Any:
        same = (one for one in self._entry.rules if one.policy == rule.policy and one.series == rule.series)
        return next((one.mode for one in same), rule.mode)

    def _section(self, rule: Rule) -> Path:
        """Where the policy's section under early_stopping stands, if it has one."""
        name, _, gate = rule.policy.name.partition(".")
        above = self._entry.paths["early_stopping"]
        if name == GATE:
            return (*above, "quality_gates", gate)
        return (*above, "strategies", SECTIONS.get(name, name))

    def _options_at(self, rule: Rule, option: str) -> tuple[Path, ...]:
        above = (*self._entry.paths["policies"], rule.policy.name.partition(".")[0])
        return (*above, "options", option), (*above, option), (*self._section(rule), option)

    def _option(self, rule: Rule, option: str, value: Any, by: str) -> dict[str, Any]:
        if by == JOB:
            stated: Mapping[str, Any] = self._record.said.policies.get(rule.policy.name, {})
            return {"value": value, "from": JOB if option in stated else DEFAULT}
        short = [self._section(rule)] if rule.policy.name.startswith(f"{GATE}.") and option in ("min", "max") else []
        return {"value": value, "from": self._place(*self._options_at(rule, option), *short) or DEFAULT}

    def _job(self) -> dict[str, Any]:
        said = self._record.said
        return {
            "monitor": said.monitor,
            "goal": said.goal,
            "mode": said.mode,
            "allow": list(said.allow),
            "policies": said.policies,
            "not_used": self._stated.refused,
        }


def _options(rule: Rule) -> dict[str, Any]:
    """What the policy was made with; of a rule of conditions what is written."""
    policy = rule.policy
    if isinstance(policy, Composite):
        return {"when": policy.condition.text, "then": policy.then}
    if not dataclasses.is_dataclass(policy):
        return {}
    shown = {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)}
    return {name: value for name, value in shown.items() if value is not None and name != "gate"}


def lines(plain: Mapping[str, Any]) -> Iterable[str]:
    """The explanation for a terminal: key, value, where it stands."""
    entry = plain["entry"]
    yield f"{plain['run']}: {entry['name']}" + (f" ({entry['from']})" if entry["from"] else f" of {plain['config'] or 'no file'}")
    for one in plain["passed_over"]:
        yield f"  not {one['name']} ({one['from']}): {one['why']}"
    monitor = plain["monitor"]
    logged = f", logged as {monitor['logged_as']}" if monitor["logged_as"] not in (None, monitor["value"]) else ""
    rows = [("monitor", f"{monitor['value']}{logged}", monitor["from"])]
    rows += [(name, plain[name]["value"], plain[name]["from"]) for name in ("goal", "mode")]
    for one in plain["policies"]:
        at = one["mode_from"] if one["mode_from"] == one["from"] else f"{one['from']}, mode: {one['mode_from']}"
        rows.append((one["policy"], f"{one['mode']} on {one['series']}", at))
        rows += [(f"  {name}", _spelled(option["value"]), option["from"]) for name, option in one["options"].items()]
    rows += [(dotted(("limits", name)), _spelled(one["value"]), one["from"]) for name, one in plain["limits"].items()]
    rows += [("alerts", plain["alerts"]["value"], plain["alerts"]["from"])] if plain["alerts"]["value"] else []
    width = max(len(name) for name, _, _ in rows)
    for name, value, where in rows:
        yield f"  {name:{width}}  {value!s:30}  {where}"
    for refused in plain["job"]["not_used"]:
        yield f"  not used of what the job states: {refused}"
    if plain["judged_by"] or plain["not_judged"]:
        yield f"  judged by {plain['judged_by']}" if plain["judged_by"] else f"  not judged: {plain['not_judged']}"


def _spelled(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)
