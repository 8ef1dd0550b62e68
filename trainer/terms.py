"""What is agreed on when a job attaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bus.places import Place
from ..core.events import Goal, Mode
from .checkpoints import Limits, run_folder
from .control import Answered
from .ranks import Seat


@dataclass(frozen=True)
class Terms:
    """What the code and the environment agreed on for this attempt."""

    run: str
    attempt: str
    place: Place
    spools: Path
    checkpoints: Path
    mode: Mode = "act"
    allow: tuple[str, ...] = ()
    group: str | None = None
    monitor: str | None = None
    goal: Goal | None = None
    policies: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    resume_from_step: int | None = None
    total_steps: int | None = None
    seat: Seat = field(default_factory=Seat)
    best_interval_s: float = 0.0
    min_lr: float = 0.0
    limits: Limits = field(default_factory=Limits)
    own_folder: Path | None = None
    script: str = ""
    on_decision: Callable[[Answered], object] | None = None
    kafka: dict[str, str] = field(default_factory=dict)
    """Options of a kafka:// bus, from the environment: what stands behind SMART_TUNER__BUS__KAFKA__, in lower case."""

    @property
    def folder(self) -> Path:
        """Where the run's checkpoints lie: where the job says, else in the data directory."""
        return self.own_folder or run_folder(self.checkpoints, self.run)
