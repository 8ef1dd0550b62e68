"""From the configuration to what the judge is given: rules of policies with their modes, and the gates of decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..consumers import early_stop_controller, param_scheduler
from ..consumers.policies import REGISTRY
from ..consumers.rules import Rule, named
from ..core.errors import UsageError
from ..core.events import Mode
from ..core.registry import did_you_mean
from .config import Config
from .config_errors import Path
from .config_judging import EarlyStopping, Policies, PolicyRule
from .gates import Gates

SECTIONS = {policy: section for section, policy in (early_stop_controller.STRATEGIES | param_scheduler.STRATEGIES).items()}
"""The section of early_stopping.strategies of each policy; quality gates have sections of their own."""
GATE = "quality_gate"


def rules(config: Config) -> list[Rule]:
    """The rules of the file's own sections."""
    return rules_of(config.early_stopping, config.policies, config.policies.default)


def rules_of(early_stopping: EarlyStopping, policies: Policies, default: Mode) -> list[Rule]:
    """The rules of a run of which a job says nothing else. What a person named acts, unless policies.NAME.mode says else;
    the rest of the shipped set has the mode `default`. UsageError names a bad option."""
    section = merged(early_stopping, policies)
    built = [*early_stop_controller.rules(section, default), *param_scheduler.rules(section, default)]
    stated = policies.rules()
    made = []
    for rule in built:
        above = stated.get(rule.policy.name.partition(".")[0])
        mode = rule.mode if above is None else above.mode
        if mode != "off":
            made.append(replace(rule, mode=mode))
    others = (name for name in stated if name not in SECTIONS and name != GATE and stated[name].mode != "off")
    return [*made, *(_of_its_own(name, stated[name]) for name in others)]


def _of_its_own(name: str, stated: PolicyRule) -> Rule:
    """The rule of a policy that has no section under early_stopping, or of conditions."""
    own = {"when": stated.when, "then": stated.then or "prune"} if stated.when is not None else {}
    return named(name, stated.options | own, "observe" if stated.mode == "observe" else "act")


def merged(early_stopping: EarlyStopping, policies: Policies) -> dict[str, Any]:
    """The section `early_stopping` with the options of `policies` put over its own; false for what is off."""
    stated = early_stopping.strategies
    strategies: dict[str, Any] = {
        name: one.model_dump() for name in type(stated).model_fields if (one := getattr(stated, name)) is not None
    }
    for name, rule in policies.rules().items():
        if name in SECTIONS:
            above = strategies.get(SECTIONS[name], {})
            strategies[SECTIONS[name]] = False if rule.mode == "off" else above | rule.options
    gates = {name: gate.model_dump() for name, gate in early_stopping.quality_gates.items()}
    return {"strategies": strategies, "quality_gates": gates}


def gates(config: Config) -> Gates:
    """What a decision passes, with the limits of the configuration."""
    limits = config.limits
    return Gates(
        config.decisions.not_after_s,
        limits.decisions_per_hour,
        limits.prunes_per_hour,
        limits.never_last_of_group,
        limits.min_peer_progress,
    )


def refused(config: Config) -> Iterator[tuple[Path, str, str]]:
    """(path, message, hint) of each policy that is named and does not exist or does not take its options."""
    yield from _refused(config.policies, ("policies",))
    for i, entry in enumerate(config.watch):
        if entry.policies is not None:
            yield from _refused(entry.policies, ("watch", i, "policies"))


def _refused(policies: Policies, above: Path) -> Iterator[tuple[Path, str, str]]:
    for name, rule in policies.rules().items():
        path: Path = (*above, name)
        if rule.when is not None:
            try:
                _of_its_own(name, rule)
            except UsageError as error:
                yield (*path, "when") if error.message.startswith("when") else path, error.message, error.hint
        elif name not in REGISTRY:
            hint = f"{did_you_mean(name, list(REGISTRY))}; a rule of your own has when: CONDITIONS"
            yield path, f"no policy is called {name}", hint
        elif name == GATE and rule.options:
            yield (
                (*path, "options"),
                "options of gates stand with each gate",
                "write them under early_stopping.quality_gates",
            )
        else:
            try:
                if name != GATE:
                    named(name, rule.options, "observe")
            except UsageError as error:
                yield (*path, "options"), error.message, error.hint
