"""What a gate is told that is not in the decision, nor in how its attempt stands: the switches, and the group it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from .switches import Switch


@dataclass(frozen=True)
class Surroundings:
    """All of it as the log tells it up to the decision's trigger.

    `paused` and `held`: the switch in force over the run. `company`: whether another run of the group has finished, or goes
    on and is not about to be ended; None for a run without a group. `prunes`: how many policies sent in the hour before,
    over the runs of the group, or over those of the partition that have none. `progress`: of a judgement by peers how far
    the run has come, as a share of the furthest of them; None for a judgement of its own.
    """

    paused: Switch | None = None
    held: Switch | None = None
    company: bool | None = None
    prunes: int = 0
    progress: float | None = None


ALONE = Surroundings()
