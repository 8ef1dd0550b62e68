"""Which policies may end a run or alert about it: those of the configuration, and of the shipped set what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UsageError
from ..core.events import Mode
from ..core.registry import did_you_mean
from .policies.quality_gate import QualityGate
from .rules import Rule, check_keys, configured, named

STRATEGIES = {
    "divergence": "divergence",
    "patience_based": "patience",
    "improvement_threshold": "improvement",
    "stall": "stall",
    "extrapolation": "extrapolation",
    "median": "median",
    "halving": "halving",
}
"""The strategies of the configuration and the policies that they are. What ends a run at one point tells it in this order."""
SHIPPED = ("divergence", "stall", "extrapolation")
GATES: dict[str, tuple[str | None, str]] = {
    "min_alignment_score": ("alignment_score", "min"),
    "audio_quality_threshold": ("audio_quality_score", "min"),
    "max_acceptable_loss": (None, "max"),
}
"""The short gates: the series (None: the monitored one) and the bound that the number is."""
ELSEWHERE = ("plateau_detection",)
"""Strategies of the other half, consumers/param_scheduler.py."""


def rules(early_stopping: Mapping[str, Any], default_mode: Mode = "observe") -> list[Rule]:
    """The rules of the section `early_stopping`. What it names acts; what the shipped set adds has `default_mode`.

    A strategy that is false is off, shipped or not. UsageError names an unknown key or a bad option.
    """
    strategies = early_stopping.get("strategies") or {}
    check_keys(strategies, (*STRATEGIES, *ELSEWHERE), "strategy")
    built = configured(strategies, STRATEGIES, SHIPPED, default_mode)
    return [*built, *(_gate(name, asked) for name, asked in (early_stopping.get("quality_gates") or {}).items())]


def _gate(name: str, asked: Any) -> Rule:
    """The short form is a number for a known name; the long form a table with series, min, max, then and after."""
    if isinstance(asked, Mapping):
        return named("quality_gate", {"gate": name, **asked}, "act")
    if name not in GATES:
        hint = did_you_mean(name, list(GATES)) + f" or write {name}: {{series: ..., min: ...}}"
        raise UsageError(f"no quality gate is called {name!r}", hint)
    series, bound = GATES[name]
    try:
        gate = QualityGate(min=asked, gate=name) if bound == "min" else QualityGate(max=asked, gate=name, goal="min")
    except ValueError as error:
        raise UsageError(f"quality gate {name}: {error}", f"write {name}: a number") from error
    return Rule(gate, series, "act")
