"""Which policies may change the learning rate of a run: those of the configuration, and none that nobody named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.events import Mode
from .rules import Rule, configured

STRATEGIES = {"plateau_detection": "plateau"}
"""The strategies of the configuration and the policies that they are."""
SHIPPED: tuple[str, ...] = ()


def rules(early_stopping: Mapping[str, Any], default_mode: Mode = "observe") -> list[Rule]:
    """The rules of the section `early_stopping` that are about the learning rate, in the manner of
    early_stop_controller.rules, which also says which keys are known."""
    return configured(early_stopping.get("strategies") or {}, STRATEGIES, SHIPPED, default_mode)
