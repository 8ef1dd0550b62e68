"""How much a log keeps: by size and by age, softer for what a group has not read yet."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import ConfigError
from ..core.ports import METRICS

MIB = 1 << 20
DAY_S = 86_400.0


@dataclass(frozen=True)
class Limits:
    """Of one file. Over `max_bytes` or `max_age_s` the oldest records go, unless a group that commits has not read them;
    over `hard_bytes` they go in any case, and the groups that lose them are told (Batch.fell_off)."""

    max_bytes: int
    max_age_s: float
    hard_bytes: int

    def __post_init__(self) -> None:
        if not (0 < self.max_bytes <= self.hard_bytes and self.max_age_s > 0):
            raise ConfigError(
                f"retention: max_bytes {self.max_bytes}, hard_bytes {self.hard_bytes}, max_age_s {self.max_age_s} make no sense",
                "hard_bytes must be at least max_bytes, and all above 0",
            )


@dataclass(frozen=True)
class Retention:
    """Of a log: metrics in a file of their own, so that they can neither fill nor lock the other topics'."""

    metrics: Limits = Limits(max_bytes=1024 * MIB, max_age_s=7 * DAY_S, hard_bytes=2048 * MIB)
    control: Limits = Limits(max_bytes=256 * MIB, max_age_s=30 * DAY_S, hard_bytes=512 * MIB)
    reserve_bytes: int = 8 * MIB
    """Held on the disk so that control can still be written when it is full."""

    def of(self, topic: str) -> Limits:
        """The limits of the file that holds `topic`."""
        return self.metrics if topic == METRICS else self.control


DEFAULT = Retention()
