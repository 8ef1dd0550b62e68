"""What to write for a policy that observes to act: the line of the configuration, exactly as it stands there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..core.events import Started
from ..core.run import RunRecord
from .config import Config
from .config_judging import Policies, PolicyRule
from .watch import Entry, entries, tried


class Line(NamedTuple):
    """`text` is YAML; `where` says into what part of the file it goes, "" for its top."""

    text: str
    where: str = ""


def lines(config: Config, policy: str, runs: Iterable[Mapping[str, Any]]) -> list[Line]:
    """The lines that let `policy` act on such runs (rows of runs/); none where this configuration lets it act already, or does
    not have it (a job stated it)."""
    name, found = policy.partition(".")[0], []
    known = entries(config)
    for run in runs:
        found += _of_entry(config, _entry(known, run), name)
    return list(dict.fromkeys(found))


def _entry(known: list[Entry], run: Mapping[str, Any]) -> Entry:
    """The first that fits, as far as a stored run tells."""
    said = Started(user=run.get("user") or "", tags=run.get("tags") or {}, sdk="stored")
    *_, (entry, _) = tried(known, RunRecord(run["run"], run["attempt"], run.get("group"), said=said))
    return entry


def _of_entry(config: Config, entry: Entry, name: str) -> list[Line]:
    found = []
    where = "" if entry.index is None else entry.name
    if entry.mode == "observe":
        found.append(Line("mode: act", where))
    if entry.limit == "observe":
        found.append(Line("limits: {mode: act}", where if entry.paths["limits.mode"][0] == "watch" else ""))
    own = entry.paths["policies"][0] == "watch" and entry.index is not None
    said = config.watch[entry.index].policies if own and entry.index is not None else config.policies
    text = _policy((said or Policies()).rules().get(name), entry, name)
    if text is not None:
        found.append(Line(f"policies: {{{name}: {{{text}}}}}", where if own else ""))
    return found


def _policy(stated: PolicyRule | None, entry: Entry, name: str) -> str | None:
    """What stands between the brackets; None where the policy acts, or is none of the configuration's."""
    if stated is None:
        observes = any(rule.policy.name.partition(".")[0] == name and rule.mode == "observe" for rule in entry.rules)
        return "mode: act" if observes else None
    if stated.mode != "observe":
        return None
    rule = {} if stated.when is None else {"when": stated.when, "then": stated.then or "prune"}
    options = {} if not stated.options else {"options": dict(stated.options)}
    return ", ".join(f"{key}: {_flow(value)}" for key, value in ({"mode": "act"} | rule | options).items())


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str) and value.isidentifier():
        return value
    return json.dumps(value, ensure_ascii=False)
