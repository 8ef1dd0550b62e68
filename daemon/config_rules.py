"""From the configuration to what the judge is given: rules of policies with their modes, and the gates of decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..consumers import early_stop_controller, param_scheduler
from ..consumers.policies import REGISTRY
from ..consumers.rules import Rule, named
from ..core.errors import UsageError
from ..core.registry import did_you_mean
from .config import Config
from .gates import Gates

SECTIONS = {policy: section for section, policy in (early_stop_controller.STRATEGIES | param_scheduler.STRATEGIES).items()}
"""The section of early_stopping.strategies of each policy; quality gates have sections of their own."""
GATE = "quality_gate"


def rules(config: Config) -> list[Rule]:
    """The rules of a run of which a job says nothing else. What a person named acts, unless policies.NAME.mode says else;
    the rest of the shipped set has `policies.default`. UsageError names a bad option."""
    section = early_stopping(config)
    default = config.policies.default
    built = [*early_stop_controller.rules(section, default), *param_scheduler.rules(section, default)]
    modes = {name: rule.mode for name, rule in config.policies.rules().items()}
    made = []
    for rule in built:
        mode = modes.get(rule.policy.name.partition(".")[0], rule.mode)
        if mode != "off":
            made.append(replace(rule, mode=mode))
    return made


def early_stopping(config: Config) -> dict[str, Any]:
    """The section `early_stopping` with the options of `policies` put over its own; false for what is off."""
    stated = config.early_stopping.strategies
    strategies: dict[str, Any] = {
        name: one.model_dump() for name in type(stated).model_fields if (one := getattr(stated, name)) is not None
    }
    for name, rule in config.policies.rules().items():
        if name in SECTIONS:
            above = strategies.get(SECTIONS[name], {})
            strategies[SECTIONS[name]] = False if rule.mode == "off" else above | rule.options
    gates = {name: gate.model_dump() for name, gate in config.early_stopping.quality_gates.items()}
    return {"strategies": strategies, "quality_gates": gates}


def gates(config: Config) -> Gates:
    """What a decision passes, with the limits of the configuration."""
    return Gates(config.decisions.not_after_s, config.limits.decisions_per_hour)


def refused(config: Config) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(path, message, hint) of each policy that is named and does not exist or does not take its options."""
    for name, rule in config.policies.rules().items():
        if name not in REGISTRY:
            yield ("policies", name), f"no policy is called {name}", did_you_mean(name, list(REGISTRY))
        elif name == GATE and rule.options:
            yield (
                ("policies", name, "options"),
                "options of gates stand with each gate",
                "write them under early_stopping.quality_gates",
            )
        else:
            try:
                if name != GATE:
                    named(name, rule.options, "observe")
            except UsageError as error:
                yield ("policies", name, "options"), error.message, error.hint
