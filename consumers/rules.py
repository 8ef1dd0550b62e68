"""Which policy judges which series of a run, and whether it may act: what the judge is given for each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol, cast, runtime_checkable

from ..core.errors import UsageError
from ..core.events import Decision, Goal, Mode
from ..core.ports import Policy, ScreensPoint
from ..core.registry import did_you_mean
from ..core.silence import JudgesSilence
from ..core.window import Evidence
from .condition_text import composite
from .policies import REGISTRY


@dataclass(frozen=True)
class Rule:
    """One policy at work. `series` None is the run's monitored series; `mode` is the most that its decisions may do.

    `goal` is what a person wrote down as the direction of the monitored series, for runs that state none (see
    `monitored_goal`).
    """

    policy: Policy
    series: str | None = None
    mode: Mode = "observe"
    goal: Goal | None = None

    @property
    def silence(self) -> JudgesSilence | None:
        """The policy, if it judges silence."""
        return cast("JudgesSilence", self.policy) if _follows(type(self.policy), JudgesSilence) else None

    @property
    def screens_point(self) -> ScreensPoint | None:
        """The policy, if it screens single points."""
        return cast("ScreensPoint", self.policy) if _follows(type(self.policy), ScreensPoint) else None


@cache
def _follows(kind: type, protocol: type) -> bool:
    """isinstance of a protocol takes 25 us, and is asked of each attempt."""
    return issubclass(kind, protocol)


@runtime_checkable
class JudgesTheEnd(Protocol):
    """A policy that also judges a run that has ended, by its last point; `figures` may be empty there."""

    def at_end(self, seen: Evidence) -> Decision | None: ...


@runtime_checkable
class KeepsBest(Protocol):
    """A policy that may ask for the best weights back: the params of the keep-best order that must stand before the first
    point, or None where it will not ask."""

    def standing_order(self, monitor: str, goal: Goal) -> dict[str, Any] | None: ...


def monitored_goal(rules: Iterable[Rule], stated: Goal | None) -> Goal:
    """The direction of a run's monitored series: what the job stated, else what a rule was given, else min."""
    if stated is not None:
        return stated
    return next((rule.goal for rule in rules if rule.goal is not None), "min")


def combined(configured: Sequence[Rule], stated: Sequence[Rule]) -> list[Rule]:
    """The rules of a run: those that the job stated, and of the configured those whose policy the job did not name."""
    named = {rule.policy.name for rule in stated}
    return [*(rule for rule in configured if rule.policy.name not in named), *stated]


def named(name: str, options: Mapping[str, Any], mode: Mode) -> Rule:
    """The rule that a person wrote down: the options of the policy called `name`, or with `when` a rule of their own of that
    name, and maybe `series`. UsageError names what is wrong with them."""
    rest = dict(options)
    series = rest.pop("series", None)
    if series is not None and not (isinstance(series, str) and 0 < len(series) <= 256):
        raise UsageError(f"policy {name}: series: {series!r} is not the name of a series", "leave it out for the monitored one")
    if "when" in rest:
        return Rule(composite(name, **_own(name, rest)), series, mode)
    policy = REGISTRY.make(name, **rest)
    if series is not None and isinstance(policy, JudgesSilence):
        raise UsageError(f"policy {name}: looks at all series of a run, not at {series}", "leave series out")
    return Rule(policy, series, mode)


def _own(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    check_keys(options, ("when", "then"), f"key of rule {name}")
    return dict(options)


def configured(
    strategies: Mapping[str, Any], policies: Mapping[str, str], shipped: Iterable[str], default_mode: Mode
) -> list[Rule]:
    """A rule for each strategy (a key of `policies`) that is written down, and for each shipped one of which nothing is
    said; false turns one off. UsageError names what is wrong."""
    built = []
    for key, policy in policies.items():
        options = strategies.get(key)
        if isinstance(options, Mapping):
            goal = options.get("mode")
            if goal not in ("min", "max", None):
                raise UsageError(f"strategy {key}: mode: {goal!r} is neither min nor max", f"write mode: min in {key}")
            # A job's own goal goes before the file's, so the policy itself must not insist on the file's.
            rest = {option: value for option, value in options.items() if option != "mode"}
            built.append(replace(named(policy, rest, "act"), goal=goal))
        elif options is None and key in shipped:
            built.append(named(policy, {}, default_mode))
        elif options not in (None, False):
            raise UsageError(f"strategy {key}: {options!r} is not a table of options", f"write {key}: {{...}}, or false")
    return built


def check_keys(section: Mapping[str, Any], known: Iterable[str], kind: str) -> None:
    """UsageError for the first key that is not known."""
    names = list(known)
    for key in section:
        if key not in names:
            raise UsageError(f"no {kind} is called {key!r}", did_you_mean(key, names))


def rules_from_job(policies: Mapping[str, Any]) -> list[Rule]:
    """What a job stated as `policies={"patience": {"patience": 20}}`: a person named them, so they may act."""
    rules = []
    for name, options in policies.items():
        if not isinstance(options, Mapping):
            raise UsageError(f"policy {name}: {options!r} is not a table of options", f'write policies={{"{name}": {{...}}}}')
        rules.append(named(name, options, "act"))
    return rules
